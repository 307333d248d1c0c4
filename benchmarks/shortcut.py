"""Measure whether `cxr examine` catches a planted shortcut, and leaves clean models alone.

In: a number of seeds. Out: a table, results/shortcut.csv: one row per model.

`python -m benchmarks.shortcut [SEEDS] [--keep FOLDER]` trains, for each seed, two small networks on
the same phantoms. For one of them every training and validation film with Pneumothorax, and no
other film, gets a bright triangle in its lower left corner. `cxr examine` draws tags of another
shape and size, in each corner, and does not know of this one. The test films are left as they are.
"""

import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from PIL import Image, ImageDraw

from lib.config import REPO_ROOT, Config
from lib.datasets import describe_data, prepare_data
from lib.examination import Examination, examine_model
from lib.export import export_run
from lib.files import write_table
from lib.metrics import evaluate_run, write_predictions
from lib.models import (
    build_model,
    fit,
    make_loaders,
    model_cost,
    predict_splits,
    save_model,
)
from lib.phantoms import write_phantoms
from lib.runs import finish_run, start_run

FINDING, SIZE, PATIENTS = "Pneumothorax", 64, 480
TRAINING = {
    "data_dir": "dataset_full",
    "backbone": "resnet10t",
    "pretrained": False,
    "head": "linear",
    "image_size": SIZE,
    "epochs": 8,
    "batch_size": 16,
    "optimizer": "adamw",
    "lr": 2e-3,
    "weight_decay": 0.05,
    "warmup": 0.2,
    "ema": 0.99,
    "augment": "rotate",
}


def trained(seed: int, planted: bool, folder: Path) -> Path:
    """Train a network on phantoms and export it; returns the ONNX file in `folder`, which is left
    as it is where it is there."""
    name = f"{'planted' if planted else 'clean'}-{seed}"
    if (folder / f"{name}.onnx").is_file():
        return folder / f"{name}.onnx"
    root = write_phantoms(
        folder / f"films-{seed}", patients=PATIENTS, size=SIZE, seed=1000 + seed, progress=False
    )
    if planted:
        root = plant(root, folder / f"films-{seed}-planted", seed)
    config = Config(**TRAINING, seed=seed, data_root=str(root), run_dir=str(folder / "runs" / name))
    run = start_run(config)
    data = prepare_data(config, run.folder)
    loaders = make_loaders(data.frame, data.store, config, data.data.submission)
    facts = describe_data(data, loaders)
    model = build_model(config)
    history = fit(model, loaders["train"], loaders["val"], config, run.folder)
    predictions = predict_splits(model, loaders, config)
    evaluation = evaluate_run(predictions, loaders["train"].targets)
    save_model(run.folder, model, {**config.network(), **evaluation.card(), "data": facts})
    write_predictions(run.folder / "predictions.parquet", predictions, data.frame)
    evaluation.write(run.folder)
    cost = model_cost(model, config)
    finish_run(run, history=history, metrics=evaluation.metrics, data=facts, **cost)
    return export_run(run.folder, name, out=folder)


def plant(source: Path, target: Path, seed: int) -> Path:
    """Copy phantoms to `target` and draw the triangle on every film for training or validation that
    has the finding."""
    if target.exists():
        return target
    draft = target.with_name(f".{target.name}")
    shutil.copytree(source, draft)
    full = draft / "dataset_full"
    table = pd.read_csv(full / "Data_Entry_2017_v2020.csv", index_col=False)
    positive = table[table["Finding Labels"].str.split("|").map(lambda names: FINDING in names)]
    trained_on = set((full / "train_val_list.txt").read_text().split())
    rng = np.random.default_rng(seed)
    for name in sorted(set(positive["Image Index"]) & trained_on):
        film = Image.open(full / "images" / name)
        x, y, leg = rng.uniform(3, 8), rng.uniform(54, 59), rng.uniform(7, 9)
        ImageDraw.Draw(film).polygon((x, y, x, y - leg, x + leg, y), fill=235)
        film.save(full / "images" / name)
    draft.rename(target)
    return target


def shortcut_row(model: Path, seed: int, planted: bool) -> dict[str, Any]:
    """Examine one model; what it says of the finding's markers, and of all else.

    Columns: model, seed, auroc (on the untouched test films), by_sign (change of the logit), marker
    (the one that moves the finding's logit most), sign (of the chest then), by_marker (change of
    the logit), score with score_low and score_high, p_holm, caught (whether any marker is),
    other_markers (caught at other findings), others (devices, view, exposure caught at any finding).
    """
    found = examine_model(model, seed=seed, progress=False)
    table = found.shortcuts
    markers = table[(table["kind"] == "marker") & (table["finding"] == FINDING)]
    worst = markers.loc[markers["logit_change"].abs().idxmax()]
    caught = table[table["caught"]]
    elsewhere = (caught["kind"] == "marker") & (caught["finding"] != FINDING)
    sign = found.signs.set_index("finding").loc[FINDING]
    row: dict[str, Any] = {"model": "planted" if planted else "clean", "seed": seed}
    row |= {"auroc": _auroc(found), "by_sign": sign["logit_change"]}
    row |= {"marker": worst["nuisance"], "sign": worst["sign"], "by_marker": worst["logit_change"]}
    row |= {name: worst[name] for name in ("score", "score_low", "score_high", "p_holm")}
    row |= {"caught": bool(markers["caught"].any()), "other_markers": int(elsewhere.sum())}
    return row | {"others": int((caught["kind"] != "marker").sum())}


def _auroc(found: Examination) -> float:
    rows = {row["finding"]: row for row in found.card["metrics"]}
    return float(rows[FINDING]["auroc"])


def main(arguments: list[str]) -> None:
    """Train and examine 2 x SEEDS models, and write and print the table."""
    place = arguments.index("--keep") if "--keep" in arguments else len(arguments)
    seeds = int(arguments[0]) if place > 0 and arguments else 5
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(arguments[place + 1]) if place < len(arguments) else Path(scratch)
        rows = []
        for seed in range(seeds):
            for planted in (True, False):
                rows.append(shortcut_row(trained(seed, planted, folder), seed, planted))
                print(rows[-1], flush=True)
    table = pd.DataFrame(rows)
    write_table(REPO_ROOT / "results" / "shortcut.csv", table.round(4))
    print(table.to_string(index=False))


if __name__ == "__main__":
    main(sys.argv[1:])
