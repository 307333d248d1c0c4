"""In: sound dataset folders of every layout. Out: folders with a mutated table, and what
`read_dataset` and `check_folder` do with them."""

import csv
import os
import shutil
from pathlib import Path
from random import Random

from PIL import Image

from fuzz.judge import REFUSED, WORKED, Problem, called, check_named
from fuzz.mutate import TEXTS, mutate_bytes, mutate_table
from lib.datasets import Dataset, check_folder, read_dataset
from lib.exceptions import CxrError

LABELS = ("Cardiomegaly", "No Finding", "Mass|Nodule", "Effusion", "No Finding", "Hernia")
NAMES = [f"{i // 2 + 1:08d}_{i % 2:03d}.png" for i in range(len(LABELS))]
ODD_NAMES = (b"\xff\xfe.png", b"latin1_\xe9.png", b"new\nline.png", b"a,b.png", b'quote".png')
ODD_NAMES += (b" .png", b"00000001_000.PNG", b"person1_virtus_.jpeg", b"\xed\xa0\x80.png", b"png")
NIH = "Image Index,Finding Labels,Follow-up #,Patient ID,Patient Age,Patient Gender,View Position\n"


def prepare(folder: Path) -> None:
    """Write a folder of every layout with six images."""
    rows = [
        f"{name},{label},{i % 2},{i // 2 + 1},{50 + i},{'MF'[i % 2]},{('PA', 'AP')[i % 2]}\n"
        for i, (name, label) in enumerate(zip(NAMES, LABELS, strict=True))
    ]
    boxes = "Image Index,Finding Label,Bbox [x,y,w,h],,,\n" + f"{NAMES[0]},Cardiomegaly,1,2,9,8\n"
    lists = {"train_val_list.txt": "\n".join(NAMES[:4]), "test_list.txt": "\n".join(NAMES[4:])}
    challenge = "imageID,disease\n"
    pairs = [f"{name},{label}\n" for name, label in zip(NAMES, LABELS, strict=True)]
    single = [f"{name},{('Mass', 'No Finding')[i % 2]}\n" for i, name in enumerate(NAMES)]
    tables = {
        "nih": {"Data_Entry_2017.csv": NIH + "".join(rows), "BBox_List_2017.csv": boxes, **lists},
        "kaggle": {"sample_labels.csv": NIH + "".join(rows)},
        "full": {"14_train.csv": challenge + "".join(pairs)},
        "single": {
            "train.csv": challenge + "".join(single[:4]),
            "test.csv": "imageID\n" + "\n".join(NAMES[4:]) + "\n",
        },
    }
    for layout, files in tables.items():
        for name, text in files.items():
            (folder / layout).mkdir(parents=True, exist_ok=True)
            (folder / layout / name).write_text(text)
        places = {"single": ("train", "test")}.get(layout, ("images",))
        for i, name in enumerate(NAMES):
            place = folder / layout / places[i >= 4 and len(places) > 1]
            place.mkdir(exist_ok=True)
            Image.linear_gradient("L").resize((40, 40)).rotate(90 * i).save(place / name)
    for i, name in enumerate(NAMES):
        place = folder / "classes" / ("NORMAL", "PNEUMONIA")[i % 2]
        place.mkdir(parents=True, exist_ok=True)
        shutil.copy(folder / "nih" / "images" / name, place)


def make(seeds: Path, folder: Path, rng: Random) -> None:
    """Copy a folder and mutate one of its tables; its name goes into `mutated`."""
    source = rng.choice(sorted(seeds.iterdir()))
    shutil.copytree(source, folder / "data")
    if source.name == "classes":
        _rename(folder / "data", rng)
        return
    tables = sorted(path for path in source.iterdir() if path.suffix in (".csv", ".txt"))
    table = rng.choice((tables[0], *tables)) if source.name != "nih" else rng.choice(tables)
    text = table.read_text()
    data = mutate_table(text, rng) if rng.random() < 0.7 else mutate_bytes(text.encode(), rng)
    (folder / "data" / table.name).write_bytes(data)
    (folder / "mutated").write_text(table.name)


