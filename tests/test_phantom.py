"""In: phantoms drawn small. Out: proof that they are the same every time, well-formed, whole, and
show their signs."""

import csv
import json
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score

from lib.config import FINDINGS, NO_FINDING
from lib.datasets.tables import read_dataset
from lib.exceptions import CxrError
from lib.images.pixels import decode_grey
from lib.phantoms import write as phantom
from lib.phantoms.cohort import draw_cohort
from lib.phantoms.write import draw_phantom, write_phantoms


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_phantoms(
        tmp_path_factory.mktemp("phantoms") / "tiny", patients=24, size=32, progress=False
    )


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def patient(name: str) -> str:
    return name.split("_")[0]


def contents(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


# the film


def test_a_film_is_grey_and_of_the_size_asked_for():
    image, boxes = draw_phantom(size=48)
    assert image.shape == (48, 48) and image.dtype == np.uint8 and boxes == []


def test_the_same_seed_draws_the_same_film():
    first, second = (draw_phantom(["Edema"], seed=(3, 4), film=1, size=64)[0] for _ in range(2))
    assert np.array_equal(first, second)


@pytest.mark.parametrize(
    "change", [{"seed": 2}, {"film": 1}, {"sex": "F"}, {"age": 85}, {"view": "AP"}]
)
def test_person_film_sex_age_and_view_change_the_film(change: dict):
    base = {"seed": 1, "size": 64}
    assert not np.array_equal(draw_phantom(**base)[0], draw_phantom(**{**base, **change})[0])


def test_a_film_at_another_size_is_the_same_film():
    small = draw_phantom(["Mass"], seed=5, size=128)[0].astype(float)
    large = Image.fromarray(draw_phantom(["Mass"], seed=5, size=512)[0]).resize(
        (128, 128), Image.Resampling.BOX
    )
    assert np.corrcoef(small.ravel(), np.asarray(large, float).ravel())[0, 1] > 0.97


@pytest.mark.parametrize("finding", FINDINGS)
def test_each_finding_shows(finding: str):
    """The sign changes the film beyond what grain alone does (about 3 grey levels)."""
    for seed in range(2):
        healthy, ill = (
            draw_phantom(names, seed=seed, size=96, strength=1.0)[0] for names in ([], [finding])
        )
        change = np.abs(ill.astype(float) - healthy)
        assert np.percentile(change, 99.7) > 15  # the smallest signs cover 0.5 % of the film


@pytest.mark.parametrize("finding", [name for name in FINDINGS if name != "Emphysema"])
def test_a_plain_finding_has_a_box_where_the_film_changes(finding: str):
    healthy = draw_phantom(seed=9, size=128)[0].astype(float)
    image, boxes = draw_phantom([finding], seed=9, size=128, strength=1.0)
    assert [box[0] for box in boxes] == [finding]
    x, y, w, h = (value / 8 for value in boxes[0][1:])
    assert 0 <= x < x + w <= 128 and 0 <= y < y + h <= 128
    change = np.abs(image - healthy)
    inside = np.zeros_like(change, bool)
    inside[round(y) : round(y + h), round(x) : round(x + w)] = True
    assert change[inside].mean() > 1.5 * change[~inside].mean()


def test_boxes_do_not_depend_on_the_size_drawn():
    small, large = (
        draw_phantom(["Mass"], seed=5, size=size, strength=1.0)[1][0] for size in (128, 512)
    )
    assert np.allclose(small[1:], large[1:], atol=16)


def test_an_enlarged_heart_is_wider_than_half_the_chest_and_a_healthy_one_is_not():
    width = {}
    for names in ((), ("Cardiomegaly",)):
        image = draw_phantom(names, seed=11, size=128, strength=1.0)[0].astype(float)
        width[names] = image[80:88, 30:100].mean()
    assert width[("Cardiomegaly",)] > width[()] + 10


@pytest.mark.parametrize(
    "wrong", [{"findings": ["Cough"]}, {"findings": "Mass"}, {"sex": "X"}, {"size": 8}]
)
def test_wrong_parameters_of_a_film_are_named(wrong: dict):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        draw_phantom(**wrong)


# the people


def test_the_default_set_holds_every_finding_often_enough_to_measure():
    films = draw_cohort(480, 0)
    counts, tests = Counter(), Counter()
    for film in films:
        counts.update(film.findings)
        tests.update(film.findings if film.test else ())
    assert 1000 <= len(films) <= 1250
    assert min(counts[name] for name in FINDINGS) >= 0.03 * len(films)
    assert min(tests[name] for name in FINDINGS) >= 5
    assert counts.most_common(1)[0][0] == "Infiltration"
    assert 0.35 <= sum(not film.findings for film in films) / len(films) <= 0.5


def test_edema_stands_mostly_on_portable_films():
    views = Counter(film.view for film in draw_cohort(480, 0) if "Edema" in film.findings)
    assert views["AP"] > 2 * views["PA"]


def test_effusion_comes_with_atelectasis_more_often_than_chance():
    films = draw_cohort(480, 0)
    a, b = (
        np.array([name in film.findings for film in films]) for name in ("Effusion", "Atelectasis")
    )
    assert (a & b).mean() > 1.5 * a.mean() * b.mean()


# the folders


def test_the_table_has_the_nih_columns_and_every_image(tiny: Path):
    table = rows(tiny / "dataset_full" / "Data_Entry_2017_v2020.csv")
    header = (tiny / "dataset_full" / "Data_Entry_2017_v2020.csv").read_text().splitlines()[0]
    assert header == (
        "Image Index,Finding Labels,Follow-up #,Patient ID,Patient Age,Patient Gender,View Position,"
        "OriginalImage[Width,Height],OriginalImagePixelSpacing[x,y]"
    )
    names = {row["Image Index"] for row in table}
    assert names == {path.name for path in (tiny / "dataset_full" / "images").iterdir()}
    known = {*FINDINGS, NO_FINDING}
    assert all(set(row["Finding Labels"].split("|")) <= known for row in table)


def test_the_lists_share_out_all_images_by_patient(tiny: Path):
    table = {
        row["Image Index"] for row in rows(tiny / "dataset_full" / "Data_Entry_2017_v2020.csv")
    }
    train, test = (
        set((tiny / "dataset_full" / name).read_text().split())
        for name in ("train_val_list.txt", "test_list.txt")
    )
    assert train | test == table and not train & test
    assert not {patient(name) for name in train} & {patient(name) for name in test}
    assert len({patient(name) for name in test}) == 6  # a quarter of 24


def test_every_boxed_image_is_a_test_image_with_that_label(tiny: Path):
    labels = {
        row["Image Index"]: row["Finding Labels"]
        for row in rows(tiny / "dataset_full" / "Data_Entry_2017_v2020.csv")
    }
    test = set((tiny / "dataset_full" / "test_list.txt").read_text().split())
    lines = list(csv.reader((tiny / "dataset_full" / "BBox_List_2017.csv").open(newline="")))
    assert (
        lines[0] == ["Image Index", "Finding Label", "Bbox [x", "y", "w", "h]"] and len(lines) > 1
    )
    for name, finding, *place in lines[1:]:
        assert name in test and finding.replace("Infiltrate", "Infiltration") in labels[name].split(
            "|"
        )
        x, y, w, h = map(float, place)
        assert 0 <= x < x + w <= 1024 and 0 <= y < y + h <= 1024


def test_the_cardiomegaly_set_lists_its_files_and_labels(tiny: Path):
    folder = tiny / "dataset_cardiomegaly"
    for split in ("train", "test"):
        table = rows(folder / f"{split}.csv")
        assert {row["imageID"] for row in table} == {
            path.name for path in (folder / split).iterdir()
        }
        assert {row["disease"] for row in table} == {"Cardiomegaly", NO_FINDING}


def test_no_test_patient_of_one_set_is_a_training_patient_of_the_other(tiny: Path):
    for mine, other in (("train", "test_list.txt"), ("test", "train_val_list.txt")):
        here = {
            patient(row["imageID"]) for row in rows(tiny / "dataset_cardiomegaly" / f"{mine}.csv")
        }
        there = {patient(name) for name in (tiny / "dataset_full" / other).read_text().split()}
        assert not here & there


def test_some_cardiomegaly_images_stand_in_both_sets_and_some_do_not(tiny: Path):
    full = {path.name: path.read_bytes() for path in (tiny / "dataset_full" / "images").iterdir()}
    both = [path for path in (tiny / "dataset_cardiomegaly").rglob("*.png") if path.name in full]
    assert both and all(path.read_bytes() == full[path.name] for path in both)
    assert len(both) < len(list((tiny / "dataset_cardiomegaly").rglob("*.png")))


def test_each_folder_says_that_it_is_synthetic(tiny: Path):
    for folder in (tiny, tiny / "dataset_full", tiny / "dataset_cardiomegaly"):
        marker = json.loads((folder / phantom.MARKER).read_text())
        assert "Synthetic" in marker["what"] and marker["patients"] == 24 and marker["size"] == 32


def test_the_number_of_workers_does_not_change_a_byte(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(phantom, "_FEW", 0)
    again = write_phantoms(tmp_path / "again", patients=24, size=32, workers=2, progress=False)
    assert contents(again) == contents(tiny)


def test_phantoms_that_are_there_are_left_alone(tmp_path: Path):
    folder = write_phantoms(tmp_path / "p", patients=4, size=16, progress=False)
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    write_phantoms(folder, patients=4, size=16, progress=False)
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*")} == before


def test_phantoms_of_other_parameters_or_with_a_film_missing_are_written_again(tmp_path: Path):
    folder = write_phantoms(tmp_path / "p", patients=4, size=16, progress=False)
    write_phantoms(folder, patients=4, size=24, progress=False)
    film = next((folder / "dataset_full" / "images").iterdir())
    assert Image.open(film).size == (24, 24)
    film.unlink()
    write_phantoms(folder, patients=4, size=24, progress=False)
    assert film.is_file() and [path.name for path in tmp_path.iterdir()] == ["p"]


@pytest.mark.parametrize("foreign", ["notes.txt", "dataset_full/Data_Entry_2017_v2020.csv"])
def test_a_folder_of_other_data_is_refused_and_kept(tmp_path: Path, foreign: str):
    mine = tmp_path / "mine" / foreign
    mine.parent.mkdir(parents=True)
    mine.write_text("precious")
    with pytest.raises(FileExistsError, match="not phantoms"):
        write_phantoms(tmp_path / "mine", patients=4, size=16, progress=False)
    assert mine.read_text() == "precious"


def test_a_failure_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def fail(*_args: object, **_kwargs: object) -> None:
        raise RuntimeError("disk on fire")

    monkeypatch.setattr(phantom, "_write_cardiomegaly", fail)
    with pytest.raises(RuntimeError, match="disk on fire"):
        write_phantoms(tmp_path / "p", patients=4, size=16, progress=False)
    assert list(tmp_path.iterdir()) == []


def test_too_few_patients_are_refused(tmp_path: Path):
    with pytest.raises(CxrError, match="patients=2"):
        write_phantoms(tmp_path / "p", patients=2)


def test_two_writers_at_once_leave_one_whole_set(tmp_path: Path):
    arguments = {"patients": 4, "size": 16, "progress": False}
    with ThreadPoolExecutor(2) as pool:
        done = list(pool.map(lambda _: write_phantoms(tmp_path / "p", **arguments), range(2)))
    assert done == [tmp_path / "p"] * 2 and [path.name for path in tmp_path.iterdir()] == ["p"]


def test_phantoms_are_neither_noise_nor_trivial_for_a_linear_model(tmp_path: Path):
    write_phantoms(tmp_path / "p", patients=240, size=64, progress=False)
    frame = read_dataset([tmp_path / "p" / "dataset_full"]).frame
    pixels = (
        np.stack([decode_grey(str(path), 32) for path in frame["path"]]).reshape(len(frame), -1)
        / 255
    )  # (N, 1024)
    test = (frame["official"] == "test").to_numpy()
    scores = []
    for finding in FINDINGS:
        known = frame[finding].to_numpy()
        model = LogisticRegression(C=0.01, max_iter=300).fit(pixels[~test], known[~test])
        scores.append(roc_auc_score(known[test], model.predict_proba(pixels[test])[:, 1]))
    assert 0.55 < np.mean(scores) < 0.9
