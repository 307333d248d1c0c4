"""Make augmented training batches from an image store.

In: a store of grey images (N, S, S) and their targets. Out: shuffled, augmented batches, identical
for identical seeds.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from torch import Tensor

from lib.config import Config
from lib.exceptions import DatasetError

DEGREES = 20.0  # the method rotates by up to +-20 degrees
Batch = tuple[Tensor, Tensor]
Made = TypeVar("Made")


@dataclass(frozen=True)
class Loader:
    """Batches of one split: images (B, 1, S, S) float32 in [0, 1] and targets (B, F) float32.

    A target is NaN where it is not annotated.

    - store: (N, S, S) uint8, usually a memory map.
    - rows: (M,) the rows of the store that belong to this split.
    - targets: (M, F) label per image and finding.
    - images, patients: (M,) ids, by default the row numbers.
    - sources: (M,) where each image is from; given, each source gives an epoch as many images.
    - per_epoch: how many images an epoch has, by default M; more repeat, each as often as others.
    - soft: (M, F) a teacher's answers; given, they stand behind the targets of a batch: (B, 2 F).
    - unlabelled: rows of the store without labels, which only a teacher answers for.

    Every batch depends only on (seed, epoch, batch number), so that training resumes exactly.
    """

    store: np.ndarray
    rows: np.ndarray
    targets: np.ndarray
    batch_size: int
    augment: str = "none"
    shuffle: bool = False
    seed: int = 0
    images: np.ndarray | None = None
    patients: np.ndarray | None = None
    per_epoch: int | None = None
    sources: np.ndarray | None = None
    soft: np.ndarray | None = None
    unlabelled: np.ndarray | None = None

    def __post_init__(self) -> None:
        for name in ("images", "patients"):
            if getattr(self, name) is None:
                object.__setattr__(self, name, self.rows.astype(str))
        if not len(self.rows):
            raise DatasetError("a loader needs at least one image; this split is empty")
        if len(self.rows) != len(self.targets):
            raise ValueError(f"{len(self.rows)} images but {len(self.targets)} rows of targets")

    def __len__(self) -> int:
        return math.ceil((self.per_epoch or len(self.rows)) / self.batch_size)

    def epoch(
        self,
        number: int = 0,
        *,
        device: torch.device | None = None,
        ahead: bool | None = None,
        rank: int = 0,
        ranks: int = 1,
    ) -> Iterator[Batch]:
        """Yield the batches of one epoch, or of each batch the share of one of several ranks.

        Batch sizes differ by at most one image, so that no tiny last batch upsets batch norm. An
        image is augmented alike whatever the number of ranks; a share may be empty. For a CUDA
        `device` the batches are augmented and stay there; only bytes are copied to it. With
        `ahead`, by default on accelerators, a thread prepares the next batch while the caller uses
        the current one; on a CPU it would take cores away from training.
        """
        kind = device.type if device else "cpu"
        ahead = kind != "cpu" if ahead is None else ahead
        read = self.reader(number, rank, ranks)
        if device is not None and kind == "cuda":
            pinned = _in_turn(lambda index: read(index).pinned(), len(self), ahead)
            yield from (batch.augmented(device) for batch in pinned)
        else:
            yield from _in_turn(lambda index: read(index).augmented(), len(self), ahead)

    def reader(self, number: int = 0, rank: int = 0, ranks: int = 1) -> Callable[[int], "RawBatch"]:
        """Return a function that reads a rank's share of a batch of one epoch, by its number."""
        parts, wanted = self._parts(number), self._wanted

        def read(index: int) -> RawBatch:
            seed = np.random.SeedSequence((self.seed, number, index)).generate_state(1, np.uint64)
            generator = torch.Generator().manual_seed(seed.item())
            count = len(parts[index])
            draws = draw_augmentation(count, self.augment, generator)  # of the whole batch
            where = share(count, rank, ranks)
            mine = parts[index][where]
            images = torch.from_numpy(self.store[self.rows[mine]])  # (b, S, S), out of the map
            return RawBatch(images, draws.part(where), torch.from_numpy(wanted[mine]).float())

        return read

    def known_labels(self, number: int = 0) -> list[int]:
        """Return how many labels, or answers where there is none, are known in each batch of one
        epoch, over all ranks."""
        known = ~np.isnan(self.targets)
        if self.soft is not None:
            known |= ~np.isnan(self.soft)
        return [int(known[part].sum()) for part in self._parts(number)]

    def smallest_batch(self) -> int:
        """Return the number of images of the smallest batch."""
        return (self.per_epoch or len(self.rows)) // len(self)

    def part(self, where: slice) -> "Loader":
        """Return a loader of some of the images, in the same order."""
        fields = [
            "rows",
            "targets",
            "images",
            "patients",
            *(["soft"] if self.soft is not None else []),
        ]
        return replace(self, **{name: getattr(self, name)[where] for name in fields})

    @property
    def _wanted(self) -> np.ndarray:
        """Return (M, F) targets, or (M, 2 F) with the teacher's answers behind them."""
        if self.soft is None:
            return self.targets
        return np.concatenate([self.targets, self.soft], axis=1)

    def _parts(self, number: int) -> list[np.ndarray]:
        """Return the places in `rows` of each batch of one epoch."""
        return np.array_split(self._order(number), len(self))

    def _order(self, number: int) -> np.ndarray:
        """Return the places in `rows` of one epoch's images, in order."""
        places = np.arange(len(self.rows))
        count = self.per_epoch or len(places)
        passes = math.ceil(count / len(places))
        if not self.shuffle:
            return np.tile(places, passes)[:count]
        random = np.random.default_rng((self.seed, number))
        if self.sources is None:
            return _repeated(places, count, random)
        names = np.unique(self.sources)
        shares = np.diff(np.linspace(0, count, len(names) + 1).astype(int))
        parts = [
            _repeated(places[self.sources == name], share, random)
            for name, share in zip(names, shares, strict=True)
        ]
        return random.permutation(np.concatenate(parts))