def _rename(data: Path, rng: Random) -> None:
    """Give one or two images other names, which are what this layout has for a table."""
    for _ in range(rng.choice((1, 2))):
        image = rng.choice(sorted(data.glob("*/*")))
        name = rng.choice((*ODD_NAMES, *(text.encode() for text in TEXTS)))
        if 0 < len(name) < 256 and not {b"/"[0], 0} & set(name) and name not in (b".", b".."):
            image.rename(image.parent / os.fsdecode(name))
    (data.parent / "mutated").write_text("classes")


def judge(folder: Path) -> str:
    """Read the folder in both ways, count its rows, and check it with all images decoded."""
    data, table = folder / "data", folder / "data" / (folder / "mutated").read_text()
    try:
        dataset = read_dataset(data, on_bad="skip")
    except CxrError as error:
        check_named(str(error), str(table), table.name, data.name)
        strict = called(lambda: read_dataset(data), table.name, data.name)
        if strict == WORKED:
            raise Problem("on_bad=skip refuses what on_bad=raise reads") from error
        return REFUSED
    _check_rows(table, dataset)
    strict = called(lambda: read_dataset(data), table.name, data.name)
    if (strict == REFUSED) != bool(len(dataset.bad_rows)):
        raise Problem(f"on_bad=raise: {strict}, but {len(dataset.bad_rows)} rows are bad")
    report = check_folder(data, workers=1, progress=False)
    report.text()
    if report.failure or report.images != len(dataset.frame):
        raise Problem(f"check_folder counts {report.images} images, not {len(dataset.frame)}")
    return REFUSED if len(dataset.bad_rows) else WORKED


def _check_rows(table: Path, dataset: Dataset) -> None:
    """Every row of the mutated table is an image of the frame, or is reported by its number."""
    if table.name == "classes":
        files = [path for path in table.parent.glob("*/*") if not path.name.startswith(".")]
        if len(files) != len(dataset.frame) + dataset.bad_rows["image"].nunique():
            raise Problem(f"{len(files)} files, but {len(dataset.frame)} images")
        return
    if table.suffix == ".txt":
        _check_list(table, dataset)
        return
    rows = _rows(table.read_bytes())
    bad = set(dataset.bad_rows.loc[dataset.bad_rows["row"] > 0, "row"])
    if table.name.startswith("BBox"):
        unlisted = [note for note in dataset.warnings if "boxes of BBox" in note]
        good = len(rows.keys() - bad)
        if good > len(dataset.boxes) and not unlisted and _distinct(rows, bad) > len(dataset.boxes):
            raise Problem(f"{good} good boxes, but {len(dataset.boxes)} are in the table")
        return
    images = set(dataset.frame["image"])
    for number, text in rows.items():
        if number not in bad and not any(image in text for image in images):
            raise Problem(f"row {number} is neither an image nor reported: {text[:100]!r}")
    official = dataset.frame["official"] if table.name in ("train.csv", "test.csv") else None
    if official is not None:
        wanted = "train" if table.name == "train.csv" else "test"
        images = set(dataset.frame.loc[official == wanted, "image"])
    if len(rows.keys() - bad) > len(images):
        raise Problem(f"{len(rows.keys() - bad)} good rows, but {len(images)} images")


def _distinct(rows: dict[int, str], bad: set[int]) -> int:
    return len({text.strip() for number, text in rows.items() if number not in bad})


def _check_list(table: Path, dataset: Dataset) -> None:
    """Every name of an official list is that of an image, or a note says that it is not."""
    names = set(_text(table.read_bytes()).split())
    unknown = names - set(dataset.frame["image"]) - set(dataset.bad_rows["image"])
    if unknown and not any(table.name in note for note in dataset.warnings):
        raise Problem(f"names of {table.name} are of no image, and no note says so: {unknown}")


def _rows(data: bytes) -> dict[int, str]:
    """Line number -> text of every line that holds something, after the header."""
    lines = _text(data).split("\n")
    first = next((number for number, line in enumerate(lines) if _parses(line)), len(lines))
    return {
        number: line
        for number, line in enumerate(lines, start=1)
        if number > first + 1 and line.strip('\r,"')
    }


def _text(data: bytes) -> str:
    marked = data.startswith((b"\xff\xfe", b"\xfe\xff"))
    return data.decode("utf-16" if marked else "utf-8-sig")


def _parses(line: str) -> bool:
    try:
        next(csv.reader([line.rstrip("\r")], strict=True), [])
    except csv.Error:
        return False
    return True
