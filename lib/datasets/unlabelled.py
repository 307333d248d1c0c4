"""In: the folder that `distil_data` names. Out: its films as rows without use for labels: only a
teacher answers for them."""

from collections.abc import Callable

import pandas as pd

from lib.config import Config
from lib.datasets.tables import Dataset, read_dataset
from lib.exceptions import DatasetError

UNLABELLED = "unlabelled"
"""The split of films that are learned from a teacher's answers alone, whatever their labels."""
HELD_OUT = ("val", "test", "submit", "excluded")


def add_films(
    frame: pd.DataFrame, config: Config, read: Callable[..., Dataset] = read_dataset
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The frame with the films of `distil_data` behind its own, and the rows that cannot be used.

    A film that the frame has already is not added. The column `answered` tells which rows are of
    that folder. Raises DatasetError as `read_dataset`, and without a teacher.
    """
    if not config.teacher:
        raise DatasetError(
            "distil_data names films without labels, but no teacher answers for them: name one"
        )
    found = read([config.distil_folder], on_bad=config.on_bad, views=config.views)
    more = found.frame[~found.frame["image"].isin(frame["image"])]
    both = pd.concat([frame, more], ignore_index=True)
    return both.assign(answered=both["image"].isin(found.frame["image"])), found.bad_rows


def split_films(frame: pd.DataFrame, split: pd.Series) -> pd.Series:
    """The split of every row, given that of the labelled ones, the first of `frame`.

    Films of `distil_data` are UNLABELLED: those behind the labelled ones, and those that
    `train_fraction` leaves unused. Those of patients who are held out are `excluded`.
    """
    every = split.reindex(frame.index)
    held = set(frame.loc[every.isin(HELD_OUT), "patient"])
    free = frame["answered"] & (every.isna() | (every == "unused"))
    every[free] = UNLABELLED
    every[free & frame["patient"].isin(held)] = "excluded"
    return every
