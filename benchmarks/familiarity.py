"""Measure how many images of each kind the models flag as unlike their training images.

In: complete runs. Out: a table, results/familiarity.csv.

`python -m benchmarks.familiarity RUN [RUN ...]` exports each run. It scores the run's own test
images, the same images mirrored, turned and inverted, noise, colour photographs (random crops of
scikit-learn's two), and the other runs' test images.
"""

import io
import sys
import tempfile
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image
from sklearn.datasets import load_sample_images

from lib.config import REPO_ROOT, Config, resolve
from lib.datasets.prepare import read_rows
from lib.export.run import export_run
from lib.files import read_json, write_table
from lib.images.read import read_radiograph
from lib.inference.predictor import Predictor

MADE = 100  # images of noise, and crops of photographs


def familiarity_table(runs: list[Path]) -> pd.DataFrame:
    """Return one row per model and kind of images.

    Columns: model, films (whose), shown (how), count, flagged (share flagged as unlike the training
    images).
    """
    with tempfile.TemporaryDirectory() as place:
        models = {run: Predictor(export_run(run, out=Path(place))) for run in runs}
    paths = {run: test_films(run) for run in runs}
    rows = []
    for run, model in models.items():
        size = model.image_size
        tested = np.stack(
            [read_radiograph(path.read_bytes(), size).pixels for path in paths[run]]
        )  # (N, S, S)
        shown = {("its own test films", how): films for how, films in as_shown(tested).items()}
        shown["noise", "as it is"] = np.random.default_rng(0).integers(
            0, 256, (MADE, size, size), dtype=np.uint8
        )
        shown["colour photographs", "as they are"] = photographs(size)
        for other in runs:
            if other != run:
                films = np.stack(
                    [read_radiograph(path.read_bytes(), size).pixels for path in paths[other]]
                )
                shown[f"test films of {named(other)}", "as they are"] = films
        for (whose, how), films in shown.items():
            flagged = model.unfamiliar(
                np.concatenate([model.predict(part).unlikeness for part in parts(films)])
            )
            rows.append((named(run), whose, how, len(films), float(flagged.mean())))
    return pd.DataFrame(rows, columns=["model", "films", "shown", "count", "flagged"])


def named(run: Path) -> str:
    return f"{run.parent.name}/{run.name}"


def test_films(run: Path) -> list[Path]:
    """Return the files of the images that the run was tested on."""
    frame = read_rows(Config(**read_json(run / "config.json")))[1]
    splits = pd.read_csv(run / "splits.csv", dtype=str).set_index("image")["split"]
    return [Path(path) for path in frame.loc[frame["image"].map(splits) == "test", "path"]]


def as_shown(films: np.ndarray) -> dict[str, np.ndarray]:
    """Return images (N, S, S) unchanged, and as they are shown by mistake."""
    turned = {f"turned by {90 * k} degrees": np.rot90(films, k, axes=(1, 2)) for k in (1, 2)}
    return {"as they are": films, "mirrored": films[:, :, ::-1], **turned, "inverted": 255 - films}


def photographs(size: int) -> np.ndarray:
    """Return random square crops of colour photographs, read like any upload.

    The result is (MADE, size, size) uint8.
    """
    rng, cuts = np.random.default_rng(0), []
    images = load_sample_images().images  # (H, W, 3) uint8 each
    for number in range(MADE):
        image = images[number % len(images)]
        side = int(rng.integers(128, min(image.shape[:2]) + 1))
        top, left = (int(rng.integers(0, length - side + 1)) for length in image.shape[:2])
        file = io.BytesIO()
        Image.fromarray(image[top : top + side, left : left + side]).save(file, "PNG")
        cuts.append(read_radiograph(file.getvalue(), size).pixels)
    return np.stack(cuts)


def parts(films: np.ndarray) -> list[np.ndarray]:
    return [np.ascontiguousarray(films[i : i + 16]) for i in range(0, len(films), 16)]


if __name__ == "__main__":
    if len(sys.argv) < 2:
        sys.exit(
            "give the folders of complete runs: python -m benchmarks.familiarity runs/STUDY/RUN ..."
        )
    table = familiarity_table([resolve(Path(name)).absolute() for name in sys.argv[1:]])
    write_table(REPO_ROOT / "results" / "familiarity.csv", table.round({"flagged": 3}))
    print(
        table.assign(flagged=[f"{share:.0%}" for share in table["flagged"]]).to_string(index=False)
    )
