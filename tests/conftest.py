"""What several tests share: tiny phantoms, and the real films where a machine has them."""

import os
from pathlib import Path

import pytest

from lib.phantom import write_phantoms


@pytest.fixture(scope="session")
def tiny_phantoms(tmp_path_factory) -> Path:
    """A folder with dataset_full and dataset_cardiomegaly of some dozens of 64 px phantoms."""
    return write_phantoms(tmp_path_factory.mktemp("phantoms") / "tiny", patients=60, size=64, progress=False)


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder of real films and predictions that CXR_REAL_DATA names; skips where there is none."""
    folder = os.environ.get("CXR_REAL_DATA")
    if not folder:
        pytest.skip("CXR_REAL_DATA is not set: no real films on this machine")
    return Path(folder)
