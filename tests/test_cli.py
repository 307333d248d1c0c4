"""`cxr`: every command's answer and exit code."""

import functools
import itertools
import subprocess
import sys
from pathlib import Path

import nbformat
import numpy as np
import pandas as pd
import pytest
import yaml
from made_datasets import write_smallest_dataset
from made_records import PARTS, full_record
from PIL import Image
from tiny_model import write_tiny_model
from typer.testing import CliRunner

from lib.cli import app
from lib.config import REPO_ROOT
from lib.files import read_json, write_json
from lib.studies.plan import plan_study

FIGURE = "import matplotlib\nmatplotlib.use('Agg')\nimport matplotlib.pyplot as plt\nfigure, _ = plt.subplots()\n"
TABLE = """run,prerequisite,is_reference,auroc,auroc_low,auroc_high,average_precision,f1,accuracy,\
accuracy_all_negative,n_auroc,train_seconds,commit,torch,device
first-s0,True,False,0.9,0.8,0.95,0.7,0.6,0.9,0.5,1,3.2,abc,2.15,cpu
good-s0,False,True,0.123456,0.1,0.2,0.05,0.01,0.9,0.94,14,12.3,abc,2.15,cpu
"""
ABLATIONS = [
    "study = ''\nout = ''",
    "import pathlib\nout = pathlib.Path(out)\n(out / 'table.csv').write_text(" + repr(TABLE) + ")",
    FIGURE
    + "figure.savefig(out / 'ablation.png')\nfigure.savefig(out / 'ablation.svg')\nprint('SEEN')",
    "figure.savefig(out / 'ablation_column.svg')",
    "from IPython.display import Image\nImage(filename=str(out / 'ablation.png'))",
]


def cxr(*words: object) -> tuple[int, str]:
    result = CliRunner().invoke(app, [str(word) for word in words], env={"COLUMNS": "1000"})
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result.exit_code, result.output


@pytest.fixture
def file(tmp_path, monkeypatch):
    """A study of two runs; nothing is executed: a run is complete as soon as it is started, but one
    with ema fails."""

    def complete(spec: dict) -> str | None:
        folder = tmp_path / "runs" / "tiny" / spec["folder"].rsplit("/", 1)[-1]
        write_json(folder / "spec.json", spec)
        if spec["parameters"]["ema"]:
            return "kernel killed"
        planned = read_json(folder.parent / "plan.json")["runs"][folder.name]
        made = {
            "run": folder.name,
            "config": planned["config"],
            "config_hash": planned["config_hash"],
        }
        return write_json(folder / "record.json", full_record(**made))

    monkeypatch.setattr(
        "lib.studies.plan_study", functools.partial(plan_study, runs_dir=tmp_path / "runs")
    )
    monkeypatch.setattr("lib.studies.scheduler.execute_run", complete)
    monkeypatch.setattr("lib.studies.runner.check_runs", lambda file, runs: None)
    (tmp_path / "n.ipynb").touch()
    write_smallest_dataset(tmp_path / "dataset_full")
    rows = {
        "good": {"notebook": str(tmp_path / "n.ipynb"), "reference": True},
        "other": {"changes": "good", "set": {"backbone": "resnet50"}},
    }
    path = tmp_path / "tiny.yaml"
    base = {"data_root": str(tmp_path)}
    path.write_text(
        yaml.safe_dump({"study": "tiny", "seeds": [0], "base": base, "runs": rows}, sort_keys=False)
    )
    return path


