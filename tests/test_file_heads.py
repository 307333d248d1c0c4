"""Files that do not begin like an image, and which of them are opened."""

import builtins
import os
from concurrent.futures import ThreadPoolExecutor

import pytest

from lib.datasets.file_heads import check_heads

PNG = b"\x89PNG\r\n\x1a\n" + bytes(200)


@pytest.fixture
def opened(monkeypatch):
    """The paths that are opened."""
    paths, plain = [], builtins.open

    def spy(path, *args, **options):
        paths.append(str(path))
        return plain(path, *args, **options)

    monkeypatch.setattr(builtins, "open", spy)
    return paths


def films(folder, **contents: bytes) -> list[str]:
    for name, data in contents.items():
        (folder / name).write_bytes(data)
    return [str(folder / name) for name in contents]


def test_what_is_wrong_with_a_file_is_reported_each_time(tmp_path):
    dicom = bytes(128) + b"DICM" + bytes(9)
    paths = films(tmp_path, good=PNG, empty=b"", text=b"<html>", dicom=dicom)
    for _ in range(2):
        found = check_heads([*paths, str(tmp_path / "none")], tmp_path / "cache")
        assert [wrong and wrong[0] for wrong in found] == [
            None,
            "empty file",
            "not an image",
            "not an image",
            "unreadable file",
        ]
        assert "DICOM" in found[3][1] and "<html>" in found[2][1]


def test_a_file_that_was_right_is_not_opened_again(tmp_path, opened):
    paths = films(tmp_path, a=PNG, b=PNG, bad=b"x")
    check_heads(paths, tmp_path / "cache")
    assert set(paths) <= set(opened)
    opened.clear()
    more = [*paths, *films(tmp_path, c=PNG)]
    assert check_heads(more, tmp_path / "cache")[:2] == [None, None]
    assert set(opened) & set(more) == {paths[2], more[3]}


def test_a_file_that_was_changed_is_opened_again(tmp_path):
    paths = films(tmp_path, a=PNG, b=PNG)
    check_heads(paths, tmp_path / "cache")
    (tmp_path / "a").write_bytes(b"")
    (tmp_path / "b").write_bytes(b"x" * len(PNG))
    os.utime(tmp_path / "b", ns=(1, 1))
    found = check_heads(paths, tmp_path / "cache")
    assert [wrong[0] for wrong in found] == ["empty file", "not an image"]


@pytest.mark.parametrize("table", [b"", b"\x93NUMPY", b"garbage"])
def test_a_damaged_table_is_begun_anew(tmp_path, table):
    paths = films(tmp_path, a=PNG)
    cache = tmp_path / "cache"
    check_heads(paths, cache)
    (kept,) = cache.iterdir()
    kept.write_bytes(table)
    assert check_heads(paths, cache) == [None]
    assert kept.stat().st_size > 16


def test_each_folder_has_a_memory_of_its_own_that_holds_what_is_there_now(tmp_path):
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
    one, two = films(tmp_path / "one", a=PNG, b=PNG), films(tmp_path / "two", a=PNG)
    for paths in (one, two):
        check_heads(paths, tmp_path / "cache")
    assert len(list((tmp_path / "cache").iterdir())) == 2
    sizes = []
    for moment in range(3):  # a film that changes again and again does not fill the memory
        os.utime(one[0], ns=(moment, moment))
        check_heads(one, tmp_path / "cache")
        sizes.append(sum(path.stat().st_size for path in (tmp_path / "cache").iterdir()))
    assert len(set(sizes)) == 1


def test_processes_that_check_the_same_folder_at_once_find_the_same(tmp_path):
    paths = films(tmp_path, **{f"f{i}": PNG for i in range(600)}, bad=b"x")
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda _: check_heads(paths, tmp_path / "cache"), range(16)))
    assert all(one == found[0] for one in found) and found[0][-1][0] == "not an image"
    assert len(list((tmp_path / "cache").iterdir())) == 1


def test_where_nothing_can_be_kept_the_files_are_checked_all_the_same(tmp_path):
    (tmp_path / "cache").write_text("a file, so no folder can be made")
    assert check_heads(films(tmp_path, a=PNG, b=b""), tmp_path / "cache")[0] is None
