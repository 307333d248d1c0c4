"""The web app with two models side by side: which is which, where they differ, what the page shows."""

import csv
import importlib
import io
import json
import sys
from pathlib import Path

import numpy as np
import pytest
from app_pages import (
    CONTRAST,
    chromium,
    content_of,
    expect,
    film_file,
    full_card,
    give,
    page_of,
    served,
    settle,
    wanted_probs,
)
from template_model import write_template_model
from tiny_model import FINDINGS, write_tiny_model

from lib.config import REPO_ROOT
from lib.inference.card import make_card
from lib.inference.predictor import Predictor

pytest.importorskip("streamlit", reason="streamlit is missing: pip install -e '.[app]'")
sys.path.append(str(REPO_ROOT / "app"))  # as `streamlit run app/app.py` does
downloads, pair, predict, sides = (
    importlib.import_module(name) for name in ("downloads", "pair", "predict", "served")
)

BIG = {"Hernia": 2.0, "Cardiomegaly": 4.0, "Atelectasis": 2.0}
"""The teacher's findings: logit = this * mean grey, in an order of its own."""
HOSTILE = "<img src=x onerror=alert(1)>.png"
FILM = film_file(grey=150)
"""Atelectasis is flagged by both, Cardiomegaly by the teacher alone (0.59 of 0.60, and 0.91 of 0.5);
Effusion is the student's own, Hernia the teacher's."""
DIFFERENCE = (
    "1 of 2 findings is flagged by one model only: Cardiomegaly (by B). "
    "Not counted: 2 that only one of them predicts."
)


def write_big(path: Path) -> None:
    """A teacher of 64 px, twice what its student sees."""
    templates = {name: np.full((64, 64), slope / 64**2) for name, slope in BIG.items()}
    run = {"backbone": "big", "head": "linear", "findings": list(BIG), "image_size": 64, "data": {}}
    run["thresholds"] = [0.5] * 3
    parts = {"precision": "fp32", "familiarity": None, "exported": "", "versions": {}}
    card = make_card(path.stem, run, [], **parts, run={"study": "demo", "run": "big-s0"})
    write_template_model(path, templates, **card)


@pytest.fixture(scope="module")
def models(tmp_path_factory) -> Path:
    """A student, its teacher, and a model that has to do with neither."""
    folder = tmp_path_factory.mktemp("models")
    taught = full_card("a-student") | {"weights": {"text": "", "taught_by": ["demo/big-s0"]}}
    write_tiny_model(folder / "a-student.onnx", **taught)
    write_tiny_model(folder / "b-alone.onnx", **full_card("b-alone"))
    write_big(folder / "c-teacher.onnx")
    return folder


@pytest.fixture(scope="module")
def predictors(models) -> list[Predictor]:
    return [Predictor(models / f"{name}.onnx", threads=1) for name in ("a-student", "c-teacher")]


@pytest.fixture(scope="module")
def two(predictors):
    return sides.side_by_side({one.name: one.card for one in predictors})


@pytest.fixture(scope="module")
def answers(predictors):
    return predict.answer_by_all(predictors, FILM, "film.png")


# ---- which is which


def test_two_models_have_letters_and_the_roles_that_their_cards_tell(two):
    assert [(one.letter, one.title) for one in two] == [
        ("A", "a-student (student)"),
        ("B", "c-teacher (teacher)"),
    ]


def test_the_roles_are_the_same_in_the_other_order(predictors):
    assert sides.both_roles(*[one.card for one in predictors[::-1]]) == ("teacher", "student")


def test_one_model_alone_has_neither_letter_nor_role(predictors):
    (one,) = sides.side_by_side({"a": predictors[0].card})
    assert (one.letter, one.title) == ("", "a")


def test_a_model_goes_by_the_name_of_its_file(predictors):
    found = sides.side_by_side({"x": predictors[0].card, "y": predictors[0].card})
    assert [one.card["name"] for one in found] == ["x", "y"]


def test_the_nearest_teacher_is_the_first_to_compare_with():
    def made(*runs):
        return {"run": {"study": "s", "run": "arm"}, "members": [{"run": run} for run in runs]}

    cards = {"a": {"weights": {"taught_by": ["s/t-s0", "s/t-s1"]}}, "b": {}, "c": made("t-s2")}
    cards |= {"d": made("t-s1"), "e": made("t-s0", "t-s1")}
    wanted = ["teacher", "one of the teachers", "another run of the teacher's arm", ""]
    assert sides.related("a", cards) == dict(zip("edcb", wanted, strict=True))
    assert list(sides.related("a", cards)) == list("edcb")
    assert sides.related("e", cards) == {"a": "student", "b": "", "c": "", "d": ""}


