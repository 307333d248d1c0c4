"""int8 as an arm of a study: which runs `int8_of` makes, what is refused, and one that is run."""

import pandas as pd
import pytest
import yaml

from lib.comparison import compare_study
from lib.config import REPO_ROOT
from lib.exceptions import ModelError, StudyError
from lib.export import export_run
from lib.inference import Predictor
from lib.metrics.predictions import read_predictions
from lib.models import heat_maps, load_model
from lib.robustness.answers import answer_run
from lib.robustness.kept import is_answered
from lib.runs import read_run
from lib.stages.answers import Films
from lib.studies.plan import QUANTIZE, Plan, plan_study
from lib.studies.report import make_report
from lib.studies.runner import run_plan

TEXT = """
study: bits
seeds: [0, 1]
base: {image_size: 64, backbone: b0}
notebooks: {vit.ipynb: {lr: 0.5}}
runs:
  first:  {notebook: single.ipynb, set: {data_dir: dataset_cardiomegaly}}
  whole:  {notebook: multi.ipynb, init_from: first, reference: true}
  vit:    {changes: whole, notebook: vit.ipynb}
  taught: {changes: whole, teacher: vit}
  whole_int8: {int8_of: whole}
"""


@pytest.fixture
def study(tmp_path, monkeypatch):
    """A function: rows and other changes of the text -> plan."""
    monkeypatch.setattr("lib.config.REPO_ROOT", tmp_path)
    for name in ("single", "multi", "vit"):
        (tmp_path / f"{name}.ipynb").touch()

    def plan(rows: str = "", *settings: str) -> Plan:
        file = tmp_path / "study.yaml"
        file.write_text(TEXT + rows)
        return plan_study(file, settings, runs_dir=tmp_path / "runs")

    return plan


def config_of(plan: Plan, run: str) -> dict:
    return plan.runs[run].config.model_dump(exclude={"run_dir", "init_from"})


def test_a_run_is_quantized_for_each_of_the_arm_with_its_config(study):
    plan = study()
    run = plan.runs["whole_int8-s1"]
    assert (run.notebook, run.needs, run.start) == (QUANTIZE, ("whole-s1",), "whole-s1")
    assert (run.changes, run.what, run.prerequisite) == ("whole", "int8", False)
    assert config_of(plan, "whole_int8-s1") == config_of(plan, "whole-s1")
    assert not plan.runs["whole-s1"].prerequisite and plan.runs["first-s1"].prerequisite


def test_what_is_set_for_the_arms_notebook_or_on_the_command_line_holds_for_its_int8(study):
    plan = study("  vit_int8: {int8_of: vit}\n", "lr=0.25")
    assert plan.runs["vit_int8-s0"].config.lr == 0.25
    assert config_of(plan, "vit_int8-s0") == config_of(plan, "vit-s0")
    assert study("  vit_int8: {int8_of: vit}\n").runs["vit_int8-s0"].config.lr == 0.5


def test_a_taught_arm_in_int8_has_its_teachers_too_and_stays_an_arm(study):
    plan = study("  taught_int8: {int8_of: taught}\n")
    assert plan.runs["taught_int8-s0"].needs == ("taught-s0", "vit-s0", "vit-s1")
    assert not plan.runs["taught-s0"].prerequisite


def test_folds_and_seeds(study):
    names = set(study("  vit_int8: {int8_of: vit, seeds: [1]}\n", "folds=2").runs)
    assert {name for name in names if name.startswith("vit_int8")} == {
        "vit_int8-s1-f0",
        "vit_int8-s1-f1",
    }


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ("{int8_of: nothing}", "field 'int8_of' names the unknown run 'nothing'"),
        ("{int8_of: whole, set: {lr: 1}}", "remove set"),
        ("{int8_of: whole, changes: whole}", "remove changes"),
        ("{int8_of: whole_int8}", "'int8_of' names 'whole_int8', which is int8"),
        ("{changes: whole_int8, set: {lr: 1}}", "name 'whole'"),
        ("{changes: whole, teacher: whole_int8}", "field 'teacher' names 'whole_int8'"),
        ("{int8_of: 8}", "field 'int8_of' is 8, but must be a run's name"),
    ],
)
def test_what_int8_cannot_be_is_refused(study, row, said):
    with pytest.raises(StudyError, match=said):
        study(f"  more: {row}\n")


