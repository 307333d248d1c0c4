"""The layouts of published data sets: how each is recognised, checked, merged and trained on; and
that no damage to one passes in silence."""

import csv
import gzip
import io
import shutil
import warnings
from collections.abc import Callable
from pathlib import Path

import made_layouts as made
import numpy as np
import pytest
from PIL import Image

from lib.config import FINDINGS, Config
from lib.datasets import data_text, describe_data, prepare_data, read_dataset
from lib.datasets.cache import decode_problems
from lib.datasets.layouts import padchest_labels
from lib.exceptions import DatasetError
from lib.images.pixels import decode_grey
from lib.models import build_model, fit, make_loaders

MADE = {
    "chexpert": made.write_chexpert,
    "mimic": made.write_mimic,
    "padchest": made.write_padchest,
    "vindr": made.write_vindr,
    "rsna": made.write_rsna,
    "medmnist": made.write_medmnist,
}
NAMES = {
    "chexpert": "CheXpert",
    "mimic": "MIMIC-CXR-JPG",
    "padchest": "PadChest",
    "vindr": "VinDr-CXR",
    "rsna": "RSNA pneumonia challenge",
    "medmnist": "MedMNIST",
}
ANNOTATED = {
    "chexpert": {"Cardiomegaly", "Edema", "Effusion", "Pneumonia", "Atelectasis", "Pneumothorax"}
    | {"Consolidation"},
    "padchest": set(FINDINGS),
    "vindr": set(FINDINGS) - {"Mass", "Nodule", "Hernia"},
    "rsna": {"Pneumonia"},
    "medmnist": set(FINDINGS),
}
ANNOTATED["mimic"] = ANNOTATED["chexpert"]
MAIN = {
    "chexpert": "CheXpert-v1.0-small/train.csv",
    "mimic": "mimic-cxr-2.0.0-metadata.csv.gz",
    "padchest": "PADCHEST_chest_x_ray_images_labels_160K_01.02.19.csv",
    "vindr": "annotations/image_labels_train.csv",
    "rsna": "stage_2_train_labels.csv",
}
"""The table whose rows are damaged below."""
IMAGE_COLUMN = {
    "chexpert": "Path",
    "mimic": "dicom_id",
    "padchest": "ImageID",
    "vindr": "image_id",
    "rsna": "patientId",
}
LABELS = {
    "chexpert": ("CheXpert-v1.0-small/train.csv", "Pleural Effusion"),
    "mimic": ("mimic-cxr-2.0.0-chexpert.csv.gz", "Pleural Effusion"),
    "padchest": (MAIN["padchest"], "Labels"),
    "vindr": (MAIN["vindr"], "Pleural effusion"),
    "rsna": (MAIN["rsna"], "Target"),
}
FILMS = ("*.jpg", "*.png", "*.dcm", "*.dicom")


@pytest.fixture(scope="module")
def originals(tmp_path_factory) -> dict[str, Path]:
    """One folder of each layout, not to be changed."""
    root = tmp_path_factory.mktemp("layouts")
    return {name: write(root / f"set_{name}") for name, write in MADE.items()}


@pytest.fixture
def folder(originals, tmp_path) -> Callable[[str], Path]:
    """A copy of the folder of a layout."""
    return lambda name: shutil.copytree(originals[name], tmp_path / name)


# ---- each is recognised and read


@pytest.mark.parametrize("name", MADE)
def test_each_is_recognised_and_read_without_a_problem(originals, name):
    data = read_dataset(originals[name])
    (layout,) = data.layouts.values()
    assert layout.startswith(NAMES[name]) and data.bad_rows.empty
    assert data.frame["image"].is_unique and len(data.frame) >= 28
    assert not len(decode_problems(data.frame, workers=1, progress=False))


@pytest.mark.parametrize("name", MADE)
def test_a_finding_that_a_set_does_not_annotate_is_nan(originals, name):
    targets = read_dataset(originals[name]).frame[list(FINDINGS)]
    assert set(targets.columns[targets.notna().any()]) <= ANNOTATED[name]
    assert targets.isin([0, 1]).where(targets.notna(), True).all(axis=None)
    assert (targets == 1).any(axis=None) and (targets == 0).any(axis=None)


