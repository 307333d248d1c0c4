"""Out: a study of finished runs with made-up predictions for as many test images as the NIH's list
has."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd

from benchmarks.scale_films import PREVALENCES
from lib.config import FINDINGS
from lib.files import json_values, write_json, write_table
from lib.metrics import Predictions, evaluate_run, write_predictions
from lib.runs import RunRecord

IMAGES = {"val": 2_000, "test": 25_596}
TEST_PATIENTS = 2_797
ARMS = [f"arm{number}" for number in range(8)]
SEEDS = (0, 1)


def write_study(folder: Path, images: dict[str, int] | None = None) -> Path:
    """Write eight arms of two seeds, with all files that a report reads.

    Scores of one run stand for all of them: what is timed reads the predictions.
    """
    truth = {part: _truth(part, count) for part, count in (images or IMAGES).items()}
    people = pd.DataFrame({"image": np.concatenate([one.images for one in truth.values()])})
    people = people.assign(age=50.0, sex="F", view="PA")
    first = np.random.default_rng(0)
    found = evaluate_run(
        {part: _answers(one, first) for part, one in truth.items()}, truth["val"].targets
    )
    planned = {}
    for arm in ARMS:
        for seed in SEEDS:
            name = f"{arm}-s{seed}"
            config = {"findings": list(FINDINGS), "seed": seed, "backbone": arm, "run_dir": name}
            run = folder / name
            random = np.random.default_rng([seed, *arm.encode()])
            parts = {part: _answers(one, random) for part, one in truth.items()}
            write_predictions(run / "predictions.parquet", parts, people)
            write_table(run / "metrics.csv", found.metrics)
            found.write(run)
            write_json(run / "card.json", found.card())
            write_json(run / "config.json", config)
            write_table(run / "history.csv", _history())
            write_json(run / "record.json", _record(name, config, found.metrics))
            planned[name] = {"arm": arm, "seed": seed, "what": None, "config": config}
            planned[name] |= {"prerequisite": False, "reference": arm == ARMS[0]}
            planned[name] |= {"config_hash": "same", "lineage": "", "needs": []}
    plan = {"study": folder.name, "seeds": list(SEEDS), "folds": 0, "runs": planned}
    write_json(folder / "plan.json", plan)
    return folder


def _truth(part: str, count: int) -> Predictions:
    """Labels with the prevalences of the release, and uninformative predictions."""
    random = np.random.default_rng(len(part))
    people = max(count * TEST_PATIENTS // IMAGES["test"], 1)
    patients = np.sort(random.integers(0, people, count)).astype(str)
    names = np.array([f"{part}{number:06d}.png" for number in range(count)])
    shape = (count, len(FINDINGS))
    targets = (random.random(shape) < PREVALENCES).astype(float)
    return Predictions(FINDINGS, names, patients, targets, random.random(shape))


def _answers(truth: Predictions, random: np.random.Generator) -> Predictions:
    """Predictions with an AUROC of about 0.8."""
    z = 1.2 * truth.targets + random.normal(size=truth.targets.shape) - 2
    return replace(truth, probs=1 / (1 + np.exp(-z)))


def _history() -> pd.DataFrame:
    columns = ["train_loss", "val_loss", "val_auroc", "val_average_precision", "lr", "seconds"]
    return pd.DataFrame({"epoch": [1, 2], **{name: [0.3, 0.2] for name in columns}})


def _record(name: str, config: dict, metrics: pd.DataFrame) -> dict:
    record = {
        "run": name,
        "config": config,
        "config_hash": "same",
        "finished": "2030-01-01T00:00:00+00:00",
        "wall_seconds": 1.0,
        "train_seconds": 1.0,
        "best_epoch": 1,
        "peak_memory_mb": 1.0,
        "git": {"commit": None, "dirty": None},
        "versions": {"torch": "2"},
        "metrics": json_values(metrics.to_dict("records")),
        "data": {"phantom": True, "fingerprint": "made up", "test_fingerprint": "made up"},
        "parameters": {"all": 3, "trained": 3},
        "device": {"kind": "cpu", "name": "none"},
    }
    RunRecord.model_validate(record)
    return record
