"""The same radiograph in two splits is refused, also when it was renamed and encoded anew."""

import numpy as np
import pandas as pd
import pytest

from lib.datasets.duplicates import check_duplicates, duplicate_pairs
from lib.exceptions import SplitError


@pytest.fixture
def images() -> np.ndarray:
    """Twenty smooth images of 64 px; 19 is 3 with noise of one grey level, as of another
    encoding."""
    generator = np.random.default_rng(0)
    coarse = generator.integers(20, 230, (20, 16, 16))
    images = coarse.repeat(4, axis=1).repeat(4, axis=2)
    images[19] = images[3] + generator.integers(-1, 2, (64, 64))
    return images.astype(np.uint8)


def frame_of(*splits: str) -> pd.DataFrame:
    names = [f"{i}.png" for i in range(len(splits))]
    return pd.DataFrame({"image": names, "patient": names, "split": splits})


def test_nearly_identical_images_are_a_pair(images):
    assert duplicate_pairs(images).tolist() == [[3, 19]]


def test_blank_images_are_no_pair():
    assert len(duplicate_pairs(np.zeros((5, 64, 64), np.uint8))) == 0


def test_one_image_in_two_splits_is_refused_and_named(images):
    frame = frame_of(*["train"] * 19, "test")
    with pytest.raises(SplitError, match=r"1 pairs .*: 3.png \(train\) and 19.png \(test\)"):
        check_duplicates(frame, images)


def test_one_image_twice_in_a_split_is_a_warning(images):
    with pytest.warns(UserWarning, match="1 pairs of images are the same radiograph"):
        check_duplicates(frame_of(*["train"] * 20), images)


def test_copies_of_one_patient_are_no_leak_beyond_the_patient(images):
    with pytest.warns(UserWarning, match="the same radiograph"):
        check_duplicates(frame_of(*["train"] * 19, "val").assign(patient="nih:1"), images)


def test_an_excluded_copy_is_fine(images, recwarn):
    check_duplicates(frame_of(*["train"] * 19, "excluded"), images)
    assert not recwarn


def test_of_an_image_cache_the_pairs_are_remembered(images, tmp_path, monkeypatch):
    np.save(tmp_path / "64px-key.npy", images)
    store = np.load(tmp_path / "64px-key.npy", mmap_mode="r")
    assert duplicate_pairs(store).tolist() == [[3, 19]]
    monkeypatch.setattr("lib.datasets.duplicates._find_pairs", lambda images: None)
    assert duplicate_pairs(store).tolist() == [[3, 19]]
    assert duplicate_pairs(store[:10]) is None  # a part of the cache is searched itself


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 damaged", b"\x93NUMPY"])
def test_a_damaged_memory_of_pairs_is_made_again(images, tmp_path, content):
    np.save(tmp_path / "64px-key.npy", images)
    store = np.load(tmp_path / "64px-key.npy", mmap_mode="r")
    duplicate_pairs(store)
    (kept,) = tmp_path.glob("*.npz")
    kept.write_bytes(content)
    assert duplicate_pairs(store).tolist() == [[3, 19]]
    assert kept.read_bytes() != content