@pytest.mark.parametrize("name", MADE)
def test_each_is_trained_on(originals, name, tmp_path):
    config = Config(
        data_root=str(originals[name].parent),
        data_dir=(originals[name].name,),
        run_dir=str(tmp_path),
        findings=("Pneumonia",) if name == "rsna" else ("Effusion",),
        backbone="resnet10t",
        pretrained=False,
        head="linear",
        image_size=32,
        epochs=1,
        seed=1,
        accelerator="cpu",
        uncertain="smooth",
        readers="share",
    )
    data = prepare_data(config, tmp_path)
    loaders = make_loaders(data.frame, data.store, config, data.data.submission)
    history = fit(build_model(config), loaders["train"], loaders["val"], config, tmp_path)
    assert np.isfinite(history["train_loss"]).all()
    assert NAMES[name] in data_text(describe_data(data, loaders))


# ---- what each says


def test_chexpert_maps_what_is_not_mentioned_to_nan_and_no_finding_to_absent(originals):
    frame = read_dataset(originals["chexpert"]).frame.set_index("image")
    sick = frame.loc["chexpert/train/patient00001/study1/view1_frontal.jpg"]
    healthy = frame.loc["chexpert/train/patient00002/study1/view1_frontal.jpg"]
    assert (sick.Effusion, sick.Cardiomegaly) == (1, 0)
    assert np.isnan([sick.Edema, sick.Pneumonia, sick.Mass]).all()
    assert healthy[sorted(ANNOTATED["chexpert"])].eq(0).all() and np.isnan(healthy.Mass)
    assert (sick.patient, sick.age, sick.sex, sick.view) == ("chexpert:1", 41, "F", "PA")


def test_chexpert_full_and_small_are_the_same_images(originals, tmp_path):
    full = made.write_chexpert(tmp_path / "full", small=False)
    both = read_dataset([originals["chexpert"], full])
    assert len(both.frame) == len(read_dataset(full).frame)


def test_valid_of_chexpert_is_the_test_list_where_there_are_no_test_labels(tmp_path):
    data = read_dataset(made.write_chexpert(tmp_path / "set", test=False))
    assert data.frame["official"].value_counts().to_dict() == {"train": 20, "test": 8}
    assert any("valid.csv is the test list" in note for note in data.warnings)


def test_chexpert_test_labels_by_study_are_read(folder):
    copy = folder("chexpert")
    table = copy / "CheXpert-v1.0-small/test_labels.csv"
    rows = table.read_text().replace("Path", "Study", 1).replace("test/", "CheXpert-v1.0/test/")
    table.with_name("groundtruth.csv").write_text(rows.replace("/view1_frontal.jpg", ""))
    table.unlink()
    frame = read_dataset(copy).frame
    assert (frame["official"] == "test").sum() == 8 and frame["view"].isna().sum() == 8


def test_mimic_reads_negbio_labels_where_it_has_no_others_and_says_so(tmp_path):
    data = read_dataset(made.write_mimic(tmp_path / "set", labeller="negbio"))
    assert any("NegBio" in note for note in data.warnings)
    assert data.frame["official"].value_counts().to_dict() == {"train": 14, "test": 8, "val": 6}


def test_padchest_films_of_16_bits_keep_their_contrast(originals):
    row = read_dataset(originals["padchest"]).frame.iloc[0]
    data = decode_grey(row.path, made.SIDE)
    assert data.max() > 150 and data.std() > 20
    assert (row.age, row.sex, row.view) == (84, "M", "PA")


def test_padchest_findings_are_names_of_its_list():
    names, labels = padchest_labels.FINDINGS, padchest_labels.LABELS
    assert set(names) == set(FINDINGS) and len(labels) == 193
    assert set().union(*names.values()) | padchest_labels.SAYS_NOTHING <= labels


def test_vindr_readers_are_a_majority_or_in_training_a_share(originals):
    data = read_dataset(originals["vindr"])
    shares = data.doubts.set_index("image")["value"]
    assert set(data.doubts["finding"]) == {"Cardiomegaly"}
    assert set(shares.round(2)) == {0.33, 0.67}
    majority = data.frame.set_index("image").loc[shares.index, "Cardiomegaly"]
    assert (majority == (shares >= 0.5)).all()


