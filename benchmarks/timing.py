"""In: things to time. Out: medians of rounds in which each takes its turn, so that a busy machine
slows all alike."""

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class Row:
    """One line of the table: what was measured, in what unit, and against what."""

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
    """Seconds of each piece of work in each round, after one round that does not count."""
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
    """Items per second of each piece of work: the median of its rounds."""
    return {
        name: items[name] / statistics.median(times)
        for name, times in alternate(work, rounds).items()
    }
