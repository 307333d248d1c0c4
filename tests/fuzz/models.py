"""In: a sound exported model, a run's folder and weight files. Out: mutated ones, and what loading
them does."""

import json
import shutil
import warnings
from functools import cache
from pathlib import Path
from random import Random

import numpy as np
import onnx
import safetensors.torch
import torch
from made_records import full_record
from tiny_model import FINDINGS, SIZE, tiny_card, write_tiny_model

from fuzz.films import blank
from fuzz.judge import REFUSED, WORKED, Problem, called, check_named
from fuzz.mutate import mutate_bytes, mutate_json, mutate_table, mutate_values
from lib.config import Config
from lib.files import write_json
from lib.inference import Predictor, card_text, merge_shards, predict_files
from lib.inference.card import make_card
from lib.inference.table import read_answers
from lib.models import Loader, build_model, fit, load_model, save_model
from lib.models.classifier import build_backbone
from lib.models.weights import load_weights
from lib.runs import read_run

BACKBONE = "resnet10t"
CONFIG = Config(
    backbone=BACKBONE,
    pretrained=False,
    image_size=32,
    epochs=1,
    batch_size=8,
    head="linear",
    ema=0.9,
    findings=("Mass", "Nodule"),
    accelerator="cpu",
)
RUN_CARD = {
    "backbone": BACKBONE,
    "head": "linear",
    "findings": list(FINDINGS),
    "image_size": SIZE,
    "data": {"phantom": True, "fingerprint": "f00", "counts": {"train": 3}},
    "thresholds": [0.5, 0.4, None],
    "weights": {"source": "none", "text": "random weights"},
    "operating_points": [],
}


# ---- exported models


def prepare_onnx(folder: Path) -> None:
    """Write the tiny model with a card of every field."""
    metrics = [{"finding": name, "auroc": 0.8, "threshold": 0.5} for name in (*FINDINGS, "macro")]
    parts = {"precision": "fp32", "exported": "2030-01-01", "versions": {"torch": "2"}}
    card = make_card("tiny", RUN_CARD, metrics, **parts, familiarity=None)
    write_tiny_model(folder / "tiny.onnx", **card)


def make_onnx(seeds: Path, folder: Path, rng: Random) -> None:
    """Mutate the card, the file's bytes, or a part of the graph."""
    data = (seeds / "tiny.onnx").read_bytes()
    kind = rng.choice(("bytes", "card", "card", "graph"))
    if kind == "bytes":
        (folder / "model.onnx").write_bytes(mutate_bytes(data, rng))
        return
    model = onnx.load_from_string(data)
    if kind == "card":
        card = mutate_json(model.metadata_props[0].value, rng)
        model.metadata_props[0].value = card.decode("utf-8", "replace")
    else:
        _mutate_graph(model.graph, rng)
    (folder / "model.onnx").write_bytes(model.SerializeToString())


def _mutate_graph(graph: onnx.GraphProto, rng: Random) -> None:
    tensor, output = rng.choice(graph.initializer), rng.choice(graph.output)
    match rng.randrange(4):
        case 0:
            operators = ("Identity", "Neg", "Exp", "Log", "Sqrt", "Softmax", "Shape", "MatMul")
            rng.choice(graph.node).op_type = rng.choice(operators)
        case 1:
            value = rng.choice((0.0, 1e38, -1e38, float("nan")))
            tensor.float_data[:] = [value] * len(tensor.float_data)
        case 2:
            tensor.dims[:] = rng.choice(([], [1], [3, 1], [0], [10**9], [2**40]))
        case 3:
            output.type.tensor_type.shape.dim[-1].dim_value = rng.choice((0, 1, 2, 5, 10**9))


def judge_onnx(folder: Path) -> str:
    """Load the model, predict for two images, and show its card."""

    def use() -> None:
        predictor = Predictor(folder / "model.onnx", 1)
        if predictor.image_size == SIZE:
            images = np.random.default_rng(0).integers(0, 256, (2, SIZE, SIZE), dtype=np.uint8)
            answer = predictor.predict(images)
            shape = (2, len(predictor.findings))
            if answer.probs.shape != shape or predictor.flagged(answer.probs).shape != shape:
                raise Problem(f"probabilities of shape {answer.probs.shape}")
            predictor.unfamiliar(answer.unlikeness)
        card_text(predictor.card)

    return called(use, "model.onnx", "the card of ")


