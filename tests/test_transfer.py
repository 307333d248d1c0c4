"""studies/transfer.yaml on the real images that it was made for: folds without leaks, known before
anything trains."""

import pytest

from lib.config import REPO_ROOT, resolve
from lib.studies.plan import Plan, plan_study
from lib.studies.preflight import check_runs
from lib.studies.stages import check_stages
from lib.studies.study_data import StudyData

CELLS = ("three_stages", "from_pneumonia", "from_cardiomegaly", "direct")


@pytest.fixture(scope="module")
def plan(real_data) -> Plan:
    file = REPO_ROOT / "studies" / "transfer.yaml"
    return plan_study(file, [f"data_root={(real_data / 'real').resolve()}"])


def test_no_stage_of_any_fold_trains_on_who_is_tested_in_it(plan):
    runs = [run for run in plan.runs.values() if run.seed == 0]
    check_stages(plan, runs, StudyData())


def test_every_patient_is_tested_once_and_every_arm_on_the_same(plan):
    data = StudyData()
    tested: list[str] = []
    for fold in range(5):
        splits = [data.splits(plan.runs[f"{arm}-s0-f{fold}"].config) for arm in CELLS]
        patients = [set(one.loc[one["split"] == "test", "patient"]) for one in splits]
        assert patients.count(patients[0]) == len(CELLS)
        tested += patients[0]
    assert len(tested) == len(set(tested)) == 1196


def test_the_weight_file_is_found_beside_the_data_and_fits(plan):
    run = plan.runs["direct-s0-f0"]
    check_runs(plan.file, [run])
    assert run.config.weights_file.is_file()


def test_stage_0_is_trained_once_per_seed_for_all_folds(plan):
    needs = {plan.runs[f"from_pneumonia-s0-f{fold}"].needs for fold in range(5)}
    assert needs == {("pneumonia-s0",)}


def test_the_phantoms_are_drawn_where_they_always_are(plan):
    root = plan.runs["phantoms-s0"].config.data_root
    assert resolve(root) == REPO_ROOT / "dataset_phantom"
