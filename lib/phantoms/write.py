"""In: a folder, how many people, an image size, a seed. Out: synthetic chest X-rays there, in the
NIH's layouts.

The film itself is drawn by `lib.phantoms.draw` (healthy chest: `lib.phantoms.anatomy`; findings:
`lib.phantoms.signs`); `lib.phantoms.cohort` decides who is filmed and with which findings.
"""

import csv
import json
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from functools import partial
from multiprocessing import get_context
from pathlib import Path

from PIL import Image
from tqdm.auto import tqdm

from lib.config import NO_FINDING
from lib.exceptions import DatasetError
from lib.phantoms.cohort import Film, draw_cardiomegaly_cohort, draw_cohort
from lib.phantoms.draw import BOX_GRID, Box, draw_phantom
from lib.system import available_cores, start_worker

MARKER = "PHANTOM"
_VERSION = 2  # increase it when the same parameters give other films
_PARTS = ("dataset_full", "dataset_cardiomegaly")
_HEADER = (
    "Image Index,Finding Labels,Follow-up #,Patient ID,Patient Age,Patient Gender,View Position,"
    "OriginalImage[Width,Height],OriginalImagePixelSpacing[x,y]"
)
_FEW = 200  # fewer films are drawn without starting processes, which takes seconds


def write_phantoms(
    folder: Path,
    *,
    patients: int = 480,
    size: int = 256,
    seed: int = 0,
    workers: int | None = None,
    progress: bool = True,
) -> Path:
    """Writes `folder`/dataset_full (NIH release) and `folder`/dataset_cardiomegaly (train/, test/);
    returns `folder`.

    About 2.3 films per person, and a fifth more people who are only in the Cardiomegaly set; `size`
    is in pixels. The same parameters give the same bytes, whatever the number of `workers`
    (processes; None: one per core). The folder appears completely or not at all. Phantoms of the
    same parameters are left as they are, of other parameters replaced. Raises FileExistsError where
    `folder` holds anything else, DatasetError for parameters out of range.
    """
    if patients < 4 or size < 16 or seed < 0:
        raise DatasetError(
            f"phantoms need patients >= 4, size >= 16 and seed >= 0; got patients={patients}, size={size}, seed={seed}"
        )
    folder = Path(folder).expanduser().absolute()
    full = draw_cohort(patients, seed)
    only = draw_cardiomegaly_cohort(max(4, patients // 5), seed, first=patients + 1)
    marker = _marker(patients, size, seed, len(full), len(only))
    if _stands(folder, marker):
        return folder
    _refuse_foreign(folder)
    with _whole(folder, marker) as draft:
        boxes = _draw_all(draft, full, only, size, seed, workers, progress)
        _write_full(draft / "dataset_full", full, boxes)
        _write_cardiomegaly(draft, full, only)
        for part in (draft, *(draft / name for name in _PARTS)):
            (part / MARKER).write_text(marker)
    return folder


def _marker(patients: int, size: int, seed: int, films: int, extra: int) -> str:
    what = (
        "Synthetic chest X-rays drawn by lib/phantom.py: no patient, no diagnosis, no clinical use."
    )
    content = {"what": what, "version": _VERSION, "patients": patients, "size": size, "seed": seed}
    return (
        json.dumps({**content, "films": films, "films_only_in_cardiomegaly": extra}, indent=2)
        + "\n"
    )


def _stands(folder: Path, marker: str) -> bool:
    """Whether these very phantoms are there already, with every film of the full set."""
    if not (folder / MARKER).is_file() or (folder / MARKER).read_text() != marker:
        return False
    films = sum(1 for _ in (folder / "dataset_full" / "images").glob("*.png"))
    tables = [
        folder / "dataset_full" / "Data_Entry_2017_v2020.csv",
        folder / "dataset_cardiomegaly" / "test.csv",
    ]
    return films == json.loads(marker)["films"] and all(table.is_file() for table in tables)


def _refuse_foreign(folder: Path) -> None:
    """Raises FileExistsError where replacing `folder` would lose anything but phantoms."""
    if folder.is_file():
        raise FileExistsError(f"{folder} is a file; name a folder for the phantoms")
    if not folder.is_dir() or not any(folder.iterdir()):
        return
    foreign = sorted(
        entry.name for entry in folder.iterdir() if entry.name not in (*_PARTS, MARKER)
    )
    foreign += [
        name
        for name in _PARTS
        if (folder / name).exists() and not (folder / name / MARKER).is_file()
    ]
    if foreign or not (folder / MARKER).is_file():
        raise FileExistsError(
            f"{folder} holds something that is not phantoms ({', '.join(foreign) or f'no {MARKER} file'}) and is left "
            "as it is; choose another folder or move that one away"
        )


@contextmanager
def _whole(folder: Path, marker: str) -> Iterator[Path]:
    """A draft folder beside `folder` that takes its name at the end, or is removed when anything
    goes wrong."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    draft = Path(tempfile.mkdtemp(prefix=f".{folder.name}.partial-", dir=folder.parent))
    try:
        yield draft
        draft.chmod(0o755)
        if _stands(folder, marker):  # another process wrote the same phantoms meanwhile
            return
        if folder.exists():
            old = draft.with_name(f"{draft.name}.old")
            folder.rename(old)
            draft.rename(folder)
            shutil.rmtree(old)
        else:
            draft.rename(folder)
    except OSError:
        if not _stands(
            folder, marker
        ):  # another process wrote them between the check and the renaming
            raise
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def _split(film: Film) -> str:
    return "test" if film.test else "train"


def _draw_all(
    draft: Path,
    full: list[Film],
    only: list[Film],
    size: int,
    seed: int,
    workers: int | None,
    progress: bool,
) -> dict[str, list[Box]]:
    """Draws every film once, in processes; the boxes of each image name."""
    for name in ("dataset_full/images", "dataset_cardiomegaly/train", "dataset_cardiomegaly/test"):
        (draft / name).mkdir(parents=True)
    jobs = [(film, str(draft / "dataset_full" / "images" / film.name)) for film in full]
    jobs += [
        (film, str(draft / "dataset_cardiomegaly" / _split(film) / film.name)) for film in only
    ]
    workers = workers or available_cores()
    draw = partial(_draw_one, size=size, seed=seed)
    bar = partial(tqdm, total=len(jobs), desc="drawing phantoms", unit="film", disable=not progress)
    if workers == 1 or len(jobs) <= _FEW:
        return dict(bar(map(draw, jobs)))
    with ProcessPoolExecutor(workers, get_context("spawn"), initializer=start_worker) as pool:
        return dict(bar(pool.map(draw, jobs, chunksize=8)))


def _draw_one(job: tuple[Film, str], size: int, seed: int) -> tuple[str, list[Box]]:
    film, path = job
    image, boxes = draw_phantom(
        film.findings,
        seed=(seed, film.patient),
        film=film.number,
        age=film.age,
        sex=film.sex,
        view=film.view,
        size=size,
    )
    Image.fromarray(image).save(path)
    return film.name, boxes


def _write_full(folder: Path, films: list[Film], boxes: dict[str, list[Box]]) -> None:
    size = (BOX_GRID, BOX_GRID, 0.39, 0.39)  # of the original, in pixels and mm per pixel
    table = [(f.name, f.label, f.number, f.patient, f.age, f.sex, f.view, *size) for f in films]
    _write_csv(folder / "Data_Entry_2017_v2020.csv", _HEADER, table)
    lists = {"train_val_list.txt": False, "test_list.txt": True}
    for name, test in lists.items():
        (folder / name).write_text("".join(f"{film.name}\n" for film in films if film.test == test))
    rows = [
        (
            film.name,
            "Infiltrate" if name == "Infiltration" else name,
            *(round(value, 3) for value in place),
        )
        for film in films
        if film.test
        for name, *place in boxes[film.name]
    ]
    _write_csv(folder / "BBox_List_2017.csv", "Image Index,Finding Label,Bbox [x,y,w,h]", rows)


def _write_cardiomegaly(draft: Path, full: list[Film], only: list[Film]) -> None:
    """Copies the full set's Cardiomegaly films, and as many healthy ones, beside those drawn for
    this set alone."""
    folder = draft / "dataset_cardiomegaly"
    for split in ("train", "test"):
        here = [film for film in full if _split(film) == split]
        sick = [film for film in here if "Cardiomegaly" in film.findings]
        well = [film for film in here if not film.findings][: max(1, len(sick))]
        for film in (*sick, *well):
            shutil.copyfile(
                draft / "dataset_full" / "images" / film.name, folder / split / film.name
            )
        films = sorted(
            (*sick, *well, *(film for film in only if _split(film) == split)),
            key=lambda film: film.name,
        )
        rows = [
            (film.name, "Cardiomegaly" if "Cardiomegaly" in film.findings else NO_FINDING)
            for film in films
        ]
        _write_csv(folder / f"{split}.csv", "imageID,disease", rows)


def _write_csv(path: Path, header: str, rows: Iterable[tuple]) -> None:
    with path.open("w", newline="") as file:
        file.write(header + "\n")
        csv.writer(file, lineterminator="\n").writerows(rows)
