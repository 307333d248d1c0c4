"""In: the decoded images (N, S, S) uint8 and their splits. Out: pairs of identical or nearly
identical images.

Images are summarised by 8 x 8 differences (a perceptual hash); those that share a quarter of it are
compared by pixel.
"""

import warnings
from contextlib import suppress
from mmap import mmap
from pathlib import Path
from typing import TypeGuard
from zipfile import BadZipFile

import numpy as np
import pandas as pd

from lib.exceptions import SplitError
from lib.files import atomic_write

CHUNK = 1024  # images that are read at a time
NEIGHBOURS = 4  # images of the same partial hash that each one is compared with
LARGEST_DIFFERENCE = 1.5  # grey levels of 255, mean over the pixels
VERSION = 1  # increase it when other pairs would be found
LEAST_CONTRAST = 2.0  # standard deviation in grey levels; blank images are not compared


def duplicate_pairs(images: np.ndarray) -> np.ndarray:
    """Pairs of rows of `images` (N, S, S) uint8 that are the same radiograph, first < second: (P,
    2) int.

    Of an image cache they are remembered beside it: every run of a study asks, and reading all
    pixels of a large set takes minutes.
    """
    if not _is_cache(images):
        return _find_pairs(images)
    kept = Path(images.filename).with_suffix(f".copies{VERSION}.npz")
    with suppress(OSError, ValueError, KeyError, EOFError, BadZipFile), np.load(kept) as found:
        return found["pairs"]
    pairs = _find_pairs(images)
    with suppress(OSError), atomic_write(kept) as partial:  # a shared cache may be read-only
        np.savez(partial, pairs=pairs)
    return pairs


