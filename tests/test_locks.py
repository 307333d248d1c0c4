"""Locks: one holder at a time, by flock and by lease; what a dead or frozen holder leaves."""

import errno
import os
import signal
import subprocess
import sys
import time

import filelock
import pytest
from filelock import Timeout

from lib import locks
from lib.config import REPO_ROOT
from lib.exceptions import RunError
from lib.files import acquire_lock
from lib.locks import LOST_LEASE, take_lock

HOLD = """
import sys, time
from pathlib import Path
from lib import locks
locks.LEASE_SECONDS = float(sys.argv[2])
lock = locks.take_lock(Path(sys.argv[1]))
print("held", flush=True)
time.sleep(600)
"""


@pytest.fixture(params=["flock", "lease"])
def kind(request, monkeypatch) -> str:
    monkeypatch.setenv("CXR_LOCKS", request.param)
    monkeypatch.setattr(locks, "LEASE_SECONDS", 3.0)
    return request.param


@pytest.fixture
def hold(popen, tmp_path):
    """Starts a process that holds the lock."""

    def start(lease_seconds: float = 3.0) -> subprocess.Popen:
        command = [sys.executable, "-c", HOLD, str(tmp_path / "x.lock"), str(lease_seconds)]
        process = popen(
            command, cwd=REPO_ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        assert process.stdout.readline() == "held\n"
        return process

    return start


def test_a_lock_has_one_holder_and_is_free_after_it(kind, hold, tmp_path):
    holder = hold()
    with pytest.raises(Timeout):
        take_lock(tmp_path / "x.lock")
    holder.kill()
    holder.wait()
    take_lock(tmp_path / "x.lock", wait_seconds=30).release()


def test_who_waits_can_be_told_to_stop(kind, hold, tmp_path):
    hold()
    asked = []
    with pytest.raises(Timeout):
        take_lock(tmp_path / "x.lock", -1, ended=lambda: len(asked) > 1 or bool(asked.append(1)))


def test_a_lease_of_another_machine_is_taken_over_when_it_is_not_renewed(
    hold, monkeypatch, tmp_path
):
    monkeypatch.setenv("CXR_LOCKS", "lease")
    monkeypatch.setattr(locks, "LEASE_SECONDS", 3.0)
    holder = hold()
    monkeypatch.setattr("filelock._identity.host_name", lambda: "elsewhere")  # no id to look at
    with pytest.raises(Timeout):
        take_lock(tmp_path / "x.lock")
    holder.kill()
    take_lock(tmp_path / "x.lock", wait_seconds=60).release()


def test_a_frozen_process_that_lost_its_lease_ends_when_it_wakes(hold, monkeypatch, tmp_path):
    monkeypatch.setenv("CXR_LOCKS", "lease")
    monkeypatch.setattr(locks, "LEASE_SECONDS", 3.0)
    holder = hold()
    holder.send_signal(signal.SIGSTOP)
    taken = take_lock(tmp_path / "x.lock", wait_seconds=60)
    holder.send_signal(signal.SIGCONT)
    assert holder.wait(60) == LOST_LEASE
    assert "this process lost its lease" in holder.stderr.read()
    taken.release()


def test_a_disk_without_flock_gets_a_lease(monkeypatch, tmp_path):
    def refuse(*_):
        raise OSError(errno.EOPNOTSUPP, os.strerror(errno.EOPNOTSUPP))

    monkeypatch.setattr("fcntl.flock", refuse)
    lock = take_lock(tmp_path / "x.lock")
    assert isinstance(lock, filelock.SoftFileLease) and (tmp_path / "x.lease").exists()
    lock.release()


def test_a_disk_that_cannot_lock_is_told_with_what_to_do(monkeypatch, tmp_path):
    def refuse(*_):
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr("fcntl.flock", refuse)
    with pytest.raises(RunError, match="CXR_LOCKS=lease on all machines"):
        acquire_lock(tmp_path / "x.lock", "x")


def test_an_unknown_kind_of_lock_is_refused(monkeypatch, tmp_path):
    monkeypatch.setenv("CXR_LOCKS", "leases")
    with pytest.raises(RunError, match="CXR_LOCKS is 'leases'; use flock"):
        take_lock(tmp_path / "x.lock")


def test_a_lock_that_is_in_use_names_its_process(kind, tmp_path):
    lock = acquire_lock(tmp_path / "x.lock", "the folder")
    began = time.monotonic()
    with pytest.raises(RunError, match=f"the folder is in use by process {os.getpid()} on "):
        acquire_lock(tmp_path / "x.lock", "the folder", 900, lambda: time.monotonic() > began)
    lock.release()
