"""The image cache: right pixels, never stale, resumable after a kill, safe for two builders."""

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

import lib.datasets.cache
from lib.config import REPO_ROOT
from lib.datasets.cache import decode_problems, open_cache, without_undecodable
from lib.exceptions import CxrError, DatasetError
from lib.images.pixels import decode_grey


def frame_of(paths: list[Path]) -> pd.DataFrame:
    return pd.DataFrame(
        {"image": [p.name for p in paths], "path": [str(p) for p in paths], "source": "films"}
    )


def noise(path: Path, seed: int, side: int = 40) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (side, side), dtype=np.uint8)
    Image.fromarray(pixels).save(path, compress_level=1)
    return path


@pytest.fixture
def films(tmp_path) -> pd.DataFrame:
    return frame_of([noise(tmp_path / "films" / f"{i}.png", i) for i in range(12)])


@pytest.fixture
def count(monkeypatch) -> list[int]:
    """The rows that are decoded from here on, in this process."""
    rows: list[int] = []
    decode = lib.datasets.cache.decode_chunk

    def counting(chunk, *args, **kwargs):
        rows.extend(chunk)
        return decode(chunk, *args, **kwargs)

    monkeypatch.setattr(lib.datasets.cache, "decode_chunk", counting)
    return rows


def build(frame: pd.DataFrame, tmp_path: Path, size: int = 16, **kwargs) -> np.memmap:
    return open_cache(frame, size, folder=tmp_path / "store", progress=False, **kwargs)


# ---- pixels


def test_store_holds_every_image_in_the_frames_order(films, tmp_path):
    store = build(films, tmp_path)
    assert isinstance(store, np.memmap) and store.shape == (12, 16, 16) and store.dtype == np.uint8
    for row, path in enumerate(films["path"]):
        np.testing.assert_array_equal(store[row], decode_grey(path, 16))


def test_store_is_read_only(films, tmp_path):
    with pytest.raises(ValueError, match="read-only"):
        build(films, tmp_path)[0] = 0


def test_resize_is_antialiased(tmp_path):
    """A fine checkerboard becomes even grey; picking single pixels would keep black and white."""
    board = (np.indices((64, 64)).sum(axis=0) % 2 * 255).astype(np.uint8)
    Image.fromarray(board).save(tmp_path / "board.png")
    small = decode_grey(str(tmp_path / "board.png"), 8)
    assert small.min() >= 120 and small.max() <= 135


def test_resize_squashes(tmp_path):
    wide = np.zeros((20, 80), dtype=np.uint8)
    wide[:, 40:] = 255
    Image.fromarray(wide).save(tmp_path / "wide.png")
    assert (decode_grey(str(tmp_path / "wide.png"), 10).mean(axis=0) > 127).tolist() == [
        False
    ] * 5 + [True] * 5


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "LA", "P", "1", "L"])
@pytest.mark.parametrize("value", [0, 255])
def test_every_mode_becomes_the_same_grey(tmp_path, mode, value):
    path = tmp_path / "film.png"
    Image.new("L", (12, 12), value).convert(mode).save(path)
    assert (decode_grey(str(path), 12) == value).all()


@pytest.mark.parametrize(("top", "expected"), [(4095, 255), (65535, 255), (255, 255), (2048, 128)])
def test_deep_images_are_scaled_by_their_power_of_two(tmp_path, top, expected):
    Image.fromarray(np.full((12, 12), top, dtype=np.uint16)).save(tmp_path / "deep.png")
    assert (decode_grey(str(tmp_path / "deep.png"), 6) == expected).all()


def test_jpeg_is_read(tmp_path):
    Image.new("RGB", (900, 700), (90, 90, 90)).save(tmp_path / "film.jpeg")
    assert abs(decode_grey(str(tmp_path / "film.jpeg"), 32).astype(int) - 90).max() <= 2


def test_worker_processes_give_the_same_store(films, tmp_path, monkeypatch):
    expected = np.array(build(films, tmp_path))
    monkeypatch.setattr(lib.datasets.cache, "_WORTH_SECONDS", 0.0)
    monkeypatch.setattr(lib.datasets.cache, "_CHUNK", 2)
    np.testing.assert_array_equal(
        open_cache(films, 16, folder=tmp_path / "other", workers=2, progress=False), expected
    )


# ---- known by content


def test_second_opening_decodes_nothing(films, tmp_path, count):
    build(films, tmp_path)
    build(films, tmp_path)
    assert len(count) == 12


