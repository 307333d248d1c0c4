"""The made-up release and study of `make bench scale` are what they stand for."""

import pytest

from benchmarks.scale_films import FILMS, PATIENTS, PREVALENCES, TESTED, write_release
from benchmarks.scale_study import write_study
from lib.comparison import compare_study
from lib.config import FINDINGS
from lib.datasets import check_folder, read_dataset


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_release(tmp_path_factory.mktemp("scale") / "dataset_full", FILMS // 400)


def test_the_films_are_a_release_without_problems(folder):
    report = check_folder(folder, workers=1, progress=False)
    assert report.ok and not [note for note in report.warnings if "same radiograph" in note]
    assert report.images == FILMS // 400
    assert report.patients == pytest.approx(PATIENTS / 400, abs=1)


def test_patients_are_on_one_official_list(folder):
    frame = read_dataset(folder).frame
    assert (frame.groupby("patient")["official"].nunique() == 1).all()
    assert (frame["official"] == "test").mean() == pytest.approx(TESTED / FILMS, abs=0.1)


def test_every_finding_has_a_prevalence():
    assert len(PREVALENCES) == len(FINDINGS)


def test_the_study_has_runs_that_compare(tmp_path):
    study = write_study(tmp_path / "study", {"val": 200, "test": 300})
    found = compare_study(study)
    assert found.scores["arm"].nunique() == 8
    assert (found.scores.query("finding == 'macro' and metric == 'auroc'")["value"] > 0.7).all()
