"""In: this machine's accelerators, and how many runs are wanted at a time. Out: the devices of each
run.

A device is named as CUDA_VISIBLE_DEVICES names it: by its index, or by the UUID of a GPU or of a
MIG instance. torch is not imported, and CUDA is not started: nvidia-smi lists the devices.
"""

import os
import re
import shutil
import subprocess
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from lib.config import Config
from lib.exceptions import StudyError
from lib.system import available_cores, visible_ids

CORES_PER_RUN = 2
"""Cores that `--jobs auto` gives a run that has no device. A run takes 1 to 2 GB of memory, and
machines commonly have 2 to 4 GB per core: half as many runs as cores fit."""
Jobs = int | Literal["auto"]


@dataclass
class Slots:
    """`jobs` runs at a time (None: no limit), on `free`: device -> how many more runs it takes
    now."""

    jobs: int | None
    free: dict[str, int] = field(default_factory=dict)
    note: str = ""

    def take(self, config: Config) -> list[str] | None:
        """The devices of a run that starts now, those with the most room first; an empty list where
        it needs none, None where it must wait."""
        count = devices_needed(config) if self.free else 0
        roomy = sorted(
            (device for device, room in self.free.items() if room),
            key=lambda device: -self.free[device],
        )
        if len(roomy) < count:
            return None
        for device in roomy[:count]:
            self.free[device] -= 1
        return roomy[:count]

    def give_back(self, devices: Iterable[str]) -> None:
        """Frees the devices of a run that has ended."""
        for device in devices:
            self.free[device] += 1


def parse_jobs(text: str) -> Jobs:
    """The value of --jobs; raises StudyError unless it is auto or a number of at least 1."""
    if text == "auto":
        return "auto"
    if not text.isdecimal() or int(text) < 1:
        raise StudyError(f"--jobs {text}: write auto, or how many runs at a time, at least 1")
    return int(text)


def plan_slots(
    configs: Sequence[Config], jobs: Jobs | None = None, runs_per_device: int = 1
) -> Slots:
    """The slots of this machine for runs of these configs; `jobs` None means 1.

    "auto" is one run per device (or group of devices, where a run takes several), and without a
    device one per CORES_PER_RUN cores. A number above what the devices take is lowered, with a
    note, unless some runs need no device.
    """
    needed = [count for config in configs if (count := devices_needed(config))]
    devices, note = find_devices() if needed else ([], "")
    if not devices:
        shares = max(1, available_cores() // CORES_PER_RUN)
        return Slots(shares if jobs == "auto" else jobs or 1, note=note)
    places = max(1, len(devices) * runs_per_device // min(needed))
    free = dict.fromkeys(devices, runs_per_device)
    if jobs == "auto":
        return Slots(places, free)
    wanted = jobs or 1
    if wanted <= places or len(needed) < len(configs):  # the others need no device
        return Slots(wanted, free)
    return Slots(places, free, _cap_text(wanted, places, devices, runs_per_device))


def devices_needed(config: Config) -> int:
    """How many devices a run takes where the machine has some: none on a CPU."""
    return 0 if config.accelerator in ("cpu", "mps") else config.devices_per_run


def find_devices(environment: Mapping[str, str] = os.environ) -> tuple[list[str], str]:
    """This machine's devices, those of CUDA_VISIBLE_DEVICES where it is set; and a note when they
    could not be listed."""
    chosen = visible_ids(environment)
    if chosen is not None:
        return chosen, ""
    if shutil.which("nvidia-smi", path=environment.get("PATH")) is None:
        return [], ""
    try:
        answer = subprocess.run(
            ["nvidia-smi", "-L"], capture_output=True, text=True, timeout=60, env=dict(environment)
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return [], f"nvidia-smi does not list the devices ({error}); {NOT_ASSIGNED}"
    if answer.returncode:
        said = (answer.stdout + answer.stderr).strip().splitlines()
        reason = said[0] if said else f"exit code {answer.returncode}"
        return [], f"nvidia-smi does not list the devices ({reason}); {NOT_ASSIGNED}"
    return listed_devices(answer.stdout), ""


NOT_ASSIGNED = "runs are given none: name them in CUDA_VISIBLE_DEVICES, or set accelerator=cpu"


def listed_devices(text: str) -> list[str]:
    """The devices in the output of `nvidia-smi -L`: the index of a GPU, or the UUIDs of its MIG
    instances where it is divided."""
    found: dict[str, list[str]] = {}
    gpu = ""
    for line in text.splitlines():
        if match := re.match(r"GPU (\d+):", line):
            gpu = match[1]
            found[gpu] = []
        elif gpu and (match := re.search(r"\(UUID: (MIG-[^)]+)\)", line)):
            found[gpu].append(match[1])
    return [device for gpu, parts in found.items() for device in parts or [gpu]]


def device_environment(
    devices: list[str] | None, environment: Mapping[str, str] = os.environ
) -> dict[str, str]:
    """The variables with which a run sees `devices` alone; none for None, which leaves it what
    this process sees.

    CUDA counts the fastest GPU first by default, nvidia-smi counts by bus: the order is set to the
    latter, except where the user's own CUDA_VISIBLE_DEVICES counts in CUDA's.
    """
    if devices is None:
        return {}
    order = {} if "CUDA_VISIBLE_DEVICES" in environment else {"CUDA_DEVICE_ORDER": "PCI_BUS_ID"}
    return {**order, "CUDA_VISIBLE_DEVICES": ",".join(devices)}


def device_text(devices: Iterable[str]) -> str:
    """Devices in words: "cuda 0, 1"; nothing for none."""
    names = ", ".join(devices)
    return f"cuda {names}" if names else ""


def check_devices(file: Path, configs: Mapping[str, Config], devices: list[str]) -> None:
    """Raises StudyError for a run, {name: config}, that wants more devices than this machine has.

    Without any device there is nothing to check here: such runs train on the CPU, or are refused
    where they ask for a GPU.
    """
    for name, config in configs.items() if devices else ():
        count = devices_needed(config)
        if count > len(devices):
            raise StudyError(
                f"{file}: nothing was started\nrun {name!r}: devices_per_run is {count}, and there "
                f"are {len(devices)} devices ({', '.join(devices)}); lower it, or leave it out with --only"
            )
        if count > 1 and any(device.startswith("MIG-") for device in devices):
            raise StudyError(
                f"{file}: nothing was started\nrun {name!r}: devices_per_run is {count}, but CUDA shows "
                "one process a single MIG instance; set devices_per_run to 1"
            )


def _cap_text(wanted: int, places: int, devices: list[str], runs_per_device: int) -> str:
    return (
        f"--jobs {wanted}: {places} at a time, for there are {len(devices)} devices "
        f"({', '.join(devices)}) with {runs_per_device} per device; --runs-per-device sets that"
    )
