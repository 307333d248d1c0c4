"""What several tests share: tiny phantoms, and the real films where a machine has them."""

import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pandas as pd
import pytest
from processes import kill_tree

from lib.config import FINDINGS
from lib.phantoms.write import write_phantoms

os.environ["NO_PROXY"] = os.environ["no_proxy"] = (
    "127.0.0.1,localhost"  # the servers that tests start
)
for name in (
    "FORCE_COLOR",
    "PY_COLORS",
    "GITHUB_ACTIONS",
):  # with them, what commands say is coloured
    os.environ.pop(name, None)


@pytest.fixture(scope="session", autouse=True)
def own_store(tmp_path_factory) -> Iterator[None]:
    """What tests decode, in kernels too, goes into a folder of the session and not into the
    repository."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CXR_STORE", str(tmp_path_factory.mktemp("store")))
        yield


@pytest.fixture(scope="session")
def tiny_phantoms(tmp_path_factory) -> Path:
    """A folder with dataset_full and dataset_cardiomegaly of some dozens of 64 px phantoms."""
    return write_phantoms(
        tmp_path_factory.mktemp("phantoms") / "tiny", patients=60, size=64, progress=False
    )


@pytest.fixture
def popen() -> Iterator[Callable[..., subprocess.Popen]]:
    """`subprocess.Popen`; what it started is killed at the end of the test, however that ends."""
    started: list[subprocess.Popen] = []

    def start(*words, **options) -> subprocess.Popen:
        started.append(subprocess.Popen(*words, **options))
        return started[-1]

    yield start
    for process in started:
        kill_tree(process)


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder of real films and predictions that CXR_REAL_DATA names; skips where there is
    none."""
    folder = os.environ.get("CXR_REAL_DATA")
    if not folder:
        pytest.skip("CXR_REAL_DATA is not set: no real films on this machine")
    return Path(folder)


@pytest.fixture(scope="session")
def published(real_data):
    """targets (22433, 14), probs (22433, 14) and patients of a published DenseNet-121."""
    frame = pd.read_csv(
        real_data / "predictions" / "reproduce_chexnet_test.csv.gz", dtype={"patient_id": str}
    )
    targets, probs = (
        frame[[f"{kind}_{name}" for name in FINDINGS]].to_numpy(float)
        for kind in ("target", "prob")
    )
    return targets, probs, frame["patient_id"]
