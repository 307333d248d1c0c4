"""Learn from the answers of other models.

In: the runs that teach, and the training films. Out: their mean answers, kept under the first of
these runs; a loss over labels and answers.

After Hinton, Vinyals and Dean (2015), "Distilling the knowledge in a neural network", for findings
that exclude no other: each has its own probability in place of one softmax. The teacher answers
once for each film, as it is; the student sees it augmented, and is to answer the same.
"""

from collections.abc import Sequence
from dataclasses import replace
from hashlib import blake2b
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from lib.config import Config, resolve
from lib.exceptions import ModelError
from lib.files import atomic_write, model_files
from lib.metrics.calibration import Calibration
from lib.metrics.ensemble import ensemble_probs
from lib.models.batches import Loader
from lib.models.classifier import load_model
from lib.models.losses import Loss, bce, make_loss
from lib.models.predicting import predict

BATCH = 64
KEPT_VERSION = 1
"""Increase this when the same model answers the same films otherwise."""
LEAST = 1e-6
"""Probabilities below this, or above 1 less this, count as this: log-odds stay finite."""


def with_answers(train: Loader, config: Config) -> Loader:
    """Return the loader with the teacher's answers (M, F) for its films, as `soft`; without a
    teacher the loader as it is.

    The loader's unlabelled films follow its own; an epoch is longer by them. Raises ModelError as
    `soft_answers`.
    """
    if not config.teacher:
        return train
    more = np.empty(0, train.rows.dtype) if train.unlabelled is None else train.unlabelled
    rows = np.concatenate([train.rows, more])
    none = np.full((len(more), train.targets.shape[1]), np.nan, train.targets.dtype)
    folders = [resolve(folder) for folder in config.teacher]
    names = [f"unlabelled {row}" for row in more]
    sources = (
        None if train.sources is None else np.append(train.sources, ["unlabelled"] * len(more))
    )
    return replace(
        train,
        rows=rows,
        targets=np.concatenate([train.targets, none]),
        images=np.append(train.images, names),
        patients=np.append(train.patients, names),
        sources=sources,
        per_epoch=(train.per_epoch or len(train.rows)) + len(more),
        soft=soft_answers(folders, train.store, rows, config),
        unlabelled=None,
    )


def soft_answers(
    folders: Sequence[Path], store: np.ndarray, rows: np.ndarray, config: Config
) -> np.ndarray:
    """Return the mean calibrated probabilities (M, F) float32 of the models in `folders`, for the
    findings of the config.

    store: (N, S, S) uint8; rows: (M,) of the store. Each model's answers are computed once for the
    same films, and kept in its folder: `answers/<key>.npy`, the key being a hash of its files and
    of the films. Raises ModelError for a model of another size, one that does not answer for all
    findings, and one without a calibration.
    """
    if not folders:
        raise ValueError("there is no teacher")
    films = _digest(store, rows)
    probs, maps = [], []
    for folder in folders:
        model, card = load_model(folder)
        _check(folder, card, config)
        maps.append(Calibration.from_card(card["calibration"]).on(config.findings))
        columns = [card["findings"].index(name) for name in config.findings]
        path = folder / "answers" / f"{_model_digest(folder)}-{films}.npy"
        if not path.exists():
            plain = np.full((len(rows), len(card["findings"])), np.nan, np.float32)
            answered = predict(model, Loader(store, rows, plain, BATCH), config)
            with atomic_write(path) as partial, partial.open("wb") as file:
                np.save(file, answered)
        probs.append(np.load(path)[:, columns])
    return ensemble_probs(probs, maps).astype(np.float32)


def _check(folder: Path, card: dict, config: Config) -> None:
    if card["image_size"] != config.image_size:
        raise ModelError(
            f"teacher: {folder} answers for films of {card['image_size']} px, but this run's have "
            f"{config.image_size}: give both the same image_size"
        )
    if missing := [name for name in config.findings if name not in card["findings"]]:
        raise ModelError(
            f"teacher: {folder} does not answer for {', '.join(missing)}: "
            "take these out of the findings, or name another teacher"
        )
    if not card.get("calibration"):
        raise ModelError(f"teacher: {folder} has no calibration on its card; run it again")


def _digest(store: np.ndarray, rows: np.ndarray) -> str:
    digest = blake2b(f"{KEPT_VERSION} {len(rows)} {store.shape[1:]}".encode(), digest_size=8)
    for start in range(0, len(rows), BATCH):  # a large set is not in memory at once
        digest.update(np.ascontiguousarray(store[rows[start : start + BATCH]]))
    return digest.hexdigest()


def _model_digest(folder: Path) -> str:
    digest = blake2b(digest_size=8)
    for path in model_files(folder):
        digest.update(path.read_bytes())
    return digest.hexdigest()


def distil_loss(config: Config, targets: np.ndarray, device: torch.device | str = "cpu") -> Loss:
    """Return the loss of the config: with a teacher, of targets (B, 2 F), labels and answers.

    `targets` (N, F) of the training images give the weights of `pos_weight: balanced`.
    """
    plain = make_loss(config, targets, device)
    if not config.teacher:
        return plain

    def loss(logits: Tensor, both: Tensor) -> tuple[Tensor, Tensor]:
        labels, answers = both.chunk(2, dim=1)  # (B, F) each
        return mixed(
            plain, logits, labels, answers, config.distil_weight, config.distil_temperature
        )

    return loss


def mixed(
    plain: Loss, logits: Tensor, labels: Tensor, answers: Tensor, weight: float, temperature: float
) -> tuple[Tensor, Tensor]:
    """Return the sum of the loss over labels and answers (B, F), and how many pairs of film and
    finding have one of them.

    Where a pair has both, its loss is (1 - weight) of `plain` and weight of `soft_bce`; where it
    has one, that one's alone.
    """
    unknown = torch.full_like(labels, torch.nan)
    taught, labelled = ~answers.isnan(), ~labels.isnan()
    total = (1 - weight) * plain(logits, torch.where(taught, labels, unknown))[0]
    total = total + plain(logits, torch.where(taught, unknown, labels))[0]
    total = total + weight * soft_bce(logits, torch.where(labelled, answers, unknown), temperature)
    total = total + soft_bce(logits, torch.where(labelled, unknown, answers), temperature)
    return total, (taught | labelled).sum()


def soft_bce(logits: Tensor, answers: Tensor, temperature: float = 1.0) -> Tensor:
    """Return the sum over known answers (B, F), probabilities, of the cross-entropy of both sides'
    log-odds divided by the temperature.

    It is multiplied by the temperature squared, by which its gradient shrinks (Hinton et al. 2015,
    section 2); at 1 this is plain cross-entropy with the answers as targets.
    """
    softer = (answers.clamp(LEAST, 1 - LEAST).logit() / temperature).sigmoid()
    return temperature**2 * bce(logits / temperature, softer)[0]
