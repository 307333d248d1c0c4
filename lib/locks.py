"""In: a path on a disk that several machines may share. Out: a lock that one process holds at a time,
and that ends with it."""

import errno
import os
import sys
from collections.abc import Callable
from pathlib import Path

from filelock import BaseFileLock, FileLock, LeaseCompromise, SoftFileLease, Timeout

from lib.exceptions import RunError

LEASE_SECONDS = 60.0
"""A lease that was not renewed for so long is taken over; it is renewed every third of this."""
LOST_LEASE = 75
"""Exit code of a process that lost its lease."""
WITHOUT_FLOCK = (errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOTSUP)
POLL_SECONDS = 0.2


def lock_kind() -> str:
    """How files are locked: "flock", or "lease" where the environment variable CXR_LOCKS says so.

    Raises RunError for another value.
    """
    kind = os.environ.get("CXR_LOCKS", "flock")
    if kind not in ("flock", "lease"):
        raise RunError(
            f"the environment variable CXR_LOCKS is {kind!r}; use flock (the default) or lease"
        )
    return kind


def take_lock(
    path: Path, wait_seconds: float = 0.0, ended: Callable[[], bool] | None = None
) -> BaseFileLock:
    """Locks the file `path`; raises filelock's Timeout when it is not free within `wait_seconds`.

    The lock is flock's, which the system ends with the process. Where the disk has no flock, and
    with CXR_LOCKS=lease, it is a lease: the file `path` with the suffix .lease, which its holder
    renews. A lease that another machine holds is taken over after LEASE_SECONDS without renewal, so
    that the wait is at least that long; a process that lost its lease ends at once. wait_seconds:
    negative waits for ever. ended: asked while waiting; True gives up.
    """
    if lock_kind() == "flock":
        lock = FileLock(path, fallback_to_soft=False, thread_local=False)
        try:
            lock.acquire(wait_seconds, POLL_SECONDS, cancel_check=ended)
            return lock
        except Timeout:
            raise
        except OSError as error:
            if error.errno not in WITHOUT_FLOCK:
                raise
    lease = SoftFileLease(
        path.with_suffix(".lease"),
        lease_duration=LEASE_SECONDS,
        on_compromise=_end_process,
        thread_local=False,
    )
    wait = wait_seconds if wait_seconds < 0 else max(wait_seconds, 1.1 * LEASE_SECONDS)
    lease.acquire(wait, POLL_SECONDS, cancel_check=ended)
    return lease


def _end_process(lost: LeaseCompromise) -> None:
    """Ends this process: another one may use by now what the lease protects."""
    text = (
        f"{lost.lock_file}: this process lost its lease ({lost.reason}), because it stood still or the disk was "
        "away; it ends, and the run continues where it is started again\n"
    )
    os.write(sys.__stderr__.fileno() if sys.__stderr__ else 2, text.encode())
    os._exit(LOST_LEASE)
