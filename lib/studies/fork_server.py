"""In: a run to start. Out: its process and its kernel, forked from a process that has imported
torch and Jupyter.

A fresh process spends several seconds on imports before a run begins; a fork of one that holds them
begins at once:

    cxr run -> fork server (multiprocessing) -> driver (papermill) -> kernel (the notebook)

Each run still has a driver and a kernel of its own. Forking is safe here because the server has one
thread and has computed nothing: there is no pool of threads, CUDA context, figure or random state
that runs would share. Linux only; elsewhere, with CXR_FORK=0, and where something else executes the
runs (Dask), runs start as fresh processes.
"""

import contextlib
import ctypes
import json
import multiprocessing
import os
import signal
import sys
import threading
import types
from collections.abc import Iterator, Mapping
from multiprocessing import forkserver
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import numpy
from jupyter_client.provisioning import LocalProvisioner
from tqdm.auto import tqdm

from lib.system import die_with_parent, without_batch_system

PRELOADED = [
    "papermill", "papermill.execute", "nbclient", "ipykernel.kernelapp", "ipykernel.ipkernel", "IPython", "ipywidgets",
    "matplotlib.pyplot", "matplotlib.backends.backend_agg", "PIL.PngImagePlugin",
    "pandas", "pyarrow.parquet", "scipy.stats", "scipy.optimize", "tqdm.auto",
    "torch", "timm", "lightning_fabric", "safetensors.torch",
    "lib.models.training", "lib.models.classifier", "lib.models.batches",
    "lib.datasets.prepare", "lib.runs.run", "lib.plots", "lib.metrics.thresholds", "lib.metrics.calibration",
    "lib.studies.execute",
]  # fmt: skip
"""Imported before the fork. `matplotlib_inline.backend_inline` must not be: its import registers
with the running kernel, and there is none yet."""

INLINE = "module://matplotlib_inline.backend_inline"
SET_NAME = 15  # PR_SET_NAME of prctl(2)

_LOCK = threading.Lock()
_SERVED: list[
    Mapping[str, str]
] = []  # the environment that this process's one server was started with


def start_server(environment: Mapping[str, str]) -> None:
    """Starts the server of this process, on Linux, unless it runs.

    It imports in the background: a run that is started earlier waits. Libraries read some variables
    only once, when they are loaded: they have the values of `environment` at the first call, and
    runs with other values need fresh processes. CUDA_VISIBLE_DEVICES is not among them: it is read
    when CUDA starts, which the server never does, so that every fork has its own.
    """
    if sys.platform != "linux":
        return
    with _LOCK:
        if not _SERVED:
            before = dict(os.environ)
            # Some libraries take a rank from the variables of a batch system when they are loaded.
            os.environ.clear()
            os.environ.update(without_batch_system(before))
            # CUDA is then looked for without a context, which a fork could not use.
            os.environ.update(environment, PYTORCH_NVML_BASED_CUDA_CHECK="1")
            try:
                forkserver.set_forkserver_preload(list(PRELOADED))
                with _blank_main():
                    forkserver.ensure_running()
            finally:
                os.environ.clear()
                os.environ.update(before)
            _SERVED.append(dict(environment))


def can_fork(environment: Mapping[str, str]) -> bool:
    """Whether this process has a server whose forks have these values, and CXR_FORK=0 does not
    forbid it."""
    return bool(_SERVED) and _SERVED[0] == environment and os.environ.get("CXR_FORK") != "0"


def start_driver(spec: Path, log: Path, environment: Mapping[str, str]) -> BaseProcess:
    """Forks the driver of the run in the file `spec`; its output is appended to `log`. Needs
    `can_fork(...)`."""
    context = multiprocessing.get_context("forkserver")
    process = context.Process(target=_drive, args=(str(spec), str(log), dict(environment)))
    with _LOCK, _blank_main():
        process.start()
    return process


@contextlib.contextmanager
def _blank_main() -> Iterator[None]:
    """Keeps multiprocessing from importing the caller's script in the fork, where it is not
    needed."""
    main = sys.modules["__main__"]
    sys.modules["__main__"] = types.ModuleType("__main__")
    try:
        yield
    finally:
        sys.modules["__main__"] = main


