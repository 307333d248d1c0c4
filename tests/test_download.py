"""Downloads from a server that breaks off, lies, stalls and serves something else: the right bytes,
or one sentence."""

import gzip
import hashlib
import io
import os
import random
import signal
import subprocess
import sys
import tarfile
import time
from dataclasses import replace
from itertools import pairwise

import misbehaving_server as server
import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from lib.cli import app
from lib.config import REPO_ROOT
from lib.datasets import check_folder, read_dataset
from lib.datasets.download import check_space, download_dataset, download_nih
from lib.datasets.fetch import Patience, PublishedFile, fetch
from lib.datasets.nih_files import ARCHIVES, TABLES
from lib.datasets.unpack import unpack
from lib.exceptions import DatasetError, RunError
from lib.files import acquire_lock

CONTENT = random.Random(0).randbytes(300_000)
SOON = Patience(timeout=30, tries=3, wait=0)


@pytest.fixture
def site():
    with server.serving() as made:
        yield made


def published(site, name: str, content: bytes, *answers: server.Answer, images: int = 0):
    """A file of the site, with the answers to the first requests for it."""
    site.files[f"/{name}"] = content
    site.answers[f"/{name}"] = list(answers)
    digest = f"md5:{hashlib.md5(content).hexdigest()}"
    page = "https://example.org/page"
    return PublishedFile(name, f"{site.url}/{name}", len(content), digest, page, images)


def fetched(file: PublishedFile, folder, patience: Patience = SOON) -> bytes:
    return fetch(file, folder, patience=patience, progress=False).read_bytes()


def everything(folder) -> list[str]:
    """Files of a folder, but those of work in progress."""
    found = (path.relative_to(folder) for path in folder.rglob("*") if path.is_file())
    return sorted(str(path) for path in found if not str(path).startswith(".download"))


# one file


@pytest.mark.parametrize(
    ("first", "then"),
    [
        ([], [0]),
        ([server.half], [0, 150_000]),
        ([server.half, server.half], [0, 150_000, 225_000]),
        ([server.half, server.says(503)], [0, 150_000, 150_000]),
        ([server.half, server.other_range], [0, 150_000, 0]),
        ([server.half, server.ignores_ranges], [0, 150_000]),
        ([server.half, server.says(416)], [0, 150_000, 0]),
        ([server.half, server.lies], [0, 150_000, 0]),
        ([server.nothing, server.nothing], [0, 0, 0]),
    ],
    ids=lambda value: None if value and isinstance(value[0], int) else f"{len(value)} bad",
)
def test_the_right_bytes_arrive_in_spite_of(site, tmp_path, first, then):
    file = published(site, "film.bin", CONTENT, *first, server.well)
    assert fetched(file, tmp_path) == CONTENT
    assert site.starts("/film.bin") == then
    assert everything(tmp_path) == ["film.bin"]


def test_an_address_may_lead_elsewhere_and_the_range_goes_with_it(site, tmp_path):
    site.files["/signed"] = CONTENT
    site.answers["/signed"] = [server.half, server.well]
    file = published(site, "film.bin", CONTENT, server.moved("/signed"))
    assert fetched(file, tmp_path) == CONTENT
    assert site.starts("/signed") == [0, 150_000]


def test_a_connection_that_stalls_is_given_up_and_continued(site, tmp_path):
    file = published(site, "film.bin", CONTENT, server.stalls, server.well)
    assert fetched(file, tmp_path, replace(SOON, timeout=5)) == CONTENT
    assert site.starts("/film.bin") == [0, 150_000]


def test_a_connection_that_trickles_is_given_up(site, tmp_path):
    file = published(site, "film.bin", CONTENT, server.trickles, server.well)
    assert fetched(file, tmp_path, replace(SOON, timeout=5)) == CONTENT
    assert len(site.asked) == 2


@pytest.mark.parametrize("changed", ["ETag", "Last_Modified"])
def test_a_file_that_was_changed_between_two_tries_starts_over(site, tmp_path, changed):
    new = CONTENT[::-1]
    marks = {"ETag": '"one"', "Last_Modified": "Mon, 01 Jan 2024 00:00:00 GMT"}

    def old_half(handler, _):
        handler.head(200, Content_Length=len(CONTENT), **marks)
        handler.wfile.write(CONTENT[:1000])

    def of_new(handler, content):
        size = len(content)
        where = f"bytes {handler.start}-{size - 1}/{size}"
        headers = marks | {changed: '"two"'} | {"Content_Length": size - handler.start}
        if handler.headers.get("Range"):
            headers["Content_Range"] = where
        handler.head(206 if handler.start else 200, **headers)
        handler.wfile.write(content[handler.start :])

    file = published(site, "film.bin", new, old_half, of_new)
    assert fetched(file, tmp_path) == new
    assert site.starts("/film.bin") == [0, 1000, 0]


