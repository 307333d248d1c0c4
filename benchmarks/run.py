"""Measure speeds on this machine, print the table, and write it to runs/bench/.

Both values of a ratio are measured in the same run. `python -m benchmarks.run` measures everything
but `scale`, which takes ten minutes; `python -m benchmarks.run intervals scale` measures these
sections.
"""

import os
import platform
import sys
import tempfile
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import pandas as pd

from benchmarks.timing import Row
from lib.config import REPO_ROOT
from lib.files import write_table
from lib.system import git_state, package_versions


def data(scratch: Path) -> list[Row]:
    """Measure batches and the image cache against the usual ways."""
    from benchmarks.loading import batch_row, films_of_1024, store_row

    paths, kind = films_of_1024(scratch)
    return [batch_row(paths, kind, scratch), store_row(paths, kind, scratch)]


def training(scratch: Path) -> list[Row]:
    """Measure training from disk against one constant batch, and the start-up of a run."""
    from benchmarks.fitting import startup_rows, training_row

    rows = [training_row("resnet18", 128, scratch), training_row("efficientnet_b0", 64, scratch)]
    return [*rows, *startup_rows(scratch)]


def feeding(scratch: Path) -> list[Row]:
    """Measure whether the loader would keep a GPU waiting."""
    from benchmarks.feeding import feeding_rows

    return feeding_rows(scratch)


def compiling(scratch: Path) -> list[Row]:
    """Measure a training step with torch.compile against one without."""
    from benchmarks.fitting import compile_row

    return [compile_row()]


def intervals(scratch: Path) -> list[Row]:
    """Measure the bootstrap over patients against a loop over scikit-learn."""
    from benchmarks.intervals import interval_rows

    return interval_rows()


def predicting(scratch: Path) -> list[Row]:
    """Measure the prediction for one image against eager torch and timm."""
    from benchmarks.loading import films_of_1024
    from benchmarks.predicting import predicting_rows

    paths, kind = films_of_1024(scratch)
    return predicting_rows(paths, kind, scratch)


def decoding(scratch: Path) -> list[Row]:
    """Measure decoders of films, and whether `cxr predict` hides decoding behind the network."""
    from benchmarks.decoding import decoding_rows
    from benchmarks.loading import films_of_1024

    paths, kind = films_of_1024(scratch)
    return decoding_rows(paths, kind, scratch)


def compressed(scratch: Path) -> list[Row]:
    """Measure the prediction of small and of pruned networks for one image."""
    from benchmarks.compressed import compressed_rows
    from benchmarks.loading import films_of_1024

    paths, kind = films_of_1024(scratch)
    return compressed_rows(paths, kind, scratch)


def precisions(scratch: Path) -> list[Row]:
    """Measure networks with fewer bits per number."""
    from benchmarks.precisions import precision_rows

    return precision_rows(scratch)


def serving(scratch: Path) -> list[Row]:
    """Measure memory and time of the app in a browser."""
    from benchmarks.serving import serving_rows

    return serving_rows(scratch)


def students(scratch: Path) -> list[Row]:
    """Measure memory of the app with a student, and with its teacher beside it."""
    from benchmarks.serving import student_rows

    return student_rows(scratch)


def scale(scratch: Path) -> list[Row]:
    """Measure a data set and a study of the size of the NIH's release."""
    from benchmarks.scale import scale_rows

    return scale_rows(scratch)


SECTIONS: dict[str, Callable[[Path], list[Row]]] = {
    section.__name__: section
    for section in (
        data,
        training,
        feeding,
        compiling,
        intervals,
        predicting,
        decoding,
        compressed,
        precisions,
        serving,
        students,
        scale,
    )
}
ON_REQUEST = ("scale",)


def main(names: list[str]) -> None:
    """Measure the sections `names`, or the usual ones if empty; exit with a message for an unknown one."""
    if unknown := [name for name in names if name not in SECTIONS]:
        sys.exit(f"unknown section {', '.join(unknown)}; use {', '.join(SECTIONS)}")
    rows = []
    for name in names or [name for name in SECTIONS if name not in ON_REQUEST]:
        print(f"measuring: {name}", file=sys.stderr)
        with tempfile.TemporaryDirectory() as scratch:
            rows += SECTIONS[name](Path(scratch))
    table = pd.DataFrame(
        {
            "what": r.what,
            "value": r.ours,
            "unit": r.unit,
            "ratio": r.ratio,
            "goal": r.goal,
            "against": r.against,
        }
        for r in rows
    )
    now = datetime.now(UTC).strftime("%Y-%m-%d-%H%M")
    path = REPO_ROOT / "runs" / "bench" / f"{now}.csv"
    write_table(path, table.assign(commit=git_state()["commit"], torch=package_versions()["torch"]))
    print(
        f"{now}, {os.cpu_count()} cores ({platform.machine()}), torch {package_versions()['torch']}\n"
    )
    print(table.round(2).to_string(index=False, na_rep=""))
    print(f"\n{path}")


if __name__ == "__main__":
    main(sys.argv[1:])