# ---- answers


def test_each_model_answers_as_it_does_alone_at_its_own_size(predictors, answers):
    for predictor, answer in zip(predictors, answers, strict=True):
        np.testing.assert_allclose(answer.probs, wanted_probs(predictor, FILM), atol=1e-6)
    assert answers[0].picture == answers[1].picture


def test_a_bad_file_is_refused_once_for_both(predictors):
    both = predict.answer_by_all(predictors, b"no image", "a.png")
    assert len(both) == 2 and both[0] == both[1] and both[0].reason


# ---- where they differ


def test_each_model_flags_at_its_own_thresholds(answers, two):
    assert pair.difference_text(answers, two) == DIFFERENCE
    assert {name: one.letter for name, one in pair.flagged_by_one(answers, two).items()} == {
        "Cardiomegaly": "B"
    }


def film(*pairs) -> tuple:
    """Answers of two models of the same findings, from (flagged by A, flagged by B) of each."""
    return tuple(
        predict.FilmAnswer("a", probs=(0.5,) * len(pairs), flagged=flags)
        for flags in zip(*pairs, strict=True)
    )


def same(*findings: str) -> tuple:
    card = {"findings": list(findings)}
    return sides.side_by_side({"a": card, "b": card})


@pytest.mark.parametrize(
    ("pairs", "wanted"),
    [
        ([(True, True), (False, False)], "The two models flag the same of 2 findings."),
        ([(False, False)] * 2, "The two models flag none of 2 findings."),
        (
            [(True, False), (False, True)],
            "2 of 2 findings are flagged by one model only: Mass (by A), Pleural Thickening (by B).",
        ),
    ],
)
def test_a_sentence_counts_what_one_model_alone_flags(pairs, wanted):
    assert pair.difference_text(film(*pairs), same("Mass", "Pleural_Thickening")) == wanted


def test_models_without_a_common_finding_are_not_compared():
    models = sides.side_by_side({"a": {"findings": ["Mass"]}, "b": {"findings": ["Edema"]}})
    text = pair.difference_text(film((True, False)), models)
    assert text == "The two models have no finding in common."


def test_hostile_names_are_escaped(predictors, two):
    good = predict.answer_by_all(predictors, FILM, HOSTILE)
    bad = predict.answer_by_all(predictors, b"", HOSTILE)
    odd = sides.side_by_side({"<b>x": two[0].card, "<b>y": two[1].card})
    for page in (pair.pair_html(good, odd), pair.pairs_html([good, bad], odd, [0, 1])):
        assert "&lt;img src=x onerror=alert(1)&gt;.png" in page and "<img src=x" not in page
        assert "&lt;b&gt;x" in page and "<b>x" not in page


# ---- downloads


def test_csv_has_a_row_per_film_and_model_and_gaps_where_one_does_not_predict(answers, two):
    text = downloads.csv_file([answers], [one.card for one in two]).decode()
    student, teacher = csv.DictReader(io.StringIO(text))
    assert (student["model"], teacher["model"]) == ("a-student", "c-teacher")
    assert (student["flagged"], teacher["flagged"]) == (
        "Atelectasis",
        "Cardiomegaly|Hernia|Atelectasis",
    )
    assert student["prob_Hernia"] == teacher["prob_Effusion"] == ""
    assert float(teacher["prob_Cardiomegaly"]) == pytest.approx(answers[1].probs[1])


def test_json_has_a_list_of_each_model_with_its_thresholds(answers, two):
    content = json.loads(downloads.json_of_all([answers], [one.card for one in two]))
    assert [one["model"] for one in content["models"]] == ["a-student", "c-teacher"]
    assert list(content["models"][1]["thresholds"]) == list(BIG)
    assert content["models"][1]["films"][0]["probs"].keys() == BIG.keys()


# ---- the page without a browser


def compare(page):
    return next(box for box in page.selectbox if box.label == "Compare with")


def test_one_model_alone_offers_no_comparison(tmp_path, monkeypatch):
    write_tiny_model(tmp_path / "tiny.onnx", **full_card("tiny"))
    page = page_of(tmp_path, monkeypatch)
    assert [box.label for box in page.selectbox] == ["Model"] and not page.exception


def test_the_teacher_of_the_chosen_model_is_suggested_and_nothing_is_chosen(models, monkeypatch):
    page = page_of(models, monkeypatch)
    assert compare(page).value == ""
    assert compare(page).options == ["none", "c-teacher (teacher)", "b-alone"]
    assert any("To compare with: c-teacher (teacher)." in text.value for text in page.caption)
    page.selectbox[0].select("b-alone").run()
    assert not any("To compare with" in text.value for text in page.caption)


