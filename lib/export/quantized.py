"""Quantize the network of a run, as a run of its own.

In: the folder of a complete run. Out: the config of its int8 run; the int8 file and its card in that
run's folder.
"""

from collections.abc import Callable
from pathlib import Path
from socket import gethostname
from typing import Any

import pandas as pd

from lib.config import Config, resolve
from lib.export.run import export_run
from lib.files import CARD, INT8, read_json, write_json
from lib.models.quantized import QuantizedNetwork
from lib.models.weights import origin_in_run
from lib.runs.study import read_run


def quantized_config(source: str, run_dir: str) -> Config:
    """Return the config of the int8 run in `run_dir`: that of the complete run in `source`, from
    which it starts.

    Raises RunError where `source` holds no complete run.
    """
    config, _ = read_run(resolve(source))
    return config.model_copy(update={"run_dir": run_dir, "init_from": source})


def quantize_run(config: Config, log: Callable[[str], None] = print) -> QuantizedNetwork:
    """Write the int8 file of a `quantized_config` into the run's folder; return its network.

    The recipe is chosen as by `export_run`, on half of the validation patients. It is kept whatever
    it changes: as an arm of a study it is judged by its test images. Raises ExportError for a
    network that cannot be quantized, and DatasetError where the images are not those of the run.
    """
    folder = resolve(config.run_dir)
    source = resolve(str(config.init_from))
    export_run(source, Path(INT8).stem, int8=True, allow_drop=True, out=folder, log=log)
    return QuantizedNetwork(folder / INT8)


def save_quantized(config: Config, card: dict[str, Any]) -> None:
    """Write the card of an int8 run beside its file: that of the run it was made from, with what was
    measured again, `card`."""
    source = resolve(str(config.init_from))
    before = read_json(source / CARD)
    made = {"precision": "int8", "weights": origin_in_run(source, before)}
    write_json(resolve(config.run_dir) / CARD, before | card | made)


def quantized_history(config: Config) -> pd.DataFrame:
    """Return the history (a row per epoch) of the run that was quantized, in which no second was
    spent by the int8 run."""
    return pd.read_csv(resolve(str(config.init_from)) / "history.csv").assign(seconds=0.0)


def quantized_cost(config: Config) -> dict[str, Any]:
    """Return what the record holds of the int8 network: parameters, the device, and where its weights
    came from. It has no latency: that of other runs is torch's, which computes no such file."""
    source = resolve(str(config.init_from))
    _, record = read_run(source)
    return {
        "parameters": {"all": record.parameters["all"], "trained": 0},
        "device": {"kind": "cpu", "host": gethostname(), "precision": "int8"},
        "weights": origin_in_run(source, read_json(source / CARD)),
    }