def test_dicom_that_is_displayed_inverted_is_turned(tmp_path):
    film = made.pixels("film", True)
    plain = made.write_dicom(tmp_path / "plain.dicom", film)
    inverted = made.write_dicom(
        tmp_path / "inverted.dicom",
        255 - film,
        PhotometricInterpretation="MONOCHROME1",
        Modality=None,
    )
    np.testing.assert_array_equal(
        decode_grey(str(plain), made.SIDE), decode_grey(str(inverted), made.SIDE)
    )


def test_vindr_may_be_png(tmp_path):
    assert len(read_dataset(made.write_vindr(tmp_path / "set", suffix=".png")).frame) == 40


def test_rsna_boxes_and_the_patients_of_its_mappings_are_read(tmp_path):
    data = read_dataset(made.write_rsna(tmp_path / "set", mappings=True))
    assert len(data.boxes) == 40 and set(data.boxes["finding"]) == {"Pneumonia"}
    assert data.frame["patient"].str.startswith("nih:").all()
    assert data.frame["patient"].nunique() == 20


def test_medmnist_sizes_are_one_set_and_keep_their_official_parts(tmp_path):
    small, large = (made.write_medmnist(tmp_path / str(side), side=side) for side in (28, 64))
    data = read_dataset([small, large])
    assert len(data.frame) == 36
    assert data.frame["official"].value_counts().to_dict() == {"train": 20, "val": 8, "test": 8}
    assert Image.open(read_dataset(large).frame["path"].iloc[0]).size == (64, 64)


def test_pneumoniamnist_annotates_pneumonia_alone(tmp_path):
    frame = read_dataset(made.write_medmnist(tmp_path / "set", "pneumoniamnist")).frame
    assert frame["Pneumonia"].mean() == 0.5 and frame[list(FINDINGS)].notna().sum().sum() == 36


def test_an_archive_is_unpacked_once(tmp_path):
    copy = made.write_medmnist(tmp_path / "set")
    first = [Path(path).stat().st_mtime_ns for path in read_dataset(copy).frame["path"]]
    assert first == [Path(path).stat().st_mtime_ns for path in read_dataset(copy).frame["path"]]


# ---- views


def test_lateral_films_are_counted_and_left_out_unless_they_are_asked_for(originals):
    frontal = read_dataset(originals["mimic"])
    assert any("LATERAL 10" in note for note in frontal.warnings)
    everything = read_dataset(originals["mimic"], views="all")
    assert len(everything.frame) == len(frontal.frame) + 10
    assert everything.frame["view"].value_counts().to_dict() == {"PA": 28, "LATERAL": 10}
    assert len(read_dataset(originals["mimic"], views=("LATERAL",)).frame) == 10


def test_views_that_no_image_has_are_named(originals):
    with pytest.raises(
        DatasetError, match=r"no image is of the views LPO; there are LATERAL 10, PA 28"
    ):
        read_dataset(originals["mimic"], views=("LPO",))


# ---- merging


def test_two_sets_merge_by_the_labels_that_they_have(originals):
    data = read_dataset([originals["rsna"], originals["chexpert"]])
    by_source = data.frame.groupby("source")[["Pneumonia", "Effusion"]].count()
    assert by_source.loc["set_rsna"].tolist() == [40, 0]
    assert by_source.loc["set_chexpert", "Effusion"] == 36
    assert data.frame["patient"].str.partition(":")[0].unique().tolist() == ["rsna", "chexpert"]


def test_official_validation_lists_are_kept_beside_a_set_without_any(originals, tmp_path):
    config = Config(
        data_root=str(originals["mimic"].parent),
        data_dir=(originals["mimic"].name, originals["padchest"].name),
        findings=("Effusion",),
        image_size=32,
    )
    frame = prepare_data(config, tmp_path).frame
    mimic = frame[frame["source"] == "set_mimic"]
    assert (mimic["split"] == mimic["official"]).all()
    assert set(frame.loc[frame["source"] == "set_padchest", "split"]) >= {"train", "val"}


def test_what_is_made_of_uncertain_labels_leaves_the_test_labels_as_they_are(originals, tmp_path):
    folder = originals["mimic"]
    plain = Config(data_root=str(folder.parent), data_dir=(folder.name,), image_size=32)
    ignored = prepare_data(plain, tmp_path / "a")
    ones = prepare_data(plain.model_copy(update={"uncertain": "ones"}), tmp_path / "b")
    assert ones.test_fingerprint == ignored.test_fingerprint
    assert ones.fingerprint != ignored.fingerprint
    trained = set(ones.frame.loc[ones.frame["split"] == "train", "image"])
    assert ones.frame["Edema"].sum() == ones.data.doubts["image"].isin(trained).sum() > 0


