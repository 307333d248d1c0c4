"""In: a notebook and its parameters. Out: the executed notebook, made in a process and a kernel of
its own.

`execute_run` starts a driver and waits; the driver has papermill execute the notebook in a kernel.
Both are forked from a process that has imported what they need (`studies.fork_server`); without it
`python -m lib.studies.execute SPEC PARENT` is started. When the runner dies its processes die with
it, and their kernels with them. A run's numbers are the same bit for bit only with the same number
of threads, which `process_environment` sets from the number of parallel jobs.
"""

import contextlib
import multiprocessing
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Callable, Mapping
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

from lib.config import REPO_ROOT
from lib.exceptions import NotebookError, RunError
from lib.files import acquire_lock, read_json, write_json
from lib.runs.run import folder_lock, is_complete, note_failure, read_status, write_status
from lib.studies.devices import device_environment
from lib.studies.durations import clock
from lib.system import available_cores, die_with_parent, visible_ids, without_batch_system

THREAD_VARIABLES = (
    "OMP_NUM_THREADS",
    "MKL_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "VECLIB_MAXIMUM_THREADS",
)
MALLOC_VARIABLES = {"MALLOC_MMAP_THRESHOLD_": "4294967296", "MALLOC_TRIM_THRESHOLD_": "8589934592"}
"""glibc then keeps freed tensors for the next batch: small networks train up to 30 % faster on a
CPU."""
WAITING_VARIABLES = {"OMP_WAIT_POLICY": "PASSIVE", "GOMP_SPINCOUNT": "0", "KMP_BLOCKTIME": "0"}
"""Threads sleep while they wait for each other: on a busy machine spinning ones make training many
times slower."""
GRACE_SECONDS = 5.0
KERNEL_SECONDS = 30.0
INTERRUPTED = "interrupted"
ERROR_LINES = 20