@dataclass(frozen=True)
class RawBatch:
    """Images (B, S, S) uint8 as they are stored, how to augment them, and targets (B, F)."""

    images: Tensor
    draws: "Augmentation"
    targets: Tensor

    def pinned(self) -> "RawBatch":
        """Return this batch in memory that a GPU reads while it computes."""
        draws = self.draws.map(Tensor.pin_memory)
        return RawBatch(self.images.pin_memory(), draws, self.targets.pin_memory())

    def augmented(self, device: torch.device | None = None) -> Batch:
        """Return the augmented images (B, 1, S, S) and the targets, on a device."""
        if device is None:
            return apply_augmentation(self.images, self.draws), self.targets
        images, targets = (
            part.to(device, non_blocking=True) for part in (self.images, self.targets)
        )
        draws = self.draws.map(lambda part: part.to(device, non_blocking=True))
        return apply_augmentation(images, draws), targets


def _in_turn(make: Callable[[int], Made], count: int, ahead: bool) -> Iterator[Made]:
    """Yield make(0), make(1) ... make(count - 1); with `ahead`, a thread makes the next one."""
    if not ahead:
        yield from map(make, range(count))
        return
    with ThreadPoolExecutor(1) as thread:
        waiting = thread.submit(make, 0)
        for index in range(1, count):
            ready, waiting = waiting, thread.submit(make, index)
            yield ready.result()
        yield waiting.result()


def share(count: int, rank: int, ranks: int) -> slice:
    """Return which of `count` things one of several ranks takes; shares differ by at most one."""
    each, more = divmod(count, ranks)
    start = rank * each + min(rank, more)
    return slice(start, start + each + (rank < more))


def _repeated(places: np.ndarray, count: int, random: np.random.Generator) -> np.ndarray:
    """Return `count` of these places in random order, each as often as others."""
    passes = max(1, math.ceil(count / len(places)))
    return np.concatenate([random.permutation(places) for _ in range(passes)])[:count]


