"""Read a training checkpoint that may be damaged.

In: a file that training wrote. Out: what it holds, or the reason why it is set aside.
"""

import pickle
import struct
import time
import warnings
import zipfile
import zlib
from pathlib import Path
from typing import Any

import torch

DAMAGED = (
    *(RuntimeError, OSError, EOFError, pickle.UnpicklingError, zipfile.BadZipFile, ValueError),
    *(LookupError, TypeError, AttributeError, AssertionError, OverflowError, MemoryError),
    *(struct.error, zlib.error),
)
"""What a damaged checkpoint raises in zipfile, pickle and torch."""


def read_checkpoint(path: Path, version: int) -> dict[str, Any]:
    """Return what a checkpoint holds; raises one of DAMAGED.

    Its checksums are compared first: torch does not, and a wrong bit would change the weights.
    """
    with zipfile.ZipFile(path) as file:
        if wrong := file.testzip():
            raise ValueError(f"the checksum of {wrong} is wrong")
    content = torch.load(path, map_location="cpu", weights_only=True)
    if content.get("version") != version:
        raise ValueError(f"version {content.get('version', 1)}, this code writes {version}")
    return content


def set_aside(path: Path, error: BaseException) -> None:
    """Rename a damaged checkpoint and warn that training starts over."""
    aside = path.rename(path.with_name(f"{path.name}.damaged-{time.strftime('%Y%m%dT%H%M%S')}"))
    reason = (str(error).strip() or "it ends too early").splitlines()[0]
    warnings.warn(
        f"{path} is damaged or of another version ({reason}); "
        f"it was kept as {aside.name}, and training starts over",
        stacklevel=4,
    )
