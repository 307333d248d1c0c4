"""Draw synthetic chest films (phantoms) as examples for the page.

`python app/examples.py FOLDER` draws them into FOLDER. It runs in a process of its own, since the
drawing code has heavy imports.
"""

import subprocess
import sys
from pathlib import Path

FINDINGS = {
    "No finding": (),
    "Cardiomegaly": ("Cardiomegaly",),
    "Effusion": ("Effusion",),
    "Pneumothorax": ("Pneumothorax",),
    "Mass": ("Mass",),
}
"""The label of each example, and the findings that it shows."""

_SIZE = 512  # px
_SEED = 7
_STRENGTH = 0.9  # clearly visible signs


def example_path(folder: Path, label: str) -> Path:
    """Return the path of the example `label` of FINDINGS, whether or not it exists."""
    return folder / f"phantom-{label.lower().replace(' ', '-')}.png"


def draw_missing(folder: Path) -> None:
    """Draw the examples if any of them is missing, which takes seconds.

    Raises RuntimeError when that fails.
    """
    if all(example_path(folder, label).is_file() for label in FINDINGS):
        return
    drawn = subprocess.run([sys.executable, __file__, folder], capture_output=True, text=True)
    if drawn.returncode:
        lines = drawn.stderr.strip().splitlines() or [f"exit code {drawn.returncode}"]
        raise RuntimeError(f"the phantoms could not be drawn in {folder}: {lines[-1]}")


def _draw(folder: Path) -> None:
    from PIL import Image

    from lib.files import atomic_write
    from lib.phantoms import draw_phantom

    for label, findings in FINDINGS.items():
        pixels, _ = draw_phantom(findings, seed=_SEED, size=_SIZE, strength=_STRENGTH)
        with atomic_write(example_path(folder, label)) as partial:
            Image.fromarray(pixels).save(partial)


if __name__ == "__main__":
    _draw(Path(sys.argv[1]))
