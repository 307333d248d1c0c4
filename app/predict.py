"""Predict for one uploaded file.

In: the bytes of an image file and one or more models. Out: of each a `FilmAnswer` with exactly what
the page needs.
"""

import threading
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from pictures import overlay, picture, thumbnail
from server import give_memory_back

from lib.exceptions import ImageError
from lib.images import Radiograph, read_radiograph
from lib.inference import Answer, Predictor

MAX_FILMS = 24
"""The most images per upload."""

LONGEST, LONGEST_OF_MANY = 1024, 768
"""The longest side in px of a kept picture: for a single image, and for one of several."""

LEAST_CELLS = 4
"""A coarser heat map is not shown: it would suggest a location that the model cannot resolve."""

_NAME = 60  # characters of a file's name that are kept
_ONE_AT_A_TIME = (
    threading.Lock()
)  # sessions take turns, so that peak memory is that of one prediction


@dataclass(frozen=True)
class FilmAnswer:
    """The result for one file.

    - reason: why the file was refused, as a sentence, or empty. All fields below are set only if it
      is empty.
    - picture, thumbnail: JPEG files.
    - overlays: (F) PNG files in the model's order of findings; empty when the map's `grid` (rows,
      columns) has fewer than LEAST_CELLS per side.
    - seen: (F) whether a heat map has any value over 0.
    """

    name: str
    reason: str = ""
    probs: tuple[float, ...] = ()
    flagged: tuple[bool, ...] = ()
    warnings: tuple[str, ...] = ()
    unlikeness: float = float("nan")
    unfamiliar: bool = False
    width: int = 0
    height: int = 0
    picture: bytes = b""
    thumbnail: bytes = b""
    overlays: tuple[bytes, ...] = ()
    seen: tuple[bool, ...] = ()
    grid: tuple[int, int] = (0, 0)


def answer_file(predictor: Predictor, data: bytes, name: str, longest: int = LONGEST) -> FilmAnswer:
    """Predict for one uploaded file.

    `data` holds the bytes of the file. `name` is only displayed, and not trusted for anything.
    `longest` is the longest side of the kept picture in px.
    """
    return answer_by_all([predictor], data, name, longest)[0]


def answer_by_all(
    predictors: Sequence[Predictor], data: bytes, name: str, longest: int = LONGEST
) -> tuple[FilmAnswer, ...]:
    """Predict with each model for one uploaded file, as `answer_file`.

    Each reads the film at its own image size. The pictures are the same for all.
    """
    name, films, found = shortened(name), {}, []
    with _ONE_AT_A_TIME:
        for predictor in predictors:
            size, preview = predictor.image_size, 0 if films else longest
            try:
                films[size] = films.get(size) or read_radiograph(data, size, preview=preview)
            except ImageError as error:
                return (FilmAnswer(name, reason=_sentence(str(error))),) * len(predictors)
            finally:
                give_memory_back()
            found.append(predictor.predict(films[size].pixels[np.newaxis]))
            give_memory_back()
    shown = next(iter(films.values())).preview
    pictures = (picture(shown), thumbnail(shown))
    return tuple(
        _film_answer(predictor, answer, films[predictor.image_size], name, *pictures)
        for predictor, answer in zip(predictors, found, strict=True)
    )


def _film_answer(
    predictor: Predictor, answer: Answer, film: Radiograph, name: str, shown: bytes, small: bytes
) -> FilmAnswer:
    heatmaps = answer.heatmaps[0]  # (F, h, w)
    return FilmAnswer(
        name,
        probs=tuple(answer.probs[0].tolist()),
        flagged=tuple(predictor.flagged(answer.probs)[0].tolist()),
        warnings=film.warnings,
        unlikeness=float(answer.unlikeness[0]),
        unfamiliar=bool(predictor.unfamiliar(answer.unlikeness)[0]),
        width=film.width,
        height=film.height,
        picture=shown,
        thumbnail=small,
        overlays=tuple(overlay(heat) for heat in heatmaps)
        if min(heatmaps.shape[1:]) >= LEAST_CELLS
        else (),
        grid=heatmaps.shape[1:],
        seen=tuple(bool(heat.max() > 0) for heat in heatmaps),
    )


def shortened(name: str) -> str:
    """Return a file's name for display.

    Unprintable characters become ?, and the middle of a long name is left out.
    """
    plain = "".join(character if character.isprintable() else "?" for character in name)
    if len(plain) <= _NAME:
        return plain
    half = (_NAME - 1) // 2
    return f"{plain[:half]}…{plain[-half:]}"


def by_probability(answer: FilmAnswer) -> list[int]:
    """Return the indices of the findings, flagged first, then by falling probability."""
    return sorted(range(len(answer.probs)), key=lambda i: (not answer.flagged[i], -answer.probs[i]))


def _sentence(text: str) -> str:
    return text[:1].upper() + text[1:] + ("" if text.endswith(".") else ".")