# ---- a run's folder: model, card, record, config


@cache
def _loaders() -> tuple[Loader, Loader]:
    rng = np.random.default_rng(0)
    targets = (rng.random((16, 2)) < 0.5).astype(np.float32)
    targets[:4] = targets[8:12] = [[0, 1], [1, 0], [0, 0], [1, 1]]
    store = rng.integers(0, 256, (16, 32, 32)).astype(np.uint8)
    train, val = np.arange(8), np.arange(8, 16)
    return Loader(store, train, targets[:8], 8, shuffle=True), Loader(store, val, targets[8:], 8)


def prepare_run(folder: Path) -> None:
    """Train one epoch and write what a complete run keeps, and its checkpoint."""
    torch.set_num_threads(1)
    model = build_model(CONFIG)
    fit(model, *_loaders(), CONFIG, folder)
    save_model(folder, model, CONFIG.network() | {"data": RUN_CARD["data"]})
    config = CONFIG.model_dump(mode="json")
    write_json(folder / "config.json", config)
    files = ["model.safetensors", "card.json"]
    write_json(folder / "record.json", full_record(config=config, files=files))


def make_run(seeds: Path, folder: Path, rng: Random) -> None:
    """Mutate one of the run's files, its checkpoint left out."""
    run = folder / "study" / "run"
    run.mkdir(parents=True)
    name = rng.choice(("model.safetensors", "card.json", "record.json", "config.json"))
    for path in seeds.iterdir():
        if path.name not in (name, "last.ckpt"):
            (run / path.name).symlink_to(path)
    data = (seeds / name).read_bytes()
    if name.endswith(".json"):
        (run / name).write_bytes(mutate_json(data.decode(), rng))
    else:
        (run / name).write_bytes(_mutated_weights(data, rng))
    (folder / "mutated").write_text(name)


def judge_run(folder: Path) -> str:
    """Read the run, load its model, and start another run from it."""
    run, name = folder / "study" / "run", (folder / "mutated").read_text()
    later = CONFIG.model_copy(update={"init_from": str(run)})
    names = (name, str(run))
    found = [
        called(call, *names)
        for call in (
            lambda: read_run(run),
            lambda: load_model(run),
            lambda: build_model(later),
        )
    ]
    return REFUSED if REFUSED in found else WORKED


def make_checkpoint(seeds: Path, folder: Path, rng: Random) -> None:
    """Mutate the bytes of last.ckpt, or the values in it."""
    path = folder / "last.ckpt"
    if rng.random() < 0.5:
        path.write_bytes(mutate_bytes((seeds / "last.ckpt").read_bytes(), rng))
        return
    content = torch.load(seeds / "last.ckpt", weights_only=True)
    _mutated_content(content, rng)
    torch.save(content, path)


def _mutated_content(content: dict, rng: Random) -> None:
    """Leave out or replace a value of a checkpoint, or of one of its parts."""
    parts = [part for part in content.values() if isinstance(part, dict) and part]
    inside = content if rng.random() < 0.6 else rng.choice(parts)
    key = rng.choice(sorted(inside, key=str))
    if rng.random() < 0.4:
        del inside[key]
        return
    tensors = (torch.zeros(2), torch.full((3, 3), float("nan")))
    inside[key] = rng.choice((None, 0, -1, "x", [], {}, *tensors))


def judge_checkpoint(folder: Path) -> str:
    """Resume: training goes on, or a warning or an error names the file, which is kept."""
    torch.set_num_threads(1)
    model = build_model(CONFIG)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        found = called(lambda: fit(model, *_loaders(), CONFIG, folder), "last.ckpt")
    told = [str(warning.message) for warning in caught if "last.ckpt" in str(warning.message)]
    if told:
        check_named(told[0], "last.ckpt")
        if not list(folder.glob("last.ckpt.damaged-*")):
            raise Problem("the damaged checkpoint was not kept")
        return REFUSED
    if found == WORKED and not all(
        bool(torch.isfinite(value).all()) for value in model.state_dict().values()
    ):
        raise Problem("training ended with weights that are not finite")
    return found


