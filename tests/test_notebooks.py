"""Notebooks: the skeleton, checked without a kernel; every one of them run by papermill on tiny
phantoms."""

import ast
import json
import re
import shutil
from pathlib import Path

import nbformat
import pandas as pd
import pytest
import yaml
from tracked import tracked

from lib.config import FINDINGS, REPO_ROOT, Config
from lib.exceptions import NotebookError
from lib.phantoms import write_phantoms
from lib.studies.execute import run_notebook
from lib.studies.plan import plan_study
from lib.studies.report import make_report
from lib.studies.runner import run_plan

pytestmark = pytest.mark.timeout(1200)  # a study is run, on a machine that may be busy

EXPERIMENTS = (
    *(
        "single-task/cardiomegaly.ipynb",
        "multi-task/fourteen_findings.ipynb",
        "transformer/vit.ipynb",
    ),
    "single-task/pneumonia.ipynb",
)
OTHERS = (
    "notebooks/explore_data.ipynb",
    "notebooks/ablations.ipynb",
    "notebooks/errors_and_heatmaps.ipynb",
)
OTHERS += ("notebooks/compress_and_export.ipynb", "notebooks/stages.ipynb")
OTHERS += ("notebooks/external_validation.ipynb", "notebooks/compressed_arms.ipynb")
OTHERS += ("notebooks/quantize.ipynb",)
SECTIONS = ["Setup", "Data", "Model", "Training", "Evaluation", "Record", "Notes"]
TINY = {
    "image_size": 64,
    "val_fraction": 0.3,
    "epochs": 1,
    "batch_size": 16,
    "pretrained": False,
    "accelerator": "cpu",
}


def read(path: str) -> nbformat.NotebookNode:
    return nbformat.read(REPO_ROOT / path, as_version=4)


def code_cells(path: str) -> list[nbformat.NotebookNode]:
    return [cell for cell in read(path).cells if cell.cell_type == "code"]


def headings(path: str, level: int) -> list[str]:
    text = "\n".join(cell.source for cell in read(path).cells if cell.cell_type == "markdown")
    return re.findall(rf"^{'#' * level} (.+)$", text, flags=re.MULTILINE)


def test_every_notebook_of_the_repository_is_listed_here():
    found = {
        path.relative_to(REPO_ROOT).as_posix()
        for folder in ("single-task", "multi-task", "transformer", "notebooks")
        for path in tracked(f"{folder}/*.ipynb")
    }
    assert found == {*EXPERIMENTS, *OTHERS}


@pytest.mark.parametrize("path", [*EXPERIMENTS, *OTHERS])
class TestSkeleton:
    def test_begins_with_one_title_that_says_data_time_and_what_to_expect(self, path):
        first = read(path).cells[0]
        assert first.cell_type == "markdown" and len(headings(path, 1)) == 1
        assert first.source.startswith("# ")
        assert all(f"**{word}:**" in first.source for word in ("Data", "Time", "Expect"))

    def test_has_one_parameters_cell_of_commented_literals(self, path):
        tagged = [
            cell for cell in code_cells(path) if "parameters" in cell.metadata.get("tags", [])
        ]
        assert len(tagged) == 1 and tagged[0] == code_cells(path)[0]
        for statement in ast.parse(tagged[0].source).body:
            assert isinstance(statement, ast.Assign) and len(statement.targets) == 1
            allowed = (ast.Constant, ast.List, ast.BinOp, ast.Load, ast.Div, ast.UnaryOp, ast.USub)
            assert all(isinstance(node, allowed) for node in ast.walk(statement.value))
        assert all("  # " in line for line in tagged[0].source.splitlines())

    def test_defines_nothing_and_installs_nothing(self, path):
        for cell in code_cells(path):
            nodes = list(ast.walk(ast.parse(cell.source)))
            assert not [
                n
                for n in nodes
                if isinstance(n, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef)
            ]
            assert not re.search(r"sys\.path|\bpip\b|^[!%]", cell.source, flags=re.MULTILINE)

    def test_cells_are_short_and_hold_no_output(self, path):
        for cell in code_cells(path):
            assert len(cell.source.splitlines()) <= 25 or "parameters" in cell.metadata.get(
                "tags", []
            )
            assert cell.outputs == [] and cell.execution_count is None

    def test_ends_with_notes(self, path):
        assert headings(path, 2)[0] == "Setup" and headings(path, 2)[-1] == "Notes"


@pytest.mark.parametrize(
    "path", [*EXPERIMENTS, OTHERS[0]]
)  # the others read records, which have a Config of their own
def test_parameters_are_fields_of_the_config(path):
    values: dict = {}
    exec(code_cells(path)[0].source, values)
    names = {name for name in values if not name.startswith("__")}
    assert names <= set(Config.model_fields)
    assert Config.from_namespace(values).hash()


