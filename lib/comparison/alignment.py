"""In: predictions with labels, and the rows that they stood in. Out: whether answers seem to belong to
other rows or other findings.

From ids alone it cannot be known that a row's answers are about its image. What can be noticed: answers
that are no better than chance (rows in random order); answers that are clearly better when they are
moved by up to MOVES rows or read backwards, in the whole file or in one quarter of it (a lost or doubled
line); columns that are clearly better under each other's names. What cannot: a few exchanged rows, and
any exchange in a file whose model knows little.
"""

from collections.abc import Callable
from functools import partial

import numpy as np

from lib.exceptions import ComparisonError
from lib.metrics.bootstrap import bootstrap_scores, spread
from lib.metrics.predictions import Predictions
from lib.metrics.scores import auroc, counted_findings, enough_patients, mean_defined

MOVES = 3
CLEARLY = 3  # standard errors of a paired difference
LEAST = 100  # rows of a file that is looked at in quarters too
RESAMPLES = 200


def check_alignment(predictions: Predictions, rows: np.ndarray, name: str) -> list[str]:
    """Sentences that warn, and one that says what was looked for.

    rows: (N,) where each image's answers stood in the file. Raises ComparisonError where answers
    moved by some rows, or read backwards, are clearly better than as they stand.
    """
    order = np.argsort(rows)
    inside = _rows(predictions, order)
    quarters = np.array_split(np.arange(len(rows)), 4) if len(rows) >= LEAST else []
    places = ["" if not quarters else "in all of its rows, "]
    places += [
        f"from row {part[0] + 1:,} of the matched rows to {part[-1] + 1:,}, " for part in quarters
    ]
    for place, part in zip(places, [np.arange(len(rows)), *quarters], strict=True):
        if found := _moved(_rows(inside, part)):
            how, now, then = found
            raise ComparisonError(
                f"the answers of {name} do not seem to belong to their image ids: {place}macro AUROC "
                f"is {now:.3f}, and {then:.3f} when answers are {how}. Write each id with its answers "
                "from the same pass over the images"
            )
    return [*_by_chance(predictions, name), *_exchanged(predictions, name), _looked_for(name)]


def _looked_for(name: str) -> str:
    return (
        f"That the rows of {name} belong to their image ids cannot be known from the file: rows in "
        f"random order, moved by up to {MOVES} rows or backwards were looked for; a few exchanged "
        "rows would not show."
    )


def _rows(predictions: Predictions, rows: np.ndarray) -> Predictions:
    names = ("images", "patients", "targets", "probs")
    return Predictions(
        predictions.findings, **{name: getattr(predictions, name)[rows] for name in names}
    )


def _moved(inside: Predictions) -> tuple[str, float, float] | None:
    """How the answers have to be moved to be clearly better, and macro AUROC now and then."""
    counted = enough_patients(inside.targets, inside.patients)
    if not counted.any():
        return None
    now, ways = _macro(inside.targets, inside.probs, counted), _ways()
    scores = {
        way: _macro(inside.targets, move(inside.probs), counted) for way, move in ways.items()
    }
    way = max(scores, key=lambda name: np.nan_to_num(scores[name]))
    if not scores[way] > max(now, 1 - now):  # of answers of absence the opposite is better
        return None
    resampled = [
        mean_defined(_resampled(inside, probs)[:, counted])
        for probs in (inside.probs, ways[way](inside.probs))
    ]
    error = spread((resampled[1] - resampled[0])[:, None])[0]
    return (way, now, scores[way]) if scores[way] - now > CLEARLY * error else None


def _macro(targets: np.ndarray, probs: np.ndarray, counted: np.ndarray) -> float:
    """The mean AUROC of the findings that count."""
    columns = zip(targets.T[counted], probs.T[counted], strict=True)
    return float(mean_defined(np.array([auroc(y, p) for y, p in columns])))


def _ways() -> dict[str, Callable[[np.ndarray], np.ndarray]]:
    """Ways to move answers (N, F) against their rows."""
    ways: dict[str, Callable[[np.ndarray], np.ndarray]] = {"read backwards": np.flipud}
    for step in range(1, MOVES + 1):
        count = f"{step} row{'s' * (step > 1)}"
        ways[f"moved up by {count}"] = partial(np.roll, shift=-step, axis=0)
        ways[f"moved down by {count}"] = partial(np.roll, shift=step, axis=0)
    return ways


def _resampled(inside: Predictions, probs: np.ndarray) -> np.ndarray:
    """AUROC (RESAMPLES, F); the same patients for any probs."""
    return bootstrap_scores(inside.targets, probs, inside.patients, n=RESAMPLES)["auroc"]


def _by_chance(predictions: Predictions, name: str) -> list[str]:
    """A warning where the macro AUROC is no better than 0.5."""
    counted = counted_findings(predictions.targets, predictions.patients)
    value = _macro(predictions.targets, predictions.probs, counted)
    error = spread(mean_defined(_resampled(predictions, predictions.probs)[:, counted])[:, None])[0]
    if np.isnan(value) or value - 1.96 * error > 0.5:
        return []
    backwards = value + 1.96 * error < 0.5
    why = (
        "the columns may hold the probability that a finding is absent"
        if backwards
        else "its rows may be in another order than its ids, or its model knows nothing of these images"
    )
    kind = "worse" if backwards else "no better"
    return [
        f"Warning: the answers of {name} are {kind} than chance (macro AUROC {value:.3f}, "
        f"{value - 1.96 * error:.3f} to {value + 1.96 * error:.3f}): {why}."
    ]


def _exchanged(predictions: Predictions, name: str) -> list[str]:
    """A warning where columns would be clearly better under each other's names."""
    counted = np.flatnonzero(counted_findings(predictions.targets, predictions.patients))
    if len(counted) < 2:
        return []
    targets, probs = predictions.targets[:, counted], predictions.probs[:, counted]
    areas = np.nan_to_num([[auroc(y, p) for p in probs.T] for y in targets.T], nan=0.5)
    from scipy.optimize import linear_sum_assignment

    best = linear_sum_assignment(areas, maximize=True)[1]  # of each finding, the column
    if np.array_equal(best, np.arange(len(counted))):
        return []
    inside = Predictions(
        tuple(predictions.findings[j] for j in counted),
        predictions.images,
        predictions.patients,
        targets,
        probs,
    )
    gain = mean_defined(_resampled(inside, probs[:, best]) - _resampled(inside, probs))
    value = areas[np.arange(len(best)), best].mean() - areas.diagonal().mean()
    if not value > CLEARLY * spread(gain[:, None])[0]:
        return []
    moved = [
        f"{inside.findings[i]} from the column of {inside.findings[j]}"
        for i, j in enumerate(best)
        if i != j
    ]
    return [
        f"Warning: columns of {name} may be exchanged: macro AUROC would be {value:.3f} higher with "
        f"{', '.join(moved)}."
    ]
