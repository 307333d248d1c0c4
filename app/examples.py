"""In: a folder. Out: a few synthetic chest films (phantoms) in it, to try the page with.

`python app/examples.py FOLDER` draws them: in a process of its own, since what draws them is heavy.
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
"""What an example is called, and the findings that it shows."""

_SIZE = 512  # px
_SEED = 7
_STRENGTH = 0.9  # plain signs


def example_path(folder: Path, label: str) -> Path:
    """Where the example `label` of FINDINGS lies, or will lie."""
    return folder / f"phantom-{label.lower().replace(' ', '-')}.png"


def draw_missing(folder: Path) -> None:
    """Has the examples drawn when one of them is missing; takes seconds. Raises RuntimeError when
    that fails."""
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
