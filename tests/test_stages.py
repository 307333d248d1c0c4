"""Patients that leak between stages are refused before anything starts, with advice that mends
it."""

import pandas as pd
import pytest
import yaml

from lib.exceptions import StudyError
from lib.studies.plan import plan_study
from lib.studies.runner import run_plan
from lib.studies.stages import check_stages
from lib.studies.study_data import StudyData

PNG = b"\x89PNG\r\n\x1a\n"


def dataset(folder, train: range, test: range) -> None:
    """A challenge set of NIH patients, one image per patient; nothing decodes it here."""
    for part, patients in (("train", train), ("test", test)):
        names = [f"{patient:08}_000.png" for patient in patients]
        (folder / part).mkdir(parents=True)
        for name in names:
            (folder / part / name).write_bytes(PNG)
        labels = ["Cardiomegaly" if i % 2 else "No Finding" for i in range(len(names))]
        pd.DataFrame({"imageID": names, "disease": labels}).to_csv(
            folder / f"{part}.csv", index=False
        )


@pytest.fixture
def study(tmp_path):
    """A first stage that trains on patients of the second's official test: a function of the first
    one's set."""
    dataset(tmp_path / "first", range(1, 61), range(0))
    dataset(tmp_path / "second", range(1, 41), range(41, 61))

    def plan(**first):
        rows = {
            "first": {
                "notebook": "single-task/cardiomegaly.ipynb",
                "set": {"data_dir": "first", **first},
            },
            "second": {
                "notebook": "single-task/cardiomegaly.ipynb",
                "init_from": "first",
                "set": {"data_dir": "second"},
                "reference": True,
            },
        }
        base = {"data_root": str(tmp_path), "findings": "Cardiomegaly", "pretrained": False}
        file = tmp_path / "study.yaml"
        file.write_text(
            yaml.safe_dump(
                {"study": "two", "seeds": [0], "base": base, "runs": rows}, sort_keys=False
            )
        )
        return plan_study(file, runs_dir=tmp_path / "runs")

    return plan


def check(plan) -> None:
    check_stages(plan, list(plan.runs.values()), StudyData())


def test_a_stage_that_trains_on_held_out_patients_is_refused_with_the_line_that_mends_it(study):
    with pytest.raises(
        StudyError, match=r"'second-s0': its earlier stage 'first-s0' .*`hold_out: \[second\]`"
    ):
        check(study())


def test_the_line_that_is_advised_mends_it(study):
    check(study(hold_out=["second"]))


def test_every_patient_who_leaks_is_listed_in_a_file(study):
    plan = study()
    with pytest.raises(StudyError, match="patients"):
        check(plan)
    leaks = pd.read_csv(plan.folder / "leaks-second-s0.csv")
    assert len(leaks) > 8 and set(leaks["later"]) == {"test"}
    assert set(leaks["patient"]) <= {f"nih:{patient}" for patient in range(41, 61)}


def test_another_fraction_is_named_as_the_reason(study):
    with pytest.raises(StudyError, match="give both the same val_fraction"):
        check(study(hold_out=["second"], val_fraction=0.1))


def test_nothing_of_a_study_that_leaks_is_started(study, monkeypatch):
    monkeypatch.setattr("lib.studies.runner.check_runs", lambda file, runs: None)
    plan = study()
    with pytest.raises(StudyError, match="nothing was started"):
        run_plan(plan)
    assert not any(run.folder.exists() for run in plan.runs.values())
