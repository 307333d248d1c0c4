"""A run's folder: claimed by one, complete only at the end, set aside instead of overwritten, never
of other data."""

import json
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pandas as pd
import pytest
from made_records import PARTS

from lib.config import REPO_ROOT, Config
from lib.datasets.prepare import describe_data, prepare_data
from lib.exceptions import RunError
from lib.files import atomic_write, read_json, read_table, write_figure, write_json
from lib.runs.run import finish_run, is_complete, read_status, start_run

HISTORY = pd.DataFrame({"epoch": [1, 2], "val_auroc": [0.7, 0.6], "seconds": [1.5, 2.5]})
METRICS = pd.DataFrame({"finding": ["Mass", "macro"], "auroc": [0.8, np.nan]})


def config(folder, **changes) -> Config:
    return Config(run_dir=str(folder), **changes)


def test_a_run_is_complete_when_its_record_exists_and_not_before(tmp_path):
    run = start_run(config(tmp_path / "run"))
    assert not is_complete(run.folder) and read_status(run.folder)["state"] == "running"
    finish_run(run, history=HISTORY, metrics=METRICS, **PARTS)
    record = read_json(run.folder / "record.json")
    assert is_complete(run.folder) and read_status(run.folder)["state"] == "done"
    assert (
        record["best_epoch"] == 1
        and record["train_seconds"] == 4
        and record["parameters"] == PARTS["parameters"]
    )
    assert record["metrics"][1]["auroc"] is None  # NaN is missing, never a number
    assert record["config_hash"] == run.config.hash() and record["versions"]["torch"]


def test_the_status_says_how_many_epochs_there_are(tmp_path):
    run = start_run(config(tmp_path / "run", epochs=7))
    assert read_status(run.folder)["epochs"] == 7


def test_a_complete_run_is_set_aside_and_not_overwritten(tmp_path):
    finish_run(start_run(config(tmp_path / "run")), history=HISTORY, metrics=METRICS, **PARTS)
    start_run(config(tmp_path / "run"))
    kept = list(tmp_path.glob("run.replaced-*"))
    assert len(kept) == 1 and is_complete(kept[0]) and not is_complete(tmp_path / "run")


def test_a_broken_run_is_continued_and_one_of_another_config_set_aside(tmp_path):
    run = start_run(config(tmp_path / "run"))
    (run.folder / "last.ckpt").touch()
    assert (start_run(config(tmp_path / "run")).folder / "last.ckpt").exists()
    start_run(config(tmp_path / "run", lr=0.1))
    assert (
        not (tmp_path / "run" / "last.ckpt").exists()
        and len(list(tmp_path.glob("run.replaced-*"))) == 1
    )


def test_a_notebook_run_again_in_the_same_kernel_takes_its_folder_over(tmp_path):
    first = start_run(config(tmp_path / "run"))
    second = start_run(config(tmp_path / "run"), wait_seconds=0)
    assert not first.heart.is_alive() and second.heart.is_alive()


def test_what_a_kill_left_half_written_is_cleared(tmp_path):
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / ".last.1-2.partial.ckpt").write_bytes(b"half")
    start_run(config(folder))
    assert list(folder.glob(".*partial*")) == []


def test_a_file_is_whole_or_not_there(tmp_path):
    with pytest.raises(ZeroDivisionError), atomic_write(tmp_path / "a.txt") as partial:
        partial.write_text("half")
        raise ZeroDivisionError
    assert list(tmp_path.iterdir()) == []


def test_two_threads_may_write_one_file(tmp_path):
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda n: [write_json(tmp_path / "a.json", n) for _ in range(50)], range(4)))
    assert (
        json.loads((tmp_path / "a.json").read_text()) in range(4)
        and len(list(tmp_path.iterdir())) == 1
    )


def test_a_checkpoint_of_other_data_is_not_continued(tmp_path, tiny_phantoms):
    folder = tmp_path / "run"
    wanted = Config(data_root=str(tiny_phantoms), image_size=16, val_fraction=0.3)
    prepare_data(wanted, folder)
    (folder / "last.ckpt").touch()
    prepare_data(wanted, folder)
    assert (folder / "last.ckpt").exists()
    prepare_data(
        wanted.model_copy(update={"data_dir": ("dataset_full", "dataset_cardiomegaly")}), folder
    )
    assert (
        not (folder / "last.ckpt").exists()
        and len(list(folder.glob("last.ckpt.of_other_data-*"))) == 1
    )


