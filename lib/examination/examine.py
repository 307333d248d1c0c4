"""In: an exported model, how many chests, a seed. Out: what it answers to phantoms with one thing
changed, as tables."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from lib.config import FINDINGS
from lib.examination.answers import ask
from lib.examination.chests import FilmKey
from lib.examination.heat import heat_table
from lib.examination.shortcuts import shortcut_table
from lib.examination.signs import dose_table, sign_table
from lib.exceptions import CxrError
from lib.inference.predictor import Predictor

CHESTS, LEAST_CHESTS = 64, 8


@dataclass(frozen=True)
class Examination:
    """What was found: tables `signs` (a row per finding of the card), `doses`, `shortcuts` and
    `heat`; `undrawn` are findings that no phantom shows. `unlikeness` (N,) is that of the plain
    films, `unlike` whether it is over the card's threshold."""

    card: dict[str, Any]
    chests: int
    seed: int
    signs: pd.DataFrame
    doses: pd.DataFrame
    shortcuts: pd.DataFrame
    heat: pd.DataFrame
    undrawn: tuple[str, ...]
    unlikeness: np.ndarray
    unlike: np.ndarray


def examine_model(
    model: Path,
    *,
    chests: int = CHESTS,
    seed: int = 0,
    threads: int | None = None,
    progress: bool = True,
) -> Examination:
    """Examine an exported model with phantoms of `chests` people, drawn at the model's size.

    The same seed draws the same films. Raises CxrError for fewer than 8 chests, a negative seed, or
    a model without a finding that can be drawn, and ExportError as `Predictor`.
    """
    if chests < LEAST_CHESTS or seed < 0:
        raise CxrError(
            f"an examination needs chests >= {LEAST_CHESTS} and seed >= 0; "
            f"got chests={chests}, seed={seed}"
        )
    predictor = Predictor(model, threads)
    drawn = tuple(name for name in predictor.findings if name in FINDINGS)
    if not drawn:
        raise CxrError(
            f"{model} predicts {', '.join(predictor.findings) or 'nothing'}: phantoms show none of "
            f"it, only {', '.join(FINDINGS)}"
        )
    answers = ask(predictor, drawn, chests, seed, progress)
    plain = answers.unlikeness[:, answers.keys.index(FilmKey("", ""))]
    return Examination(
        card=predictor.card,
        chests=chests,
        seed=seed,
        signs=sign_table(answers, drawn),
        doses=dose_table(answers, drawn),
        shortcuts=shortcut_table(answers, drawn),
        heat=heat_table(answers.heat, drawn),
        undrawn=tuple(name for name in predictor.findings if name not in drawn),
        unlikeness=plain,
        unlike=predictor.unfamiliar(plain),
    )
