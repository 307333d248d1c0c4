"""The devices that train one run together, as Fabric sees them.

In: an accelerator and a rank. Out: how many devices there are, and the strategy of one rank.
"""

import inspect
from typing import Any

import torch
from lightning_fabric.plugins.environments import ClusterEnvironment
from lightning_fabric.strategies import DDPStrategy
from torch.nn.parallel import DistributedDataParallel

from lib.config import Config
from lib.exceptions import ModelError
from lib.system import available_cores


def visible_devices(accelerator: str) -> tuple[str, int]:
    """Return the kind of device that an accelerator stands for here, and how many there are.

    On the CPU each core counts as a device.
    """
    if accelerator in ("auto", "cuda") and torch.cuda.is_available():
        return "cuda", torch.cuda.device_count()
    if accelerator in ("auto", "mps") and torch.backends.mps.is_available():
        return "mps", 1
    return "cpu", available_cores()


def check_devices(config: Config) -> None:
    """Raise ModelError when a run wants more devices than this process sees."""
    kind, count = visible_devices(config.accelerator)
    if 1 < config.devices_per_run > count:
        what = "CPU cores" if kind == "cpu" else f"{kind} devices"
        raise ModelError(
            f"devices_per_run is {config.devices_per_run}, but the number of {what} "
            f"that this process may use is {count}: use {count} or less"
        )


class OneMachine(ClusterEnvironment):
    """Tells Fabric which rank this process is; variables of a batch system have no say."""

    creates_processes_externally = True
    main_address = "127.0.0.1"
    main_port = 0  # unused: the process group exists before Fabric asks for it

    def __init__(self, rank: int, ranks: int):
        super().__init__()
        self._rank, self._ranks = rank, ranks

    @staticmethod
    def detect() -> bool:
        return False

    def world_size(self) -> int:
        return self._ranks

    def set_world_size(self, size: int) -> None:
        pass

    def global_rank(self) -> int:
        return self._rank

    def set_global_rank(self, rank: int) -> None:
        pass

    def local_rank(self) -> int:
        return self._rank

    def node_rank(self) -> int:
        return 0


class OwnProcesses(DDPStrategy):
    """DDP in processes that exist already, which Fabric then accepts in a notebook too.

    Buffers are not broadcast: every rank computes the same statistics, see `GlobalBatchNorm`.
    """

    def __init__(self, rank: int, ranks: int):
        names = inspect.signature(DistributedDataParallel).parameters
        new = "forward_sync_buffers"  # torch deprecates the other name where it knows this one
        unsynced: Any = {new if new in names else "broadcast_buffers": False}
        super().__init__(cluster_environment=OneMachine(rank, ranks), **unsynced)

    def _configure_launcher(self) -> None:
        self._launcher = None
