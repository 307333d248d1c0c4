"""In: one number per chest. Out: means, ratios and shares with 95 % intervals, and p-values."""

from typing import NamedTuple

import numpy as np
from scipy.special import ndtri, stdtr, stdtrit

from lib.metrics.bootstrap import ALPHA


class Interval(NamedTuple):
    """A number and its 95 % interval."""

    value: float
    low: float
    high: float


NONE = Interval(np.nan, np.nan, np.nan)


def mean_interval(values: np.ndarray) -> Interval:
    """The mean of values (N,) with Student's interval; NaN without values, no ends with one."""
    values = np.asarray(values, np.float64)
    if not len(values):
        return NONE
    mean = float(values.mean())
    if len(values) < 2:
        return Interval(mean, np.nan, np.nan)
    reach = float(stdtrit(len(values) - 1, 1 - ALPHA / 2)) * _error(values)
    return Interval(mean, mean - reach, mean + reach)


def p_mean(values: np.ndarray) -> float:
    """The two-sided p-value of Student's test that the mean of values (N,) is 0; NaN below two."""
    return min(1.0, 2 * min(p_above(values), p_above(-values)))


def p_above(values: np.ndarray) -> float:
    """The one-sided p-value of Student's test that the mean of values (N,) is at most 0; NaN below
    two."""
    values = np.asarray(values, np.float64)
    if len(values) < 2:
        return np.nan
    error = _error(values)
    if error == 0:
        return float(values.mean() <= 0)
    return float(stdtr(len(values) - 1, -values.mean() / error))


def ratio_interval(top: np.ndarray, bottom: np.ndarray) -> Interval:
    """The ratio of the means of paired values (N,) with Fieller's interval (1954).

    Its ends are the ratios r at which Student's test just accepts that the mean of top - r bottom
    is 0. NaN where the mean of `bottom` may be 0: then no ratio is excluded.
    """
    top, bottom = np.asarray(top, np.float64), np.asarray(bottom, np.float64)
    count = len(bottom)
    if count < 2 or bottom.mean() == 0:
        return NONE
    squared = float(stdtrit(count - 1, 1 - ALPHA / 2)) ** 2
    (a, c), (_, b) = np.cov(top, bottom) / count * squared
    quadratic = bottom.mean() ** 2 - b
    if quadratic <= 0:
        return NONE
    middle = top.mean() * bottom.mean() - c
    inside = max(0.0, middle**2 - quadratic * (top.mean() ** 2 - a))
    ends = [float((middle + sign * np.sqrt(inside)) / quadratic) for sign in (-1, 1)]
    return Interval(float(top.mean() / bottom.mean()), *ends)


def share_interval(hits: np.ndarray) -> Interval:
    """The share of true values (N,) with Wilson's interval (1927); NaN without values."""
    count = len(hits)
    if not count:
        return NONE
    share, z = float(np.mean(hits)), float(ndtri(1 - ALPHA / 2))
    middle = (share + z**2 / (2 * count)) / (1 + z**2 / count)
    reach = z / (1 + z**2 / count) * np.sqrt(share * (1 - share) / count + (z / (2 * count)) ** 2)
    return Interval(share, float(max(middle - reach, 0.0)), float(min(middle + reach, 1.0)))


def named(name: str, interval: Interval) -> dict[str, float]:
    """The three numbers as columns `name`, `name`_low and `name`_high."""
    return dict(zip((name, f"{name}_low", f"{name}_high"), interval, strict=True))


def _error(values: np.ndarray) -> float:
    """The standard error of a mean; rounding of equal values counts as 0."""
    spread = float(values.std(ddof=1))
    return spread / np.sqrt(len(values)) if spread > 1e-9 * np.abs(values).max() else 0.0
