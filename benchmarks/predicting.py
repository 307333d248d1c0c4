"""Measure time and memory of one prediction against eager torch and timm.

In: images of 1024 px. Out: rows of the table. Each way runs in a process of its own and predicts on
request, so that the ways take turns. `python -m benchmarks.predicting WAY MODEL FILM` is one such
process.
"""

import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.timing import Row, alternate
from lib.system import peak_memory_mb

if TYPE_CHECKING:  # each timed process imports only what it needs
    import numpy as np

    from lib.compression.quantize import ValidationSet

BACKBONE, SIZE, THREADS, FINDINGS = "tf_efficientnet_b4", 224, 2, 14
WAYS = {
    "gradcam": "torch, timm, PIL, eager, with Grad-CAM by backward(), of one finding (ours: of all 14)",
    "eager": "torch, timm, PIL, eager, without any heat map",
}
OURS = ("ours", "pillow")  # with the decoder that is installed, and with Pillow alone
GOALS = {"gradcam": (">= 3", "<= 0.33", "<= 0.25"), "eager": ("", "", "<= 0.25")}
ROUNDS = 20
FOLDER = 96  # films


def predicting_rows(paths: list[Path], kind: str, scratch: Path) -> list[Row]:
    """Measure fp32 and int8 against each way.

    Rows are the time of a prediction and of the first one, peak memory, and `cxr predict` over a
    folder.
    """
    models = _write_models(scratch)
    children = {name: Child("ours", model, paths[0]) for name, model in models.items()}
    children |= {way: Child(way, models["fp32"], paths[0]) for way in WAYS}
    seconds = alternate({name: child.answer for name, child in children.items()}, ROUNDS)
    rate = {name: 1 / statistics.median(times) for name, times in seconds.items()}
    peak = {name: child.end() for name, child in children.items()}
    rows = []
    for name in models:
        what = f"one 1024 px PNG ({kind}) answered with heat maps, {BACKBONE} {name} at {SIZE} px, {THREADS} threads"
        for way, method in WAYS.items():
            first, goals = (children[name].first, children[way].first), GOALS[way]
            rows.append(Row(what, "answers/s", rate[name], rate[way], method, goals[0]))
            rows.append(
                Row(f"{what}: process start to first answer", "s", *first, method, goals[1])
            )
            rows.append(Row(f"{what}: peak memory", "MB", peak[name], peak[way], method, goals[2]))
        folder = f"`cxr predict` over a folder of {FOLDER} ({kind}), start included, {name}, {THREADS} threads"
        rows.append(
            Row(
                folder,
                "images/s",
                _folder_rate(models[name], paths, scratch),
                rate["eager"],
                WAYS["eager"],
            )
        )
    return rows