def test_the_same_call_continues_what_was_given_up(site, tmp_path):
    file = published(site, "film.bin", CONTENT, server.half, server.nothing)
    with pytest.raises(DatasetError, match=r"150,000 of 300,000 bytes.* the same command again"):
        fetched(file, tmp_path)
    assert everything(tmp_path) == []
    site.answers["/film.bin"] = [server.well]
    assert fetched(file, tmp_path) == CONTENT
    assert site.starts("/film.bin")[-1] == 150_000


def test_a_file_that_is_there_is_not_asked_for(site, tmp_path):
    file = published(site, "film.bin", CONTENT)
    (tmp_path / "film.bin").write_bytes(CONTENT)
    assert fetched(file, tmp_path) == CONTENT
    assert site.asked == []


def test_another_file_of_that_name_is_not_overwritten(site, tmp_path):
    file = published(site, "film.bin", CONTENT)
    (tmp_path / "film.bin").write_bytes(b"mine")
    with pytest.raises(DatasetError, match=r"film.bin: it has 4 bytes, .* 300,000. Delete it"):
        fetched(file, tmp_path)
    assert (tmp_path / "film.bin").read_bytes() == b"mine"


@pytest.mark.parametrize(
    ("answer", "sentence"),
    [
        (server.web_page, "answers with a web page .* in a browser from https://example.org/page"),
        (server.says(404), "answers 404 .* in a browser"),
        (server.says(403), "answers 403 .* in a browser"),
        (server.says(503), "answers 503 .* 3 tries added nothing"),
        (server.nothing, "broke off, at 0 of 300,000 bytes; 3 tries added nothing"),
        (lambda h, c: server.ranges(h, c[:-1]), "has 299,999 bytes, the published file 300,000"),
        (lambda h, c: server.ranges(h, c[::-1]), "its md5 is .*, twice. Download it in a browser"),
        (server.endless, "bytes, the published file 300,000, twice"),
    ],
    ids=["page", "404", "403", "503", "nothing", "shorter", "other", "endless"],
)
def test_what_cannot_be_had_is_one_sentence(site, tmp_path, answer, sentence):
    file = published(site, "film.bin", CONTENT, answer)
    with pytest.raises(DatasetError, match=sentence):
        fetched(file, tmp_path)
    assert everything(tmp_path) == []


def test_a_server_that_is_not_there_is_one_sentence(site, tmp_path):
    file = replace(published(site, "film.bin", CONTENT), url="http://127.0.0.1:9/film.bin")
    with pytest.raises(DatasetError, match=r"the connection failed \(.*refused.*\)"):
        fetched(file, tmp_path)


def test_a_partial_file_without_its_facts_counts_as_nothing(site, tmp_path):
    file = published(site, "film.bin", CONTENT)
    (tmp_path / ".download").mkdir()
    (tmp_path / ".download" / "film.bin.partial").write_bytes(b"of another time")
    assert fetched(file, tmp_path) == CONTENT
    assert site.starts("/film.bin") == [0]


# archives


def png(seed: int) -> bytes:
    pixels = np.random.default_rng(seed).integers(0, 255, (16, 16), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, format="PNG")
    return file.getvalue()


def archive(members: dict[str, bytes | tarfile.TarInfo]) -> bytes:
    """A .tar.gz of files by name; a TarInfo stands for itself."""
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w:gz") as tar:
        for name, content in members.items():
            if isinstance(content, tarfile.TarInfo):
                tar.addfile(content)
                continue
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return file.getvalue()


def link(name: str, to: str, kind: bytes) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, to
    return info


def test_an_archive_becomes_a_folder_of_its_images(tmp_path):
    films = {f"images/{i}.png": png(i) for i in range(3)}
    (tmp_path / "a.tar.gz").write_bytes(archive(films))
    unpack(tmp_path / "a.tar.gz", tmp_path / "a", 3, progress=False)
    assert {name: (tmp_path / "a" / name).read_bytes() for name in films} == films


