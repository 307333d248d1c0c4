"""What a card says of teachers and of removed channels, and who taught whom among several models."""

import pytest
from tiny_model import write_tiny_model

from lib.exceptions import ExportError
from lib.inference.card import card_text, make_card
from lib.inference.predictor import Predictor
from lib.inference.stored_card import stored_card
from lib.inference.teaching import ONE_TEACHER, SAME_ARM, TEACHER, part_in, taught_by

TAUGHT = ["compress/teacher-s0-f1", "compress/teacher-s1-f1"]
RUN = {"backbone": "b0", "head": "linear", "findings": ["Mass"], "image_size": 32, "data": {}}
PARTS = {"precision": "fp32", "familiarity": None, "exported": "", "versions": {}}


def card(**changes) -> dict:
    return make_card("small", RUN | changes, [], **PARTS)


def student(taught: list = TAUGHT) -> dict:
    return card(weights={"text": "random weights", "taught_by": taught})


def of_runs(*runs: str) -> dict:
    """The card of a run of the study `compress`, or of an ensemble of several."""
    if len(runs) == 1:
        return card() | {"run": {"study": "compress", "run": runs[0]}}
    members = [{"run": run} for run in runs]
    return card() | {"run": {"study": "compress", "run": "arm"}, "members": members}


def test_the_card_of_a_student_names_arm_and_runs_of_its_teacher():
    text = card_text(student())
    assert "It is a student of the arm compress/teacher: it learned the mean answer" in text
    assert "compress/teacher-s0-f1, compress/teacher-s1-f1 (knowledge distillation)." in text


def test_the_card_of_a_pruned_model_says_how_much_was_removed():
    text = card_text(card(widths={"share": 0.5}))
    assert "About 50% of its backbone's channels were removed before its training." in text


def test_other_cards_speak_of_neither():
    text = card_text(card())
    assert "student" not in text and "channels" not in text
    assert taught_by(card()) == taught_by({}) == taught_by({"weights": None}) == ()


@pytest.mark.parametrize(
    ("runs", "wanted"),
    [
        (("teacher-s0-f1", "teacher-s1-f1"), TEACHER),
        (("teacher-s0-f1", "teacher-s1-f1", "teacher-s2-f1"), TEACHER),
        (("teacher-s1-f1",), ONE_TEACHER),
        (("teacher-s2-f1",), SAME_ARM),
        (("teacher-s0-f0",), SAME_ARM),
        (("taught-s0-f1",), ""),
    ],
)
def test_a_model_is_a_teacher_by_its_runs(runs, wanted):
    assert part_in(of_runs(*runs), student()) == wanted


def test_the_only_teacher_is_the_teacher():
    assert part_in(of_runs("teacher-s0-f1"), student(TAUGHT[:1])) == TEACHER


def test_a_model_without_a_teacher_has_none():
    assert part_in(of_runs("teacher-s0-f1"), of_runs("teacher-s0-f1")) == ""


@pytest.mark.parametrize("broken", [7, "x", [7], {"taught_by": 7}, {"taught_by": [7, {}]}])
def test_a_card_of_anybody_names_no_teacher(broken):
    odd = {"weights": broken, "run": broken, "members": broken}
    assert taught_by(odd) == () and part_in(odd, student()) == ""


def test_the_card_is_read_from_the_file_as_the_predictor_reads_it(tmp_path):
    path = write_tiny_model(tmp_path / "tiny.onnx", weights={"taught_by": TAUGHT})
    assert stored_card(path) == Predictor(path, threads=1).card


@pytest.mark.parametrize("kept", [0, 1, 10, 100, -1, -40])
def test_a_file_that_is_cut_short_has_no_card(kept, tmp_path):
    path = write_tiny_model(tmp_path / "tiny.onnx")
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(ExportError, match=r"tiny\.onnx holds no card that can be read"):
        stored_card(path)


@pytest.mark.parametrize(
    "content", [b"no model", b"\xff" * 50, b"\x72\xff\xff\xff\xff\x7f", b"\x73"]
)
def test_a_file_that_is_no_model_has_no_card(content, tmp_path):
    path = tmp_path / "odd.onnx"
    path.write_bytes(content)
    with pytest.raises(ExportError, match=r"odd\.onnx holds no card that can be read"):
        stored_card(path)


def test_a_missing_file_has_no_card(tmp_path):
    with pytest.raises(ExportError, match="holds no card"):
        stored_card(tmp_path / "none.onnx")