def _set_name(name: str) -> None:
    """Set the name that `ps` and `top` show for this process: at most 15 characters."""
    ctypes.CDLL(None).prctl(SET_NAME, name.encode())


def _become(name: str, environment: Mapping[str, str], folder: Path, death: int) -> None:
    os.setsid()
    die_with_parent(death)
    _set_name(name)
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(folder)
    numpy.random.seed()  # as in a fresh process: forks would draw the same numbers
    tqdm.set_lock(
        threading.RLock()
    )  # its default is a semaphore of all forks, reported as leaked at the end


# --- in the driver, a fork of the server ---


def _drive(spec: str, log: str, environment: dict[str, str]) -> None:
    """Executes the run after its kernel was forked: while there is one thread."""
    from lib.config import REPO_ROOT
    from lib.studies.execute import main

    _become("cxr-run", environment, REPO_ROOT, signal.SIGTERM)
    file = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    os.dup2(file, 1)
    os.dup2(file, 2)
    code = main(spec, str(os.getppid()), ForkedKernel())
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


class ForkedKernel:
    """The kernel's process, which waits for its command; for jupyter_client it looks like a
    `subprocess.Popen`."""

    stdin = stdout = stderr = None

    def __init__(self) -> None:
        if threading.active_count() > 1:
            raise RuntimeError(f"a kernel is forked from one thread only: {threading.enumerate()}")
        read, self._write = os.pipe()
        self.returncode: int | None = None
        self.pid = os.fork()
        if self.pid == 0:
            os.close(self._write)
            _become_kernel(read)
        os.close(read)

    def begin(self, argv: list[str], folder: str, environment: dict[str, str]) -> None:
        """Lets the kernel start, as `python argv` in `folder` would."""
        with os.fdopen(self._write, "w") as pipe:
            json.dump([argv, folder, environment], pipe)

    def poll(self) -> int | None:
        """The exit code, negative for a signal, or None while it runs."""
        if self.returncode is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            self.returncode = os.waitstatus_to_exitcode(status) if pid else None
        return self.returncode

    def wait(self) -> int:
        """Waits for the end; the exit code."""
        if self.returncode is None:
            self.returncode = os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])
        return self.returncode

    def send_signal(self, number: int) -> None:
        """Sends a signal unless it has ended."""
        if self.poll() is None:
            os.kill(self.pid, number)


class ForkedProvisioner(LocalProvisioner):
    """Gives jupyter_client the kernel `forked` instead of a new process."""

    forked: ForkedKernel

    async def launch_kernel(self, cmd: list[str], **options: Any) -> Any:
        """`cmd` is python -m ipykernel_launcher -f FILE: its arguments are the kernel's."""
        environment = {**options["env"], "JPY_PARENT_PID": str(os.getpid())}
        argv = [*cmd[2:], f"--IPKernelApp.parent_handle={os.getpid()}"]
        self.forked.begin(argv, str(options.get("cwd") or Path.cwd()), environment)
        forked: Any = self.forked  # it looks like a Popen
        self.process, self.pid, self.pgid = forked, forked.pid, forked.pid
        return self.connection_info


def forked_provisioner(manager: Any, kernel: ForkedKernel) -> ForkedProvisioner:
    """What gives jupyter_client's `manager` this kernel."""
    provisioner = ForkedProvisioner(
        kernel_id="forked", kernel_spec=manager.kernel_spec, parent=manager
    )
    provisioner.forked = kernel
    return provisioner


# --- in the kernel, a fork of the driver ---


def _become_kernel(pipe: int) -> None:
    """Waits for the command and starts the kernel's application; never returns."""
    code = 1
    try:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        die_with_parent(signal.SIGKILL)
        with os.fdopen(pipe) as order:
            text = order.read()
        if text:  # empty when the driver ended before
            sys.argv, folder, environment = json.loads(text)
            _become("cxr-kernel", environment, Path(folder), signal.SIGKILL)
            import matplotlib
            from ipykernel import kernelapp

            matplotlib.rcParams["backend"] = INLINE  # a kernel's default, read by the import alone
            kernelapp.launch_new_instance()
        code = 0
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else int(end.code is not None)
    finally:
        with contextlib.suppress(ValueError, OSError):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(code)
