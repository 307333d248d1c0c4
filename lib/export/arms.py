"""Export a study.

In: the folder of a study. Out: one exported file per arm.
"""

from collections.abc import Callable, Mapping
from pathlib import Path

from lib.export.run import export_run


def export_arms(
    runs: Mapping[str, Path], out: Path, log: Callable[[str], None] = print
) -> dict[str, Path]:
    """Export one run of every arm to `out`, and return arm -> file.

    runs: arm -> the folder of a complete run. A file that is newer than the record of its run is
    kept. Raises as `export_run`.
    """
    files = {}
    for arm, folder in runs.items():
        file = out / f"{folder.parent.name}-{folder.name}.onnx"
        if file.exists() and file.stat().st_mtime > (folder / "record.json").stat().st_mtime:
            log(f"{file.name} is there")
        else:
            export_run(folder, file.stem, out=out, log=log)
        files[arm] = file
    return files
