"""In: p-values of an arm at several looks, each with more seeds. Out: one p-value that counts the looks.

Seeds are added until a verdict is clear, so a study is looked at several times, and one look in twenty
would mislead if each were taken alone. The estimate at each look is a mean over more trainings, on the
same patients: its covariance with every later one is the variance of the later one, which is the usual
case of group-sequential tests (Jennison and Turnbull 2000, chapter 3). The error is spent over the
looks by their share of the information that the last planned look has (Lan and DeMets 1983), with
their function of Pocock's type: alpha log(1 + (e - 1) t). Where patients and not trainings are most of
the noise, the first look has nearly all of the information, and later looks cost little.

The p-value of several looks is the smallest level at which one of them would have rejected; such
p-values can be corrected over arms as any others (Maurer and Bretz 2013).
"""

from collections.abc import Sequence

import numpy as np
from scipy.optimize import brentq
from scipy.special import ndtr, ndtri

GRID = 301
REACH = 8.0  # standard deviations that the grid of a look covers
SMALLEST, LARGEST = 1e-12, 0.5


def spent(alpha: float, fraction: float) -> float:
    """The error, up to `alpha`, that may be spent once `fraction` of the information is there."""
    return alpha * float(np.log1p((np.e - 1) * min(fraction, 1.0)))


def boundaries(alpha: float, fractions: Sequence[float]) -> np.ndarray:
    """The one-sided critical value (K,) of z at each look, with `alpha` spent in all.

    fractions: (K,) of the information, increasing, in (0, 1]. Armitage, McPherson and Rowe's recursion
    (1969), by the trapezoidal rule.
    """
    times = np.asarray(fractions, dtype=float)
    if not len(times) or (np.diff(times) <= 0).any() or times[0] <= 0 or times[-1] > 1 + 1e-9:
        raise ValueError(f"fractions of the information must increase in (0, 1]: {fractions}")
    found, before = [], 0.0
    grid, weight = np.zeros(1), np.ones(1)  # of the sum z sqrt(t), and how likely it is
    for number, time in enumerate(times):
        step = np.sqrt(time - (times[number - 1] if number else 0.0))
        share, before = spent(alpha, time) - before, spent(alpha, time)
        found.append(_boundary(share, grid, weight, step, np.sqrt(time)))
        end = found[-1] * np.sqrt(time)
        new = np.linspace(-REACH * np.sqrt(time), end, GRID)
        density = np.exp(-0.5 * ((new[:, None] - grid) / step) ** 2) @ weight
        density /= step * np.sqrt(2 * np.pi)
        grid, weight = new, density * np.gradient(new)
        weight[[0, -1]] /= 2
    return np.array(found)


def _boundary(
    share: float, grid: np.ndarray, weight: np.ndarray, step: float, root: float
) -> float:
    """The z that is passed with probability `share` by those who passed none before."""

    def beyond(z: float) -> float:
        return float(ndtr((grid - z * root) / step) @ weight) - share

    return float(brentq(beyond, -REACH, REACH + 4))


def looked_p(p_values: Sequence[float], fractions: Sequence[float]) -> float:
    """The one-sided p-value of several looks: the smallest level at which one of them rejects.

    p_values: (K,) one-sided, of each look alone. A single look at all of the information keeps its own.
    What is over LARGEST, of an effect in the other direction, is 1; NaN where any of them is.
    """
    p = np.asarray(p_values, dtype=float)
    if np.isnan(p).any():
        return np.nan
    p = np.clip(p, SMALLEST, 1.0)

    def short(level: float) -> float:
        """How far the nearest look is from rejecting at this level; 0 where it just does."""
        return float((boundaries(level, fractions) - ndtri(1 - p)).min())

    if short(LARGEST) > 0:
        return 1.0
    if short(SMALLEST) <= 0:
        return SMALLEST
    return float(brentq(short, SMALLEST, LARGEST, xtol=1e-9, rtol=1e-4))


def information(
    patients: float, seeds: float, now: int, looks: Sequence[int], most: int
) -> np.ndarray:
    """The share of the information (K,) that looks at so many seeds have, of that with `most` seeds.

    patients, seeds: the variances of a difference at `now` seeds, from patients and from trainings. The
    noise of trainings shrinks with their number, that of patients stays.
    """
    variance = patients + seeds * now / np.array([*looks, most], dtype=float)
    if not variance[-1] > 0:
        return np.linspace(1 / len(looks), 1.0, len(looks))
    share = variance[-1] / variance[:-1]
    share = np.maximum.accumulate(share) + 1e-9 * np.arange(len(share))
    return share / max(share[-1], 1.0)
