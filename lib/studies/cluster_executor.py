"""In: runs. Out: their results, from the workers of a Dask cluster; what is lost is submitted again."""

import asyncio
from collections.abc import Callable
from concurrent.futures import CancelledError, Executor, Future
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from uuid import uuid4

from distributed import Client, KilledWorker

from lib.exceptions import ClusterError
from lib.runs.run import read_status
from lib.studies.cluster_worker import code_state, on_worker
from lib.studies.execute import INTERRUPTED

LOST_LIMIT = 10
"""So many workers may be lost during a run, without an epoch in between, before it fails."""
REFUSED_SECONDS = 2.0
MOVES = "its worker ends; the run continues on another one"


@dataclass
class _Work:
    """A run on the cluster, until its future is done."""

    execute: Callable[..., str | None]
    spec: dict[str, Any]
    future: Future = field(default_factory=Future)
    task: Any = None
    worker: str = ""
    lost: int = 0
    epoch: int = 0

    @property
    def folder(self) -> Path:
        return Path(self.spec["folder"])

    def end(self, reason: str | None = None, error: Exception | None = None) -> None:
        """Sets the future's result, once."""
        if self.future.done():
            return
        if error is not None:
            self.future.set_exception(error)
        else:
            self.future.set_result(reason)


class DaskExecutor(Executor):
    """Submits runs to a Dask cluster, one per thread of a worker; the scheduler queues the rest.

    A run whose worker is lost starts again on another one and continues from its last epoch. All
    that happens after `submit` happens in the thread of the client's event loop.
    """

    def __init__(self, client: Client, where: str, say: Callable[[str], None]) -> None:
        self.client, self.where, self.say = client, where, say
        self.loop: Any = client.loop
        self.code, self.topic = code_state(), f"cxr-{client.id}"
        self.works: list[_Work] = []
        self.refused: dict[str, str] = {}
        self.closing = False
        self.lost: ClusterError | None = None
        client.subscribe_topic(self.topic, self._heard_from_run)
        client.subscribe_topic("all", self._heard_from_scheduler)

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future:
        """Has a worker call `fn`, which is `execute_run`, with a spec; its result is the reason of a
        failure, or None."""
        work = _Work(fn, *args, **kwargs)
        self.loop.add_callback(self._run, work)
        return work.future

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """With `cancel_futures`, runs that no worker has started end as interrupted, and lost ones
        are not started again; the runs under way are ended by the file `stop` of their spec."""
        self.closing = True
        if cancel_futures:
            self.loop.add_callback(self._cancel_queued)

    # --- in the client's event loop

    async def _run(self, work: _Work) -> None:
        """Submits a run until it ended here or there."""
        self.works.append(work)
        while not work.future.done():
            if self.lost:
                work.end(error=self.lost)
            elif self.closing:
                work.end(INTERRUPTED)
            else:
                await self._submit(work)
        self.works.remove(work)

    async def _submit(self, work: _Work) -> None:
        arguments = (work.execute, work.spec, self.code, self.topic)
        key = f"{work.folder.name}-{uuid4().hex}"
        try:
            if (allowed := await self._allowed_workers()) == []:
                await asyncio.sleep(REFUSED_SECONDS)
                return
            work.task = self.client.submit(
                on_worker, *arguments, key=key, pure=False, workers=allowed
            )
            outcome = await work.task
        except KilledWorker:
            if work.worker:  # the loss of the last worker was not heard of yet
                await self._count_loss(work)
        except CancelledError as error:
            if not self.closing and not work.future.done():
                self._lose(error)
        except Exception as error:
            work.end(error=error)
        else:
            self._take(work, outcome)
        finally:
            work.task, work.worker = None, ""

    def _take(self, work: _Work, outcome: dict[str, Any]) -> None:
        """What a worker returned; the run is submitted again unless it ended."""
        if "reason" in outcome:
            work.end(outcome["reason"])
        elif "moved" in outcome:
            self.say(f"{work.folder.name}: {MOVES}")
        elif "refused" in outcome and outcome["worker"] not in self.refused:
            self.refused[outcome["worker"]] = outcome["refused"]
            self.say(
                f"{outcome['host']}: this worker would give other numbers and gets no run: {outcome['refused']}"
            )

    async def _allowed_workers(self) -> list[str] | None:
        """The workers without those that were refused; None stands for all."""
        if not self.refused:
            return None
        known = await self.client.scheduler.identity(n_workers=-1)
        return [address for address in known["workers"] if address not in self.refused]

    def _lose(self, error: BaseException) -> None:
        reason = getattr(error, "reason", error)
        self.lost = ClusterError(
            f"the Dask scheduler {self.where} was lost ({reason}); the runs on its workers end. Nothing else is lost: "
            "start a scheduler and workers, and the same command continues"
        )
        for work in self.works:
            work.end(error=self.lost)

    def _heard_from_run(self, event: tuple[float, dict[str, Any]]) -> None:
        message = event[1]
        for work in self.works:
            if work.folder.name == message["run"]:
                work.worker = message["worker"]
                waits = message["action"] == "waits"
                text = (
                    f"waits on {message['host']}: {message['reason']}"
                    if waits
                    else f"on {message['host']}"
                )
                self.say(f"{message['run']}: {text}")

    async def _heard_from_scheduler(self, event: tuple[float, Any]) -> None:
        message = event[1]
        if not isinstance(message, dict) or message.get("action") != "remove-worker":
            return
        for work in [one for one in self.works if one.worker == message["worker"]]:
            work.worker = ""
            if self.closing:
                await self._cancel(work, INTERRUPTED)
            elif message["expected"]:
                self.say(f"{work.folder.name}: {MOVES}")
            else:
                await self._count_loss(work)

    async def _count_loss(self, work: _Work) -> None:
        """Counts the workers that were lost since the last epoch; too many end the run as failed."""
        epoch = read_status(work.folder).get("epoch", 0)
        work.lost = 1 if epoch > work.epoch else work.lost + 1
        work.epoch = epoch
        if work.lost < LOST_LIMIT:
            self.say(
                f"{work.folder.name}: its worker was lost ({work.lost} of {LOST_LIMIT} times without a new epoch); "
                "the run continues on another one"
            )
        else:
            reason = (
                f"{work.lost} workers were lost while they executed it, without a new epoch; often that is out of "
                f"memory, or a walltime that is too short: see the workers' logs and {work.folder / 'papermill.log'}"
            )
            await self._cancel(work, reason)

    async def _cancel(self, work: _Work, reason: str) -> None:
        work.end(reason)
        if work.task is not None:
            await self.client.cancel([work.task])

    async def _cancel_queued(self) -> None:
        for work in [one for one in self.works if not one.worker]:
            await self._cancel(work, INTERRUPTED)
