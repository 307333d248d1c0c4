"""What a batch system or a launcher sets in the environment changes no run that did not ask for
it."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from lib.config import REPO_ROOT
from lib.system import without_batch_system

SET = {
    "SLURM_NTASKS": "8", "SLURM_JOB_ID": "77", "SLURM_JOB_NAME": "train", "SLURM_PROCID": "3",
    "SLURM_LOCALID": "3", "SLURM_NODEID": "1", "SLURM_NODELIST": "n[1-2]",
    "PMI_RANK": "3", "PMI_SIZE": "8", "OMPI_COMM_WORLD_RANK": "3", "OMPI_COMM_WORLD_SIZE": "8",
    "TORCHELASTIC_RUN_ID": "a", "GROUP_RANK": "1", "LOCAL_WORLD_SIZE": "4",
    "WORLD_SIZE": "8", "RANK": "3", "LOCAL_RANK": "3", "MASTER_ADDR": "10.0.0.1", "MASTER_PORT": "1",
    "LSB_JOBID": "5", "JSM_NAMESPACE_RANK": "3", "JSM_NAMESPACE_SIZE": "8",
}  # fmt: skip
CODE = """
import json, sys
from pathlib import Path
from lib.models.training import make_fabric
from tests.test_training import CONFIG, build_model, train_in
train_in(Path(sys.argv[1]))
fabric = make_fabric(CONFIG, build_model(CONFIG))
print(json.dumps([CONFIG.model_dump(mode="json"), fabric.world_size, fabric.global_rank, str(fabric.device)]))
"""


def trained(folder: Path, environment: dict[str, str]) -> tuple[list, str]:
    """Config, devices and rank of a training in a process of its own, and its history."""
    folder.mkdir()
    own = {**without_batch_system(os.environ), "PYTHONPATH": str(REPO_ROOT), **environment}
    answer = subprocess.run(
        [sys.executable, "-c", CODE, str(folder)], cwd=REPO_ROOT, env=own, check=True,
        capture_output=True, text=True,
    )  # fmt: skip
    return json.loads(answer.stdout.splitlines()[-1]), (folder / "history.csv").read_text()


@pytest.mark.timeout(1800)
def test_config_devices_and_losses_are_the_same_in_a_batch_job(tmp_path):
    plain = trained(tmp_path / "plain", {})
    assert plain[0][1:3] == [1, 0]
    assert trained(tmp_path / "job", SET) == plain


def test_what_says_nothing_about_ranks_stays():
    kept = {"SLURMISH": "1", "OMP_NUM_THREADS": "2", "RANKING": "1", "CUDA_VISIBLE_DEVICES": "0"}
    assert without_batch_system({**SET, **kept}) == kept