def test_the_cards_of_both_models_are_on_the_page(models, monkeypatch):
    page = page_of(models, monkeypatch)
    compare(page).select("c-teacher").run()
    labels = ["About A, a-student (student)", "About B, c-teacher (teacher)"]
    assert [one.label for one in page.expander] == labels and not page.exception


def test_a_broken_second_model_is_reported_and_the_first_goes_on(models, tmp_path, monkeypatch):
    (tmp_path / "a.onnx").write_bytes((models / "a-student.onnx").read_bytes())
    (tmp_path / "odd.onnx").write_bytes(b"no model")
    page = page_of(tmp_path, monkeypatch)
    compare(page).select("odd").run()
    assert "odd.onnx cannot be loaded as an ONNX model" in page.error[0].value
    assert [one.label for one in page.expander] == ["About this model"] and not page.exception


# ---- the page in a browser


@pytest.fixture(scope="module")
def only_page(models):
    """The page with the student as A and its teacher as B."""
    with (
        served(models) as server,
        chromium() as browser,
        browser.new_context(
            viewport={"width": 1280, "height": 900}, accept_downloads=True
        ) as context,
    ):
        page = context.new_page()
        page.set_default_timeout(120_000)
        page.goto(server.url)
        page.get_by_text("Or try a phantom").wait_for()
        choose(page, "c-teacher")
        yield page


def choose(page, name: str) -> None:
    settle(page)
    page.get_by_role("combobox", name="Compare with").click()
    page.get_by_role("option", name=name).click()
    if name != "none":
        page.get_by_text(f"About B, {name}").wait_for()  # the server knows of the choice
    settle(page)


@pytest.fixture
def page(only_page):
    """The page with two models and no film on it."""
    yield only_page
    settle(only_page)
    if only_page.locator(".root").count():
        only_page.get_by_role("button", name="Forget the films").click()
        only_page.locator(".root").first.wait_for(state="detached")


def shown(page, name: str) -> None:
    """Waits until the film is on the page twice, and nothing moves any more."""
    page.get_by_role("heading", name=name).wait_for()
    expect(page.locator(".picture")).to_have_count(2)
    page.locator(".picture").last.evaluate("image => image.decode()")
    settle(page)


def row_of(page, finding: str):
    return page.locator(".pair tbody tr").filter(has_text=finding)


def test_one_table_has_the_probabilities_of_both_under_their_names(page, predictors):
    give(page, ("film.png", FILM))
    shown(page, "film.png")
    heads = page.locator(".pair thead th").all_inner_texts()
    assert heads[1:] == ["A\xa0a-student (student)", "B\xa0c-teacher (teacher)"]
    assert page.locator("figcaption").all_inner_texts() == heads[1:]
    student, teacher = (wanted_probs(one, FILM) for one in predictors)
    places = [list(one.findings).index("Cardiomegaly") for one in predictors]
    wanted = [f"{student[places[0]]:.2f}", f"{teacher[places[1]]:.2f}"]
    assert row_of(page, "Cardiomegaly").locator(".prob").all_inner_texts() == wanted


def test_what_one_model_alone_flags_is_marked_in_words_and_counted(page):
    give(page, ("film.png", FILM))
    shown(page, "film.png")
    assert page.locator(".difference").inner_text() == DIFFERENCE
    marks = page.locator(".pair .differs")
    assert marks.all_inner_texts() == ["≠ only B flags it"]
    assert row_of(page, "Cardiomegaly").locator(".differs").count() == 1


def test_a_finding_of_one_model_is_not_predicted_by_the_other(page):
    give(page, ("film.png", FILM))
    shown(page, "film.png")
    for finding, cell, letter in (("Hernia", 0, "A"), ("Effusion", 1, "B")):
        row = row_of(page, finding)
        assert row.locator("td").nth(cell).inner_text() == "not predicted"
        row.click()
        expect(page.locator("[data-shown]")).to_have_text(finding)
        expect(page.locator(".heat:visible")).to_have_count(1)
        expect(page.get_by_text(f"Not predicted by {letter}: no map.")).to_be_visible()


