"""`cxr clean`: what can go is listed with its size, and nothing else is ever deleted."""

import pytest
from filelock import FileLock
from typer.testing import CliRunner

from lib.cli import app
from lib.studies import find_removable, remove


@pytest.fixture
def places(tmp_path, monkeypatch):
    """A study with a complete run, one that was set aside, two old checkpoints, and two image
    caches."""
    study, store = tmp_path / "runs" / "tiny", tmp_path / "store"
    for name in ("a-s0", "a-s0.replaced-20260101T000000"):
        (study / name).mkdir(parents=True)
        (study / name / "record.json").write_text("{}" * 100)
    (study / "plan.json").write_text("{}")
    for name in ("last.ckpt", "last.ckpt.damaged-1", "last.ckpt.of_other_data-1"):
        (study / "a-s0" / name).write_text(name)
    store.mkdir()
    for name in (
        "64px-1.npy",
        "64px-1.index.npz",
        "64px-1.copies1.npz",
        "64px-2.partial",
        "64px-2.done.npz",
    ):
        (store / name).write_text(name)
    monkeypatch.setenv("CXR_STORE", str(store))
    return study, store


def test_what_can_go_is_listed_with_its_size(places):
    study, _ = places
    found = find_removable(None, study.parent)
    assert [one.what for one in found] == [
        *(
            "run that was set aside",
            "checkpoint that was set aside",
            "checkpoint that was set aside",
        ),
        *("image cache", "unfinished image cache"),
    ]
    assert found[0].size == 200 and found[0].days < 1


def test_complete_runs_and_their_checkpoints_stay(places):
    study, store = places
    assert all(map(remove, find_removable(None, study.parent)))
    assert {path.name for path in study.rglob("*")} == {
        "plan.json",
        "a-s0",
        "record.json",
        "last.ckpt",
    }
    assert {path.suffix for path in store.glob("*px-*")} <= {".lock"}


def test_a_cache_that_is_being_built_stays(places):
    study, store = places
    unfinished = find_removable(None, study.parent)[-1]
    with FileLock(store / "64px-2.lock"):
        assert not remove(unfinished)
    assert (store / "64px-2.partial").exists()


def test_without_a_terminal_nothing_is_deleted_without_yes(places):
    study, _ = places
    result = CliRunner().invoke(app, ["clean", str(study)])
    assert (
        result.exit_code == 0 and "0 caches" in result.output and "a-s0.replaced-" in result.output
    )
    CliRunner().invoke(app, ["clean", str(study), "--yes"])
    assert len(find_removable(study)) == 3  # runs that were set aside may be wanted back
    assert (
        "deleted 3; 0 are in use"
        in CliRunner().invoke(app, ["clean", str(study), "--set-aside", "--yes"]).output
    )
    assert find_removable(study) == []