# ---- one sentence each for the usual mistakes


@pytest.mark.parametrize("name", MAIN)
def test_a_wrong_column_is_named(folder, name):
    copy = folder(name)
    edit(copy / MAIN[name], lambda text: text.replace(IMAGE_COLUMN[name], "picture", 1))
    with pytest.raises(DatasetError, match=f"no column '{IMAGE_COLUMN[name]}'; its columns are"):
        read_dataset(copy)


@pytest.mark.parametrize(
    "name, table",
    [
        ("chexpert", MAIN["chexpert"]),
        ("mimic", "mimic-cxr-2.0.0-split.csv.gz"),
        ("mimic", "mimic-cxr-2.0.0-metadata.csv.gz"),
        ("vindr", "annotations/image_labels_train.csv"),
        ("vindr", "annotations/image_labels_test.csv"),
        ("rsna", MAIN["rsna"]),
    ],
)
def test_a_missing_table_is_named(folder, name, table):
    copy = folder(name)
    (copy / table).unlink()
    with pytest.raises(DatasetError, match=f"{Path(table).name}.*missing"):
        read_dataset(copy)


@pytest.mark.parametrize("name", MADE)
def test_two_sets_in_one_folder_are_refused(folder, name):
    copy = folder(name)
    other = "rsna" if name != "rsna" else "padchest"
    shutil.copytree(folder(other), copy, dirs_exist_ok=True)
    with pytest.raises(DatasetError, match=r"holds several data sets, .*folder of its own"):
        read_dataset(copy)


def test_two_archives_of_different_sets_in_one_folder_are_refused(folder):
    copy = made.write_medmnist(folder("medmnist"), "pneumoniamnist")
    with pytest.raises(DatasetError, match="holds several data sets"):
        read_dataset(copy)


# ---- no damage passes in silence


def edit(path: Path, change: Callable[[str], str]) -> None:
    """Writes a table anew, compressed where it was."""
    packed = path.suffix == ".gz"
    text = gzip.decompress(path.read_bytes()).decode() if packed else path.read_text()
    new = change(text)
    assert new != text
    path.write_bytes(gzip.compress(new.encode()) if packed else new.encode())


def edit_row(path: Path, column: str, value: str | Callable[[str], str], row: int = 2) -> None:
    """Changes one cell of a table."""

    def change(text: str) -> str:
        header, *rows = list(csv.reader(io.StringIO(text)))
        cells = rows[row]
        place = header.index(column)
        cells[place] = value(cells[place]) if callable(value) else value
        out = io.StringIO()
        csv.writer(out).writerows([header, *rows])
        return out.getvalue()

    edit(path, change)


def lines(change: Callable[[list[str]], list[str]]) -> Callable[[str], str]:
    return lambda text: "\n".join(change(text.rstrip("\n").replace("\r", "").split("\n"))) + "\n"


def some_film(folder: Path) -> Path:
    """A frontal film that is read."""
    return Path(read_dataset(folder).frame["path"].iloc[2])


def on_table(change: Callable[[Path], None]) -> Callable[[Path, str], None]:
    return lambda folder, name: change(folder / MAIN[name])


def on_film(change: Callable[[Path], None]) -> Callable[[Path, str], None]:
    return lambda folder, name: change(some_film(folder))


def on_labels(value: str) -> Callable[[Path, str], None]:
    return lambda folder, name: edit_row(folder / LABELS[name][0], LABELS[name][1], value)


def swap_for_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def link_in_a_circle(path: Path) -> None:
    path.unlink()
    path.symlink_to(path.name)