def test_both_heat_maps_follow_the_chosen_finding(page):
    give(page, ("film.png", FILM))
    shown(page, "film.png")
    for finding in ("Cardiomegaly", "Atelectasis"):
        page.get_by_label(finding, exact=True).check()
        expect(page.locator("[data-shown]")).to_have_text(finding)
        assert page.locator("figure").locator(".heat:visible").count() == 2
    page.get_by_label("Heat map", exact=True).uncheck()
    expect(page.locator(".heat:visible")).to_have_count(0)


def parts_of_film(page) -> list:
    """Of each window, the size of the film and the part of it in sight."""
    return page.locator(".window").evaluate_all(
        "all => all.map(one => [one.scrollWidth, one.scrollLeft, one.scrollTop])"
    )


def test_both_windows_show_the_same_part_of_the_film(page):
    give(page, ("film.png", film_file(grey=150, size=600)))
    shown(page, "film.png")
    page.get_by_role("button", name="Zoom in").click()
    page.locator(".window").last.evaluate("one => one.scrollTo(40, 25)")
    for _ in range(100):  # the other window follows when its turn comes
        first, second = parts_of_film(page)
        if first == second:
            break
        page.wait_for_timeout(100)
    assert first == second and first[1:] == [40, 25]
    page.locator(".window").first.focus()
    page.keyboard.press("0")
    first, second = parts_of_film(page)
    assert first == second and first[1:] == [0, 0]


def test_several_films_name_both_models_and_where_they_differ(page):
    give(page, ("dark.png", film_file(grey=5)), (HOSTILE, b"no image"), ("film.png", FILM))
    page.locator("caption", has_text="3 files: 2 answered, 1 refused.").wait_for()
    shown(page, "dark.png")
    caption = page.locator("caption").inner_text()
    assert "a-student (student)" in caption and "c-teacher (teacher)" in caption
    row = page.locator(".films tbody tr").nth(2)
    assert (
        row.locator(".differs").inner_text() == "≠ 1" and "Cardiomegaly (by B)" in row.inner_text()
    )
    page.get_by_role("button", name="film.png").click()
    shown(page, "film.png")
    page.get_by_role("button", name="Previous", exact=True).click()
    shown(page, "dark.png")


def test_films_are_sorted_by_how_much_the_models_differ(page):
    give(page, ("bright.png", film_file(grey=250)), ("film.png", FILM))
    shown(page, "bright.png")
    page.get_by_role("combobox", name="Sort by").click()
    page.get_by_role("option", name="number of findings that one model alone flags").click()
    expect(page.locator(".films tbody button")).to_have_text(["film.png", "bright.png"])
    choose(page, "none")
    expect(page.locator(".films tbody button")).to_have_text(["bright.png", "film.png"])
    choose(page, "c-teacher")


def test_the_downloads_hold_both_models(page):
    give(page, ("film.png", FILM))
    shown(page, "film.png")
    rows = list(csv.DictReader(io.StringIO(content_of(page, "Answers as CSV").decode())))
    assert [row["model"] for row in rows] == ["a-student", "c-teacher"]
    assert "Predicted by c-teacher" in content_of(page, "Summary of B to print").decode()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_stands_out_from_what_is_behind_it(page, scheme):
    """WCAG 2.2: a contrast of 4.5 at least."""
    page.emulate_media(color_scheme=scheme)
    page.wait_for_function(
        f"getComputedStyle(document.querySelector('.stApp')).colorScheme === '{scheme}'"
    )
    give(page, ("film.png", FILM))
    shown(page, "film.png")
    places = (".name", ".prob", ".facts.short", ".mark", ".differs", ".none", ".note", ".letter")
    for place in (*places, "figcaption small", ".difference"):
        assert page.locator(f".root {place}").last.evaluate(CONTRAST) >= 4.5, place


def test_on_a_narrow_screen_nothing_is_cut_off(page):
    page.set_viewport_size({"width": 390, "height": 844})
    give(page, ("film.png", FILM))
    shown(page, "film.png")
    wider = page.locator(".root").evaluate("root => root.scrollWidth - root.clientWidth")
    assert wider <= 0
    boxes = [page.locator("figure").nth(i).bounding_box() for i in (0, 1)]
    assert boxes[0]["y"] == boxes[1]["y"]  # side by side
    page.set_viewport_size({"width": 1280, "height": 900})


def test_without_the_second_model_the_first_ones_answers_stay(page):
    give(page, ("film.png", FILM))
    shown(page, "film.png")
    choose(page, "none")
    expect(page.locator(".picture")).to_have_count(1)
    assert page.locator(".finding .name").count() == len(FINDINGS)
    assert page.get_by_role("heading", name="film.png").is_visible()
    choose(page, "c-teacher")
    expect(page.locator(".root")).to_have_count(0)