# ---- weight files


def prepare_weights(folder: Path) -> None:
    """Write the backbone's weights as each kind of file."""
    state = build_backbone(BACKBONE, 32).state_dict()
    safetensors.torch.save_file(state, folder / "weights.safetensors")
    torch.save(state, folder / "weights.pth")
    torch.save({"state_dict": state, "epoch": 3}, folder / "weights.pt")


def make_weights(seeds: Path, folder: Path, rng: Random) -> None:
    """Mutate the bytes of a weight file, or its tensors."""
    source = rng.choice(sorted(seeds.iterdir()))
    path = folder / source.name
    if source.suffix == ".safetensors" or rng.random() < 0.5:
        path.write_bytes(_mutated_weights(source.read_bytes(), rng))
        return
    content = torch.load(source, weights_only=True)
    state = content.get("state_dict", content)
    key = rng.choice(sorted(state))
    odd = (None, "x", {}, torch.zeros(2), torch.full_like(state[key], 1, dtype=torch.int64))
    state[key] = rng.choice((*odd, torch.full_like(state[key], float("nan"), dtype=torch.float32)))
    if rng.random() < 0.3:
        state[rng.choice(("", "\x00", 3, None, "module." + key))] = state.pop(key)
    torch.save(rng.choice((content, content, [content], None)), path)


def judge_weights(folder: Path) -> str:
    """Load the weights into the backbone."""
    (path,) = folder.glob("weights*")
    backbone = build_backbone(BACKBONE, 32)
    return called(lambda: load_weights(backbone, BACKBONE, path), path.name)


def _mutated_weights(data: bytes, rng: Random) -> bytes:
    """Of a safetensors file mostly the header, which is JSON."""
    length = int.from_bytes(data[:8], "little")
    if length > len(data) or rng.random() < 0.5:
        return mutate_bytes(data, rng)
    header = json.dumps(mutate_values(json.loads(data[8 : 8 + length]), rng)).encode()
    return len(header).to_bytes(8, "little") + header + data[8 + length :]


# ---- tables of predictions


def prepare_predictions(folder: Path) -> None:
    """Write the tiny model, three films, and the tables of an interrupted run and of a shard."""
    write_tiny_model(folder / "tiny.onnx", **tiny_card())
    (folder / "films").mkdir()
    for number in range(3):
        blank(folder / "films" / f"{number}.png")
    for name in ("out.csv", "out.parquet"):
        predict_files(folder / "tiny.onnx", [str(folder / "films")], out=folder / name, threads=1)
    shutil.copy(folder / "out.csv", folder / ".out.csv.partial")


def make_predictions(seeds: Path, folder: Path, rng: Random) -> None:
    """Mutate an earlier table, a journal, or the table of a shard."""
    name = rng.choice(("out.csv", "out.parquet", ".out.csv.partial"))
    data = (seeds / name).read_bytes()
    table = name.endswith((".csv", ".partial")) and rng.random() < 0.6
    data = mutate_table(data.decode(), rng) if table else mutate_bytes(data, rng)
    shard = rng.random() < 0.4 and not name.endswith(".partial")
    (folder / (name.replace("out", "out.shard-1-of-1") if shard else name)).write_bytes(data)
    (folder / "seeds").symlink_to(seeds)


def judge_predictions(folder: Path) -> str:
    """Go on from the file, or merge it: there is a row per film, or the file is named."""
    (found,) = [path for path in folder.iterdir() if "out." in path.name]
    suffix = ".parquet" if ".parquet" in found.name else ".csv"
    out = folder / f"out{suffix}"
    model, films = folder / "seeds" / "tiny.onnx", (folder / "seeds").resolve() / "films"
    if "shard" in found.name:
        result = called(lambda: merge_shards(model, [str(films)], out=out), found.name)
    else:
        result = called(lambda: predict_files(model, [str(films)], out=out, threads=1), found.name)
    if result == WORKED:
        paths = [row["path"] for row in read_answers(out)]
        if paths != [str(path) for path in sorted(films.iterdir())]:
            raise Problem(f"the rows are not those of the films: {paths}")
    return result
