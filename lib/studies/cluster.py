"""In: the address of a Dask scheduler, or a file that says how to start a cluster. Out: an executor
whose runs are executed on its workers.

Runner, workers and data share a disk. How runs are submitted is in `studies.cluster_executor`, what
a worker does in `studies.cluster_worker`, how a cluster is started in `studies.cluster_file`.
"""

import contextlib
from collections.abc import Callable, Iterator
from concurrent.futures import Executor
from pathlib import Path
from typing import Any

from lib.config import REPO_ROOT
from lib.exceptions import ClusterError

CONNECT_SECONDS = 30.0
START_ADVICE = f"start scheduler and workers with {REPO_ROOT}/.venv/bin/dask or its like"


@contextlib.contextmanager
def open_cluster(where: str, say: Callable[[str], None]) -> Iterator[Executor]:
    """An executor on a Dask cluster, for `run_plan`.

    where: the address of a scheduler (tcp://host:8786, tls://...), its scheduler file, or a .yaml
    file as in studies/clusters; a cluster of such a file is started here and ends here. say: gets
    what happens to workers. Raises ClusterError when there is no such cluster, or its workers have
    other code than this command.
    """
    from distributed import Client

    from lib.studies.cluster_executor import DaskExecutor
    from lib.studies.cluster_file import start_cluster

    with contextlib.ExitStack() as stack:
        if Path(where).suffix in (".yaml", ".yml"):
            target = stack.enter_context(start_cluster(Path(where), say))
            options: dict[str, Any] = {"address": target}
        elif "://" in where:
            options = {"address": where}
        elif Path(where).is_file():
            options = {"scheduler_file": where}
        else:
            raise ClusterError(
                f"--dask {where}: neither an address (tcp://HOST:PORT) nor a file, of a scheduler or .yaml"
            )
        try:
            client = Client(**options, timeout=CONNECT_SECONDS, set_as_default=False)
        except (OSError, ValueError) as error:
            raise ClusterError(f"--dask {where}: no scheduler answers there ({error})") from error
        stack.callback(client.close, timeout=10)
        _check_workers(client, where, say)
        yield DaskExecutor(client, where, say)


def _check_workers(client: Any, where: str, say: Callable[[str], None]) -> None:
    """Prepares the workers for runs; raises ClusterError when one has other code than this
    command."""
    from lib.studies.cluster_worker import RunSlots, code_difference, code_state

    try:
        client.run_on_scheduler(code_state)
        client.register_plugin(RunSlots())
        states = client.run(code_state)
    except ImportError as error:
        raise ClusterError(
            f"--dask {where}: scheduler or workers cannot import this project ({error}); {START_ADVICE}"
        ) from error
    except OSError as error:
        raise ClusterError(f"--dask {where}: the scheduler was lost ({error})") from error
    here = code_state()
    found = {address: code_difference(here, there) for address, there in states.items()}
    if wrong := [f"  {address}: {text}" for address, text in found.items() if text]:
        head = f"--dask {where}: {len(wrong)} of {len(states)} workers would give other numbers:"
        raise ClusterError("\n".join([head, *wrong, START_ADVICE]))
    if not states:
        say(f"{where}: no worker yet; runs start when one comes")
