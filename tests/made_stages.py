"""A study of two stages whose models are not trained: what tests of `lib.stages` look at."""

from pathlib import Path

import numpy as np
import pandas as pd
import torch
from PIL import Image

from lib.config import Config
from lib.datasets import describe_data, prepare_data
from lib.files import write_json
from lib.metrics import evaluate_run, write_predictions
from lib.models import build_model, make_loaders, model_cost, predict_splits, save_model
from lib.runs import finish_run, start_run

FIRST = {"data_dir": ("dataset_cardiomegaly",), "findings": ("Cardiomegaly",)}
LAST = {
    "data_dir": ("dataset_full", "dataset_cardiomegaly"),
    "findings": ("Cardiomegaly", "Effusion", "Mass"),
}
TINY = {"image_size": 32, "val_fraction": 0.3, "backbone": "resnet10t", "pretrained": False}
TINY |= {"head": "linear", "accelerator": "cpu", "precision": "32-true", "epochs": 1}


def make_run(config: Config, moved: float) -> Path:
    """A complete run of an untrained model; `moved` is the noise that stands for training."""
    run = start_run(config)
    data = prepare_data(config, run.folder)
    loaders = make_loaders(data.frame, data.store, config)
    model = build_model(config)
    generator = torch.Generator().manual_seed(config.seed)
    with torch.no_grad():
        for weight in model.backbone.parameters():
            weight += (
                moved * weight.std().nan_to_num() * torch.randn(weight.shape, generator=generator)
            )
    predictions = predict_splits(model, loaders, config)
    evaluation = evaluate_run(predictions, loaders["train"].targets)
    facts = describe_data(data, loaders)
    save_model(run.folder, model, {**config.network(), **evaluation.card(), "data": facts})
    write_predictions(run.folder / "predictions.parquet", predictions, data.frame)
    evaluation.write(run.folder)
    history = pd.DataFrame([{"epoch": 1, "val_auroc": 0.5, "val_loss": 1.0, "seconds": 1.0}])
    cost = model_cost(model, config)
    finish_run(run, history=history, metrics=evaluation.metrics, data=facts, **cost)
    return run.folder


def entry(config: Config, arm: str, **changes) -> dict:
    """What plan.json says of a run."""
    about = {"arm": arm, "seed": config.seed, "prerequisite": False, "reference": False}
    about |= {"changes": None, "what": None, "needs": [], "lineage": "", "fold": None}
    return {**about, "config": config.model_dump(mode="json"), **changes}


def make_folded(root: Path, phantoms: Path) -> Path:
    """The folder of a study in two folds, one seed: `children`, which both folds share and whose
    images are another population's, -> `many`."""
    rng = np.random.default_rng(0)
    for i in range(60):
        place = root / "data" / "children" / ("PNEUMONIA" if i % 2 else "NORMAL")
        place.mkdir(parents=True, exist_ok=True)
        grey = rng.integers(0, 255, (32, 32), dtype=np.uint8) // (1 + i % 2)
        Image.fromarray(grey).save(place / f"child{i:02d}.png")
    folder = root / "runs" / "folded"
    base = {**TINY, "data_root": str(phantoms)}
    children = {"data_dir": (str(root / "data" / "children"),), "findings": ("Pneumonia",)}
    zero = Config(**base, **children, run_dir=str(folder / "children-s0"))
    make_run(zero, moved=0.5)
    runs = {"children-s0": entry(zero, "children", prerequisite=True)}
    for fold in (0, 1):
        name = f"many-s0-f{fold}"
        parts = {"data_dir": LAST["data_dir"], "findings": ("Effusion", "Pneumonia")}
        parts |= {"init_from": str(folder / "children-s0"), "run_dir": str(folder / name)}
        config = Config(**base, **parts, folds=2, fold=fold)
        make_run(config, moved=0.5)
        runs[name] = entry(config, "many", reference=True, needs=["children-s0"], fold=fold)
    head = {"study": "folded", "reference": "many", "primary": "auroc", "seeds": [0], "folds": 2}
    write_json(folder / "plan.json", {**head, "runs": runs})
    return folder


def make_two_stages(root: Path, phantoms: Path, seeds: tuple[int, ...] = (0, 1)) -> Path:
    """The folder of a study: `heart` -> `many` (the reference), and `direct`. The stage from heart
    to many moves nothing but the head, so that its backbone stays as it was."""
    folder, runs = root / "runs" / "made", {}
    for seed in seeds:
        base = {**TINY, "seed": seed, "data_root": str(phantoms)}
        names = {arm: f"{arm}-s{seed}" for arm in ("heart", "many", "direct")}
        start = {"init_from": str(folder / names["heart"])}
        configs = {
            arm: Config(**base, **parts, run_dir=str(folder / names[arm]))
            for arm, parts in (("heart", FIRST), ("many", {**LAST, **start}), ("direct", LAST))
        }
        for arm, config in configs.items():
            make_run(config, moved=0.0 if arm == "many" else 0.5)
        runs |= {
            names["heart"]: entry(configs["heart"], "heart", prerequisite=True),
            names["many"]: entry(configs["many"], "many", reference=True, needs=[names["heart"]]),
            names["direct"]: entry(
                configs["direct"], "direct", changes="many", what="init_from=None"
            ),
        }
    head = {"study": "made", "reference": "many", "primary": "auroc", "seeds": list(seeds)}
    write_json(folder / "plan.json", {**head, "runs": runs})
    return folder