@pytest.mark.parametrize("path", EXPERIMENTS)
def test_an_experiment_lists_every_parameter_so_that_papermill_knows_all_of_them(path):
    values: dict = {}
    exec(code_cells(path)[0].source, values)
    assert values.keys() - {"__builtins__"} == Config.model_fields.keys()


@pytest.mark.parametrize("path", EXPERIMENTS)
def test_experiments_go_through_the_stages_in_order(path):
    assert headings(path, 2) == SECTIONS


@pytest.mark.parametrize("path", EXPERIMENTS)
def test_an_experiment_is_about_fifty_lines_of_code(path):
    assert sum(len(cell.source.splitlines()) for cell in code_cells(path)[1:]) <= 52


@pytest.fixture(scope="module")
def studied(tmp_path_factory, tiny_phantoms) -> Path:
    """The folder of a tiny study that ran every experiment notebook, stage after stage, and its
    report."""
    folder = tmp_path_factory.mktemp("study")
    base = {
        **TINY,
        "data_root": str(tiny_phantoms),
        "data_dir": ["dataset_full", "dataset_cardiomegaly"],
    }
    single = {
        "notebook": EXPERIMENTS[0],
        "set": {"data_dir": "dataset_cardiomegaly", "findings": "Cardiomegaly"},
    }
    study = {
        "study": "tiny",
        "seeds": [0],
        "base": {**base, "backbone": "resnet10t"},
        "notebooks": {
            EXPERIMENTS[2]: {
                "backbone": "vit_tiny_patch16_224",
                "layer_decay": 0.8,
                "drop_path": 0.1,
            }
        },
        "runs": {
            "first": single,
            "adaptive": {"notebook": EXPERIMENTS[1], "init_from": "first", "reference": True},
            "zero": {"notebook": EXPERIMENTS[3], "set": {"findings": "Effusion"}},
            "alone": {"notebook": EXPERIMENTS[0], "set": {"findings": "Cardiomegaly"}},
            "vit": {"changes": "adaptive", "notebook": EXPERIMENTS[2]},
        },
    }
    file = folder / "tiny.yaml"
    file.write_text(yaml.safe_dump(study, sort_keys=False))
    plan = plan_study(file, runs_dir=folder / "runs")
    summary = run_plan(plan)
    assert summary.failed == {} and len(summary.done) == 6
    make_report(plan.folder)
    return plan.folder


@pytest.mark.parametrize("run", ["first-s0", "adaptive-s0", "alone-s0", "vit-s0", "zero-s0"])
def test_a_run_leaves_everything_that_the_design_promises(studied, run):
    folder = studied / run
    record = json.loads((folder / "record.json").read_text())
    names = {path.name for path in folder.iterdir()}
    promised = {
        "config.json",
        "notebook.ipynb",
        "history.csv",
        "predictions.parquet",
        "metrics.csv",
        "status.json",
    }
    assert (
        promised | {"model.safetensors", "card.json", "splits.csv"} <= names
        and "last.ckpt" not in names
    )
    assert record["data"]["phantom"] and record["config_hash"] == Config(**record["config"]).hash()
    findings = record["config"]["findings"]
    assert [row["finding"] for row in record["metrics"]] == [*findings, "macro"]
    predictions = pd.read_parquet(folder / "predictions.parquet")
    assert [c for c in predictions if c.startswith("prob_")] == [
        f"prob_{name}" for name in findings
    ]
    splits = pd.read_csv(folder / "splits.csv", dtype=str)
    assert splits[splits["split"] != "excluded"].groupby("patient")["split"].nunique().max() == 1
    assert set(predictions["split"]) == {"val", "test"}


def test_the_fourteen_findings_come_in_nih_order_and_the_single_task_has_one(studied):
    columns = [
        c
        for c in pd.read_parquet(studied / "adaptive-s0" / "predictions.parquet")
        if c.startswith("target_")
    ]
    assert columns == [f"target_{name}" for name in FINDINGS]
    assert (
        pd.read_parquet(studied / "first-s0" / "predictions.parquet")["target_Cardiomegaly"]
        .notna()
        .all()
    )


def test_the_report_has_table_figures_and_a_page_without_outside_links(studied):
    report = studied / "report"
    table = pd.read_csv(report / "table.csv")
    assert list(table["run"]) == [
        "first-s0",
        "adaptive-s0",
        "zero-s0",
        "alone-s0",
        "first-vit_tiny_patch16_224-s0",
        "vit-s0",
    ]
    assert (report / "ablation.png").stat().st_size > 10_000 and "<svg" in (
        report / "ablation.svg"
    ).read_text()
    figures = {"ablation", "ablation_cardiomegaly", "ablation_column"}
    figures |= {"stage_matrix", "stage_drift", "fairness"}
    assert (
        {path.stem for path in report.glob("*.png")}
        == {path.stem for path in report.glob("*.svg")}
        == figures
    )
    page = (report / "report.html").read_text()
    assert (
        "data:image/png;base64" in page and "<script src=" not in page and "<link rel" not in page
    )


