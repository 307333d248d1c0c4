"""The five dataset layouts, how they merge, and what is said about rows that cannot be used."""

import csv
import os
import warnings
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from lib.config import FINDINGS, Config
from lib.datasets import data_text, describe_data, prepare_data
from lib.datasets.check import check_folder, check_overlap
from lib.datasets.tables import patient_of, read_dataset
from lib.exceptions import DatasetError

NIH_HEADER = [
    "Image Index",
    "Finding Labels",
    "Follow-up #",
    "Patient ID",
    "Patient Age",
    "Patient Gender",
]
NIH_HEADER += [
    "View Position",
    "OriginalImage[Width",
    "Height]",
    "OriginalImagePixelSpacing[x",
    "y]",
]


def film(path: Path, value: int = 100) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("L", (8, 8), value).save(path)


def table(path: Path, header: list[str], rows: list[list]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([header, *rows])


def nih_row(
    image: str, labels: str, *, patient: object = None, age: object = 57, sex: str = "M", view="PA"
) -> list:
    return [
        image,
        labels,
        0,
        image[:8] if patient is None else patient,
        age,
        sex,
        view,
        2500,
        2048,
        0.17,
        0.17,
    ]


def nih(folder: Path, rows: list[list], *, test: list[str] = (), images: str = "images") -> Path:
    """An NIH release whose files are all there; every image that is not in `test` is in
    train_val_list.txt."""
    table(folder / "Data_Entry_2017_v2020.csv", NIH_HEADER, rows)
    names = [row[0] for row in rows]
    for name in names:
        film(folder / images / name)
    (folder / "train_val_list.txt").write_text("\n".join(n for n in names if n not in test))
    (folder / "test_list.txt").write_text("\n".join(test))
    return folder


def single(
    folder: Path, train: list[list], test: list[list], header: tuple = ("imageID", "disease")
) -> Path:
    for part, rows in (("train", train), ("test", test)):
        table(folder / f"{part}.csv", list(header[: len(rows[0])] if rows else header), rows)
        for row in rows:
            film(folder / part / row[0])
    return folder


TWO = [
    nih_row("00000001_000.png", "Cardiomegaly|Effusion"),
    nih_row("00000002_000.png", "No Finding", sex="F"),
]


def row_of(dataset, image: str) -> pd.Series:
    return dataset.frame.set_index("image").loc[image]


# ---- layouts


def test_nih_release_is_recognised_and_read(tmp_path):
    data = read_dataset(nih(tmp_path / "full", TWO, test=["00000002_000.png"]))
    assert list(data.layouts.values()) == ["NIH release (Data_Entry_2017_v2020.csv)"]
    first = row_of(data, "00000001_000.png")
    assert (first.patient, first.age, first.sex, first.view, first.official) == (
        "nih:1",
        57.0,
        "M",
        "PA",
        "trainval",
    )
    assert [name for name in FINDINGS if first[name] == 1] == ["Cardiomegaly", "Effusion"]
    assert row_of(data, "00000002_000.png").official == "test"
    assert (row_of(data, "00000002_000.png")[list(FINDINGS)] == 0).all()


def test_frame_has_the_agreed_columns_in_order(tmp_path):
    frame = read_dataset(nih(tmp_path / "full", TWO)).frame
    assert list(frame.columns[8:]) == list(FINDINGS)
    assert list(frame.columns[:8]) == [
        "image",
        "path",
        "patient",
        "age",
        "sex",
        "view",
        "source",
        "official",
    ]
    assert set(frame.dtypes[list(FINDINGS)]) == {np.dtype(float)}
    assert frame.index.equals(pd.RangeIndex(2))


def test_nih_images_may_stand_in_numbered_folders(tmp_path):
    nih(tmp_path, TWO[:1], images="images_001/images")
    film(tmp_path / "images_002/images/00000002_000.png")
    table(tmp_path / "Data_Entry_2017_v2020.csv", NIH_HEADER, TWO)
    assert len(read_dataset(tmp_path).frame) == 2


@pytest.mark.parametrize("images", ["sample/images", "sample/sample/images", "images"])
def test_kaggle_sample_is_found_in_each_of_its_places(tmp_path, images):
    table(tmp_path / "sample_labels.csv", NIH_HEADER, TWO)
    for row in TWO:
        film(tmp_path / images / row[0])
    data = read_dataset(tmp_path)
    assert list(data.layouts.values()) == ["Kaggle sample (sample_labels.csv)"]
    assert data.frame["official"].isna().all() and len(data.frame) == 2


def test_challenge_full_set_annotates_all_findings(tmp_path):
    table(
        tmp_path / "14_train.csv",
        ["imageID", "disease"],
        [["00000009_001.png", "Mass|Pleural Thickening"]],
    )
    film(tmp_path / "images/00000009_001.png")
    data = read_dataset(tmp_path)
    assert list(data.layouts.values()) == ["challenge full set (14_train.csv)"]
    assert row_of(data, "00000009_001.png")[list(FINDINGS)].sum() == 2
    assert row_of(data, "00000009_001.png").patient == "nih:9"


def test_cardiomegaly_set_knows_nothing_of_the_other_13_findings(tmp_path):
    train = [["00000001_000.png", "Cardiomegaly"], ["00000002_000.png", "No Finding"]]
    data = read_dataset(single(tmp_path / "c", train, [["00000506_000.png", "Cardiomegaly"]]))
    assert data.frame["Cardiomegaly"].tolist() == [1, 0, 1]
    assert data.frame[[n for n in FINDINGS if n != "Cardiomegaly"]].isna().all(axis=None)
    assert data.frame["official"].tolist() == ["train", "train", "test"]


@pytest.mark.parametrize("rows", [[["00000506_000.png"]], [["00000506_000.png", ""]]])
def test_test_table_without_labels_is_for_a_submission(tmp_path, rows):
    data = read_dataset(single(tmp_path / "c", [["00000001_000.png", "Cardiomegaly"]], rows))
    assert data.submission == ("00000506_000.png",)
    assert row_of(data, "00000506_000.png")[list(FINDINGS)].isna().all()


def test_class_folders_give_one_finding_against_normal(tmp_path):
    film(tmp_path / "p/train/NORMAL/IM-0115-0001.jpeg")
    film(tmp_path / "p/train/PNEUMONIA/person1_bacteria_2.jpeg")
    film(tmp_path / "p/test/pneumonia/person7_virus_6.jpeg")
    data = read_dataset(tmp_path / "p")
    assert list(data.layouts.values()) == ["class folders"]
    assert data.frame.set_index("patient")["Pneumonia"].to_dict() == {
        "p:IM-0115": 0,
        "p:person1": 1,
        "p:person7": 1,
    }
    assert data.frame["official"].tolist() == ["test", "train", "train"]
    assert data.frame["Mass"].isna().all()


def test_same_file_name_in_two_classes_is_two_images(tmp_path):
    film(tmp_path / "NORMAL/1.png")
    film(tmp_path / "Mass/1.png")
    assert sorted(read_dataset(tmp_path).frame["image"]) == ["Mass/1.png", "NORMAL/1.png"]


def test_unknown_layout_says_what_was_looked_for(tmp_path):
    (tmp_path / "notes.txt").write_text("nothing")
    with pytest.raises(DatasetError, match=r"Data_Entry_2017.*found notes.txt"):
        read_dataset(tmp_path)


def test_phantom_marker_is_noticed(tmp_path):
    folder = nih(tmp_path / "full", TWO)
    assert not read_dataset(folder).phantom
    (folder / "PHANTOM").touch()
    assert read_dataset(folder).phantom


def test_boxes_are_read_with_nih_spelling(tmp_path):
    folder = nih(tmp_path, TWO)
    text = "Image Index,Finding Label,Bbox [x,y,w,h],,,\n00000001_000.png,Infiltrate,1.5,2,3,4,,,\n"
    (folder / "BBox_List_2017.csv").write_text(text)
    assert read_dataset(folder).boxes.to_dict("records") == [
        {
            "image": "00000001_000.png",
            "finding": "Infiltration",
            "x": 1.5,
            "y": 2.0,
            "w": 3.0,
            "h": 4.0,
        }
    ]


# ---- merging and patients


def test_full_labels_win_where_both_sets_hold_an_image(tmp_path):
    full = nih(tmp_path / "full", TWO)
    card = single(
        tmp_path / "card",
        [["00000002_000.png", "Cardiomegaly"], ["00000003_000.png", "Cardiomegaly"]],
        [],
    )
    data = read_dataset([card, full])
    assert (row_of(data, "00000002_000.png")[list(FINDINGS)] == 0).all()
    assert row_of(data, "00000003_000.png")[list(FINDINGS)].isna().sum() == 13
    assert row_of(data, "00000002_000.png").source == "full"
    assert len(data.frame) == 3 and data.frame["image"].is_unique
    assert any("1 images are labelled differently" in text for text in data.warnings)


def test_test_of_any_source_is_test_after_merging(tmp_path):
    full = nih(tmp_path / "full", TWO)
    card = single(tmp_path / "card", [["00000003_000.png", "Cardiomegaly"]], [["00000001_000.png"]])
    assert row_of(read_dataset([full, card]), "00000001_000.png").official == "test"


def test_a_patient_has_one_id_in_every_source():
    assert {
        patient_of("00000506_000.png"),
        patient_of("x.png", "506"),
        patient_of("x.png", "00506"),
    } == {"506"}


def test_a_phantom_and_a_person_with_the_same_id_are_two_patients(tmp_path):
    people, drawings = (
        nih(tmp_path / "full", TWO[:1]),
        nih(tmp_path / "drawn", [nih_row("00000001_001.png", "Mass")]),
    )
    (drawings / "PHANTOM").touch()
    assert read_dataset([people, drawings]).frame["patient"].tolist() == ["nih:1", "phantom:1"]


def test_folders_of_classes_share_no_patients(tmp_path):
    for hospital in ("one", "other"):
        film(tmp_path / hospital / f"PNEUMONIA/person1_bacteria_{len(hospital)}.jpeg")
    patients = read_dataset([tmp_path / "one", tmp_path / "other"]).frame["patient"]
    assert patients.tolist() == ["one:person1", "other:person1"]


def test_an_nih_name_in_a_folder_of_classes_is_the_nih_patient(tmp_path):
    film(tmp_path / "Cardiomegaly/00000506_000.png")
    assert read_dataset(tmp_path).frame["patient"].tolist() == ["nih:506"]


def test_names_that_look_as_if_they_held_patients_are_a_warning_with_the_way_to_declare_them(
    tmp_path,
):
    for name in ("p012_1.png", "p012_2.png", "p013_1.png", "p013_2.png"):
        film(tmp_path / "PNEUMONIA" / name)
    (warning,) = read_dataset(tmp_path).warnings
    assert (
        "'p012_1.png' looks like patient 'p012'" in warning
        and "Patient ID in sample_labels.csv" in warning
    )


def test_images_without_patients_are_a_warning(tmp_path):
    film(tmp_path / "Mass/a.png")
    (warning,) = read_dataset(tmp_path).warnings
    assert "each of 1 images counts as its own patient" in warning


def test_known_patients_are_no_warning(tmp_path):
    film(tmp_path / "PNEUMONIA/person1_bacteria_2.jpeg")
    assert read_dataset(tmp_path).warnings == ()


def test_image_of_unknown_patient_is_its_own_patient(tmp_path):
    data = read_dataset(single(tmp_path / "c", [["a.png", "Mass"], ["b.png", "No Finding"]], []))
    assert data.frame["patient"].tolist() == ["nih:a.png", "nih:b.png"]


@pytest.mark.parametrize(
    ("text", "years"), [("058Y", 58), ("018M", 1.5), ("57", 57), ("", np.nan), ("0", 0)]
)
def test_ages_are_years(tmp_path, text, years):
    data = read_dataset(nih(tmp_path, [nih_row("00000001_000.png", "Mass", age=text)]))
    np.testing.assert_equal(data.frame["age"].item(), float(years))
    assert not data.warnings


def test_impossible_age_is_missing_with_a_warning(tmp_path):
    data = read_dataset(nih(tmp_path, [nih_row("00000001_000.png", "Mass", age=414)]))
    assert np.isnan(data.frame["age"].item())
    assert "1 ages under 0 or above 120 years were read as missing, as '414'" in data.warnings[0]


# ---- problems

BAD_ROWS = {
    "missing file": "00000020_000.png",
    "unknown finding": "00000021_000.png",
    "duplicate id": "00000001_000.png",
    "empty file": "00000022_000.png",
    "not an image": "00000023_000.png",
    "path instead of a file name": "../00000024_000.png",
    "contradictory labels": "00000025_000.png",
    "unparsable age": "00000026_000.png",
    "no finding given": "00000027_000.png",
    "broken row": "00000028_000.png",
}


@pytest.fixture
def broken(tmp_path) -> Path:
    """An NIH release with two good rows and one row of each kind of problem."""
    folder = nih(tmp_path / "full", TWO)
    names = BAD_ROWS
    labels = {
        "unknown finding": "Gout",
        "contradictory labels": "No Finding|Mass",
        "no finding given": "",
    }
    rows = [nih_row(name, labels.get(kind, "Mass")) for kind, name in names.items()]
    rows[2][1] = TWO[0][1]
    rows[7][4] = "old"
    rows[9] = rows[9][:3]
    table(folder / "Data_Entry_2017_v2020.csv", NIH_HEADER, [*TWO, *rows])
    for kind in ("unknown finding", "contradictory labels", "unparsable age", "no finding given"):
        film(folder / "images" / names[kind])
    (folder / "images" / names["empty file"]).touch()
    (folder / "images" / names["not an image"]).write_text("hello, I am a text")
    return folder


@pytest.mark.parametrize("kind", BAD_ROWS)
def test_one_error_names_every_problem(broken, kind):
    with pytest.raises(DatasetError) as error:
        read_dataset(broken)
    line = next(line for line in str(error.value).splitlines() if BAD_ROWS[kind] in line)
    assert kind in line or (kind == "missing file" and "1 of the 11 images" in line)
    assert "full: 10 of 11 rows" in str(error.value) and "on_bad=skip" in str(error.value)


def test_skip_keeps_the_good_rows_and_returns_the_others(broken):
    data = read_dataset(broken, on_bad="skip")
    assert data.frame["image"].tolist() == ["00000001_000.png", "00000002_000.png"]
    written = data.bad_rows
    assert list(written.columns) == ["source", "row", "image", "reason"]
    assert set(written["image"]) == set(BAD_ROWS.values())
    assert written.set_index("image").loc["00000021_000.png"].to_dict() == {
        "source": "full",
        "row": 5,
        "reason": "unknown finding: 'Gout'",
    }


@pytest.mark.parametrize("name", ["/etc/passwd", "..", "a/../../b.png", "C:\\films\\1.png"])
def test_paths_in_a_table_are_refused(tmp_path, name):
    folder = nih(tmp_path, TWO)
    table(folder / "Data_Entry_2017_v2020.csv", NIH_HEADER, [*TWO, nih_row(name, "Mass")])
    with pytest.raises(DatasetError, match="path instead of a file name"):
        read_dataset(folder)


def test_duplicates_that_disagree_are_both_left_out(tmp_path):
    folder = single(
        tmp_path / "c", [["a.png", "Mass"], ["b.png", "No Finding"]], [["a.png", "Mass"]]
    )
    assert read_dataset(folder, on_bad="skip").frame["image"].tolist() == ["b.png"]


def test_a_partly_downloaded_set_is_explained(tmp_path):
    folder = nih(tmp_path, TWO)
    (folder / "images/00000002_000.png").unlink()
    with pytest.raises(
        DatasetError,
        match=r"1 of the 2 images listed in Data_Entry.* are not there \(looked in images",
    ):
        read_dataset(folder)


def test_a_set_without_any_image_says_so(tmp_path):
    table(tmp_path / "Data_Entry_2017_v2020.csv", NIH_HEADER, TWO)
    for on_bad in ("raise", "skip"):
        with pytest.raises(DatasetError, match="none of the 2 images listed in Data_Entry"):
            read_dataset(tmp_path, on_bad=on_bad)


def test_images_that_no_table_lists_are_noted(tmp_path):
    folder = nih(tmp_path, TWO)
    film(folder / "images/00000099_000.png")
    assert any(
        "1 images are not listed in Data_Entry" in text for text in read_dataset(folder).warnings
    )


def test_image_in_both_official_lists_is_a_problem(tmp_path):
    folder = nih(tmp_path, TWO, test=["00000001_000.png"])
    (folder / "train_val_list.txt").write_text("00000001_000.png\n00000002_000.png\n")
    with pytest.raises(DatasetError, match=r"listed for training and for test: 00000001_000\.png"):
        read_dataset(folder)


@pytest.mark.parametrize("changed", ["images/{}", "{}.jpg"])
def test_an_official_list_of_other_names_is_refused_with_both_spellings(tmp_path, changed):
    folder = nih(tmp_path / "full", TWO, test=["00000002_000.png"])
    (folder / "test_list.txt").write_text(changed.format("00000002_000.png"))
    with pytest.raises(
        DatasetError,
        match=r"(?s)test_list.txt: only 0 of its 1 names.*it has '.*', the table '0000000",
    ):
        read_dataset(folder, on_bad="skip")


def test_official_lists_of_the_whole_release_beside_a_part_of_it_are_fine(tmp_path):
    folder = nih(
        tmp_path / "full", TWO, test=["00000002_000.png", "00000008_000.png", "00000009_000.png"]
    )
    assert row_of(read_dataset(folder), "00000002_000.png").official == "test"


# ---- damaged tables and odd files: one bad item is one problem


def test_a_quote_that_is_not_closed_costs_one_row(tmp_path):
    folder = nih(tmp_path / "full", TWO)
    listed = folder / "Data_Entry_2017_v2020.csv"
    listed.write_text(
        listed.read_text() + '"00000003_000.png,Mass\n' + ",".join(map(str, TWO[0])) + "\n"
    )
    data = read_dataset(folder, on_bad="skip")
    assert len(data.frame) == 2
    quote = data.bad_rows[data.bad_rows["reason"].str.startswith("broken row")]
    assert quote["row"].tolist() == [4] and "a quote that is not closed" in quote["reason"].item()


def test_links_in_a_circle_are_one_problem(tmp_path):
    folder = nih(tmp_path / "full", TWO)
    image = folder / "images" / TWO[0][0]
    image.unlink()
    image.symlink_to(image.name)
    bad = read_dataset(folder, on_bad="skip").bad_rows
    assert bad["image"].tolist() == [TWO[0][0]] and bad["reason"].item().startswith(
        "unreadable file"
    )


def test_a_list_in_utf16_is_read_and_one_in_latin1_is_named(tmp_path):
    folder = nih(tmp_path / "full", TWO)
    (folder / "test_list.txt").write_text("00000002_000.png\n", encoding="utf-16")
    (folder / "train_val_list.txt").write_text("00000001_000.png\n")
    assert row_of(read_dataset(folder), "00000002_000.png").official == "test"
    (folder / "test_list.txt").write_bytes(b"00000002_000.png\nM\xfcller.png\n")
    with pytest.raises(DatasetError, match=r"test_list.txt: line 2 is not text in UTF-8"):
        read_dataset(folder)


def test_a_table_that_is_a_folder_is_named(tmp_path):
    (tmp_path / "full" / "Data_Entry_2017.csv").mkdir(parents=True)
    with pytest.raises(DatasetError, match=r"Data_Entry_2017.csv is a folder"):
        read_dataset(tmp_path / "full")


@pytest.mark.parametrize("box", ["nan,1,2,3", "1,inf,2,3", "1,1,0,3", "1,1,2,-3"])
def test_a_box_of_impossible_size_is_a_problem(tmp_path, box):
    folder = nih(tmp_path / "full", TWO)
    text = f"Image Index,Finding Label,Bbox [x,y,w,h],,,\n{TWO[0][0]},Cardiomegaly,{box}\n"
    (folder / "BBox_List_2017.csv").write_text(text)
    data = read_dataset(folder, on_bad="skip")
    assert data.boxes.empty and data.bad_rows["reason"].item().startswith("unusable box")


def test_missing_column_is_named(tmp_path):
    table(tmp_path / "14_train.csv", ["imageID", "label"], [])
    with pytest.raises(
        DatasetError, match=r"14_train.csv: no column 'disease'; its columns are imageID, label"
    ):
        read_dataset(tmp_path)


def test_dicom_files_are_recognised(tmp_path):
    folder = nih(tmp_path, TWO)
    (folder / "images/00000001_000.png").write_bytes(b"\0" * 128 + b"DICM" + b"\0" * 50)
    with pytest.raises(DatasetError, match="DICOM"):
        read_dataset(folder)


# ---- check_folder


def test_check_folder_decodes_to_the_end(tmp_path):
    folder = nih(tmp_path, TWO)
    rng = np.random.default_rng(0)
    path = folder / "images/00000001_000.png"
    Image.fromarray(rng.integers(0, 255, (64, 64), dtype=np.uint8)).save(path)
    path.write_bytes(path.read_bytes()[:2000])
    assert len(read_dataset(folder).frame) == 2
    report = check_folder(folder, progress=False)
    assert not report.ok and report.images == 1
    assert "00000001_000.png: undecodable image" in report.text()


def test_check_folder_reports_counts(tmp_path):
    report = check_folder(nih(tmp_path, TWO), progress=False)
    assert report.ok and (report.images, report.patients) == (2, 2)
    assert report.counts.loc["Effusion"].tolist() == [1, 1, 0]
    assert "NIH release" in report.text() and "no problems" in report.text()


def test_check_folder_names_copies(tmp_path):
    pixels = (
        np.random.default_rng(0)
        .integers(0, 255, (8, 8), dtype=np.uint8)
        .repeat(16, 0)
        .repeat(16, 1)
    )
    for name in ("a.png", "b.png"):
        film(tmp_path / "Mass" / name)
        Image.fromarray(pixels).save(tmp_path / "Mass" / name)
    text = check_folder(tmp_path, progress=False).text()
    assert "1 pairs of images are the same radiograph" in text


def test_a_folder_that_adds_no_image_to_another_is_a_warning(tmp_path):
    full, part = nih(tmp_path / "full", TWO), nih(tmp_path / "part", TWO[:1])
    text = check_overlap([full, part])
    assert f"{full} adds 1 images, 1 patients and 14 labels beyond the others" in text
    assert (
        f"all images of {part} are in the others: a stage trained on it sees no new image" in text
    )


def test_check_folder_of_nothing_is_not_ok(tmp_path):
    report = check_folder(tmp_path / "nowhere")
    assert not report.ok and "no such folder" in report.text()


# ---- real X-rays


def real(name: str) -> Path:
    root = os.environ.get("CXR_REAL_DATA")
    if not root:
        pytest.skip("CXR_REAL_DATA names no folder with real X-rays")
    return Path(root) / name


def test_real_nih_and_cardiomegaly_sets_merge_without_a_problem():
    data = read_dataset([real("real/dataset_full"), real("real/dataset_cardiomegaly")])
    assert (len(data.frame), data.frame["patient"].nunique()) == (1496, 1196)
    assert data.frame["official"].value_counts().to_dict() == {"trainval": 1390, "test": 106}
    assert (
        data.frame[list(FINDINGS)].notna().all(axis=None)
        and not data.bad_rows.size
        and not data.warnings
    )


def test_real_kaggle_sample_is_read():
    data = read_dataset(real("kaggle_sample"))
    assert (len(data.frame), data.frame["patient"].nunique()) == (681, 248)


def test_what_is_odd_about_the_splits_is_reported_with_the_data_and_not_as_a_warning(
    tiny_phantoms, tmp_path
):
    config = Config(data_root=str(tiny_phantoms), data_dir=("dataset_full",), image_size=32)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        facts = describe_data(prepare_data(config, tmp_path / "run"))
    text = data_text(facts)
    assert text.startswith("images used: train ") and "dataset_full: NIH release" in text
    assert facts["split_warnings"] and all(note in text for note in facts["split_warnings"])


def test_a_table_of_boxes_without_its_header_loses_no_box(tmp_path):
    folder = nih(tmp_path / "full", TWO)
    (folder / "BBox_List_2017.csv").write_text("00000001_000.png,Cardiomegaly,1,2,3,4\n")
    with pytest.raises(
        DatasetError, match=r"BBox_List_2017\.csv row 1, the header must begin with"
    ):
        read_dataset(folder)


def test_an_image_whose_name_is_not_text_is_named(tmp_path):
    write_smallest_class_folders(tmp_path / "chest")
    bad = tmp_path / "chest" / "NORMAL" / os.fsdecode(b"latin1_\xe9.png")
    Image.new("L", (8, 8)).save(bad)
    data = read_dataset(tmp_path / "chest", on_bad="skip")
    assert len(data.frame) == 2 and data.bad_rows["image"].tolist() == [r"latin1_\xe9.png"]
    with pytest.raises(DatasetError, match=r"1 x name that is not UTF-8: latin1_.xe9\.png"):
        read_dataset(tmp_path / "chest")


def test_a_folder_whose_path_is_not_text_is_refused(tmp_path):
    folder = tmp_path / os.fsdecode(b"caf\xe9")
    write_smallest_class_folders(folder)
    with pytest.raises(DatasetError, match=r"caf.xe9: the path is not text in UTF-8"):
        read_dataset(folder)


def write_smallest_class_folders(folder: Path) -> None:
    for number, name in enumerate(("NORMAL", "PNEUMONIA")):
        (folder / name).mkdir(parents=True)
        Image.new("L", (8, 8)).save(folder / name / f"{number}.png")