def test_where_the_data_are_changes_no_hash(tmp_path):
    assert (
        Config(data_root="/mnt/a").hash()
        == Config(data_root="/mnt/b").hash()
        != Config(lr=0.1).hash()
    )


def test_a_value_that_is_the_default_changes_no_hash():
    assert Config(epochs=Config().epochs).hash() == Config().hash()


def test_a_failed_heartbeat_is_followed_by_the_next(tmp_path, monkeypatch):
    beats = []

    def full_at_first(run):
        beats.append(run)
        if len(beats) == 2:
            raise OSError(28, "No space left on device")

    monkeypatch.setattr("lib.runs.run.HEARTBEAT_SECONDS", 0.01)
    monkeypatch.setattr("lib.runs.run._beat", full_at_first)
    run = start_run(config(tmp_path / "run"))
    while len(beats) < 4:
        assert run.heart.is_alive()
    run.release()


def test_one_folder_is_held_by_one_process_also_while_it_is_set_aside(tmp_path):
    """Two processes start the same complete run at once: one gets it, the other is told who has
    it."""
    finish_run(start_run(config(tmp_path / "run")), history=HISTORY, metrics=METRICS, **PARTS)
    code = (
        "import sys, time\nfrom lib.config import Config\nfrom lib.runs.run import start_run\n"
        f"run = start_run(Config(run_dir={str(tmp_path / 'run')!r}), wait_seconds=0)\n"
        "print('held', flush=True); sys.stdin.read()"
    )
    command = [sys.executable, "-c", code]
    options = {
        "stdin": subprocess.PIPE,
        "stdout": subprocess.PIPE,
        "stderr": subprocess.PIPE,
        "text": True,
    }
    both = [subprocess.Popen(command, cwd=REPO_ROOT, **options) for _ in range(2)]
    while not any(process.poll() is not None for process in both):
        time.sleep(0.01)
    lost = next(process for process in both if process.poll() is not None)
    held = next(process for process in both if process is not lost)
    assert (
        held.stdout.readline() == "held\n"
        and f"is in use by process {held.pid}" in lost.communicate()[1]
    )
    held.communicate("")


def test_a_missing_and_a_truncated_table_are_named(tmp_path):
    with pytest.raises(RunError, match=r"predictions.parquet is missing; run the study again"):
        read_table(tmp_path / "predictions.parquet")
    HISTORY.to_parquet(tmp_path / "predictions.parquet")
    whole = (tmp_path / "predictions.parquet").read_bytes()
    (tmp_path / "predictions.parquet").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(RunError, match=r"predictions.parquet is damaged .*run the study again"):
        read_table(tmp_path / "predictions.parquet")


def test_the_library_can_be_imported_where_there_is_no_fcntl():
    blocked = "import sys; sys.modules['fcntl'] = sys.modules['resource'] = None; "
    blocked += "import lib.studies.runner, lib.datasets.cache, lib.cli"
    assert subprocess.run([sys.executable, "-c", blocked], cwd=REPO_ROOT).returncode == 0


def test_a_record_that_could_not_be_read_again_is_refused_and_the_run_is_not_complete(tmp_path):
    run = start_run(config(tmp_path / "run"))
    with pytest.raises(
        RunError,
        match=r"record.json is damaged or of another version \(metrics: .*macro.*data: Field required",
    ):
        finish_run(
            run,
            history=HISTORY,
            metrics=METRICS.head(1),
            parameters={"all": 3},
            device={"kind": "cpu"},
        )
    assert not is_complete(run.folder)


@pytest.mark.parametrize("kind", ["svg", "png"])
def test_a_figure_written_twice_is_the_same_file(tmp_path, kind):
    from matplotlib.figure import Figure

    for name in ("a", "b"):
        figure = Figure()
        figure.subplots().plot([0, 1], label="line")
        figure.legend()
        write_figure(tmp_path / f"{name}.{kind}", figure)
    assert (tmp_path / f"a.{kind}").read_bytes() == (tmp_path / f"b.{kind}").read_bytes()


def test_the_fingerprints_of_a_run_are_computed_once(tmp_path, tiny_phantoms, monkeypatch):
    computed = []
    monkeypatch.setattr(
        "lib.datasets.prepare._fingerprint", lambda frame: computed.append(len(frame)) or "f00"
    )
    films = prepare_data(Config(data_root=str(tiny_phantoms), image_size=16), tmp_path)
    describe_data(films)
    assert computed == [len(films.frame), (films.frame["split"] == "test").sum()]