def test_help_is_quick_to_load_and_loads_nothing_heavy():
    code = (
        "import sys, lib.cli; sys.exit(bool({'torch', 'pandas', 'papermill'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], cwd=REPO_ROOT).returncode == 0


def test_help_says_what_an_override_beats():
    code, text = cxr("run", "--help")
    assert code == 0 and "It beats `base` and `notebooks`" in " ".join(
        text.replace("│", " ").split()
    )


# --- run


def test_a_dry_run_shows_the_plan_and_writes_nothing(file, tmp_path):
    code, text = cxr("run", file, "--dry-run", "--set", "epochs=1")
    assert code == 0 and "good: backbone=resnet50" in text and "reference" in text
    assert not (tmp_path / "runs").exists()


def test_a_study_runs_and_the_second_time_nothing_is_left(file):
    code, text = cxr("run", file)
    assert code == 0 and "2 done, 0 failed" in text
    code, text = cxr("run", file)
    assert code == 0 and "everything is complete (2 runs)" in text


def test_the_options_of_a_run_reach_the_runner(file, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1")
    code, text = cxr("run", file, "--jobs", "8", "--runs-per-device", "2", "--time-limit", "90m")
    assert code == 0 and "--jobs 8: 4 at a time, for there are 2 devices (0, 1)" in text
    spec = read_json(file.parent / "runs" / "tiny" / "good-s0" / "spec.json")
    assert spec["devices"] == ["0"] and spec["time_limit"] == 5400


@pytest.mark.parametrize("words", [("--jobs", "none"), ("--time-limit", "90")])
def test_a_wrong_option_is_a_sentence_and_nothing_starts(file, words):
    code, text = cxr("run", file, *words)
    assert code == 1 and text.startswith(" ".join(words) + ": write")
    assert not (file.parent / "runs").exists()


def test_a_run_is_tried_again_as_often_as_wanted(file):
    code, text = cxr("run", file, "--set", "ema=0.5", "--only", "other", "--retries", "2")
    assert code == 1 and "tried again: other-s0 (3 tries)" in text
    assert "try 1: kernel killed\n    try 2: kernel killed" in text


def test_a_command_at_the_end_changes_no_exit_code(file, tmp_path):
    command = f"echo $CXR_STUDY $CXR_DONE > {tmp_path}/told; exit 3"
    code, text = cxr("run", file, "--on-end", command)
    assert code == 0 and "ended with exit code 3" in text
    assert (tmp_path / "told").read_text() == "tiny 2\n"


def test_a_failed_run_gives_exit_code_1_and_a_table_with_the_reason(file):
    code, text = cxr("run", file, "--set", "ema=0.5", "--only", "other")
    assert code == 1 and "1 failed:\nother-s0: kernel killed\n" in text


def test_a_wrong_study_gives_exit_code_1_and_its_sentences(file):
    file.write_text(file.read_text().replace("resnet50", "[1]"))
    code, text = cxr("run", file)
    assert (
        code == 1
        and "run 'other', field 'set': parameter 'backbone' is [1]" in text
        and "Traceback" not in text
    )


# --- status and report


@pytest.mark.parametrize("name", ["runs/tiny", "tiny.yaml"])
def test_status_lists_every_run(file, tmp_path, monkeypatch, name):
    cxr("run", file, "--only", "good")
    monkeypatch.setattr(
        "lib.studies.report.study_folder.__defaults__", (tmp_path / "runs",), raising=False
    )
    code, text = cxr("status", tmp_path / name)
    assert code == 0 and "done" in text and "new" in text


def test_a_study_is_watched_until_it_has_ended(file, tmp_path):
    cxr("run", file)
    code, text = cxr("status", tmp_path / "runs/tiny", "--watch")
    assert code == 0 and "tiny: 2 of 2 done" in text and "machine" in text


def test_status_of_a_study_that_never_ran_says_what_to_do():
    code, text = cxr("status", "nothing")
    assert code == 1 and "run it first with `cxr run FILE`" in text


def test_a_report_has_table_figures_and_a_page_that_loads_nothing(file, tmp_path, monkeypatch):
    notebook = nbformat.v4.new_notebook(
        cells=[nbformat.v4.new_code_cell(cell) for cell in ABLATIONS]
    )
    notebook.cells[0].metadata["tags"] = ["parameters"]
    nbformat.write(notebook, tmp_path / "ablations.ipynb")
    monkeypatch.setattr("lib.studies.report.NOTEBOOK", tmp_path / "ablations.ipynb")
    monkeypatch.setattr(
        "lib.studies.report.publish.__defaults__", (tmp_path / "results",), raising=False
    )
    cxr("run", file)
    code, text = cxr("report", tmp_path / "runs/tiny", "--publish")
    report = tmp_path / "runs/tiny/report"
    page = (report / "report.html").read_text()
    assert code == 0 and "good-s0 *" in text and "0.100 to 0.200" in text and "first-s0" not in text
    assert all(
        str(report / name) in text
        for name in ("table.csv", "ablation.png", "ablation.svg", "report.html")
    )
    assert "SEEN" in page and "data:image/png;base64" in page and "savefig" not in page
    assert 'src="http' not in page and "src='http" not in page and "cdnjs" not in page
    assert (tmp_path / "results/tiny/table.csv").read_text() == (report / "table.csv").read_text()
    assert {path.name for path in (tmp_path / "results/tiny").iterdir()} == {
        "table.csv",
        "ablation.png",
        "ablation.svg",
        "ablation_column.svg",
    }
    assert "`tiny`: 2 runs" in (tmp_path / "results/LOG.md").read_text()


def test_a_reference_that_starts_from_a_stage_gets_a_second_page(file, tmp_path, monkeypatch):
    stages = [
        "study = ''\nout = ''",
        "import pathlib\nfor name in ('stages.md', 'stage_matrix.csv', 'stage_differences.csv', "
        "'drift.csv', 'stage_drift.png'):\n    (pathlib.Path(out) / name).write_text('head\\nmade')\n"
        "(pathlib.Path(out) / 'learning_curves.csv').write_text('head')",
        "print('BETWEEN')",
    ]
    for name, cells in (("ablations", ABLATIONS), ("stages", stages)):
        notebook = nbformat.v4.new_notebook(cells=list(map(nbformat.v4.new_code_cell, cells)))
        notebook.cells[0].metadata["tags"] = ["parameters"]
        nbformat.write(notebook, tmp_path / f"{name}.ipynb")
    monkeypatch.setattr("lib.studies.report.NOTEBOOK", tmp_path / "ablations.ipynb")
    monkeypatch.setattr("lib.studies.report.STAGES", tmp_path / "stages.ipynb")
    monkeypatch.setattr(
        "lib.studies.report.publish.__defaults__", (tmp_path / "results",), raising=False
    )
    cxr("run", file)
    plan = read_json(tmp_path / "runs/tiny/plan.json")
    plan["runs"]["good-s0"]["config"]["init_from"] = "runs/tiny/first-s0"
    write_json(tmp_path / "runs/tiny/plan.json", plan)
    write_json(tmp_path / "runs/tiny/good-s0/config.json", plan["runs"]["good-s0"]["config"])
    code, text = cxr("report", tmp_path / "runs/tiny", "--publish")
    report = tmp_path / "runs/tiny/report"
    assert code == 0 and str(report / "stages.html") in text
    assert "BETWEEN" in (report / "stages.html").read_text()
    published = {path.name for path in (tmp_path / "results/tiny").iterdir()}
    assert {"stages.md", "stage_matrix.csv", "drift.csv", "stage_drift.png"} <= published
    assert "learning_curves.csv" not in published  # a table without rows


def test_a_report_whose_notebook_fails_names_the_cell(file, tmp_path, monkeypatch):
    notebook = nbformat.v4.new_notebook(
        cells=[nbformat.v4.new_code_cell("raise ValueError('no runs')")]
    )
    nbformat.write(notebook, tmp_path / "ablations.ipynb")
    monkeypatch.setattr("lib.studies.report.NOTEBOOK", tmp_path / "ablations.ipynb")
    cxr("run", file)
    code, text = cxr("report", tmp_path / "runs/tiny")
    assert code == 1 and "ValueError: no runs" in text


# --- compare and power


def made_run(folder: Path, seed: int, shift: float, films: int = 120) -> None:
    """A complete run's folder with made-up answers, better with a larger shift; a patient has two
    films."""
    rng = np.random.default_rng(0)
    target = (rng.random(films) < 0.4).astype(float)
    logit = (
        shift * target
        + rng.normal(size=films)
        + 0.3 * np.random.default_rng([seed, 7]).normal(size=films)
    )
    frame = pd.DataFrame(
        {"image": [f"{i:03d}.png" for i in range(films)], "split": "test", "target_Mass": target}
    )
    frame = frame.assign(
        patient=(np.arange(films) // 2).astype(str), prob_Mass=1 / (1 + np.exp(-logit))
    )
    folder.mkdir(parents=True)
    frame.to_parquet(folder / "predictions.parquet")
    threshold = {"threshold": 0.5, "threshold_from": "validation"}
    pd.DataFrame([{"finding": name, **threshold} for name in ("Mass", "macro")]).to_csv(
        folder / "metrics.csv"
    )
    config = {"findings": ["Mass"], "seed": seed, "backbone": "resnet50"}
    write_json(folder / "config.json", config)
    data = PARTS["data"] | {"test_fingerprint": str(films)}
    made = {"run": folder.name, "config": config, "config_hash": "same", "data": data}
    write_json(folder / "record.json", full_record(**made))


@pytest.fixture
def made(tmp_path) -> Path:
    """A complete study: the reference `good` and a worse arm `poor`, two seeds each."""
    study, runs = tmp_path / "made", {}
    for (arm, shift), seed in itertools.product({"good": 3.0, "poor": 0.5}.items(), (0, 1)):
        made_run(study / f"{arm}-s{seed}", seed, shift)
        told = {"arm": arm, "seed": seed, "reference": arm == "good", "prerequisite": False}
        config = read_json(study / f"{arm}-s{seed}" / "config.json")
        runs[f"{arm}-s{seed}"] = told | {
            "what": None,
            "config": config,
            "config_hash": "same",
            "lineage": "",
        }
    write_json(study / "plan.json", {"study": "made", "seeds": [0, 1], "runs": runs})
    return study


def test_two_runs_are_compared_in_a_table_and_a_sentence(made):
    code, text = cxr("compare", made / "good-s0", made / "poor-s0")
    assert (
        code == 0 and "good-s0 *" in text and "poor-s0 and good-s0 have one training each" in text
    )


def test_a_study_alone_compares_its_arms(made):
    code, text = cxr("compare", made)
    assert code == 0 and "poor is worse than good by 0." in text


def test_runs_on_different_test_images_are_not_compared(made, tmp_path):
    made_run(tmp_path / "few-s0", 0, 1.0, films=100)
    code, text = cxr("compare", made / "good-s0", tmp_path / "few-s0")
    assert code == 1 and "were tested on different images (120 and 100, 100 of them shared" in text
    assert "is worse" not in text and "Traceback" not in text


def test_power_prints_the_smallest_difference_per_metric(made):
    code, text = cxr("power", made)
    assert code == 0 and "macro AUROC" in text and "that 60 test patients" in text


def test_power_of_a_study_whose_arms_have_different_test_images_is_not_known(made):
    for seed in (0, 1):
        (made / f"poor-s{seed}").rename(made / f"before-s{seed}")
        made_run(made / f"poor-s{seed}", seed, 1.0, films=100)
    code, text = cxr("power", made)
    assert code == 0 and "no arm compares with the reference yet" in text


# --- predict


def test_predict_writes_a_row_per_file_and_prints_how_many(tmp_path):
    model = write_tiny_model(tmp_path / "tiny.onnx")
    for i in range(3):
        Image.new("L", (32, 32), 80 * i).save(tmp_path / f"{i}.png")
    out = tmp_path / "out.csv"
    code, text = cxr("predict", model, tmp_path / "*.png", "--out", out, "--threads", 1)
    assert code == 0 and str(out) in text
    assert [Path(path).name for path in pd.read_csv(out)["path"]] == ["0.png", "1.png", "2.png"]


def test_predict_without_its_model_says_so(tmp_path):
    code, text = cxr("predict", tmp_path / "none.onnx", tmp_path)
    assert code == 1 and "none.onnx" in text and "Traceback" not in text


# --- data


@pytest.fixture(scope="module")
def phantoms(tmp_path_factory):
    folder = tmp_path_factory.mktemp("phantoms") / "data"
    assert cxr("data", "phantom", folder, "--patients", 4, "--size", 16, "--seed", 1)[0] == 0
    return folder


def test_phantoms_are_written_and_checked(phantoms):
    code, text = cxr("data", "check", phantoms / "dataset_full")
    assert code == 0 and "Cardiomegaly" in text and "no problems" in text


def test_a_problem_gives_exit_code_1_unless_it_may_be_skipped(phantoms, tmp_path):
    folder = tmp_path / "dataset_full"
    folder.mkdir()
    table = pd.read_csv(next((phantoms / "dataset_full").glob("Data_Entry*.csv")))
    table.loc[0, "Image Index"] = "99999999_000.png"
    table.to_csv(folder / "Data_Entry_2017.csv", index=False)
    (folder / "images").symlink_to(phantoms / "dataset_full" / "images")
    code, text = cxr("data", "check", folder)
    assert code == 1 and "99999999_000.png" in text
    assert cxr("data", "check", folder, "--on-bad", "skip")[0] == 0


def test_a_folder_without_a_known_layout_gives_exit_code_1(tmp_path):
    assert cxr("data", "check", tmp_path, "--on-bad", "skip")[0] == 1
