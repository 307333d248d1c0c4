"""In: text, tables, figures and JSON values. Out: files that appear whole or not at all."""

import contextlib
import hashlib
import json
import math
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
from filelock import BaseFileLock, Timeout

from lib.exceptions import RunError
from lib.locks import take_lock


@contextlib.contextmanager
def atomic_write(path: Path) -> Iterator[Path]:
    """A temporary path beside `path` that becomes `path` only when the block ends without an error.

    The content is on the disk before it gets its name, so that a power cut leaves the old file or
    the new one.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(
        f".{path.stem}.{os.getpid()}-{threading.get_ident()}.partial{path.suffix}"
    )
    try:
        yield partial
        _sync(partial)
        partial.replace(path)
        _sync(path.parent)
    finally:
        partial.unlink(missing_ok=True)


def _sync(path: Path) -> None:
    """Waits until a file, or the names in a folder, are on the disk."""
    if path.is_dir() and os.name == "nt":  # Windows opens no folders
        return
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_json(path: Path, data: Any) -> None:
    """Writes `data` as JSON, whole or not at all; NaN becomes null."""
    with atomic_write(path) as partial:
        partial.write_text(json.dumps(json_values(data), indent=1, allow_nan=False) + "\n")


def write_text(path: Path, text: str) -> None:
    """Writes text, whole or not at all."""
    with atomic_write(path) as partial:
        partial.write_text(text)


def read_json(path: Path) -> Any:
    """The JSON in `path`; raises RunError that names the file when it is missing or damaged."""
    try:
        return json.loads(path.read_text())
    except FileNotFoundError:
        raise RunError(f"{path} is missing; run the study again to make it") from None
    except (ValueError, RecursionError) as error:  # of JSON, UTF-8, a number's length, or nesting
        raise RunError(f"{path} is damaged ({error}); delete it and run the study again") from error


def sha256(path: Path) -> str:
    """The SHA-256 of a file, in hex digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


WEIGHTS, INT8, CARD = "model.safetensors", "int8.onnx", "card.json"
"""What a run's folder calls its network, if it was trained or quantized, and the card that describes
it."""


def model_files(folder: Path) -> list[Path]:
    """The files that decide what a run's network answers: it and its card."""
    network = INT8 if (folder / INT8).exists() else WEIGHTS
    return [folder / network, folder / CARD]


def json_values(value: Any) -> Any:
    """`value` as JSON can hold it: arrays as lists, numbers of NumPy as Python's, NaN and infinity
    as None."""
    if isinstance(value, dict):
        return {str(key): json_values(item) for key, item in value.items()}
    if isinstance(value, np.ndarray):
        value = value.tolist()
    if isinstance(value, list | tuple):
        return [json_values(item) for item in value]
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


NAME_SECONDS = 0.3


def acquire_lock(
    path: Path, what: str, wait_seconds: float = 0.0, ended: Callable[[], bool] | None = None
) -> BaseFileLock:
    """A lock on the file `path` that ends with this process, however it ends (see `lib.locks`).

    It lies beside what it protects, never inside a folder that is renamed. Raises RunError, which
    names the process that holds it, when it is not free within `wait_seconds` (negative: waits for
    ever), or when `ended`, asked while waiting, returns True.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    holder = path.with_suffix(".holder")
    try:
        lock = take_lock(path, wait_seconds, ended)
    except Timeout:
        time.sleep(NAME_SECONDS)  # who has just taken it writes its name next
        name = holder.read_text() if holder.exists() else "another process"
        raise RunError(f"{what} is in use by {name}; wait for it or stop it") from None
    except OSError as error:
        raise RunError(
            f"{path} cannot be locked ({error}); runs need a disk that has file locks, "
            "or the environment variable CXR_LOCKS=lease on all machines"
        ) from error
    write_text(holder, f"process {os.getpid()} on {socket.gethostname()}")
    return lock


def write_table(path: Path, table: pd.DataFrame) -> None:
    """Writes a .csv or .parquet file, whole or not at all."""
    with atomic_write(path) as partial:
        table.to_parquet(partial, index=False) if path.suffix == ".parquet" else table.to_csv(
            partial, index=False
        )


def read_table(path: Path) -> pd.DataFrame:
    """A .csv or .parquet file; raises RunError that names the file when it is missing or
    damaged."""
    try:
        return pd.read_parquet(path) if path.suffix == ".parquet" else pd.read_csv(path)
    except FileNotFoundError:
        raise RunError(f"{path} is missing; run the study again to make it") from None
    except (
        ValueError,
        pa.ArrowException,
    ) as error:  # pandas' and pyarrow's own, a parser's and a decoder's too
        first = (str(error).strip() or "it ends too early").splitlines()[0]
        raise RunError(
            f"{path} is damaged ({first}); set its folder aside and run the study again"
        ) from error


def write_figure(path: Path, figure: Any) -> None:
    """Writes a matplotlib Figure as .png (200 dpi) or .svg, whole or not at all; the same figure,
    the same bytes."""
    from matplotlib import rc_context

    with atomic_write(path) as partial, rc_context({"svg.hashsalt": "cxr"}):
        figure.savefig(partial, dpi=200, metadata={"Date": None} if path.suffix == ".svg" else None)