FILMS = {f"images/{i}.png": png(i) for i in range(20)}
GOOD = archive(FILMS)
BAD_SUM = GOOD[:-8] + bytes(4) + GOOD[-4:]


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (GOOD[: len(GOOD) // 2], "it is damaged"),
        (GOOD[:-4], "it is damaged"),
        (BAD_SUM, "it is damaged .*CRC"),
        (GOOD[:2000] + bytes(200) + GOOD[2200:], "it is damaged"),
        (b"<html>no archive</html>", "it is damaged .*[Gg]zip"),
        (gzip.compress(b"no tar" * 1000), "it is damaged"),
        (archive({"images/0.png": png(0)}), "it holds 1 images, not 20"),
        (archive(FILMS | {"images/x.png": b"GIF89a" * 9}), "x.png is not a PNG image"),
        (archive(FILMS | {"README.txt": b"hello" * 9}), "README.txt is not a PNG image"),
        (archive(FILMS | {"../../evil.png": png(0)}), "evil.png.* outside the destination"),
        (archive(FILMS | {"/evil.png": png(0)}), "it holds 21 images, not 20"),
        (archive(FILMS | {"l": link("images/l.png", "/etc/passwd", tarfile.SYMTYPE)}), "l.png is not a file"),
        (archive(FILMS | {"l": link("images/l.png", "images/0.png", tarfile.LNKTYPE)}), "l.png is not a file"),
        (archive(FILMS | {"l": link("images/l.png", "", tarfile.FIFOTYPE)}), "l.png is not a file"),
    ],
    ids=["half", "no-end", "checksum", "zeros", "page", "no-tar", "fewer", "gif", "text", "outside",
         "absolute", "link", "hard-link", "pipe"],
)  # fmt: skip
def test_a_bad_archive_is_one_sentence_and_leaves_nothing(tmp_path, content, sentence):
    place = tmp_path / "deep" / "in"
    place.mkdir(parents=True)
    (place / "a.tar.gz").write_bytes(content)
    with pytest.raises(DatasetError, match=sentence):
        unpack(place / "a.tar.gz", place / "a", 20, progress=False)
    assert everything(tmp_path) == ["deep/in/a.tar.gz"]
    assert not (place / ".download" / "a").exists()


# the whole set


def release(site, films: int = 6, archives: int = 2) -> dict[str, list[PublishedFile]]:
    """A release of a few images, a patient each, in the form of the NIH's."""
    head = (
        "Image Index,Finding Labels,Follow-up #,Patient ID,Patient Age,Patient Sex,View Position,"
    )
    names = [f"{i:08d}_000.png" for i in range(1, films + 1)]
    rows = "\n".join(f"{name},Mass,0,{i},50,F,PA," for i, name in enumerate(names, 1))
    texts = {
        "Data_Entry_2017_v2020.csv": f"{head}\n{rows}\n",
        "train_val_list.txt": "\n".join(names[2:]),
        "test_list.txt": "\n".join(names[:2]),
    }
    packed = []
    for number in range(archives):
        part = names[number::archives]
        content = archive({f"images/{name}": png(int(name[:8])) for name in part})
        packed.append(published(site, f"images_{number + 1:03d}.tar.gz", content, images=len(part)))
    tables = [published(site, name, text.encode()) for name, text in texts.items()]
    return {"tables": tables, "archives": packed, "patience": SOON, "progress": False}


def test_a_downloaded_release_is_recognised_and_has_no_problems(site, tmp_path):
    text = download_nih(tmp_path, **release(site))
    assert "NIH release, 6 images" in text and "cxr data check" in text
    report = check_folder(tmp_path, workers=1, progress=False)
    assert report.ok and (report.images, report.layout) == (
        6,
        "NIH release (Data_Entry_2017_v2020.csv)",
    )
    assert set(read_dataset(tmp_path).frame["sex"]) == {"F"}  # the NIH now heads it Patient Sex
    assert "official lists: trainval 4, test 2" in report.warnings
    assert not list(tmp_path.glob("*.tar.gz")) and not (tmp_path / ".download").exists()


def test_archives_are_kept_on_request(site, tmp_path):
    download_nih(tmp_path, **release(site), keep_archives=True)
    assert len(list(tmp_path.glob("*.tar.gz"))) == 2


def test_what_is_complete_is_not_asked_for_again(site, tmp_path):
    files = release(site)
    download_nih(tmp_path, **files)
    before = len(site.asked)
    download_nih(tmp_path, **files)
    assert len(site.asked) == before


def test_an_archive_that_was_put_there_by_hand_is_used(site, tmp_path):
    files = release(site)
    (tmp_path / "images_001.tar.gz").write_bytes(site.files["/images_001.tar.gz"])
    site.answers["/images_001.tar.gz"] = [server.web_page]
    assert "6 images" in download_nih(tmp_path, **files)