@pytest.fixture(scope="module")
def ran(tmp_path_factory, tiny_phantoms):
    """The plan of a study of a tiny network and its int8, which is complete."""
    folder = tmp_path_factory.mktemp("int8")
    rows = {
        "whole": {"notebook": "multi-task/fourteen_findings.ipynb", "reference": True},
        "whole_int8": {"int8_of": "whole"},
    }
    base = {"data_root": str(tiny_phantoms), "image_size": 64, "val_fraction": 0.3, "epochs": 1}
    base |= {"backbone": "resnet10t", "pretrained": False, "accelerator": "cpu"}
    base["data_dir"] = ["dataset_full", "dataset_cardiomegaly"]
    file = folder / "bits.yaml"
    file.write_text(yaml.safe_dump({"study": "bits", "seeds": [0], "base": base, "runs": rows}))
    plan = plan_study(file, runs_dir=folder / "runs")
    summary = run_plan(plan)
    assert summary.failed == {} and len(summary.done) == 2
    return plan


@pytest.mark.timeout(1200)
class TestRun:
    def test_is_complete_and_answers_almost_as_the_run_it_was_made_from(self, ran):
        whole, int8 = (ran.folder / name for name in ("whole-s0", "whole_int8-s0"))
        assert run_plan(ran).skipped == ["whole-s0", "whole_int8-s0"]
        assert (int8 / "int8.onnx").exists() and not (int8 / "model.safetensors").exists()
        one, other = (read_predictions(place / "predictions.parquet") for place in (whole, int8))
        assert list(one.images) == list(other.images)
        change = abs(one.probs - other.probs)
        assert 0 < change.max() < 0.1
        record = read_run(int8)[1]
        assert record.train_seconds == 0 and record.weights.name == "bits/whole-s0"

    def test_gets_a_verdict_as_every_other_arm(self, ran):
        found = compare_study(ran.folder).macro()
        assert "whole_int8" in set(found["arm"])

    def test_its_file_answers_as_the_run_did_and_has_the_runs_thresholds(self, ran, tmp_path):
        folder = ran.folder / "whole_int8-s0"
        path = export_run(folder, out=tmp_path)
        assert path.name == "bits-whole_int8-s0.onnx"
        model = Predictor(path)
        assert model.card["precision"] == "int8" and model.name == path.stem
        points = pd.read_csv(folder / "operating_points.csv").query("rule == 'f1'")
        raw = model.card["operating_points"]
        found = [point["threshold"] for point in raw if point["rule"] == "f1"]
        assert found == pytest.approx(points["threshold"].tolist(), abs=1e-6)

    def test_shows_heat_maps_and_can_be_tested_on_damaged_films(self, ran):
        folder = ran.folder / "whole_int8-s0"
        films = Films().of(folder, 64).store[:3]
        maps = heat_maps(folder, films)
        assert maps.shape[:2] == (3, 14) and maps.max() > 0
        answer_run(folder, Films())
        assert is_answered(folder)

    def test_the_report_shows_cost_and_quality_of_both(self, ran):
        names = {path.name for path in make_report(ran.folder)}
        assert {"report.html", "compression.html", "pareto.png", "pareto.svg"} <= names
        costs = pd.read_csv(ran.folder / "report" / "costs.csv").set_index("model")
        assert costs.loc["whole_int8", "megabytes"] < costs.loc["whole", "megabytes"]
        assert costs["multiply_adds"].nunique() == 1 and costs["value"].notna().all()
        kept = pd.read_csv(ran.folder / "report" / "agreement.csv").set_index("arm")
        assert kept.loc["whole_int8", ["ece", "flags", "heat_maps", "detection"]].notna().all()
        bits = pd.read_csv(ran.folder / "report" / "int8.csv")
        assert bits[["arm", "reference"]].to_numpy().tolist() == [["whole_int8", "whole"]]
        assert "whole_int8 and whole" in (ran.folder / "report" / "int8.md").read_text()

    def test_nothing_starts_from_it(self, ran):
        with pytest.raises(ModelError, match="holds an int8 network"):
            load_model(ran.folder / "whole_int8-s0")


def test_the_notebook_that_the_planner_names_exists():
    assert (REPO_ROOT / QUANTIZE).is_file()