def test_the_report_has_a_page_between_the_stages(studied):
    report = studied / "report"
    matrix = pd.read_csv(report / "stage_matrix.csv")
    both = matrix[matrix["finding"] == "Cardiomegaly"]
    stages = ["Cardiomegaly stage", "14-finding stage"]
    assert list(both["stage"]) == stages * 2 and list(dict.fromkeys(both["test_set"])) == stages
    assert len(pd.read_csv(report / "stage_differences.csv")) == 2
    assert set(pd.read_csv(report / "drift.csv")["depth"]) == {1, 2, 3, 4, 5}
    told = (report / "stages.md").read_text()
    page = (report / "stages.html").read_text()
    assert "after the 14-finding stage" in told and "no learning curve" in told
    assert "Synthetic phantoms" in page and "data:image/png;base64" in page
    assert "<script src=" not in page


def test_errors_and_heatmaps_runs_on_a_run(tmp_path, studied):
    out = tmp_path / "errors.ipynb"
    run_notebook(
        REPO_ROOT / OTHERS[2],
        out,
        {"run": str(studied / "adaptive-s0"), "each": 2, "image_size": 32},
    )
    figures = [
        o
        for cell in nbformat.read(out, 4).cells
        for o in cell.get("outputs", [])
        if "image/png" in str(o)
    ]
    assert len(figures) >= 5


def test_errors_and_heatmaps_says_that_films_have_no_boxes(tmp_path, studied):
    out = tmp_path / "errors.ipynb"
    run_notebook(
        REPO_ROOT / OTHERS[2], out, {"run": str(studied / "first-s0"), "each": 2, "image_size": 32}
    )
    assert "no boxes of the run's findings" in out.read_text()


def test_compress_and_export_runs_on_a_run(tmp_path, studied):
    out = tmp_path / "export.ipynb"
    parameters = {
        "run": str(studied / "adaptive-s0"),
        "out": str(tmp_path / "models"),
        "allow_drop": True,
    }
    run_notebook(REPO_ROOT / OTHERS[3], out, parameters)
    names = {path.name for path in (tmp_path / "models").iterdir()}
    assert names == {
        "tiny-adaptive-s0.onnx",
        "tiny-adaptive-s0.md",
        "tiny-adaptive-s0-int8.onnx",
        "tiny-adaptive-s0-int8.md",
    }
    figures = [
        o
        for cell in nbformat.read(out, 4).cells
        for o in cell.get("outputs", [])
        if "image/png" in str(o)
    ]
    assert len(figures) == 2  # cost against quality; torch, ONNX and int8 beside one another
    assert "detection_low" in out.read_text()


def test_external_validation_runs_on_a_run(tmp_path, studied):
    """On phantoms of another seed, which no run has met though their numbers are the same."""
    other = write_phantoms(tmp_path / "other", patients=40, size=64, seed=1, progress=False)
    out = tmp_path / "external.ipynb"
    parameters = {"model": str(studied / "adaptive-s0"), "data_dir": str(other / "dataset_full")}
    run_notebook(REPO_ROOT / OTHERS[5], out, {**parameters, "name": "other"})
    place = studied / "adaptive-s0" / "evaluations" / "other"
    left_out = pd.read_csv(place / "left_out.csv")
    images = json.loads((place / "evaluation.json").read_text())["data"]["images"]
    assert images == len(pd.read_csv(other / "dataset_full" / "Data_Entry_2017_v2020.csv"))
    assert left_out.empty and "drawn by one program" in (place / "summary.md").read_text()
    assert "image/png" in out.read_text()


@pytest.mark.parametrize("path", [*OTHERS[1:5], OTHERS[6]])
def test_a_notebook_that_finds_no_run_says_in_its_last_line_what_to_do(tmp_path, path):
    name = "study" if any(word in path for word in ("ablations", "stages", "arms")) else "run"
    out = tmp_path / "out.ipynb"
    with pytest.raises(
        NotebookError,
        match=f"{tmp_path}/none (holds|contains) no .* Run `make demo` .* set `{name}` to an existing folder",
    ):
        run_notebook(REPO_ROOT / path, out, {name: f"{tmp_path}/none"})
    (error,) = (
        o for cell in nbformat.read(out, 4).cells for o in cell.get("outputs", []) if "ename" in o
    )
    assert error.traceback[-1].splitlines()[-1].endswith(f"set `{name}` to an existing folder.")


