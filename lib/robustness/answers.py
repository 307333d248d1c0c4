"""In: a complete run. Out: what its model answers for its test films under every corruption."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pandas as pd

from lib.comparison.arms import read_run_predictions
from lib.exceptions import RunError
from lib.models.batches import Loader
from lib.models.quantized import load_network
from lib.models.training import make_fabric, predict
from lib.robustness.corruptions import VARIANTS, corrupt
from lib.robustness.kept import write_answers
from lib.runs.study import read_run
from lib.stages.answers import Films
from lib.system import available_cores

BATCH = 64
CHUNK = 512
"""Films whose corrupted copies are in memory at a time."""
LARGEST_CHANGE = 0.05
"""In the probability of a clean film, since the run was made: another device or precision does
less."""


def answer_run(folder: Path, films: Films) -> None:
    """Answers the test films of the complete run in `folder` for all VARIANTS, and writes
    `robustness.parquet` there.

    The films are those of the image cache, at the run's image size. Raises DatasetError and RunError
    where they cannot be read or are others than the run's, ModelError where the model cannot be
    loaded, and RunError where it answers the clean films otherwise than the run did.
    """
    config = read_run(folder)[0]
    own = read_run_predictions(folder)
    data = films.of(folder, config.image_size)
    places = pd.Index(data.frame["image"]).get_indexer(own.images)
    model = load_network(folder)
    fabric = make_fabric(config, model)
    answers = np.empty((len(VARIANTS), *own.targets.shape), np.float32)
    for start in range(0, len(places), CHUNK):
        part = slice(start, start + CHUNK)
        pixels = data.store[places[part]]  # (b, S, S)
        for v, images in enumerate(_variants(pixels, own.images[part])):
            loader = Loader(images, np.arange(len(images)), own.targets[part], BATCH)
            answers[v, part] = predict(model, loader, config, fabric)
    changed = np.abs(answers[0] - own.probs).max()
    if changed > LARGEST_CHANGE:
        raise RunError(
            f"{folder.name} answers its clean test films otherwise than when it was made (by up to "
            f"{changed:.2f}): its model or the image files were changed; run the study again"
        )
    write_answers(folder, own, answers)


def _variants(pixels: np.ndarray, ids: np.ndarray) -> Iterator[np.ndarray]:
    """The films (b, S, S) in every variant; the next one is made, on all cores, while the model
    answers the last."""
    parts = np.array_split(np.arange(len(ids)), min(available_cores(), len(ids)))
    with ThreadPoolExecutor(1) as ahead, ThreadPoolExecutor(len(parts)) as threads:

        def make(variant: tuple[str, int]) -> np.ndarray:
            made = threads.map(lambda p: corrupt(pixels[p], ids[p], *variant), parts)
            return np.concatenate(list(made))

        waiting = ahead.submit(make, VARIANTS[0])
        for variant in VARIANTS[1:]:
            ready, waiting = waiting, ahead.submit(make, variant)
            yield ready.result()
        yield waiting.result()
