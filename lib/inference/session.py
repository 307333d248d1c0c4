"""Run an ONNX file.

In: an ONNX file. Out: its outputs, and its speed. `python -m lib.inference.session FILE` prints the
peak memory in MiB of a process that only predicts with it.
"""

import sys
import time
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from lib.inference.predictor import Predictor, open_session
from lib.system import peak_memory_mb

THREADS = 2  # as on a small laptop; latencies are reported for this number


def run_file(path: Path, images: np.ndarray, batch: int = 16) -> dict[str, np.ndarray]:
    """Return the file's outputs for images (N, S, S) uint8, N >= 1.

    The outputs are by name, each (N, ...). `batch` images are computed at a time.
    """
    session = open_session(path, THREADS)
    names = [output.name for output in session.get_outputs()]
    parts = [
        session.run(names, {"images": images[i : i + batch]}) for i in range(0, len(images), batch)
    ]
    return {
        name: np.concatenate(values)
        for name, values in zip(names, zip(*parts, strict=True), strict=True)
    }


def latencies_ms(paths: Mapping[str, Path], size: int, rounds: int = 20) -> dict[str, float]:
    """Return the median milliseconds per image of each file, at THREADS threads.

    `size` is the side of the image in pixels. The files take turns for `rounds` rounds, so that a
    busy machine slows all of them alike.
    """
    film = np.random.default_rng(0).integers(0, 256, (1, size, size), dtype=np.uint8)
    sessions = {name: open_session(path, THREADS) for name, path in paths.items()}
    seconds: dict[str, list[float]] = {name: [] for name in paths}
    for _ in range(rounds):
        for name, session in sessions.items():
            session.run(
                None, {"images": film}
            )  # warm-up: the previous model's data still fills the caches
            start = time.perf_counter()
            session.run(None, {"images": film})
            seconds[name].append(time.perf_counter() - start)
    return {name: 1000 * float(np.median(times)) for name, times in seconds.items()}


def _print_peak_memory(path: str) -> None:
    predictor = Predictor(path, THREADS)
    for _ in range(5):
        predictor.warm_up()
    print(peak_memory_mb())


if __name__ == "__main__":
    _print_peak_memory(sys.argv[1])
