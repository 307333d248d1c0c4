"""In: a complete run. Out: one of its test films in every variant, to look at."""

from pathlib import Path

import numpy as np

from lib.comparison.arms import read_run_predictions
from lib.datasets.prepare import load_images, read_rows
from lib.exceptions import DatasetError
from lib.robustness.corruptions import CORRUPTIONS, STEPS, corrupt
from lib.runs.study import read_run


def example_films(folder: Path) -> tuple[dict[str, np.ndarray], str]:
    """corruption -> (6, S, S): the first test film of the run in `folder` at the strengths 0 to 5,
    as its model sees it; without any where the film cannot be read, and why."""
    config = read_run(folder)[0]
    (image, *_) = read_run_predictions(folder).images
    try:
        film = load_images(read_rows(config)[0], [image], config.image_size)
    except (DatasetError, OSError) as error:
        return {}, f"No example film: {error}"
    except KeyError:
        return {}, f"No example film: the data set no longer holds {image}."
    made = {
        name: np.concatenate([corrupt(film, [image], name, step) for step in range(STEPS + 1)])
        for name in CORRUPTIONS
    }
    return made, ""