def copies_between(images: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Rows of `images` (N, S, S) and of `others` (M, S, S), uint8 of one size, that are the same
    radiograph: (P, 2) int, by the measures of `duplicate_pairs`."""
    (ours, contrast), (theirs, other_contrast) = _summaries(images), _summaries(others)
    usable = np.flatnonzero(contrast > LEAST_CONTRAST)
    other_rows = np.flatnonzero(other_contrast > LEAST_CONTRAST)
    pairs = [np.zeros((0, 2), int)]
    for part in range(ours.shape[1]):
        order = other_rows[np.argsort(theirs[other_rows, part], kind="stable")]
        start = np.searchsorted(theirs[order, part], ours[usable, part])
        for step in range(min(NEIGHBOURS, len(order))):
            place = np.minimum(start + step, len(order) - 1)
            alike = theirs[order[place], part] == ours[usable, part]
            pairs.append(np.stack([usable[alike], order[place[alike]]], axis=1))
    found = np.unique(np.concatenate(pairs), axis=0)
    return found[_same(images, found, others)]


def _find_pairs(images: np.ndarray) -> np.ndarray:
    hashes, contrast = _summaries(images)
    pairs = [
        _candidates(hashes[:, part], contrast > LEAST_CONTRAST) for part in range(hashes.shape[1])
    ]
    found = np.unique(np.concatenate(pairs), axis=0)
    return found[_same(images, found)]


def check_duplicates(frame: pd.DataFrame, images: np.ndarray) -> None:
    """Raise SplitError where one radiograph of two patients stands in two of train, val and test;
    else warn of copies.

    frame: columns image, patient and split, in the order of `images`. Copies of one patient are in
    two splits only where validation is chosen by image, which has patients in both anyway.
    """
    pairs = duplicate_pairs(images)
    sides = {"submit": "test", "unlabelled": "train"}
    splits = frame["split"].replace(sides).to_numpy(str)[pairs]  # (P, 2)
    used = ~np.isin(splits, ["excluded", "unused"]).any(axis=1)
    patients = frame["patient"].to_numpy(str)[pairs]
    leaks = (splits[:, 0] != splits[:, 1]) & (patients[:, 0] != patients[:, 1])
    across, within = pairs[used & leaks], pairs[used & ~leaks]
    if len(across):
        raise SplitError(
            f"{len(across):,} pairs of images in different splits are the same radiograph: {_names(frame, across)}. "
            "Remove one image of each pair, or list both under one Patient ID."
        )
    if len(within):
        warnings.warn(
            f"{len(within):,} pairs of images are the same radiograph: {_names(frame, within)}",
            stacklevel=2,
        )


def duplicates_text(frame: pd.DataFrame, images: np.ndarray) -> tuple[str, ...]:
    """A sentence that names copies, or nothing. frame: columns image and patient, in the order of
    `images`."""
    pairs = duplicate_pairs(images)
    named = _names(frame.assign(split=frame["patient"]), pairs)
    text = f"{len(pairs):,} pairs of images are the same radiograph (with their patients): {named}"
    return (text,) if len(pairs) else ()


def _summaries(images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Four partial hashes per image (N, 4) uint32, and its contrast (N,)."""
    hashes, contrast = np.zeros((len(images), 4), np.uint32), np.zeros(len(images))
    edges = np.linspace(0, images.shape[1], 10).astype(int)[:-1]
    areas = np.diff([*edges, images.shape[1]])
    for start in range(0, len(images), CHUNK):
        rows = slice(start, start + CHUNK)
        sums = np.add.reduceat(_map_anew(images)[rows], edges, axis=1, dtype=np.uint32)
        small = np.add.reduceat(sums, edges, axis=2) / np.multiply.outer(areas, areas)  # (B, 9, 9)
        contrast[rows] = small.std(axis=(1, 2))
        across, down = small[:, :8, 1:] > small[:, :8, :-1], small[:, 1:, :8] > small[:, :-1, :8]
        bits = np.stack([across, down], axis=1).reshape(len(small), 128)
        hashes[rows] = np.packbits(bits, axis=1).view(np.uint32)
    return hashes, contrast


def _map_anew(images: np.ndarray) -> np.ndarray:
    """The same images; of an image cache a map of its own, whose pages leave memory with it."""
    if not _is_cache(images):
        return images
    return np.memmap(images.filename, images.dtype, "r", images.offset, images.shape)


def _is_cache(images: np.ndarray) -> TypeGuard[np.memmap]:
    """Whether these are all images of a cache, not a part of them."""
    return isinstance(images, np.memmap) and isinstance(images.base, mmap)


def _candidates(hashes: np.ndarray, usable: np.ndarray) -> np.ndarray:
    """Pairs of rows with the same hash (P, 2), each row with its next NEIGHBOURS."""
    rows = np.flatnonzero(usable)
    order = rows[np.argsort(hashes[rows], kind="stable")]
    pairs = [np.zeros((0, 2), int)]
    for step in range(1, NEIGHBOURS + 1):
        first, second = order[:-step], order[step:]
        alike = hashes[first] == hashes[second]
        pairs.append(np.stack([first[alike], second[alike]], axis=1))
    return np.sort(np.concatenate(pairs), axis=1)


def _same(images: np.ndarray, pairs: np.ndarray, others: np.ndarray | None = None) -> np.ndarray:
    """Whether the pixels of each pair agree: (P,) bool. The second of a pair is a row of `others`
    where they are given."""
    same = np.zeros(len(pairs), bool)
    second = images if others is None else others
    for start in range(0, len(pairs), CHUNK):
        rows = pairs[start : start + CHUNK].T
        one, other = (
            _map_anew(films)[row].astype(np.int16)  # (P, H, W)
            for films, row in zip((images, second), rows, strict=True)
        )
        difference = np.abs(one - other).mean(axis=(1, 2))
        same[start : start + CHUNK] = difference <= LARGEST_DIFFERENCE
    return same


def _names(frame: pd.DataFrame, pairs: np.ndarray) -> str:
    """The first four pairs, with their splits."""
    images, splits = frame["image"].to_numpy(str), frame["split"].to_numpy(str)
    texts = [" and ".join(f"{images[row]} ({splits[row]})" for row in pair) for pair in pairs[:4]]
    return "; ".join(texts) + (f"; and {len(pairs) - 4:,} more" if len(pairs) > 4 else "")
