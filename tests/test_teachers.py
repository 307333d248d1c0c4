"""Teachers in a study: which runs they make, in which order, and what is refused."""

import pandas as pd
import pytest

from lib.exceptions import StudyError
from lib.studies.plan import Plan, plan_study
from lib.studies.stages import check_stages
from lib.studies.study_data import StudyData
from lib.studies.until_decided import run_until_decided

STUDY = """
study: taught
seeds: [0, 1]
base: {image_size: 64, backbone: b0}
runs:
  first:   {notebook: single.ipynb, set: {data_dir: dataset_cardiomegaly}}
  teacher: {notebook: multi.ipynb, init_from: first, reference: true}
  small:   {notebook: multi.ipynb, set: {backbone: b1}}
  taught:  {changes: small, teacher: teacher}
"""


@pytest.fixture
def study(tmp_path, monkeypatch):
    """A function: rows and other changes of the text -> plan."""
    monkeypatch.setattr("lib.config.REPO_ROOT", tmp_path)
    for name in ("single", "multi"):
        (tmp_path / f"{name}.ipynb").touch()

    def plan(rows: str = "", *settings: str, top: str = "", text: str = STUDY) -> Plan:
        file = tmp_path / "study.yaml"
        file.write_text(top + text + rows)
        return plan_study(file, settings, runs_dir=tmp_path / "runs")

    return plan


def test_a_student_needs_all_seeds_of_its_teacher(study):
    runs = study().runs
    assert runs["taught-s1"].needs == ("teacher-s0", "teacher-s1") == runs["taught-s1"].teachers
    assert runs["taught-s1"].start is None


def test_the_teachers_runs_come_before_the_students(study):
    text = STUDY.replace("  teacher: {", "  last: {").replace("teacher: teacher", "teacher: last")
    names = list(study(text=text).runs)
    assert names.index("last-s1") < names.index("taught-s0")


def test_a_student_that_starts_from_a_run_needs_that_one_first(study):
    rows = "  again: {changes: teacher, init_from: teacher}\n"
    run = study(rows + "  taught_again: {changes: again, teacher: teacher}\n").runs[
        "taught_again-s1"
    ]
    assert run.needs == ("teacher-s1", "teacher-s0")
    assert (run.start, run.teachers) == ("teacher-s1", ("teacher-s0", "teacher-s1"))


def test_a_teacher_takes_over_nothing_from_its_student(study):
    runs = study().runs
    assert runs["teacher-s0"].config.backbone == "b0" and "first-b1-s0" not in runs


def test_a_teacher_row_with_seeds_of_its_own_teaches_with_those(study):
    rows = "  three: {changes: teacher, set: {lr: 0.1}, seeds: [5, 6, 7]}\n"
    rows += "  by_three: {changes: small, teacher: three}\n"
    needs = study(rows).runs["by_three-s0"].needs
    assert needs == ("three-s5", "three-s6", "three-s7")


def test_with_folds_the_teachers_are_those_of_the_same_fold(study):
    plan = study(top="folds: 3\n")
    assert plan.runs["taught-s1-f2"].needs == ("teacher-s0-f2", "teacher-s1-f2")


def test_a_teacher_changes_hash_and_lineage(study):
    runs = study().runs
    small, taught = runs["small-s0"], runs["taught-s0"]
    assert small.config.hash() != taught.config.hash() and small.lineage != taught.lineage


def test_a_change_of_the_teacher_changes_the_lineage_of_its_student(study):
    before = study().runs["taught-s0"].lineage
    text = STUDY.replace("reference: true", "reference: true, set: {epochs: 9}")
    assert study(text=text).runs["taught-s0"].lineage != before


def test_a_run_without_a_teacher_keeps_its_hash(study):
    values = study().runs["small-s0"].config.model_dump(exclude_defaults=True)
    assert not {"teacher", "prune", "distil_weight", "distil_temperature"} & values.keys()


def test_what_the_row_changes_is_its_teacher(study):
    assert study().runs["taught-s0"].what == "teacher=teacher"


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        ("  x: {changes: small, teacher: teachr}", "unknown run 'teachr'; did you mean 'teacher'"),
        ("  x: {changes: small, teacher: 3}", "field 'teacher' is 3, but must be a run's name"),
        ("  x: {changes: small, teacher: x}", "'teacher' goes round in a cycle: x -> x"),
        (
            "  x: {changes: small, teacher: y}\n  y: {changes: small, init_from: x}",
            "'teacher' goes round in a cycle: x -> y -> x",
        ),
        ("  x: {changes: small, teacher: teacher, set: {lr: 0.1}}", "changes 2 things"),
        ("  x: {changes: small, set: {teacher: teacher}}", "write `teacher` in the run"),
        (
            "  x: {changes: small, set: {distil_data: more}}",
            "it has distil_data, but no teacher",
        ),
        (
            "  x: {changes: taught, set: {image_size: 32}}",
            "its image_size is 32, but its teacher 'teacher' has 64",
        ),
        (
            "  x: {changes: teacher, set: {findings: Mass}}\n  y: {changes: small, teacher: x}",
            "its teacher 'x' does not answer for Atelectasis",
        ),
    ],
)
def test_what_cannot_be_is_refused_with_row_and_field(study, rows, words):
    with pytest.raises(StudyError) as caught:
        study(rows + "\n")
    assert words in str(caught.value)


def test_seeds_are_not_added_to_a_study_with_teachers(study, tmp_path):
    study()
    with pytest.raises(
        StudyError, match=r"a teacher with one more seed is another teacher.*'taught'"
    ):
        run_until_decided(tmp_path / "study.yaml", (), 5, run=None, say=None)


def test_a_teacher_of_other_folds_is_refused(study):
    rows = "  lists: {changes: teacher, set: {lr: 0.1}, folds: 0}\n"
    rows += "  by_lists: {changes: small, teacher: lists}\n"
    with pytest.raises(StudyError, match="tested in 3 folds, but its teacher 'lists' in 0"):
        study(rows, top="folds: 3\n")


def check_splits(study, monkeypatch, teacher: dict[str, str], student: dict[str, str]) -> None:
    """Checks the stages of a study whose teacher and student split four patients as given."""
    plan = study(text=STUDY.replace("init_from: first, ", ""))

    def splits(self, config):
        parts = teacher if config.backbone == "b0" else student
        table = pd.DataFrame({"patient": list(parts), "split": list(parts.values())})
        return table.assign(image=table["patient"] + ".png")

    monkeypatch.setattr(StudyData, "splits", splits)
    check_stages(plan, [plan.runs["taught-s0"]], StudyData())


def test_a_teacher_that_trained_on_who_is_tested_is_refused(study, monkeypatch):
    teacher = {"a": "train", "b": "val", "c": "test"}
    with pytest.raises(StudyError, match=r"its teacher \(or a stage before it\) 'teacher-s0'"):
        check_splits(study, monkeypatch, teacher, {"a": "test", "b": "val", "c": "train"})


def test_a_teacher_may_have_trained_on_who_validates(study, monkeypatch):
    teacher = {"a": "train", "b": "val", "c": "test"}
    check_splits(study, monkeypatch, teacher, {"a": "val", "b": "train", "c": "test"})