def test_changed_file_is_decoded_anew_and_the_others_are_taken_over(films, tmp_path, count):
    build(films, tmp_path)
    noise(Path(films["path"][5]), seed=99)
    os.utime(films["path"][5], ns=(1, 1))  # whatever the resolution of the file system's clock
    count.clear()
    store = build(films, tmp_path)
    assert count == [5]
    np.testing.assert_array_equal(store[5], decode_grey(films["path"][5], 16))
    np.testing.assert_array_equal(store[6], decode_grey(films["path"][6], 16))


def test_touched_file_of_the_same_size_is_not_served_stale(films, tmp_path, count):
    build(films, tmp_path)
    os.utime(films["path"][3], ns=(1, 1))
    count.clear()
    build(films, tmp_path)
    assert count == [3]


def test_part_of_a_stored_frame_in_another_order_is_copied(films, tmp_path, count):
    whole = build(films, tmp_path)
    part = films.iloc[[7, 2, 9]].reset_index(drop=True)
    count.clear()
    np.testing.assert_array_equal(build(part, tmp_path), whole[[7, 2, 9]])
    assert not count


def test_the_environment_names_the_folder(films, tmp_path, monkeypatch):
    monkeypatch.setenv("CXR_STORE", str(tmp_path / "named"))
    open_cache(films, 16, progress=False)
    assert len(list((tmp_path / "named").glob("*.npy"))) == 1


def test_sizes_have_their_own_stores(films, tmp_path):
    assert build(films, tmp_path, 16).shape != build(films, tmp_path, 8).shape


# ---- what cannot be decoded


@pytest.fixture
def broken(films) -> pd.DataFrame:
    """Image 4 cut off in the middle, image 8 a text."""
    path = Path(films["path"][4])
    path.write_bytes(path.read_bytes()[:900])
    Path(films["path"][8]).write_text("no image")
    return films


def test_one_error_lists_every_undecodable_image(broken, tmp_path):
    with pytest.raises(
        DatasetError,
        match=r"2 of 12 rows cannot be used(.|\n)*2 x undecodable image: 4.png .*8.png",
    ) as e:
        build(broken, tmp_path)
    assert "on_bad=skip" in str(e.value) and broken["path"][4] in str(e.value)


def test_the_error_comes_again_without_decoding_again(broken, tmp_path, count):
    for _ in range(2):
        with pytest.raises(DatasetError):
            build(broken, tmp_path)
    assert len(count) == 12


def test_without_undecodable_leaves_them_out_and_names_them(broken, tmp_path, count):
    kept, bad = without_undecodable(broken, 16, folder=tmp_path / "store", progress=False)
    assert kept["image"].tolist() == [f"{i}.png" for i in range(12) if i not in (4, 8)]
    assert list(bad.columns) == ["source", "row", "image", "reason"] and bad["image"].tolist() == [
        "4.png",
        "8.png",
    ]
    assert bad["reason"].str.startswith("undecodable image: ").all()
    assert build(kept, tmp_path).shape == (10, 16, 16)
    assert len(count) == 12


def test_decode_problems_builds_nothing(broken, tmp_path):
    assert decode_problems(broken, progress=False)["image"].tolist() == ["4.png", "8.png"]
    assert not (tmp_path / "store").exists()


def test_all_undecodable_is_an_error(tmp_path):
    (tmp_path / "a.png").write_text("no image")
    with pytest.raises(DatasetError, match="none of the 1 images can be decoded"):
        without_undecodable(
            frame_of([tmp_path / "a.png"]), 8, folder=tmp_path / "store", progress=False
        )


def test_a_cache_that_can_only_be_read_opens(tmp_path, monkeypatch):
    frame = frame_of([noise(tmp_path / "good.png", 0)])
    open_cache(frame, 32, folder=tmp_path / "store", progress=False)

    def refuse(self):
        raise PermissionError(str(self))

    monkeypatch.setattr(Path, "touch", refuse)
    assert open_cache(frame, 32, folder=tmp_path / "store", progress=False).shape == (1, 32, 32)


def test_what_is_skipped_leaves_one_cache_and_is_known_the_next_time(tmp_path, monkeypatch):
    good = noise(tmp_path / "good.png", 0)
    (tmp_path / "bad.png").write_bytes(good.read_bytes()[:200])
    frame = frame_of([good, tmp_path / "bad.png"])
    rest, bad = without_undecodable(frame, 32, folder=tmp_path / "store", progress=False)
    assert len(rest) == 1 and len(bad) == 1 and len(list((tmp_path / "store").glob("*.npy"))) == 1
    monkeypatch.setattr(lib.datasets.cache, "_fill", lambda *_: pytest.fail("decoded again"))
    again, bad_again = without_undecodable(frame, 32, folder=tmp_path / "store", progress=False)
    pd.testing.assert_frame_equal(again, rest)
    pd.testing.assert_frame_equal(bad_again, bad)
    assert open_cache(again, 32, folder=tmp_path / "store", progress=False).shape == (1, 32, 32)


