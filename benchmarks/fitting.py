"""Measure training speed and the start-up time of runs.

Out: rows on training from disk against one constant batch, on torch.compile, and on the overhead of
papermill.
"""

import json
import os
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import nbformat
import numpy as np
import torch

from benchmarks.timing import Row, rates
from lib.config import FINDINGS, Config
from lib.models.batches import Batch, Loader
from lib.models.classifier import build_model
from lib.models.losses import bce, reduced
from lib.models.training import build_optimizer, fit
from lib.studies.execute import execute_run, process_environment
from lib.studies.fork_server import start_server


class ConstantLoader(Loader):
    """The first batch, repeated: the speed of training without data loading."""

    def epoch(self, number: int = 0, **options: Any) -> Iterator[Batch]:
        batch = next(super().epoch(number, **options))
        for _ in range(len(self)):
            yield batch


def training_row(
    backbone: str, size: int, scratch: Path, images: int = 1024, rounds: int = 3
) -> Row:
    """Measure training images per second of `lib.models.training.fit`.

    Images come from a store on disk, with full augmentation.
    """
    config = Config(
        backbone=backbone,
        pretrained=False,
        image_size=size,
        epochs=1,
        batch_size=32,
        augment="full",
    )
    store = np.lib.format.open_memmap(scratch / f"{size}.npy", "w+", np.uint8, (images, size, size))
    rng = np.random.default_rng(0)
    store[:] = rng.integers(0, 255, store.shape)
    targets = (rng.random((images, len(FINDINGS))) < 0.2).astype(np.float32)
    rows = np.arange(images)
    val = Loader(store, rows[:32], targets[:32], 32)
    seconds: dict[type, list[float]] = {Loader: [], ConstantLoader: []}
    for number in range(rounds + 1):
        for kind in seconds:
            loader = kind(store, rows, targets, 32, "full", shuffle=True)
            folder = scratch / f"{backbone}-{kind.__name__}-{number}"
            history = fit(build_model(config), loader, val, config, folder)
            seconds[kind] += [history["seconds"].item()] if number else []
    disk, constant = (images / statistics.median(times) for times in seconds.values())
    return Row(
        f"training {backbone} at {size} px from disk",
        "images/s",
        disk,
        constant,
        "one constant batch",
        ">= 0.95",
    )


def compile_row(backbone: str = "mobilenetv2_035", size: int = 64, batch: int = 32) -> Row:
    """Measure the training step of a small network with torch.compile against eager mode.

    The time that compiling takes is not counted; it is printed.
    """
    config = Config(backbone=backbone, pretrained=False, image_size=size, batch_size=batch)
    images, targets = torch.rand(batch, 1, size, size), torch.zeros(batch, len(FINDINGS))
    steps = {name: _training_step(config, images, targets, name) for name in ("eager", "compile")}
    start = time.perf_counter()
    steps["compile"]()
    print(f"torch.compile took {time.perf_counter() - start:.0f} s", file=sys.stderr)
    speed = rates(steps, dict.fromkeys(steps, batch), rounds=20)
    what = f"training step of {backbone} at {size} px, torch.compile"
    return Row(what, "images/s", speed["compile"], speed["eager"], "eager mode")


def _training_step(
    config: Config, images: torch.Tensor, targets: torch.Tensor, mode: str
) -> Callable[[], None]:
    model = build_model(config).to(memory_format=torch.channels_last).train()
    optimizer = build_optimizer(model, config)
    net = torch.compile(model) if mode == "compile" else model

    def step() -> None:
        reduced(*bce(net(images), targets), "mean").backward()
        optimizer.step()
        optimizer.zero_grad()

    return step


def startup_rows(scratch: Path, rounds: int = 5) -> list[Row]:
    """Measure the seconds of overhead per run.

    They are those of the process, papermill, the kernel, and the imports of a notebook.
    """
    imports = (
        "from lib import plots\n"
        "from lib.models.training import fit\n"
        "from lib.datasets.prepare import prepare_data"
    )
    notebook = scratch / "start.ipynb"
    nbformat.write(nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(imports)]), notebook)
    environment = process_environment(1)
    start_server(environment)
    times: dict[str, list[float]] = {"1": [], "0": []}
    for number in range(rounds + 1):
        for fork in times:
            os.environ["CXR_FORK"] = fork
            folder = scratch / f"start-{fork}-{number}"
            spec = {
                "notebook": str(notebook),
                "folder": str(folder),
                "parameters": {},
                "lineage": "bench",
            }
            start = time.perf_counter()
            execute_run({**spec, "environment": environment, "stop": str(scratch / "stop")})
            times[fork] += (
                [time.perf_counter() - start] if number else []
            )  # the first round waits for the server to start
            assert json.loads((folder / "status.json").read_text())["reason"].startswith(
                "finished without a record"
            )
    del os.environ["CXR_FORK"]
    forked, fresh = (statistics.median(seconds) for seconds in times.values())
    return [
        Row(
            "start-up of a run with its imports, forked",
            "s",
            forked,
            fresh,
            "fresh processes",
            "<= 0.5",
        )
    ]
