"""The processes that train one run together, one per device.

In: a function, its arguments and a number of devices. Out: the function, called in fresh processes
(ranks 1 to K-1) that form a process group with this one (rank 0), and that end with it.
"""

import io
import mmap
import os
import pickle
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist

from lib.config import REPO_ROOT
from lib.exceptions import CxrError, ModelError
from lib.system import die_with_parent

ENDING_SECONDS = 60.0
"""How long a rank may take to end after the last epoch."""
NOTICE_SECONDS = 5.0
"""How long a rank that broke a connection may take until the system reports its end."""
LAST_LINES = 5


class Ranks:
    """A block in which ranks 1 to K-1 call `work(rank, *arguments)`, and this process is rank 0.

    The processes are fresh interpreters, so that CUDA works in them, and share the threads of this
    one. Arrays that are memory maps travel as the path of their file. However the block ends, the
    processes end with it; they also end when this process is killed. When one of them fails or is
    killed, a collective operation of this process fails, and the block raises ModelError with the
    reason. `backend` is that of `torch.distributed`.
    """

    def __init__(self, ranks: int, backend: str, work: Callable[..., None], *arguments: Any):
        self.ranks, self.backend, self.work, self.arguments = ranks, backend, work, arguments
        self.threads = torch.get_num_threads()
        self._processes: list[subprocess.Popen] = []
        self._store: Any = None
        self._over = threading.Event()
        self._lost = threading.Event()

    def __enter__(self) -> "Ranks":
        # named like the folders of run_notebook, which removes those of killed processes
        self._logs = Path(tempfile.mkdtemp(prefix=f"cxr-{os.getpid()}-ranks-"))
        torch.set_num_threads(max(1, self.threads // self.ranks))
        try:
            self._start()
        except BaseException:
            self.__exit__(*sys.exc_info())
            raise
        return self

    def _start(self) -> None:
        listener = socket.create_server(("127.0.0.1", 0))  # takes a free port for good
        port = listener.getsockname()[1]
        self._store = dist.TCPStore(
            *("127.0.0.1", port, self.ranks, True),
            wait_for_workers=False,
            master_listen_fd=listener.detach(),
        )
        for rank in range(1, self.ranks):
            self._processes.append(_start_process(self._log(rank)))
        threading.Thread(target=self._watch, daemon=True).start()
        for rank, process in enumerate(self._processes, 1):
            order = (rank, self.ranks, self.backend, port, torch.get_num_threads())
            process.stdin.write(_packed((*order, self.work, self.arguments)))
            process.stdin.flush()  # and stays open: its end tells the rank that this process ended
        _join(0, self.ranks, self.backend, port)

    def _watch(self) -> None:
        """Make what waits for a rank fail as soon as one has ended before its time."""
        while not self._over.wait(0.1):
            if any(process.poll() for process in self._processes):
                self._lost.set()
                self._store = None  # ends the server, and whoever waits for it
                if self.backend == "nccl" and dist.is_initialized():
                    dist.distributed_c10d._abort_process_group()
                return

    def check(self) -> None:
        """Raise ModelError when a rank has ended before its time."""
        if self._lost.is_set():
            raise ModelError(self._reason(0.0))

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        try:
            if error is None:
                self._wait(ENDING_SECONDS)
            elif isinstance(error, Exception) and (reason := self._cause(error)):
                raise ModelError(reason) from error
        finally:
            self._end()

    def _cause(self, error: Exception) -> str:
        """Return which rank failed and why, where that explains an error of this process."""
        if isinstance(error, CxrError):  # the other ranks raise it too, and end
            killed = min(self._ended().values(), default=0) < 0
            return self._reason(0.0) if killed else ""
        broken = isinstance(error, RuntimeError | ConnectionError)
        return self._reason(NOTICE_SECONDS if broken else 0.0)

    def _wait(self, seconds: float) -> None:
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline and None in [p.poll() for p in self._processes]:
            time.sleep(0.02)

    def _end(self) -> None:
        self._over.set()
        for process in self._processes:
            process.kill()
        for process in self._processes:
            process.wait()
            with suppress(BrokenPipeError):
                process.stdin.close()
        if dist.is_initialized():
            dist.destroy_process_group()
        self._store = None
        torch.set_num_threads(self.threads)
        shutil.rmtree(self._logs, ignore_errors=True)

    def _reason(self, seconds: float) -> str:
        """Return which rank failed and why, or nothing when none has within so many seconds."""
        deadline = time.monotonic() + seconds
        while not (ended := self._ended()) and time.monotonic() < deadline:
            time.sleep(0.02)
        if not ended:
            return ""
        rank = min(ended, key=lambda rank: (ended[rank] > 0, self._log(rank).stat().st_mtime_ns))
        code = ended[rank]  # negative for a signal; the end of one makes others fail later
        what = f"rank {rank} (pid {self._processes[rank - 1].pid})"
        if code < 0:
            hint = ", often for lack of memory" if -code == signal.SIGKILL else ""
            what += f" was killed by {signal.Signals(-code).name}{hint}"
        else:
            lines = self._log(rank).read_text(errors="replace").strip().splitlines()
            what += "\n".join([f" ended with exit code {code}:", *lines[-LAST_LINES:]])
        return f"{what}\ntraining continues from its last epoch when it is started again"

    def _ended(self) -> dict[int, int]:
        """Return the exit codes of the ranks that have failed."""
        codes = {rank: process.poll() for rank, process in enumerate(self._processes, 1)}
        return {rank: code for rank, code in codes.items() if code}

    def _log(self, rank: int) -> Path:
        return self._logs / f"{rank}.log"


def _start_process(log: Path) -> subprocess.Popen:
    paths = [str(REPO_ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    with log.open("wb") as file:
        return subprocess.Popen(
            [sys.executable, "-c", "from lib.models.ranks import follow; follow()"],
            stdin=subprocess.PIPE, stdout=file, stderr=file,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(paths)},
        )  # fmt: skip


def _join(rank: int, ranks: int, backend: str, port: int) -> None:
    """Join the process group whose store listens on this port."""
    store = dist.TCPStore("127.0.0.1", port, is_master=False)
    with _gloo_on_loopback():
        dist.init_process_group(backend, store=store, rank=rank, world_size=ranks)


@contextmanager
def _gloo_on_loopback() -> Iterator[None]:
    """Have gloo, which reads this variable when a group is made, listen on this machine only."""
    name = "GLOO_SOCKET_IFNAME"
    loopback = [found for _, found in socket.if_nameindex() if found.startswith("lo")]
    if name in os.environ or not loopback:
        yield
        return
    os.environ[name] = loopback[0]
    try:
        yield
    finally:
        del os.environ[name]


class _ByPath(pickle.Pickler):
    """Pickles a memory map as the place of its file."""

    def reducer_override(self, value: Any) -> Any:
        if not (isinstance(value, np.memmap) and isinstance(value.base, mmap.mmap)):
            return NotImplemented
        order = "C" if value.flags.c_contiguous else "F"
        return np.memmap, (value.filename, value.dtype, "r", value.offset, value.shape, order)


def _packed(order: tuple[Any, ...]) -> bytes:
    buffer = io.BytesIO()
    try:
        _ByPath(buffer, protocol=pickle.HIGHEST_PROTOCOL).dump(order)
    except (pickle.PicklingError, AttributeError, TypeError) as error:
        raise ModelError(
            f"this model cannot be sent to other processes ({error}): set devices_per_run to 1"
        ) from error
    return buffer.getvalue()


# --- in ranks 1 to K-1 ---


def follow() -> None:
    """Do what rank 0 sends on stdin, as one of its ranks."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # rank 0 is interrupted, and ends this process
    if sys.platform == "linux":
        die_with_parent(signal.SIGKILL)
    rank, ranks, backend, port, threads, work, arguments = pickle.load(sys.stdin.buffer)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    torch.set_num_threads(threads)
    try:
        _join(rank, ranks, backend, port)
        work(rank, *arguments)
    except Exception:
        traceback.print_exc()
        sys.stderr.flush()
        os._exit(1)  # without the clean-up of a group that may be broken
    dist.destroy_process_group()
    os._exit(0)


def _end_with_parent() -> None:
    """End this process when rank 0 no longer holds the other end of stdin."""
    os.read(sys.stdin.fileno(), 1)
    os._exit(1)