def test_a_run_keeps_its_thresholds_and_calibration(studied):
    card = json.loads((studied / "adaptive-s0" / "card.json").read_text())
    points = pd.read_csv(studied / "adaptive-s0" / "operating_points.csv")
    assert list(dict.fromkeys(points["rule"])) == ["f1", "youden", "sensitivity"] and len(
        points
    ) == 3 * len(FINDINGS)
    assert len(card["operating_points"]) == len(points) and card["calibration"]["findings"] == list(
        FINDINGS
    )
    assert json.loads((studied / "adaptive-s0" / "record.json").read_text())["cpu_latency_ms"] > 0


def test_the_report_says_in_words_what_its_tables_hold(studied):
    report = studied / "report"
    changes = pd.read_csv(report / "differences.csv")
    row = changes[
        (changes["arm"] == "vit") & (changes["metric"] == "auroc") & (changes["finding"] == "macro")
    ].iloc[0]
    page = (report / "report.html").read_text()
    text = re.search(r"vit and adaptive have one training each[^(<]*AUROC[^(<]*", page)[0]
    assert row["one_training"] and f"{row['difference']:+.3f}" in text
    rows = [line.split(" | ") for line in (report / "summary.md").read_text().splitlines()[2:]]
    assert page.count("<td>") > len(rows) and all(f"<td>{row[2]}</td>" in page for row in rows)
    assert "Synthetic phantoms, not patients." in page
    assert {"scores.csv", "power.csv", "subgroups.csv"} <= {path.name for path in report.iterdir()}


def test_a_report_of_the_reference_alone_says_that_nothing_compares(tmp_path, studied):
    alone = tmp_path / "tiny"
    shutil.copytree(studied / "adaptive-s0", alone / "adaptive-s0")
    shutil.copy(studied / "plan.json", alone)
    page = make_report(alone)[-1].read_text()
    assert (
        page.count("No other arm compares with the reference yet.") == 3
    )  # answers, power, differences
    told = (alone / "report" / "stages.md").read_text()
    assert "no complete chain of stages" in told or "miss a run" in told


@pytest.fixture
def class_folders(tmp_path, tiny_phantoms) -> Path:
    """A folder `classes` with the films of the tiny phantoms' Cardiomegaly set in folders named
    after classes."""
    source = tiny_phantoms / "dataset_cardiomegaly"
    for row in pd.read_csv(source / "train.csv").itertuples():
        folder = tmp_path / "classes" / row.disease
        folder.mkdir(parents=True, exist_ok=True)
        (folder / row.imageID).symlink_to(source / "train" / row.imageID)
    return tmp_path / "classes"


@pytest.mark.parametrize("layout", ["both", "single", "classes"])
def test_explore_data_shows_every_layout(
    tmp_path, tiny_phantoms, class_folders, monkeypatch, layout
):
    monkeypatch.setenv(
        "MPLBACKEND", "agg"
    )  # as a terminal may have it: figures are in the notebook all the same
    folders = {"both": ["dataset_full", "dataset_cardiomegaly"], "single": "dataset_cardiomegaly"}
    parameters = {
        "data_root": str(tiny_phantoms),
        "image_size": 64,
        "run_dir": str(tmp_path / "run"),
    }
    parameters["data_dir"] = folders.get(layout, str(class_folders))
    out = tmp_path / "explore.ipynb"
    run_notebook(REPO_ROOT / "notebooks/explore_data.ipynb", out, parameters)
    figures = [
        o
        for cell in nbformat.read(out, 4).cells
        for o in cell.get("outputs", [])
        if "image/png" in str(o)
    ]
    assert len(figures) == 4


@pytest.mark.parametrize("path", EXPERIMENTS[:2])
def test_an_unlabelled_test_set_is_answered_in_the_leaderboards_format(
    tmp_path, tiny_phantoms, path
):
    folder = tmp_path / "data" / "dataset_cardiomegaly"
    folder.parent.mkdir()
    source = tiny_phantoms / "dataset_cardiomegaly"
    folder.mkdir()
    for name in ("train", "test", "train.csv"):
        (folder / name).symlink_to(source / name)
    wanted = pd.read_csv(source / "test.csv")[["imageID"]]
    wanted.to_csv(folder / "test.csv", index=False)
    data_dir = (
        ["dataset_cardiomegaly"]
        if "single" in path
        else [str(tiny_phantoms / "dataset_full"), str(folder)]
    )
    parameters = {
        **TINY,
        "data_root": str(tmp_path / "data"),
        "data_dir": data_dir,
        "backbone": "resnet10t",
    }
    run_notebook(
        REPO_ROOT / path, tmp_path / "out.ipynb", {**parameters, "run_dir": str(tmp_path / "run")}
    )
    submission = pd.read_csv(tmp_path / "run" / "submission.csv")
    assert list(submission.columns) == ["imageID", "disease"]
    assert list(submission["imageID"]) == list(wanted["imageID"])
    known = {*FINDINGS, "No Finding"}
    assert all(set(answer.split("|")) <= known for answer in submission["disease"])