def make_loaders(
    frame: pd.DataFrame, store: np.ndarray, config: Config, submission: Sequence[str] = ()
) -> dict[str, Loader]:
    """Make loaders for train, val and test, and `submit` for the ids in `submission`.

    - frame: N rows, one per image, with a column `split`.
    - store: (N, S, S), rows in the order of `frame`.
    - submission: ids of images to predict; `submit` returns them in this order.

    Images without an annotation for any of the config's findings are left out, except those to
    submit. With `train_fraction` an epoch still has as many images as with all training patients,
    so that less data is not less training; with `balance_sources` every source gives it as many
    images, small ones repeating theirs. Raises DatasetError when train, val or test has no annotated image.
    """
    targets = frame[list(config.findings)].to_numpy(np.float32)  # (N, F)
    annotated = ~np.isnan(targets).all(axis=1)
    loaders = {}
    where = {
        split: np.flatnonzero((frame["split"] == split) & annotated)
        for split in ("train", "val", "test")
    }
    where["submit"] = pd.Index(frame["image"]).get_indexer(list(submission))
    for split, rows in where.items():
        if (rows < 0).any():
            lost = [image for image, row in zip(submission, rows, strict=True) if row < 0]
            raise DatasetError(
                f"{len(lost)} images listed in the unlabelled test.csv have no usable image file, for example {lost[0]}"
            )
        if len(rows):
            training: dict[str, Any] = {}
            if split == "train":
                unused = int(((frame["split"] == "unused") & annotated).sum())
                training = {"augment": config.augment, "shuffle": True, "seed": config.seed}
                training["per_epoch"] = len(rows) + unused
                if config.distil_data:
                    training["unlabelled"] = np.flatnonzero(frame["split"] == "unlabelled")
                if config.balance_sources:
                    training["sources"] = frame["source"].to_numpy(str)[rows]
            ids = {
                "images": frame["image"].to_numpy(str)[rows],
                "patients": frame["patient"].to_numpy(str)[rows],
            }
            loaders[split] = Loader(
                store, rows, targets[rows], config.batch_size, **training, **ids
            )
    missing = [split for split in ("train", "val", "test") if split not in loaders]
    if missing:
        raise DatasetError(
            f"no image annotated for {', '.join(config.findings)} is in {' or '.join(missing)}"
        )
    return loaders


@dataclass(frozen=True)
class Augmentation:
    """What was drawn for the images of a batch; None where nothing is done.

    - matrices: (B, 2, 3) for `affine_grid`.
    - exposure: (3, B, 1, 1, 1): gain, offset and gamma for `change_exposure`.
    """

    matrices: Tensor | None = None
    exposure: Tensor | None = None

    def part(self, where: slice) -> "Augmentation":
        """Return what was drawn for some of the images."""
        return Augmentation(
            None if self.matrices is None else self.matrices[where],
            None if self.exposure is None else self.exposure[:, where],
        )

    def map(self, change: Callable[[Tensor], Tensor]) -> "Augmentation":
        """Return this with every tensor changed."""
        parts = (self.matrices, self.exposure)
        return Augmentation(*(None if part is None else change(part) for part in parts))


def draw_augmentation(count: int, kind: str, generator: torch.Generator) -> Augmentation:
    """Draw how each of `count` images is augmented. `kind` is one of:

    - `none`: no change.
    - `rotate`: by up to 20 degrees either way, as in the method.
    - `full`: rotation, scale, shift and shear, which imitate positioning, and brightness, contrast
      and gamma, which imitate exposure.
    """
    amounts = {"rotate": (0.0, 0.0, 0.0), "full": (0.15, 0.08, 0.08)}
    if kind == "none":
        return Augmentation()
    if kind not in amounts:
        raise ValueError(f"augment={kind!r}: use none, rotate or full")
    matrices = random_affine(count, *amounts[kind], generator)  # (B, 2, 3)
    return Augmentation(matrices, random_exposure(count, generator) if kind == "full" else None)