def test_the_first_archive_stays_when_the_second_fails_and_the_rest_follows(site, tmp_path):
    files = release(site)
    site.answers["/images_002.tar.gz"] = [server.half, server.nothing]
    with pytest.raises(DatasetError, match=r"images_002.tar.gz.*same command again"):
        download_nih(tmp_path, **files)
    images = [name for name in everything(tmp_path) if name.endswith(".png")]
    assert len(images) == 3 and all(name.startswith("images_001/images/") for name in images)
    site.answers["/images_002.tar.gz"] = []
    site.asked.clear()
    download_nih(tmp_path, **files)
    assert [path for path, _ in site.asked] == ["/images_002.tar.gz"]
    assert site.starts("/images_002.tar.gz")[0] > 0


def test_what_a_killed_process_left_is_no_hindrance(site, tmp_path):
    rest = tmp_path / ".download" / "images_001" / "images"
    rest.mkdir(parents=True)
    (rest / "half.png").write_bytes(b"half")
    download_nih(tmp_path, **release(site))
    assert not [name for name in everything(tmp_path) if "half" in name]


def test_ctrl_c_ends_it_and_the_same_command_continues(site, tmp_path, popen):
    file = published(site, "film.bin", CONTENT, server.stalls, server.well)
    code = (
        "import signal, sys; signal.signal(signal.SIGINT, signal.default_int_handler);"
        "from pathlib import Path; from lib.datasets.fetch import *;"
        f"fetch(PublishedFile{(file.name, file.url, file.size, file.checksum, file.page)}, Path(sys.argv[1]))"
    )
    child = popen([sys.executable, "-c", code, tmp_path], cwd=REPO_ROOT, stderr=subprocess.DEVNULL)
    partial = tmp_path / ".download" / "film.bin.partial"
    deadline = time.monotonic() + 200
    while time.monotonic() < deadline and not site.asked:
        time.sleep(0.05)
    while time.monotonic() < deadline and not (partial.exists() and partial.stat().st_size):
        time.sleep(0.05)
    os.kill(child.pid, signal.SIGINT)
    assert child.wait(60) != 0
    assert fetched(file, tmp_path) == CONTENT
    assert site.starts("/film.bin")[1] > 0


def test_one_process_at_a_time_fills_a_folder(site, tmp_path):
    lock = acquire_lock(tmp_path / ".download.lock", "another download")
    with pytest.raises(RunError, match="is in use by process"):
        download_nih(tmp_path, **release(site))
    lock.release()
    assert site.asked == []


def test_a_disk_that_is_too_small_is_found_before_anything_is_downloaded(site, tmp_path):
    files = release(site)
    large = [replace(file, size=10**17) for file in files["archives"]]
    with pytest.raises(DatasetError, match=r"310000000.0 GB are needed .* GB are free; nothing"):
        download_nih(tmp_path, **files | {"archives": large})
    assert site.asked == []


def test_images_that_are_there_need_no_space(tmp_path):
    large = replace(ARCHIVES[0], size=10**17)
    with pytest.raises(DatasetError, match="are needed"):
        check_space(tmp_path, [large], False)
    (tmp_path / "images_001").mkdir()
    check_space(tmp_path, [large], False)


def test_the_published_files_are_the_release():
    assert sum(file.images for file in ARCHIVES) == 112_120
    assert sum(file.size for file in ARCHIVES) == 45_079_862_784
    files = [*TABLES, *ARCHIVES]
    assert len({file.url for file in files}) == len({file.checksum for file in files}) == 17
    assert all(file.url.startswith("https://nihcc.") for file in files)
    assert {len(file.checksum) for file in ARCHIVES} == {len("md5:") + 32}
    assert all(one.name < other.name for one, other in pairwise(ARCHIVES))


def test_kaggle_is_explained(tmp_path):
    with pytest.raises(DatasetError, match="kaggle datasets download nih-chest-xrays/data"):
        download_dataset("kaggle", None)


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["kaggle"], "kaggle datasets download nih-chest-xrays/sample"),
        (["mimic", "there"], "no data set 'mimic'"),
        (["nih"], "cxr data download nih dataset_full"),
    ],
)
def test_the_command_says_what_it_cannot_do(words, sentence):
    result = CliRunner().invoke(app, ["data", "download", *words])
    assert result.exit_code == 1 and sentence in result.output