def cut_bytes(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 2 // 3])


def contradict(rows: list[str], name: str) -> list[str]:
    """The third row again, with other labels."""
    swapped = {"1.0": "0.0", "0": "1", "1": "0"}
    cells = next(csv.reader([rows[3]]))
    header = next(csv.reader([rows[0]]))
    place = header.index(LABELS[name][1]) if LABELS[name][1] in header else 4
    cells[place] = "['mass']" if name == "padchest" else swapped.get(cells[place], "LL")
    out = io.StringIO()
    csv.writer(out).writerow(cells)
    return [*rows, out.getvalue().strip()]


def drop_tables(folder: Path, name: str) -> None:
    for path in (*folder.rglob("*.csv"), *folder.rglob("*.csv.gz")):
        path.unlink()


def drop_films(folder: Path, name: str) -> None:
    for path in [film for kind in FILMS for film in folder.rglob(kind)]:
        path.unlink()


DAMAGE: dict[str, Callable[[Path, str], None]] = {
    "table is empty": on_table(lambda path: path.write_bytes(b"")),
    "table has a header alone": on_table(lambda path: edit(path, lines(lambda rows: rows[:1]))),
    "table has no header": on_table(lambda path: edit(path, lines(lambda rows: rows[1:]))),
    "table is cut in a row": on_table(lambda path: edit(path, lambda text: text[:-25])),
    "table is separated by semicolons": on_table(
        lambda path: edit(path, lambda text: text.replace(",", ";"))
    ),
    "table is not text": on_table(lambda path: path.write_bytes(b"\x00\xff\xfe\x01" * 50)),
    "tables are gone": drop_tables,
    "a row has a field more": on_table(
        lambda path: edit(path, lines(lambda rows: [*rows[:3], "x," + rows[3], *rows[4:]]))
    ),
    "a row has a field less": on_table(
        lambda path: edit(path, lines(lambda r: [*r[:3], r[3].rpartition(",")[0], *r[4:]]))
    ),
    "a quote is not closed": on_table(
        lambda path: edit(path, lines(lambda rows: [*rows[:3], '"' + rows[3], *rows[4:]]))
    ),
    "a row is there twice": on_table(lambda path: edit(path, lines(lambda rows: [*rows, rows[3]]))),
    "a row is contradicted": lambda folder, name: edit(
        folder / MAIN[name], lines(lambda rows: contradict(rows, name))
    ),
    "an image is not named": lambda folder, name: edit_row(
        folder / MAIN[name], IMAGE_COLUMN[name], ""
    ),
    "an image is named otherwise": lambda folder, name: edit_row(
        folder / MAIN[name],
        IMAGE_COLUMN[name],
        lambda text: text.replace("0", "9").replace("1", "8") + "x",
    ),
    "an image is outside": lambda folder, name: edit_row(
        folder / MAIN[name], IMAGE_COLUMN[name], "../../../etc/passwd"
    ),
    "a label is 2": on_labels("2"),
    "a label is a word": on_labels("yes"),
    "a label is -2": on_labels("-2.0"),
    "the column of labels has another name": lambda folder, name: edit(
        folder / LABELS[name][0], lambda text: text.replace(LABELS[name][1], "Something", 1)
    ),
    "the column of labels is there twice": lambda folder, name: edit(
        folder / LABELS[name][0],
        lines(
            lambda rows: [f"{row},{LABELS[name][1] if i == 0 else 0}" for i, row in enumerate(rows)]
        ),
    ),
    "a film is gone": on_film(Path.unlink),
    "a film is empty": on_film(lambda path: path.write_bytes(b"")),
    "a film is cut": on_film(cut_bytes),
    "a film is text": on_film(lambda path: path.write_text("<html>not found</html>" * 20)),
    "a film is zeros": on_film(lambda path: path.write_bytes(bytes(4000))),
    "a film is a folder": on_film(swap_for_folder),
    "a film is a link in a circle": on_film(link_in_a_circle),
    "all films are gone": drop_films,
}
OWN: dict[str, dict[str, Callable[[Path], None]]] = {
    "chexpert": {
        "an age is a word": lambda f: edit_row(f / MAIN["chexpert"], "Age", "old"),
        "an age is impossible": lambda f: edit_row(f / MAIN["chexpert"], "Age", "412"),
        "a view contradicts": lambda f: edit_row(
            f / MAIN["chexpert"], "Frontal/Lateral", "Lateral"
        ),
        "no finding contradicts": lambda f: edit_row(f / MAIN["chexpert"], "No Finding", "1.0"),
        "a path of another part": lambda f: edit_row(
            f / MAIN["chexpert"], "Path", lambda text: text.replace("/train/", "/valid/")
        ),
        "valid.csv has no header": lambda f: edit(
            f / "CheXpert-v1.0-small/valid.csv", lines(lambda rows: rows[1:])
        ),
    },
    "mimic": {
        "a view is unknown": lambda f: edit_row(f / MAIN["mimic"], "ViewPosition", "SWIMMERS"),
        "a split is unknown": lambda f: edit_row(
            f / "mimic-cxr-2.0.0-split.csv.gz", "split", "holdout"
        ),
        "a split is missing": lambda f: edit(
            f / "mimic-cxr-2.0.0-split.csv.gz", lines(lambda rows: rows[:-1])
        ),
        "a split is given twice": lambda f: edit(
            f / "mimic-cxr-2.0.0-split.csv.gz",
            lines(lambda rows: [*rows, rows[1].replace("train", "test")]),
        ),
        "a study has no labels": lambda f: edit(
            f / "mimic-cxr-2.0.0-chexpert.csv.gz", lines(lambda rows: rows[:-1])
        ),
        "a table is cut": lambda f: cut_bytes(f / "mimic-cxr-2.0.0-chexpert.csv.gz"),
        "no finding contradicts": lambda f: edit_row(
            f / "mimic-cxr-2.0.0-chexpert.csv.gz", "No Finding", "1.0", 1
        ),
    },
    "padchest": {
        "a label is misspelt": lambda f: edit_row(f / MAIN["padchest"], "Labels", "['pneumnia']"),
        "normal contradicts": lambda f: edit_row(
            f / MAIN["padchest"], "Labels", "['normal', 'mass']"
        ),
        "a birth is a word": lambda f: edit_row(f / MAIN["padchest"], "PatientBirth", "may"),
        "a patient is missing": lambda f: edit_row(f / MAIN["padchest"], "PatientID", ""),
        "a projection is unknown": lambda f: edit_row(
            f / MAIN["padchest"], "Projection", "EXCLUDE"
        ),
        "a film is not listed": lambda f: shutil.copy(some_film(f), f / "0/other.png"),
    },
    "vindr": {
        "a reader is missing": lambda f: edit(f / MAIN["vindr"], lines(lambda rows: rows[:-1])),
        "a reader is there twice": lambda f: edit_row(f / MAIN["vindr"], "rad_id", "R8"),
        "a reader is not named": lambda f: edit_row(f / MAIN["vindr"], "rad_id", ""),
        "a label is -1": lambda f: edit_row(f / MAIN["vindr"], "Pneumonia", "-1"),
        "no finding contradicts": lambda f: edit_row(f / MAIN["vindr"], "No finding", "1", 4),
        "a film is not listed": lambda f: shutil.copy(some_film(f), f / "train/other.dicom"),
    },
    "rsna": {
        "a class is unknown": lambda f: edit_row(
            f / "stage_2_detailed_class_info.csv", "class", "Opacity"
        ),
        "a class contradicts": lambda f: edit_row(
            f / "stage_2_detailed_class_info.csv", "class", "Lung Opacity", 0
        ),
        "a class is missing": lambda f: edit(
            f / "stage_2_detailed_class_info.csv", lines(lambda rows: [rows[0], *rows[2:]])
        ),
        "a box is of no size": lambda f: edit_row(f / MAIN["rsna"], "width", "0"),
        "a box is missing": lambda f: edit(
            f / MAIN["rsna"], lines(lambda r: [*r[:2], r[2].split(",")[0] + ",,,,,1", *r[3:]])
        ),
        "a film is not listed": lambda f: shutil.copy(
            some_film(f), f / "stage_2_train_images/other.dcm"
        ),
    },
}
CASES = [(name, what) for name in MAIN for what in DAMAGE] + [
    (name, what) for name, own in OWN.items() for what in own
]


def noticed(folder: Path, usual: tuple[str, ...]) -> bool:
    """Whether reading and decoding say anything that they do not say of the whole set."""
    try:
        data = read_dataset(folder, on_bad="skip")
    except DatasetError as error:
        return folder.name in str(error)
    if len(data.bad_rows) or set(data.warnings) != set(usual):
        return True
    return len(decode_problems(data.frame, workers=1, progress=False)) > 0


@pytest.mark.parametrize("name, what", CASES)
def test_no_damage_passes_in_silence(folder, name, what):
    copy = folder(name)
    usual = read_dataset(copy).warnings
    damage = OWN[name][what] if what in OWN.get(name, {}) else lambda f: DAMAGE[what](f, name)
    damage(copy)
    assert noticed(copy, usual)


def test_every_layout_has_thirty_kinds_of_damage():
    assert all(sum(case[0] == name for case in CASES) >= 30 for name in MAIN)
    assert len(ARCHIVE_DAMAGE) >= 30


def other_arrays(**changes) -> Callable[[Path], None]:
    """Replaces arrays of an archive; None leaves one out, a function changes it."""

    def change(path: Path) -> None:
        with np.load(path) as archive:
            arrays = dict(archive)
        for name, new in changes.items():
            old = arrays.pop(name)
            if new is not None:
                arrays[name] = new(old) if callable(new) else new
        np.savez_compressed(path, **arrays)

    return change


def with_value(value: float) -> Callable[[np.ndarray], np.ndarray]:
    def change(array: np.ndarray) -> np.ndarray:
        array = array.astype(type(value) if isinstance(value, float) else int)
        array[1, 0] = value
        return array

    return change


PARTS = ("train", "val", "test")
ARCHIVE_DAMAGE: dict[str, Callable[[Path], None]] = {
    **{f"{p} images are gone": other_arrays(**{f"{p}_images": None}) for p in PARTS},
    **{f"{p} labels are gone": other_arrays(**{f"{p}_labels": None}) for p in PARTS},
    **{f"{p} has an image less": other_arrays(**{f"{p}_images": lambda a: a[1:]}) for p in PARTS},
    **{f"{p} has a label less": other_arrays(**{f"{p}_labels": lambda a: a[1:]}) for p in PARTS},
    **{f"{p} has a label 2": other_arrays(**{f"{p}_labels": with_value(2)}) for p in PARTS},
    **{f"{p} has a label NaN": other_arrays(**{f"{p}_labels": with_value(np.nan)}) for p in PARTS},
    **{f"{p} lacks a finding": other_arrays(**{f"{p}_labels": lambda a: a[:, 1:]}) for p in PARTS},
    "labels are flat": other_arrays(train_labels=lambda a: a[:, 0]),
    "labels are text": other_arrays(train_labels=lambda a: a.astype(str)),
    "images are floats": other_arrays(train_images=lambda a: a / 255),
    "images are in colour": other_arrays(train_images=lambda a: np.stack([a] * 3, axis=-1)),
    "images are flat": other_arrays(train_images=lambda a: a.reshape(len(a), -1)),
    "images are objects": other_arrays(train_images=lambda a: a.astype(object)),
    "a part is empty": other_arrays(val_images=lambda a: a[:0], val_labels=lambda a: a[:0]),
    "the archive is empty": lambda path: path.write_bytes(b""),
    "the archive is cut": cut_bytes,
    "the archive is text": lambda path: path.write_text("<html>too many requests</html>"),
    "the archive is a folder": swap_for_folder,
    "a byte is wrong": lambda path: path.write_bytes(flipped(path.read_bytes())),
    "the archive is gone": Path.unlink,
}


def flipped(data: bytes) -> bytes:
    middle = len(data) // 3
    return data[:middle] + bytes([data[middle] ^ 255]) + data[middle + 1 :]


@pytest.mark.parametrize("what", ARCHIVE_DAMAGE)
def test_no_damage_to_an_archive_passes_in_silence(folder, what):
    copy = folder("medmnist")
    usual = read_dataset(copy).warnings
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        ARCHIVE_DAMAGE[what](copy / "chestmnist.npz")
    assert noticed(copy, usual)


# ---- real films


def test_real_dicom_files_are_read_in_the_layout_of_vindr(real_data, folder):
    copy = folder("vindr")
    films = sorted((real_data / "dicom").glob("*.dcm"))
    named = sorted((copy / "train").iterdir())[: len(films)]
    for film, path in zip(films, named, strict=True):
        shutil.copy(film, path)
    data = read_dataset(copy)
    assert films and data.bad_rows.empty
    assert not len(decode_problems(data.frame, workers=1, progress=False))


def test_real_nih_films_are_read_in_the_layout_of_chexpert_and_of_padchest(real_data, folder):
    originals = sorted((real_data / "originals").glob("*.png"))
    for name, kind in (("padchest", "*.png"), ("chexpert", "*_frontal.jpg")):
        copy = folder(name)
        for original, path in zip(originals, sorted(copy.rglob(kind)), strict=False):
            Image.open(original).convert("L").save(path)
        data = read_dataset(copy)
        assert data.bad_rows.empty
        assert not len(decode_problems(data.frame, workers=1, progress=False))
