"""Measure what compressed networks gain for one film, decoding included.

In: images of 1024 px. Out: rows of the table. Each way runs in a process of its own, and all take
turns, as in `benchmarks.predicting`.
"""

import statistics
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from benchmarks.decoders import FAST, PILLOW, fast_is_there
from benchmarks.predicting import BACKBONE, ROUNDS, SIZE, THREADS, WAYS, Child, write_random
from benchmarks.timing import Row, alternate
from lib.compression.costs import network_size
from lib.inference.session import latency_rounds


@dataclass(frozen=True)
class Network:
    """A network with random weights: its short name, timm's name, image size in px, the share of
    its channels that is removed."""

    short: str
    backbone: str
    size: int
    prune: float = 0.0

    @property
    def text(self) -> str:
        pruned = f" without {self.prune:.0%} of its channels" if self.prune else ""
        return f"{self.backbone}{pruned} at {self.size} px"


STUDENT = Network("student", "mobilenetv2_035", 128, 0.5)  # pruned_50_taught of studies/compress
WHOLE = Network("whole", BACKBONE, SIZE)
HALF = Network("half", BACKBONE, SIZE, 0.5)
EAGER = f"{BACKBONE} at {SIZE} px: {WAYS['eager']}"
OURS = f"{WHOLE.text}, unpruned, as exported"


def compressed_rows(paths: list[Path], kind: str, scratch: Path) -> list[Row]:
    """Measure the student against eager B4, and B4 without half of its channels against B4."""
    film = grey_film(paths)
    files = {one.short: write_network(one, scratch) for one in (STUDENT, WHOLE, HALF)}
    decoders = {"pillow": PILLOW} | ({"ours": FAST} if fast_is_there(film) else {})
    children = {"eager": Child("eager", files["whole"], film)}
    for way in decoders:
        children |= {f"{name}, {way}": Child(way, path, film) for name, path in files.items()}
    seconds = alternate({name: child.answer for name, child in children.items()}, ROUNDS)
    rate = {name: 1 / statistics.median(times) for name, times in seconds.items()}
    peak = {name: child.end() for name, child in children.items()}
    first = {name: child.first for name, child in children.items()}
    rows = []
    for way, decoder in decoders.items():
        one = f"one 1024 px grey PNG ({kind}) answered with heat maps, {decoder}, {THREADS} threads"
        student, half = (f"{one}, {network.text}" for network in (STUDENT, HALF))
        pair = (f"student, {way}", "eager")
        rows += [
            _row(student, "answers/s", rate, pair, EAGER, ">= 6"),
            _row(f"{student}: process start to first answer", "s", first, pair, EAGER),
            _row(f"{student}: peak memory", "MB", peak, pair, EAGER, "<= 0.1"),
        ]
        pair = (f"half, {way}", f"whole, {way}")
        rows.append(_row(half, "answers/s", rate, pair, OURS, ">= 1.8"))
        rows.append(_row(f"{half}: peak memory", "MB", peak, pair, OURS))
    return [*rows, *_costs(files)]


def _row(
    what: str,
    unit: str,
    values: dict[str, float],
    pair: tuple[str, str],
    against: str,
    goal: str = "",
) -> Row:
    return Row(what, unit, values[pair[0]], values[pair[1]], against, goal)


def _costs(files: dict[str, Path]) -> list[Row]:
    """Compare the networks alone: time, multiply-adds, file."""
    names, what = ("half", "whole"), f"{HALF.text} alone"
    seconds = latency_rounds({name: files[name] for name in names}, SIZE, 2 * ROUNDS)
    speed = {name: 1 / float(np.median(seconds[name])) for name in names}
    adds = {name: network_size(files[name])[0] / 1e6 for name in names}
    sizes = {name: files[name].stat().st_size / 2**20 for name in names}
    return [
        _row(f"{what}, {THREADS} threads", "answers/s", speed, names, OURS),
        _row(f"{what}: multiply-adds", "millions", adds, names, OURS),
        _row(f"{what}: file", "MB", sizes, names, OURS),
    ]


def grey_film(paths: list[Path]) -> Path:
    """Return the first 8-bit grey film, as most are."""
    for path in paths:
        with Image.open(path) as image:
            if image.mode == "L":
                return path
    raise FileNotFoundError("no 8-bit grey film among those of 1024 px")


def write_network(network: Network, folder: Path) -> Path:
    """Export the network to `folder`; return its file."""
    path = folder / f"{network.short}.onnx"
    write_random(path, network.backbone, network.size, network.prune)
    return path
