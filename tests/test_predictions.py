"""Predictions: what a model says of one split, written whole and read again."""

import numpy as np
import pandas as pd
import pytest

from lib.exceptions import RunError
from lib.metrics.predictions import (
    Predictions,
    read_predictions,
    write_predictions,
    write_submission,
)

FINDINGS = ("Mass", "Nodule")


@pytest.fixture
def predictions() -> Predictions:
    images, patients = np.array(["b.png", "a.png", "c.png"]), np.array(["2", "1", "2"])
    targets = np.array([[1, 0], [0, np.nan], [0, 1]], dtype=np.float32)
    return Predictions(
        FINDINGS, images, patients, targets, np.array([[0.9, 0.2], [0.1, 0.1], [0.6, 0.5]])
    )


@pytest.fixture
def frame() -> pd.DataFrame:
    return pd.DataFrame(
        {
            "image": ["a.png", "b.png", "c.png"],
            "age": [1.0, 2.0, 3.0],
            "sex": ["M", "F", "F"],
            "view": "PA",
        }
    )


def test_what_is_written_is_read_again_sorted_by_image(tmp_path, predictions, frame):
    write_predictions(tmp_path / "p.parquet", {"val": predictions, "test": predictions}, frame)
    again = read_predictions(tmp_path / "p.parquet")
    order = [1, 0, 2]
    assert again.findings == FINDINGS and again.images.tolist() == ["a.png", "b.png", "c.png"]
    assert again.patients.tolist() == ["1", "2", "2"]
    np.testing.assert_array_equal(again.targets, predictions.targets[order])
    np.testing.assert_array_equal(again.probs, predictions.probs[order])


def test_age_and_sex_follow_their_images(tmp_path, predictions, frame):
    write_predictions(tmp_path / "p.parquet", {"test": predictions}, frame)
    table = pd.read_parquet(tmp_path / "p.parquet").set_index("image")
    assert (
        table["age"].to_dict() == {"a.png": 1.0, "b.png": 2.0, "c.png": 3.0}
        and table["sex"]["b.png"] == "F"
    )


def test_predictions_of_the_wrong_shape_are_refused(predictions):
    with pytest.raises(
        ValueError, match=r"3 images, 3 patients and 1 findings, but targets \(3, 2\)"
    ):
        Predictions(
            ("Mass",),
            predictions.images,
            predictions.patients,
            predictions.targets,
            predictions.probs,
        )


def test_a_file_that_holds_no_predictions_is_named(tmp_path, predictions, frame):
    write_predictions(tmp_path / "p.parquet", {"val": predictions}, frame)
    with pytest.raises(RunError, match=r"p.parquet has no images of the split 'test'"):
        read_predictions(tmp_path / "p.parquet")
    frame.assign(split="test").to_parquet(tmp_path / "q.parquet")
    with pytest.raises(RunError, match=r"q.parquet lacks patient"):
        read_predictions(tmp_path / "q.parquet")


def test_a_submission_joins_findings_and_says_no_finding(tmp_path, predictions):
    write_submission(tmp_path / "s.csv", predictions, np.array([0.5, np.nan]))
    lines = (tmp_path / "s.csv").read_text().splitlines()
    assert lines == ["imageID,disease", "b.png,Mass", "a.png,No Finding", "c.png,Mass|Nodule"]


def test_the_source_is_written_where_the_frame_has_it(tmp_path, predictions, frame):
    for columns, wanted in (({}, False), ({"source": "set"}, True)):
        write_predictions(tmp_path / "p.parquet", {"test": predictions}, frame.assign(**columns))
        assert ("source" in pd.read_parquet(tmp_path / "p.parquet")) == wanted
