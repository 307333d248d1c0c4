"""Small complete studies with made-up answers, with folds and without; all files that the report
reads are there."""

import itertools
from pathlib import Path

import numpy as np
import pandas as pd
from made_records import PARTS, full_record

from lib.files import json_values, write_json, write_table
from lib.metrics.evaluation import evaluate_run
from lib.metrics.predictions import Predictions, write_predictions

NAMES = ("Cardiomegaly", "Mass", "Nodule")


def make_study(
    folder: Path, arms: dict[str, float], seeds: int = 2, folds: int = 3, patients: int = 180
) -> Path:
    """Writes a study of `arms` (name -> how far its answers are shifted by a finding), the first the
    reference, and returns its folder. With folds 0 a third of the patients is tested."""
    plan, world = {}, made_world(patients, max(folds, 3))
    for (arm, shift), seed, fold in itertools.product(
        arms.items(), range(seeds), range(max(folds, 1))
    ):
        name = f"{arm}-s{seed}" + (f"-f{fold}" if folds else "")
        config = {"findings": list(NAMES), "seed": seed, "backbone": "resnet50", "run_dir": name}
        config |= {"folds": folds, "fold": fold}
        make_run(folder / name, config, world, shift)
        plan[name] = {"arm": arm, "seed": seed, "what": None, "config": config}
        plan[name] |= {"prerequisite": False, "reference": arm == next(iter(arms))}
        plan[name] |= {"config_hash": "same", "lineage": "", "needs": []}
    head = {"study": folder.name, "seeds": list(range(seeds)), "folds": folds}
    write_json(folder / "plan.json", {**head, "runs": plan})
    return folder


def made_world(patients: int, folds: int) -> pd.DataFrame:
    """Two images a patient: image, patient, age, sex, view, fold and the targets."""
    rng, count = np.random.default_rng(0), 2 * patients
    people = np.repeat(np.arange(patients), 2)
    frame = pd.DataFrame({"image": [f"{i:04d}.png" for i in range(count)]})
    frame = frame.assign(patient=[f"p{i:03d}" for i in people], fold=people % folds)
    frame = frame.assign(age=30.0 + people % 60, sex=np.array(["F", "M"])[people // folds % 2])
    targets = (rng.random((count, len(NAMES))) < (0.4, 0.3, 0.3)).astype(float)
    return frame.assign(view="PA", **dict(zip(NAMES, targets.T, strict=True)))


def make_run(folder: Path, config: dict, world: pd.DataFrame, shift: float) -> None:
    rng = np.random.default_rng([config["seed"], config["fold"], int(100 * shift)])
    targets = world[list(NAMES)].to_numpy(float)
    z = shift * targets + rng.normal(size=targets.shape) - 1
    tested = (world["fold"] == config["fold"]).to_numpy()
    parts = {}
    for split, rows in (("val", ~tested), ("test", tested)):
        where = (world["image"].to_numpy(str)[rows], world["patient"].to_numpy(str)[rows])
        parts[split] = Predictions(NAMES, *where, targets[rows], 1 / (1 + np.exp(-z[rows])))
    found = evaluate_run(parts, targets[~tested])
    write_predictions(folder / "predictions.parquet", parts, world)
    write_table(folder / "metrics.csv", found.metrics)
    found.write(folder)
    write_json(folder / "card.json", json_values(found.card()))
    write_json(folder / "config.json", config)
    columns = ["train_loss", "val_loss", "val_auroc", "val_average_precision", "lr", "seconds"]
    write_table(
        folder / "history.csv",
        pd.DataFrame({"epoch": [1, 2], **{name: [0.3, 0.2] for name in columns}}),
    )
    data = PARTS["data"] | {"test_fingerprint": f"fold {config['fold']}"}
    made = {"run": folder.name, "config": config, "config_hash": "same", "data": data}
    metrics = json_values(found.metrics.to_dict("records"))
    write_json(folder / "record.json", full_record(**made, metrics=metrics))