def process_environment(jobs: int, environ: Mapping[str, str] = os.environ) -> dict[str, str]:
    """Threads of one of `jobs` parallel runs (CXR_THREADS, else its share of the cores) and memory
    settings; values that the user has set in `environ` stay."""
    share = str(max(1, available_cores() // jobs))
    wanted = dict.fromkeys(THREAD_VARIABLES, share) | MALLOC_VARIABLES | WAITING_VARIABLES
    chosen = {name: environ.get(name, value) for name, value in wanted.items()}
    if threads := environ.get("CXR_THREADS"):
        chosen |= dict.fromkeys(THREAD_VARIABLES, threads)
    return chosen


def execute_run(spec: dict[str, Any], leaves: Callable[[], bool] = lambda: False) -> str | None:
    """Executes one run in its own process; None when it is complete, else the reason of its
    failure.

    `spec` (JSON values only, so that it travels to another machine): notebook, folder, parameters,
    lineage, environment; `devices`, the only ones that the run sees (None: those that this process
    sees); `time_limit` in seconds, or None; and `stop`, a file that asks, once it exists, to end
    the run at once. `leaves` asks the same by returning True, of a run that continues elsewhere.
    """
    folder = Path(spec["folder"])
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / "spec.json", spec)
    environment = run_environment(spec)
    place = {"host": socket.gethostname(), "devices": visible_ids(environment) or []}
    write_status(folder, "running", started=time.time(), **place)
    driver = _start_driver(
        folder / "spec.json", folder / "papermill.log", environment, spec["environment"]
    )
    stop, limit, started = Path(spec["stop"]), spec.get("time_limit"), time.monotonic()

    def why_end() -> str | None:
        if stop.exists() or leaves():
            return INTERRUPTED
        if limit is not None and time.monotonic() - started > limit:
            return f"ran longer than {clock(limit)}; the same command continues it"
        return None

    ended_for = _wait(driver, why_end)
    if driver.poll() != 0:
        _wait_for_kernel(folder)
    if is_complete(folder):
        return None
    reason = ended_for or _reason(folder, driver.poll())
    if not leaves():  # else another machine works in the folder by now
        note_failure(folder, reason)
    return reason


def run_environment(spec: dict[str, Any]) -> dict[str, str]:
    """The environment of a run's process: this one's without the variables of a batch system, with
    the run's threads and its devices alone."""
    paths = [str(REPO_ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    own = spec["environment"] | device_environment(spec.get("devices"))
    return {**without_batch_system(os.environ), **own, "PYTHONPATH": os.pathsep.join(paths)}


class _Driver:
    """A run's process, fresh or forked."""

    def __init__(self, process: subprocess.Popen | BaseProcess) -> None:
        self.process = process

    def poll(self) -> int | None:
        """The exit code, negative for a signal; None while it runs."""
        return (
            self.process.poll()
            if isinstance(self.process, subprocess.Popen)
            else self.process.exitcode
        )

    def wait(self, seconds: float) -> int | None:
        """The exit code, or None when it still runs after that time."""
        if isinstance(self.process, subprocess.Popen):
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.wait(seconds)
        else:
            self.process.join(seconds)
        return self.poll()


def _start_driver(
    spec: Path, log: Path, environment: dict[str, str], settings: dict[str, str]
) -> _Driver:
    """Forks the driver where a server holds the same settings, else starts a fresh process."""
    from lib.studies.fork_server import can_fork, start_driver

    if can_fork(settings):
        return _Driver(start_driver(spec, log, environment))
    command = [sys.executable, "-m", "lib.studies.execute", str(spec), str(os.getpid())]
    with log.open("ab") as file:
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=file, stderr=file, env=environment, cwd=REPO_ROOT,
            start_new_session=True,
        )  # fmt: skip
    return _Driver(process)


def _wait(driver: _Driver, why_end: Callable[[], str | None]) -> str | None:
    """Waits for the end of `driver`, and ends it once `why_end` gives a reason, which is
    returned."""
    while driver.wait(0.2) is None:
        if reason := why_end():
            break
    else:
        return None
    driver.process.terminate()
    if driver.wait(GRACE_SECONDS) is None:
        os.killpg(driver.process.pid, signal.SIGKILL)
        driver.wait(GRACE_SECONDS)
    return reason


def _wait_for_kernel(folder: Path) -> None:
    """Waits until the kernel of a driver that was killed has let go of the folder, and so of its
    devices; at most KERNEL_SECONDS."""
    with contextlib.suppress(RunError):
        acquire_lock(folder_lock(folder), str(folder), KERNEL_SECONDS).release()


def _reason(folder: Path, code: int) -> str:
    status = read_status(folder)
    if code > 0 and status["state"] == "failed":
        return status["reason"]
    if code < 0:
        return f"its process was killed by {_signal_name(-code)}; {_hint(-code)}see {folder / 'papermill.log'}"
    if code > 0:
        return f"its process ended with exit code {code}; see {folder / 'papermill.log'}"
    return "finished without a record: the notebook never called finish_run"


def _signal_name(number: int) -> str:
    return f"signal {number} ({signal.Signals(number).name})"


def _hint(number: int) -> str:
    if number != signal.SIGKILL:
        return ""
    return "often that is out of memory: use fewer --jobs, a smaller batch_size or image_size; "


# --- in the run's own process ---


def main(spec_path: str, parent: str, kernel: Any = None) -> int:
    """Executes the notebook of a spec; the exit code is 1 when it failed, with the reason in
    `status.json`."""
    spec = read_json(Path(spec_path))
    folder = Path(spec["folder"])
    _die_with(int(parent))
    sys.modules.setdefault(
        "rfc3987_syntax", None
    )  # an optional check of jsonschema: a second to import, unused here
    running = folder / "notebook.running.ipynb"
    try:
        run_notebook(Path(spec["notebook"]), running, spec["parameters"], kernel)
    except Exception as error:
        traceback.print_exc()
        reason = (
            str(error) if isinstance(error, NotebookError) else f"{type(error).__name__}: {error}"
        )
        reason += f"\nsee {folder / 'notebook.ipynb'}"
        if not is_complete(folder):
            note_failure(folder, reason)
        return 1
    finally:
        if running.exists():
            running.replace(folder / "notebook.ipynb")
    return 0


def _die_with(parent: int) -> None:
    """Sends this process SIGTERM when `parent`, or the runner that had it forked, ends: at once on
    Linux."""
    if sys.platform == "linux":
        die_with_parent(signal.SIGTERM)
    runner = multiprocessing.parent_process()

    def watch() -> None:
        if runner is not None:
            runner.join()
        else:
            while os.getppid() == parent:
                time.sleep(1)
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=watch, daemon=True).start()


def run_notebook(
    notebook: Path, output: Path, parameters: dict[str, Any], kernel: Any = None
) -> None:
    """Executes `notebook` with `parameters` into `output`, with this interpreter's kernel over IPC
    sockets.

    `kernel` is a `fork_server.ForkedKernel` that is to be used instead of a fresh process.

    Runs in the main thread: while it runs, SIGTERM ends kernel and process. Raises NotebookError
    when a cell raises ("cell 3: ValueError: ..."), and when the kernel dies, with the signal that
    killed it.
    """
    import papermill
    from nbclient.exceptions import DeadKernelError
    from nbclient.util import run_sync
    from papermill.exceptions import PapermillExecutionError

    # Socket paths may have 100 characters at most: hence the short folder.
    place = Path("/tmp") if Path("/tmp").is_dir() else Path(tempfile.gettempdir())
    remove_stale(place)
    scratch = Path(tempfile.mkdtemp(prefix=f"cxr-{os.getpid()}-", dir=place))
    environment = dict(os.environ)
    manager = _kernel_manager(scratch, kernel)
    before = signal.signal(signal.SIGTERM, lambda number, _: _end(manager, scratch, number))
    graceful = False
    try:
        papermill.execute_notebook(
            notebook,
            output,
            parameters,
            kernel_name="python3",
            language="python",
            cwd=REPO_ROOT,
            progress_bar=False,
            start_timeout=300,
            iopub_timeout=60,  # a run can fail on a busy machine with the default, 4 s
            km=manager,
        )
        graceful = True
    except PapermillExecutionError as error:
        lines = error.evalue.strip().splitlines()
        left_out = (
            [f"... and {len(lines) - ERROR_LINES} more lines"] if len(lines) > ERROR_LINES else []
        )
        text = "\n".join([*lines[:ERROR_LINES], *left_out])
        raise NotebookError(f"cell {error.exec_count}: {error.ename}: {text}") from error
    except (DeadKernelError, RuntimeError) as error:
        code = manager.provisioner.process.poll() if manager.has_kernel else None
        raise NotebookError(_death(code, error)) from error
    finally:
        if manager.has_kernel:
            run_sync(manager.shutdown_kernel)(now=not graceful)
        signal.signal(signal.SIGTERM, before)
        os.environ.clear()
        os.environ.update(environment)
        shutil.rmtree(scratch, ignore_errors=True)


def remove_stale(place: Path) -> None:
    """Removes this user's scratch folders whose process was killed: their names hold its number."""
    for folder in place.glob("cxr-*-*"):
        number = folder.name.split("-")[1]
        with contextlib.suppress(FileNotFoundError):  # another run removes it at the same time
            if (
                number.isdecimal()
                and folder.stat().st_uid == os.getuid()
                and not _is_alive(int(number))
            ):
                shutil.rmtree(folder, ignore_errors=True)


def _is_alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass  # it is another user's, and alive
    return True


def _kernel_manager(scratch: Path, kernel: Any) -> Any:
    from jupyter_client.kernelspec import KernelSpecManager
    from jupyter_client.manager import AsyncKernelManager

    native = KernelSpecManager(
        kernel_dirs=[]
    )  # ignores installed kernels: ipykernel's own runs sys.executable
    os.environ["IPYTHONDIR"] = str(
        scratch
    )  # without the user's profile, history and start-up files
    os.environ.pop(
        "MPLBACKEND", None
    )  # figures belong in the notebook, whatever backend the caller has
    manager = AsyncKernelManager(
        kernel_name="python3",
        kernel_spec_manager=native,
        transport="ipc",
        connection_file=str(scratch / "kernel.json"),
    )
    if kernel is not None:
        from lib.studies.fork_server import forked_provisioner

        manager.provisioner = forked_provisioner(manager, kernel)
    return manager


def _end(manager: Any, scratch: Path, number: int) -> None:
    """Kills the kernel's process group, then exits at once without cleanup handlers."""
    if manager.has_kernel:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(manager.provisioner.pid, signal.SIGKILL)
    shutil.rmtree(scratch, ignore_errors=True)
    os._exit(128 + number)


def _death(code: int | None, error: Exception) -> str:
    if code is None:
        return f"{type(error).__name__}: {error}"
    if code < 0:
        return f"kernel killed by {_signal_name(-code)}; {_hint(-code)}the run continues when it is started again"
    return f"kernel ended by itself with exit code {code}"


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
