"""Measure how fast films are decoded, and what decoding leaves of the speed of prediction.

In: images of 1024 px. Out: rows of the table. Decoders that are not installed have no row; those
that are must give Pillow's pixels.
"""

import contextlib
import os
import statistics
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np

from benchmarks.compressed import STUDENT, WHOLE, Network, write_network
from benchmarks.decoders import (
    FAST,
    JPEG_DECODERS,
    PILLOW,
    PNG_DECODERS,
    Decode,
    draft,
    fast_is_there,
    installed,
    jpeg,
    opened,
    pillow,
    stream,
)
from benchmarks.timing import Row, alternate
from lib.images import read
from lib.images.pixels import grey_pixels
from lib.inference.batch import predict_files

SIZE, ROUNDS = 224, 15
FOLDER = 32  # films
Files = list[bytes]


def decoding_rows(paths: list[Path], kind: str, scratch: Path) -> list[Row]:
    """Measure decoders, the parts of `read_radiograph`, and `cxr predict` with one and two
    threads."""
    films = [path.read_bytes() for path in paths]
    grey = [film for film in films if opened(film).mode == "L"]
    jpegs = [jpeg(film) for film in grey]
    what = f"1024 px grey %s ({kind}, {len(grey)} films)"
    rows = _decoder_rows(what % "PNG", grey, {PILLOW: pillow} | installed(PNG_DECODERS))
    rows += _decoder_rows(what % "JPEG", jpegs, {PILLOW: draft} | installed(JPEG_DECODERS))
    rows += _part_rows(what % "PNG", grey)
    return rows + _predict_rows(kind, grey, scratch)


def _decoder_rows(what: str, films: Files, decoders: dict[str, Decode]) -> list[Row]:
    for name, decode in decoders.items():
        for film in films:
            same = np.array_equal(decode(film).squeeze(), decoders[PILLOW](film))
            assert same, f"{name} gives other pixels than Pillow"
    rate = _rates({name: _each(decode, films) for name, decode in decoders.items()}, len(films))
    others = [name for name in decoders if name != PILLOW]
    return [
        Row(f"{what} decoded by {name}", "images/s", rate[name], rate[PILLOW], PILLOW)
        for name in others
    ]


def _part_rows(what: str, films: Files) -> list[Row]:
    """Compare the whole `read_radiograph` with both decoders, and the share of each part."""
    loaded = [opened(film) for film in films]
    streams = [stream(film) for film in films]
    for image in loaded:
        image.load()
    work = {
        "whole": _each(_reader(threads=read.FAST_THREADS + 1), films),
        "fast": _each(_reader(threads=1), films),
        "decode": _each(pillow, films),
        "inflate (Python's zlib)": _each(zlib.decompress, streams),
        "resize": _each(lambda image: grey_pixels(image, SIZE, SIZE), loaded),
    }
    with contextlib.suppress(ImportError):
        from zlib_ng import zlib_ng

        work["inflate (zlib-ng, which Pillow has)"] = _each(zlib_ng.decompress, streams)
    seconds = {name: statistics.median(times) for name, times in alternate(work, ROUNDS).items()}
    milliseconds = {name: 1000 * value / len(films) for name, value in seconds.items()}
    whole, rows = milliseconds.pop("whole"), []
    fast, reading = milliseconds.pop("fast"), f"{what} read by `read_radiograph`"
    if fast_is_there(films[0]):
        rows.append(
            Row(f"{reading}, {FAST}", "images/s", 1000 / fast, 1000 / whole, PILLOW, ">= 1.3")
        )
    against = "the whole of `read_radiograph`, with Pillow"
    return rows + [
        Row(f"{reading}: {name}", "ms", value, whole, against)
        for name, value in milliseconds.items()
    ]


def _predict_rows(kind: str, films: Files, scratch: Path) -> list[Row]:
    """Compare `cxr predict` over a folder with two threads to twice its rate with one."""
    folder = scratch / "films"
    folder.mkdir()
    for number in range(FOLDER):
        (folder / f"{number}.png").write_bytes(films[number % len(films)])
    decoders = {PILLOW: 0} | ({FAST: 2} if fast_is_there(films[0]) else {})
    rows = []
    for network in (STUDENT, WHOLE):
        model = write_network(network, scratch)
        work = {
            (decoder, threads): _predicting(model, folder, threads, most)
            for decoder, most in decoders.items()
            for threads in (1, 2)
        }
        rate = _rates(work, FOLDER, rounds=3)
        rows += _thread_rows(network, kind, rate)
    return rows


def _thread_rows(network: Network, kind: str, rate: dict[tuple[str, int], float]) -> list[Row]:
    rows = []
    for decoder in dict.fromkeys(name for name, _ in rate):
        what = (
            f"`cxr predict` over a folder of {FOLDER} grey PNG ({kind}), {network.text}, {decoder}"
        )
        one, two = rate[decoder, 1], rate[decoder, 2]
        rows.append(
            Row(f"{what}, 2 threads", "images/s", two, 2 * one, "twice the rate of 1 thread")
        )
        if decoder != PILLOW:
            rows.append(Row(f"{what}, 1 thread", "images/s", one, rate[PILLOW, 1], PILLOW))
            rows.append(Row(f"{what}, 2 threads", "images/s", two, rate[PILLOW, 2], PILLOW))
    return rows


def _predicting(model: Path, folder: Path, threads: int, most: int) -> Callable[[], None]:
    """`cxr predict` in this process; `most` is up to how many threads use the faster decoder."""

    def predict() -> None:
        with (
            mock.patch.object(read, "FAST_THREADS", most),
            Path(os.devnull).open("w") as nowhere,
            contextlib.redirect_stdout(nowhere),
            contextlib.redirect_stderr(nowhere),
        ):
            counts = predict_files(model, [str(folder)], threads=threads)
        assert counts.answered == FOLDER

    return predict


def _each(work: Callable[[Any], object], items: Sequence[Any]) -> Callable[[], None]:
    def all_of_them() -> None:
        for item in items:
            work(item)

    return all_of_them


def _rates(work: dict, items: int, rounds: int = ROUNDS) -> dict:
    """Items per second of each piece of work, from medians."""
    times = alternate(work, rounds)
    return {name: items / statistics.median(seconds) for name, seconds in times.items()}


def _reader(threads: int) -> Decode:
    return lambda film: read.read_radiograph(film, SIZE, preview=0, threads=threads).pixels