class Child:
    """A process that has made one prediction, and makes another on each request."""

    def __init__(self, way: str, model: Path, film: Path):
        words = [sys.executable, "-m", "benchmarks.predicting", way, str(model), str(film)]
        start = time.perf_counter()
        self.process = subprocess.Popen(
            words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        self.line()
        self.first = time.perf_counter() - start

    def line(self) -> str:
        if text := self.process.stdout.readline():
            return text
        raise RuntimeError(f"a timed process ended early with exit code {self.process.wait()}")

    def answer(self) -> None:
        self.process.stdin.write("answer\n")
        self.process.stdin.flush()
        self.line()

    def end(self) -> float:
        """End the process; return its peak memory in MB."""
        self.process.stdin.close()
        peak = float(self.line())
        self.process.wait()
        return peak


def _write_models(scratch: Path) -> dict[str, Path]:
    """Export the backbone in fp32 and int8."""
    plain = scratch / "fp32.onnx"
    write_random(plain, BACKBONE, SIZE)
    return {"fp32": plain, "int8": write_int8(plain, SIZE, scratch)}


def write_random(path: Path, name: str, size: int, prune: float = 0.0) -> None:
    """Export timm's `name` for images of `size` px with random weights and FINDINGS findings.

    A share `prune` of the channels is removed first. Speed and memory do not depend on the values
    of the weights.
    """
    import torch

    from lib.config import FINDINGS as NAMES
    from lib.export.onnx_file import write_card, write_onnx
    from lib.models.classifier import Classifier, build_backbone, build_head
    from lib.models.heatmaps import ServingModule
    from lib.models.pruning import prune_backbone

    torch.manual_seed(0)
    backbone = build_backbone(name, size)
    if prune:
        prune_backbone(backbone, name, size, prune)
    head = build_head("linear", backbone.head_hidden_size, FINDINGS, 0.0)
    classifier = Classifier(
        backbone, head, backbone.pretrained_cfg["mean"], backbone.pretrained_cfg["std"]
    )
    write_onnx(ServingModule(classifier, [1.0] * FINDINGS, [0.0] * FINDINGS, size), path)
    thresholds = [0.5] * FINDINGS
    card = {"format": 1, "name": name, "findings": list(NAMES), "image_size": size}
    write_card(path, {**card, "thresholds": thresholds})


def write_int8(plain: Path, size: int, folder: Path) -> Path:
    """Quantize an exported file as `cxr export --int8` does; return the int8 file in `folder`."""
    import numpy as np

    from lib.compression.quantize import QuantizationJob, quantize
    from lib.export.onnx_file import read_card, write_card
    from lib.inference.session import run_file

    films = np.random.default_rng(0).integers(0, 256, (8, size, size), dtype=np.uint8)
    job = QuantizationJob(plain, films, without_labels(films, run_file(plain, films)), folder)
    trials = quantize(job, log=lambda line: None)
    write_card(trials[0].path, read_card(plain))
    return trials[0].path


def without_labels(films: "np.ndarray", outputs: "dict[str, np.ndarray]") -> "ValidationSet":
    """Return validation data on which random weights pass: no labels, and every finding flagged.

    AUROC is undefined and no flag can change, so that quantization stops at the first trial: that
    of a trained network.
    """
    import numpy as np

    from lib.compression.quantize import ValidationSet

    unknown = np.full(outputs["logits"].shape, np.nan)
    return ValidationSet(films, unknown, outputs, np.zeros(unknown.shape[1]))


def _folder_rate(model: Path, paths: list[Path], scratch: Path) -> float:
    """Return images per second of `cxr predict`, from the start to the end of its process."""
    named = [str(path) for path in paths]
    folder = scratch / f"folder-{model.stem}"
    folder.mkdir()
    for number in range(FOLDER):
        (folder / f"{number}.png").symlink_to(Path(named[number % len(named)]).resolve())
    words = [sys.executable, "-m", "lib.cli", "predict", str(model), str(folder)]
    words += ["--out", str(scratch / f"{model.stem}.csv"), "--threads", str(THREADS)]
    start = time.perf_counter()
    subprocess.run(words, check=True, capture_output=True)
    return FOLDER / (time.perf_counter() - start)


def _ours(model: str, film: str, way: str) -> Callable[[], None]:
    from lib.images.read import FAST_THREADS, read_radiograph
    from lib.inference.predictor import Predictor

    predictor, threads = Predictor(model, THREADS), 1 + (way == "pillow") * FAST_THREADS

    def answer() -> None:
        read = read_radiograph(film, predictor.image_size, preview=0, threads=threads)
        found = predictor.predict(read.pixels[None])
        assert found.heatmaps.shape[:2] == (1, FINDINGS)

    return answer


def _theirs(way: str, film: str) -> Callable[[], None]:
    import timm
    import torch
    from PIL import Image
    from torchvision import transforms

    torch.set_num_threads(THREADS)
    network = timm.create_model(BACKBONE, num_classes=FINDINGS).eval()
    mean, std = network.pretrained_cfg["mean"], network.pretrained_cfg["std"]
    prepare = transforms.Compose(
        [transforms.Resize((SIZE, SIZE)), transforms.ToTensor(), transforms.Normalize(mean, std)]
    )

    def eager() -> None:
        with torch.inference_mode():
            probs = network(prepare(Image.open(film).convert("RGB"))[None]).sigmoid()
        assert probs.shape == (1, FINDINGS)

    def gradcam() -> None:
        features = network.forward_features(
            prepare(Image.open(film).convert("RGB"))[None]
        )  # (1, K, h, w)
        features.retain_grad()
        logits = network.forward_head(features)
        logits[0, logits[0].argmax()].backward()
        heatmap = (features.grad.mean((2, 3), keepdim=True) * features).sum(1).relu()
        network.zero_grad()
        assert logits.sigmoid().shape == (1, FINDINGS) and heatmap.shape[0] == 1

    return {"eager": eager, "gradcam": gradcam}[way]


def _serve(way: str, model: str, film: str) -> None:
    answer = _ours(model, film, way) if way in OURS else _theirs(way, film)
    answer()
    print("ready", flush=True)
    for _ in sys.stdin:
        answer()
        print("answered", flush=True)
    print(peak_memory_mb(), flush=True)


if __name__ == "__main__":
    _serve(*sys.argv[1:])