# ---- kills and two builders

BUILDER = """
import sys, time
from pathlib import Path
import pandas as pd
import lib.datasets.cache
noted, note = [], lib.datasets.cache._Journal.note

def note_half(journal, rows, failed):
    noted.extend(rows)
    note(journal, rows, failed)
    while len(noted) >= 60:  # until it is killed
        time.sleep(1)

if __name__ == "__main__":
    lib.datasets.cache._CHUNK, lib.datasets.cache._SAVE_SECONDS, lib.datasets.cache._WORTH_SECONDS = 1, 0.0, 0.0
    lib.datasets.cache._Journal.note = note_half
    frame, folder, workers, builders = pd.read_csv(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4])
    folder.mkdir(exist_ok=True)
    (folder / f"ready.{time.time_ns()}").touch()
    while len(list(folder.glob("ready.*"))) < builders:
        time.sleep(0.001)
    print(lib.datasets.cache.open_cache(frame, 32, folder=folder, workers=workers, progress=False).sum(), len(noted))
"""


@pytest.fixture(scope="module")
def slow(tmp_path_factory) -> pd.DataFrame:
    """120 films that take a core about two seconds."""
    folder = tmp_path_factory.mktemp("slow")
    first = [noise(folder / f"{i}.png", i, side=700) for i in range(3)]
    copies = [Path(shutil.copy(first[i % 3], folder / f"{i}.png")) for i in range(3, 120)]
    return frame_of(first + copies)


@pytest.fixture
def start_builder(tmp_path, popen):
    """Starts a process that builds the store of a frame together with others; of more than 60 films
    only a half."""

    def start(frame: pd.DataFrame, workers: int, builders: int = 1) -> subprocess.Popen:
        if not (tmp_path / "builder.py").exists():  # no other builder reads them yet
            frame.to_csv(tmp_path / "frame.csv", index=False)
            (tmp_path / "builder.py").write_text(BUILDER)
        words = [
            tmp_path / "builder.py",
            tmp_path / "frame.csv",
            tmp_path / "store",
            str(workers),
            str(builders),
        ]
        env = {**os.environ, "PYTHONPATH": str(REPO_ROOT), "OMP_NUM_THREADS": "1"}
        return popen([sys.executable, *words], env=env, stdout=subprocess.PIPE, text=True)

    return start


def finished_rows(folder: Path) -> int:
    journals = list(folder.glob("*.done.npz"))
    if not journals:
        return 0
    with np.load(journals[0]) as journal:
        return int(journal["state"].sum())


@pytest.mark.parametrize("workers", [1, 2])
def test_a_killed_build_goes_on_where_it_was(slow, tmp_path, count, start_builder, workers):
    process = start_builder(slow, workers)
    while finished_rows(tmp_path / "store") < 10:
        assert process.poll() is None, "the build ended by itself"
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not list((tmp_path / "store").glob("*.npy"))
    already = finished_rows(tmp_path / "store")
    store = open_cache(slow, 32, folder=tmp_path / "store", workers=1, progress=False)
    assert 10 <= already < 120 and len(count) == 120 - already
    expected = np.stack([decode_grey(slow["path"][i], 32) for i in range(3)])[np.arange(120) % 3]
    np.testing.assert_array_equal(store, expected)
    assert not list((tmp_path / "store").glob("*.partial")) and not list(
        (tmp_path / "store").glob("*.done.npz")
    )


def test_two_builders_at_once_build_one_store(slow, tmp_path, start_builder):
    both = [start_builder(slow.iloc[:40], 1, builders=2) for _ in range(2)]
    told = [process.communicate(timeout=240)[0].split() for process in both]
    assert [process.returncode for process in both] == [0, 0] and told[0][0] == told[1][0]
    assert {rows for _, rows in told} == {"0", "40"}  # one decoded, the other waited
    assert len(list((tmp_path / "store").glob("*.npy"))) == 1


def test_a_store_that_does_not_fit_on_the_disk_is_refused(films, tmp_path, monkeypatch):
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(
        lib.datasets.cache.shutil, "disk_usage", lambda path: usage._replace(free=10)
    )
    with pytest.raises(CxrError, match=r"the image cache needs 0.00 GB"):
        build(films, tmp_path)


def test_an_empty_frame_is_refused(tmp_path):
    with pytest.raises(ValueError, match="empty"):
        build(frame_of([]), tmp_path)
