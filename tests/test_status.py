"""The table of a study: how far each run is, how good, where it runs; once, and live."""

import io
import threading
import time

import pytest
from made_records import full_record
from rich.console import Console

from lib.config import Config
from lib.files import read_json, write_json
from lib.runs.run import Progress, start_run, write_status
from lib.studies.progress import plain_text
from lib.studies.status import (
    is_running,
    state_text,
    status_table,
    watch_study,
    write_runner,
)

ROW = {"epoch": 1, "val_auroc": 0.6, "val_loss": 0.5, "seconds": 90.0}


@pytest.fixture
def folder(tmp_path):
    """The folder of a study of four runs, none of which was started."""
    config = Config().model_dump(mode="json")
    entry = {"what": "lr=1", "config": config, "config_hash": Config().hash(), "lineage": ""}
    runs = {name: entry for name in ("new", "goes", "ends", "fails")}
    write_json(tmp_path / "plan.json", {"study": "demo", "runs": runs})
    return tmp_path


def cells(folder, run: str) -> dict[str, str]:
    table = status_table(folder)
    columns = {str(column.header): list(column.cells) for column in table.columns}
    where = columns["run"].index(run)
    return {name: column[where] for name, column in columns.items()}


def going(folder, **fields) -> None:
    place = {"host": "node7", "devices": ["3"]}
    write_status(folder / "goes", "running", **place, epochs=5, **fields)


def complete(folder) -> None:
    made = {"config": Config().model_dump(mode="json"), "config_hash": Config().hash()}
    device = {"kind": "cuda", "name": "H100", "ids": ["0", "1"], "host": "node8"}
    write_json(folder / "ends" / "spec.json", {"lineage": ""})
    write_json(folder / "ends" / "config.json", made["config"])
    write_json(folder / "ends" / "record.json", full_record(run="ends", device=device, **made))
    write_status(folder / "ends", "done", epochs=5, epoch=5)


# --- the table


def test_a_run_under_way_shows_epoch_score_device_machine_and_time_left(folder):
    best = {"epoch": 1, "score": "auroc", "value": 0.7312}
    going(folder, epoch=2, seconds=60.0, best=best)
    found = cells(folder, "goes")
    assert (found["state"], found["epoch"], found["best"]) == ("running", "2 of 5", "auroc 0.731")
    assert (found["device"], found["machine"], found["left"]) == ("cuda 3", "node7", "about 3 min")


def test_before_the_first_epoch_nothing_is_guessed(folder):
    going(folder)
    found = cells(folder, "goes")
    assert (found["epoch"], found["best"], found["left"]) == ("0 of 5", "", "")


def test_a_complete_run_shows_where_its_record_says_it_ran(folder):
    complete(folder)
    found = cells(folder, "ends")
    assert (found["device"], found["machine"]) == ("cuda 0, 1", "node8") and found["left"] == ""


def test_a_run_without_an_assigned_device_shows_the_accelerator_that_it_asked_for(folder):
    write_status(folder / "goes", "running", host="here", devices=[])
    assert cells(folder, "goes")["device"] == "auto"


def test_the_title_counts_the_states_and_tells_the_time_left(folder):
    complete(folder)
    going(folder)
    write_status(folder / "fails", "failed", reason="kernel killed")
    write_runner(folder, "running", left=7200)
    title = "demo: 1 of 4 done, 1 running, 1 failed, about 2 h 0 min left"
    assert status_table(folder).title == title


def test_a_live_table_begins_with_what_goes_on_and_has_one_line_a_run(folder):
    going(folder)
    write_status(folder / "fails", "failed", reason="cell 4: ValueError\nsee notebook")
    text = plain_text(status_table(folder, live=True)).splitlines()
    assert [line.split()[0] for line in text] == ["run", "goes", "fails", "new", "ends"]
    assert "see notebook" in plain_text(status_table(folder))


# --- what the heartbeat tells


def test_the_best_score_is_that_of_the_rule_that_chooses_the_epoch():
    by_auroc, by_loss, last = (Progress(5, rule) for rule in ("auroc", "loss", "last"))
    rows = [ROW, {**ROW, "epoch": 2, "val_auroc": 0.7, "val_loss": 0.6}]
    rows += [{**ROW, "epoch": 3, "val_auroc": 0.65, "val_loss": 0.7}]
    for row in rows:
        for progress in (by_auroc, by_loss, last):
            progress.update(row)
    assert by_auroc.best == {"epoch": 2, "score": "auroc", "value": 0.7}
    assert by_loss.best == {"epoch": 1, "score": "loss", "value": 0.5}
    assert last.best == {"epoch": 3, "score": "auroc", "value": 0.65}
    assert by_auroc.fields()["epoch"] == 3 and by_auroc.fields()["epochs"] == 5


def test_a_run_notes_machine_and_device_from_its_start(tmp_path, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "GPU-1")
    run = start_run(Config(run_dir=str(tmp_path / "run")))
    status = read_json(tmp_path / "run" / "status.json")
    run.release()
    assert status["devices"] == ["GPU-1"] and status["host"] and status["state"] == "running"


# --- live


def test_a_study_runs_while_its_runner_or_a_run_shows_life(folder):
    assert not is_running(folder)
    write_runner(folder, "running", left=0)
    assert is_running(folder)
    write_runner(folder, "ended", left=0)
    assert not is_running(folder)
    going(folder)
    assert is_running(folder)


def test_a_runner_that_was_killed_does_not_run(folder):
    write_json(folder / "runner.json", {"state": "running", "time": time.time() - 60, "left": 0})
    assert not is_running(folder)


def test_in_a_pipe_blocks_follow_each_other_until_nothing_runs(folder):
    going(folder, epoch=1)
    pipe = io.StringIO()

    def end() -> None:
        while "1 of 5" not in pipe.getvalue():
            threading.Event().wait(0.05)
        write_status(folder / "goes", "failed", reason="kernel killed")

    thread = threading.Thread(target=end)
    thread.start()
    watch_study(folder, Console(force_terminal=False, file=pipe), seconds=0.1)
    thread.join()
    blocks = pipe.getvalue().split("demo: ")[1:]
    assert len(blocks) >= 2 and "1 running" in blocks[0] and "failed: kernel killed" in blocks[-1]
    assert "\x1b" not in "".join(blocks)


def test_on_a_terminal_the_table_is_drawn_in_place(folder):
    complete(folder)
    screen = io.StringIO()
    watch_study(folder, Console(force_terminal=True, file=screen, width=150))
    assert "node8" in screen.getvalue() and "1 of 4 done" in screen.getvalue()


def test_a_state_is_told_in_words(tmp_path):
    write_status(tmp_path, "running", epoch=2, epochs=5)
    assert state_text(tmp_path) == "running"