def apply_augmentation(images: Tensor, draws: Augmentation) -> Tensor:
    """Turn uint8 (B, S, S) into float32 (B, 1, S, S) in [0, 1], augmented as drawn.

    Images and draws lie on the same device. What is drawn comes from the CPU in any case, so that
    devices differ by rounding only.
    """
    pixels = images.unsqueeze(1).float().div_(255)  # (B, 1, S, S)
    if draws.matrices is None:
        return pixels
    grid = affine_grid(draws.matrices, pixels.shape[-1])  # (B, S, S, 2)
    pixels = F.grid_sample(pixels, grid, mode="bilinear", padding_mode="zeros", align_corners=False)
    return pixels if draws.exposure is None else change_exposure(pixels, *draws.exposure)


def augment_batch(images: Tensor, kind: str, generator: torch.Generator) -> Tensor:
    """Turn uint8 (B, S, S) into float32 (B, 1, S, S) in [0, 1], augmenting each image at random.

    `kind` is one of those of `draw_augmentation`.
    """
    return apply_augmentation(images, draw_augmentation(len(images), kind, generator))


def affine_grid(matrices: Tensor, size: int) -> Tensor:
    """Compute torch's `affine_grid` (align_corners=False) for square images by broadcasting.

    This is about ten times as fast on a CPU. matrices: (B, 2, 3) -> (B, S, S, 2) sampling positions
    in [-1, 1].
    """
    device = matrices.device
    centres = (torch.arange(size, device=device) * 2 + 1) / size - 1  # (S,)
    grid = torch.empty(len(matrices), size, size, 2, device=device)
    for axis in (0, 1):
        across, down, shift = matrices[:, axis].unsqueeze(-1).unbind(1)  # (B, 1) each
        torch.add(
            (across * centres)[:, None, :],
            (down * centres + shift)[:, :, None],
            out=grid[..., axis],
        )
    return grid


def random_affine(
    count: int, scale: float, shift: float, shear: float, generator: torch.Generator
) -> Tensor:
    """Draw matrices (B, 2, 3) for `affine_grid`.

    Rotation is within +-20 degrees and scale within 1 +- `scale`. `shift` is in image widths.
    `shear` is the largest shear factor.
    """
    draw = torch.rand(count, 5, generator=generator) * 2 - 1  # (B, 5) in [-1, 1)
    angle = draw[:, 0] * math.radians(DEGREES)
    size = 1 + scale * draw[:, 1]
    cos, sin, slant = angle.cos() * size, angle.sin() * size, shear * draw[:, 2]
    rows = [
        cos,
        cos * slant - sin,
        2 * shift * draw[:, 3],
        sin,
        sin * slant + cos,
        2 * shift * draw[:, 4],
    ]
    return torch.stack(rows, dim=1).view(count, 2, 3)


def random_exposure(count: int, generator: torch.Generator) -> Tensor:
    """Draw gain and offset within 1 +- 0.25, and gamma from 0.75 to 1.33: (3, B, 1, 1, 1)."""
    draw = torch.rand(count, 3, generator=generator) * 2 - 1
    gain, offset, gamma = (draw[:, i].view(-1, 1, 1, 1) for i in range(3))
    return torch.stack([1 + 0.25 * gain, 1 + 0.25 * offset, (0.288 * gamma).exp()])


def change_exposure(pixels: Tensor, gain: Tensor, offset: Tensor, gamma: Tensor) -> Tensor:
    """Change contrast, brightness and gamma of images (B, 1, S, S); values stay in [0, 1]."""
    mean = pixels.mean(dim=(1, 2, 3), keepdim=True)
    pixels = (pixels - mean).mul_(gain).add_(mean * offset).clamp_(1e-4, 1)
    return pixels.pow_(gamma)
