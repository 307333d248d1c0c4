"""Time pieces of work in turns, so that a busy machine slows all of them alike.

In: work to time. Out: the seconds of each round, and rates from the medians.
"""

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class Row:
    """One row of the table: what was measured, in what unit, and compared with what."""

    what: str
    unit: str
    ours: float
    other: float | None = None
    against: str = ""
    goal: str = ""

    @property
    def ratio(self) -> float | None:
        return None if self.other is None else self.ours / self.other


def alternate(work: dict[str, Callable[[], None]], rounds: int = 5) -> dict[str, list[float]]:
    """Return the seconds of each piece of work per round, after one uncounted round."""
    seconds: dict[str, list[float]] = {name: [] for name in work}
    for number in range(rounds + 1):
        for name, piece in work.items():
            start = time.perf_counter()
            piece()
            if number:
                seconds[name].append(time.perf_counter() - start)
    return seconds


def rates(
    work: dict[str, Callable[[], None]], items: dict[str, int], rounds: int = 5
) -> dict[str, float]:
    """Return items per second of each piece of work: the median over the rounds."""
    return {
        name: items[name] / statistics.median(times)
        for name, times in alternate(work, rounds).items()
    }
