"""In: answers for the films of another place. Out: what a threshold chosen on k of them would give there,
beside the frozen one.

k films are drawn by patient, a patient whole, so that a draw can hold a few films more. The threshold is
chosen on them by the rule of `metrics.thresholds`: the best F1 where they hold enough positive films;
else the threshold that calls as large a share of them positive as is positive. A draw without a positive
film keeps the frozen threshold. The rest of the films scores both thresholds, so what is gained is
paired. Low and high hold 95 % of the draws: the luck of which films are drawn.
"""

from collections.abc import Sequence

import numpy as np
import pandas as pd

from lib.exceptions import CxrError
from lib.external.models import Answers
from lib.metrics.bootstrap import patient_codes
from lib.metrics.scores import MACRO, cuts, enough_patients, mean_defined, ratio
from lib.metrics.thresholds import f1_threshold

DRAWS = 200
FILMS = (20, 50, 100)
LOCAL_METRICS = ("f1", "sensitivity", "specificity")


def local_thresholds(
    answers: Answers, films: Sequence[int] = FILMS, *, draws: int = DRAWS, seed: int = 0
) -> pd.DataFrame:
    """One row per k of `films`, finding (macro last) and metric of LOCAL_METRICS.

    Columns: films, finding, metric, frozen (the frozen threshold on the same films, mean of the
    draws), local with low and high, gain (local - frozen) with gain_low and gain_high, better (the
    share of draws that gain), draws, drawn (films drawn, mean), no_positive and few_positives (shares of
    draws without a positive film, and with too few for the best F1), reason. The macro row is the mean
    over the findings with enough patients (`scores.enough_patients`). NaN with the reason where a
    finding has too few, or k films would leave fewer than k.
    """
    run = answers.run
    codes, people = patient_codes(run.patients, len(run.images))
    enough = enough_patients(run.targets, run.patients)
    rng = np.random.default_rng(seed)
    orders = [rng.permutation(people) for _ in range(draws)]
    rows = []
    for count in films:
        if 2 * count > len(run.images):
            rows += _none(
                run.findings, count, f"only {len(run.images)} films: {count} are too many"
            )
            continue
        made = [_draw(answers, codes, order, count, enough) for order in orders]
        rows += _rows(run.findings, count, enough, made)
    return pd.DataFrame(rows)


def parse_counts(text: str, option: str) -> tuple[int, ...]:
    """'20,50,100' -> the numbers, in order and once each; raises CxrError, which names the option."""
    parts = [part.strip() for part in text.split(",")]
    if not all(part.isascii() and part.isdigit() and int(part) > 0 for part in parts):
        raise CxrError(
            f"{option} is {text!r}: give numbers of films of at least 1 with commas between them, as 20,50,100"
        )
    return tuple(sorted({int(part) for part in parts}))


def _draw(
    answers: Answers, codes: np.ndarray, order: np.ndarray, count: int, enough: np.ndarray
) -> dict[str, np.ndarray]:
    """One draw: frozen and local scores (3, F), the number of films drawn, and what each threshold is
    from (F,)."""
    run = answers.run
    sizes = np.bincount(codes, minlength=len(order))[order]
    taken = order[: int(np.searchsorted(np.cumsum(sizes), count)) + 1]
    drawn = np.isin(codes, taken)
    frozen = cuts(run.thresholds, len(run.findings))[0]
    local = frozen.copy()
    source = np.full(len(run.findings), "", object)
    for j in np.flatnonzero(enough):
        y, p = run.targets[drawn, j], run.probs[drawn, j]
        positives = int((y == 1).sum())
        source[j] = "no positive"
        if positives:
            local[j], source[j] = f1_threshold(y, p, positives / int((~np.isnan(y)).sum()))
    y, p = run.targets[~drawn], run.probs[~drawn]
    scores = {"frozen": _scores(y, p, frozen), "local": _scores(y, p, local)}
    return scores | {"drawn": np.array(drawn.sum()), "source": source}


def _scores(y: np.ndarray, p: np.ndarray, thresholds: np.ndarray) -> np.ndarray:
    """LOCAL_METRICS of each finding: (3, F); NaN where a class is missing."""
    called, yes, no = p >= thresholds, y == 1, y == 0
    tp, fp, positives, negatives = (
        mask.sum(axis=0) for mask in (called & yes, called & no, yes, no)
    )
    return np.array(
        [
            ratio(2 * tp, tp + fp + positives, positives > 0),
            ratio(tp, positives, positives > 0),
            ratio(negatives - fp, negatives, negatives > 0),
        ]
    )


def _rows(
    findings: Sequence[str], count: int, enough: np.ndarray, made: list[dict[str, np.ndarray]]
) -> list[dict]:
    """The rows of one k."""
    scores = {}
    for kind in ("frozen", "local"):
        each = np.array([draw[kind] for draw in made])  # (D, 3, F)
        each = np.where(enough, each, np.nan)
        scores[kind] = np.concatenate([each, mean_defined(each)[..., None]], axis=2)
    gain = scores["local"] - scores["frozen"]
    sources = np.array([draw["source"] for draw in made])  # (D, F)
    drawn = float(np.mean([draw["drawn"] for draw in made]))
    names = [*findings, MACRO] if enough.sum() > 1 else list(findings)
    rows = []
    for j, name in enumerate(names):
        if name != MACRO and not enough[j]:
            rows += _none([name], count, "too few patients with or without it")
            continue
        about = {"draws": len(made), "drawn": drawn}
        if name != MACRO:
            about["no_positive"] = float((sources[:, j] == "no positive").mean())
            about["few_positives"] = float((sources[:, j] == "fallback").mean())
        for m, metric in enumerate(LOCAL_METRICS):
            values, change = scores["local"][:, m, j], gain[:, m, j]
            low, high = np.nanquantile(values, [0.025, 0.975])
            gain_low, gain_high = np.nanquantile(change, [0.025, 0.975])
            row = {"films": count, "finding": name, "metric": metric}
            row |= {"frozen": np.nanmean(scores["frozen"][:, m, j]), "local": np.nanmean(values)}
            row |= {"low": low, "high": high, "gain": np.nanmean(change)}
            row |= {"gain_low": gain_low, "gain_high": gain_high}
            rows.append(row | {"better": float(np.mean(change > 0))} | about | {"reason": ""})
    return rows


def _none(findings: Sequence[str], count: int, reason: str) -> list[dict]:
    return [
        {"films": count, "finding": name, "metric": metric, "reason": reason}
        for name in findings
        for metric in LOCAL_METRICS
    ]
