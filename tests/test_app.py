"""The web app: its functions, and the page itself in a real browser against the running server."""

import csv
import importlib
import io
import json
import os
import re
import sys
import urllib.error
import urllib.request
from dataclasses import replace
from pathlib import Path

import matplotlib
import numpy as np
import psutil
import pytest
from app_pages import (
    CONTRAST,
    METRICS,
    chromium,
    content_of,
    expect,
    film_file,
    full_card,
    give,
    grey_familiarity,
    page_of,
    served,
    settle,
    shown,
    wanted_probs,
)
from hostile import EITHER, OK, write_hostile
from PIL import Image
from tiny_model import FINDINGS, write_tiny_model

from lib.config import REPO_ROOT
from lib.inference.card import NOTICE
from lib.inference.predictor import Predictor

streamlit = pytest.importorskip("streamlit", reason="streamlit is missing: pip install -e '.[app]'")
sys.path.append(str(REPO_ROOT / "app"))  # as `streamlit run app/app.py` does
predict, downloads, examples, pictures, markup, prepare = (
    importlib.import_module(name)
    for name in ("predict", "downloads", "examples", "pictures", "markup", "prepare")
)

HOSTILE = "<img src=x onerror=alert(1)>.png"
HEAVY = (
    "torch",
    "pandas",
    "pyarrow",
    "altair",
    "matplotlib",
    "scipy",
    "sklearn",
    "pydantic",
    "onnx",
    "watchdog",
    "git",
)


@pytest.fixture(scope="module")
def models(tmp_path_factory) -> Path:
    """Two tiny models, the first of real films, the second of phantoms; and the phantoms to try."""
    folder = tmp_path_factory.mktemp("models")
    real = full_card("a-real", familiarity=grey_familiarity())
    write_tiny_model(folder / "a-real.onnx", **real)
    write_tiny_model(folder / "b-drawn.onnx", **full_card("b-drawn", phantom=True))
    (folder / "examples").mkdir()
    for place, label in enumerate(examples.FINDINGS):
        film = np.full((64, 64), 100 + 10 * place, np.uint8)
        film[10:30, 40:50] = 200
        Image.fromarray(film).save(examples.example_path(folder / "examples", label))
    return folder


@pytest.fixture(scope="module")
def predictor(models) -> Predictor:
    return Predictor(models / "a-real.onnx", threads=1)


# ---- pictures


def test_colours_are_those_of_matplotlibs_inferno():
    wanted = 255 * matplotlib.colormaps["inferno"](np.arange(256))[:, :3]
    np.testing.assert_allclose(pictures.colours(), wanted, atol=2)


def alphas(heat: list) -> np.ndarray:
    image = Image.open(io.BytesIO(pictures.overlay(np.array(heat, np.float32)))).convert("RGBA")
    return np.asarray(image)[..., 3].astype(int)


def test_a_heat_map_is_opaque_at_its_maximum_and_clear_at_zero():
    seen = alphas([[0, 0], [0, 3]])
    assert (seen[0, 0], seen[-1, -1], seen.max()) == (0, 255, 255)


def test_a_heat_map_is_enlarged_bilinearly():
    across = alphas([[0.0, 1.0]])[0]
    places = (np.arange(len(across)) + 0.5) * 2 / len(across) - 0.5  # in places of the map
    np.testing.assert_allclose(across, 255 * np.clip(places, 0, 1), atol=2)


def test_an_empty_heat_map_is_clear():
    assert not alphas(np.zeros((3, 4))).any()


def test_the_legend_goes_from_clear_to_opaque():
    stops = re.findall(r"rgba\(\d+, \d+, \d+, ([\d.]+)\)", pictures.legend_gradient())
    assert [float(stop) for stop in (stops[0], stops[-1])] == [0, 1]


# ---- answers


def test_the_app_answers_as_the_predictor_does(predictor):
    data = film_file()
    np.testing.assert_allclose(
        predict.answer_file(predictor, data, "a.png").probs,
        wanted_probs(predictor, data),
        atol=1e-6,
    )


def test_a_bad_file_is_refused_with_a_sentence(predictor):
    answer = predict.answer_file(predictor, b"no image", "a.png")
    assert (
        answer.reason.startswith("The file is not an image")
        and answer.reason.endswith(".")
        and not answer.probs
    )


@pytest.mark.filterwarnings("ignore:Corrupt EXIF data", "ignore:Image size")
def test_no_hostile_file_is_more_than_a_refusal(predictor, tmp_path):
    fates = write_hostile(tmp_path / "hostile")
    files = [path for path in map(Path, map(os.fsdecode, fates)) if path.is_file()]
    files = [path for path in files if os.access(path, os.R_OK)]
    small = [
        path for path in files if path.stat().st_size <= 32 * 2**20
    ]  # larger ones are not taken
    for path in small:
        answer, fate = (
            predict.answer_file(predictor, path.read_bytes(), path.name),
            fates[os.fsencode(path)],
        )
        assert fate == EITHER or (fate == OK) == (not answer.reason), (path.name, answer.reason)
        assert not answer.reason or re.fullmatch(r"The file .+\.", answer.reason), answer.reason
    assert len(small) > 150


def test_no_more_than_small_pictures_are_kept(predictor):
    answer = predict.answer_file(predictor, film_file(size=1500), "a.png")
    kept = [Image.open(io.BytesIO(file)) for file in (answer.picture, answer.thumbnail)]
    assert [max(image.size) for image in kept] == [1024, 96]
    assert [image.format for image in kept] == ["JPEG", "JPEG"]


def test_flagged_findings_come_first_then_the_probable():
    answer = predict.FilmAnswer("a", probs=(0.9, 0.2, 0.1, 0.8), flagged=(False, True, True, False))
    assert predict.by_probability(answer) == [1, 2, 0, 3]


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("a.png", "a.png"),
        ("x" * 100 + ".png", "x" * 29 + "…" + "x" * 25 + ".png"),
        ("a\u202egnp.exe\n", "a?gnp.exe?"),
    ],
)
def test_names_are_shortened_and_printable(name, shown):
    assert predict.shortened(name) == shown


# ---- parts of the page


def test_facts_hold_the_threshold_and_the_test_score():
    card = full_card("a")
    assert (
        markup.facts(card, 0)
        == "threshold 0.50; test AUROC 0.81 (0.75 to 0.88); 1,234 positive test films"
    )
    assert markup.facts(card, 1) == "threshold 0.60; test AUROC 0.90; 7 positive test films"
    assert markup.facts(card, 2) == "threshold 0.70; few validation positives; no test AUROC"


def test_a_threshold_that_no_run_chose_is_reported():
    assert "threshold 0.50; not chosen on data" in markup.facts(
        full_card("a") | {"thresholds_from": ["default"] * 3}, 0
    )


def test_hostile_names_are_escaped_everywhere(predictor):
    card = predictor.card
    good = predict.answer_file(predictor, film_file(), HOSTILE)
    bad = predict.answer_file(predictor, b"", HOSTILE)
    pages = [markup.film_html(good, card), markup.films_html([good, bad], card["findings"])]
    pages.append(downloads.summary_file(good, card).decode())
    for page in pages:
        assert "&lt;img src=x onerror=alert(1)&gt;.png" in page and "<img src=x" not in page


def test_a_strange_film_is_reported_with_its_score(predictor):
    answer = predict.answer_file(predictor, film_file(grey=0, noise=0), "black.png")
    lines = markup.remarks(answer, predictor.card)
    assert (
        answer.unfamiliar
        and "does not look like the chest films" in lines[0]
        and "almost blank" in lines[1]
    )


# ---- downloads


def test_csv_has_a_row_per_file(predictor):
    data = film_file()
    answers = [
        predict.answer_file(predictor, data, "a.png"),
        predict.answer_file(predictor, b"?", "b.png"),
    ]
    rows = list(
        csv.DictReader(
            io.StringIO(downloads.csv_file([(one,) for one in answers], [predictor.card]).decode())
        )
    )
    assert [(row["file"], row["status"], row["model"]) for row in rows] == [
        ("a.png", "ok", "a-real"),
        ("b.png", "refused", "a-real"),
    ]
    probs = [float(rows[0][f"prob_{finding}"]) for finding in FINDINGS]
    np.testing.assert_allclose(probs, wanted_probs(predictor, data), atol=1e-6)
    assert rows[1]["reason"] and rows[1]["prob_Effusion"] == ""


@pytest.mark.parametrize("name", ["=1+1.png", "+a.png", "-a.png", "@a.png"])
def test_no_name_is_a_formula_in_a_spreadsheet(predictor, name):
    text = downloads.csv_file([[predict.FilmAnswer(name, reason="No.")]], [predictor.card]).decode()
    assert next(csv.DictReader(io.StringIO(text)))["file"] == f"'{name}"


def test_json_holds_thresholds_notice_and_what_is_missing(predictor):
    content = json.loads(
        downloads.json_file([predict.FilmAnswer("a", reason="No.")], predictor.card)
    )
    assert content["notice"] == NOTICE and content["thresholds"]["Effusion"] == pytest.approx(0.7)
    assert content["films"][0]["unlikeness"] is None and content["films"][0]["probs"] == {}


def test_the_summary_makes_no_network_request(predictor):
    page = downloads.summary_file(
        predict.answer_file(predictor, film_file(), "a.png"), predictor.card
    ).decode()
    sources = re.findall(r"""(?:src|href)=["']([^"']{0,10})""", page)
    assert sources and all(source.startswith("data:") for source in sources) and NOTICE in page
    assert "default-src 'none'" in page and "http" not in re.sub("http-equiv", "", page)


# ---- what `make app` does first


def finished(folder: Path, name: str, findings: list, scores: list) -> None:
    run = folder / name
    run.mkdir()
    (run / "record.json").write_text(json.dumps({"config": {"findings": findings}}))
    (run / "history.csv").write_text(
        "epoch,val_auroc\n" + "".join(f"1,{score}\n" for score in scores)
    )


def test_the_best_complete_run_is_the_one_to_export(tmp_path):
    findings = list(prepare.FINDINGS)
    assert prepare.best_run(tmp_path) is None
    finished(tmp_path, "one", findings, [0.6, 0.7])
    finished(tmp_path, "two", findings, ["", 0.8, 0.5])
    finished(tmp_path, "stage", ["Cardiomegaly"], [0.99])
    finished(tmp_path, "two.replaced-20260101-000000", findings, [0.9])
    (tmp_path / "broken").mkdir()
    plan = {"runs": {name: {} for name in ("one", "two", "stage", "broken", "to come")}}
    (tmp_path / "plan.json").write_text(json.dumps(plan))
    assert prepare.best_run(tmp_path) == tmp_path / "two"


def test_a_folder_with_a_model_is_left_as_it_is(models, capsys):
    before = sorted(models.rglob("*"))
    prepare.prepare(models)
    assert (
        sorted(models.rglob("*")) == before
        and "holds a-real.onnx, b-drawn.onnx" in capsys.readouterr().out
    )


def test_phantoms_are_drawn_where_they_are_missing(tmp_path):
    examples.draw_missing(tmp_path / "examples")
    drawn = [
        Image.open(examples.example_path(tmp_path / "examples", label))
        for label in examples.FINDINGS
    ]
    assert {(image.mode, image.size) for image in drawn} == {("L", (512, 512))}


# ---- the page without a browser


def test_an_empty_folder_says_what_to_do(tmp_path, monkeypatch):
    page = page_of(tmp_path, monkeypatch)
    assert not page.exception and "cxr export runs/STUDY/RUN" in page.info[0].value


def test_a_broken_model_is_reported(tmp_path, monkeypatch):
    (tmp_path / "odd.onnx").write_bytes(b"no model")
    page = page_of(tmp_path, monkeypatch)
    assert (
        not page.exception and "odd.onnx cannot be loaded as an ONNX model" in page.error[0].value
    )


# ---- the server


@pytest.fixture(scope="module")
def server(models):
    with served(models) as running:
        yield running


def test_only_this_machine_is_listened_to(server):
    listening = [
        c.laddr.ip
        for c in psutil.Process(server.process.pid).net_connections()
        if c.status == "LISTEN"
    ]
    assert listening == ["127.0.0.1"]


def test_an_upload_without_the_token_is_refused(server):
    request = urllib.request.Request(
        f"{server.url}/_stcore/upload_file/a/b", data=b"x", method="PUT"
    )
    with pytest.raises(urllib.error.HTTPError, match="403"):
        urllib.request.urlopen(request, timeout=60)


# ---- the page in a browser


@pytest.fixture(scope="module")
def browser():
    with chromium() as running:
        yield running


@pytest.fixture(scope="module")
def asked() -> list[str]:
    """Every address that any page asked for."""
    return []


@pytest.fixture(scope="module")
def only_page(browser, server, asked):
    with browser.new_context(
        viewport={"width": 1280, "height": 900}, accept_downloads=True
    ) as context:
        page = context.new_page()
        page.set_default_timeout(120_000)
        page.on("request", lambda request: asked.append(request.url))
        page.on("dialog", lambda dialog: pytest.fail(f"a dialog opened: {dialog.message}"))
        page.goto(server.url)
        page.get_by_text("Or try a phantom").wait_for()
        yield page


@pytest.fixture
def page(only_page):
    """The page with no film on it, and its first model."""
    yield only_page
    settle(only_page)
    if only_page.locator(".root").count():
        only_page.get_by_role("button", name="Forget the films").click()
        only_page.locator(".root").first.wait_for(state="detached")


def shown_names(page) -> list[str]:
    return page.locator(".finding .name").all_inner_texts()


def test_an_upload_is_answered_as_the_predictor_answers(page, predictor):
    data = film_file(grey=170)
    give(page, ("film.png", data))
    shown(page, "film.png")
    probs = json.loads(content_of(page, "Answers as JSON"))["films"][0]["probs"]
    np.testing.assert_allclose(
        [probs[name] for name in FINDINGS], wanted_probs(predictor, data), atol=1e-4
    )
    assert page.locator(".picture").evaluate("image => image.naturalWidth") == 64


def test_flagged_findings_are_first_on_the_page(page, predictor):
    data = film_file(
        grey=150
    )  # Atelectasis is over its threshold; Effusion, more probable than Cardiomegaly, is not
    probs = dict(zip(FINDINGS, wanted_probs(predictor, data), strict=True))
    assert probs["Atelectasis"] >= 0.5 and probs["Effusion"] < 0.6
    give(page, ("film.png", data))
    shown(page, "film.png")
    rest = sorted(["Cardiomegaly", "Effusion"], key=lambda name: -probs[name])
    assert shown_names(page) == ["Atelectasis", *rest]
    assert page.locator(".finding.flagged .name").all_inner_texts() == ["Atelectasis"]
    assert page.locator(".finding .prob").all_inner_texts() == [
        f"{probs[name]:.2f}" for name in shown_names(page)
    ]


def test_arrow_keys_choose_the_finding_whose_heat_map_is_shown(page):
    give(page, ("film.png", film_file(grey=150)))
    shown(page, "film.png")
    page.locator(".finding input").first.focus()
    for name in shown_names(page):
        assert page.locator("[data-shown]").inner_text() == name
        place = page.locator(".finding input:checked").get_attribute("value")
        assert page.locator(".heat:visible").evaluate_all(
            "all => all.map(heat => heat.dataset.finding)"
        ) == [place]
        page.keyboard.press("ArrowDown")


def test_the_heat_map_can_be_switched_off_and_made_weaker(page):
    give(page, ("film.png", film_file()))
    shown(page, "film.png")
    strength = page.get_by_label("Strength")
    strength.fill("20")
    assert page.locator(".heat:visible").evaluate("heat => getComputedStyle(heat).opacity") == "0.2"
    page.get_by_label("Heat map", exact=True).uncheck()
    expect(page.locator(".heat:visible")).to_have_count(0)


def test_the_film_is_zoomed_by_buttons_and_keys(page):
    give(page, ("film.png", film_file()))
    shown(page, "film.png")
    pane, picture = page.locator(".window"), page.locator(".picture")
    whole = picture.bounding_box()["width"]
    page.get_by_role("button", name="Zoom in").click()
    pane.focus()
    page.keyboard.press("+")
    assert picture.bounding_box()["width"] == pytest.approx(2.25 * whole, rel=0.01)
    page.keyboard.press("0")
    assert picture.bounding_box()["width"] == pytest.approx(whole, rel=0.01)


def test_several_films_are_a_table_and_a_bad_one_is_a_row(page):
    give(
        page,
        ("one.png", film_file(seed=1)),
        (HOSTILE, b"no image"),
        ("two.png", film_file(grey=0, noise=0)),
    )
    rows = page.locator(".root tbody tr")
    page.locator("caption", has_text="3 files: 2 answered, 1 refused.").wait_for()
    assert rows.nth(1).inner_text().split()[: len(HOSTILE.split()) + 5] == [
        *HOSTILE.split(),
        *["The", "file", "is", "not", "an"],
    ]
    assert "unlike the training films" in rows.nth(2).inner_text()
    shown(page, "one.png")  # it is drawn after the table
    page.get_by_role("button", name="two.png").click()
    shown(page, "two.png")
    assert "does not look like the chest films" in page.locator(".strange").inner_text()
    assert page.locator("img[onerror]").count() == 0
    rows = list(csv.DictReader(io.StringIO(content_of(page, "Answers as CSV").decode())))
    assert [row["status"] for row in rows] == ["ok", "refused", "ok"]


def test_films_are_stepped_through_by_button_and_key_in_the_order_of_a_finding(page, predictor):
    films = {f"{i}.png": film_file(grey=60 + 40 * i, seed=i) for i in range(4)}
    give(page, *films.items())
    shown(page, "0.png")
    page.get_by_role("button", name="Next", exact=True).click()
    shown(page, "1.png")
    page.keyboard.press("j")
    shown(page, "2.png")
    page.keyboard.press("ArrowUp")
    shown(page, "1.png")
    finding = predictor.card["findings"][0]
    page.get_by_role("combobox", name="Sort by").click()
    page.get_by_role("option", name=finding, exact=True).click()
    probs = {name: wanted_probs(predictor, data)[0] for name, data in films.items()}
    wanted = sorted(probs, key=probs.get, reverse=True)
    expect(page.locator("tbody button")).to_have_text(wanted)
    place = wanted.index("1.png")
    by = 1 if place + 1 < len(wanted) else -1
    page.get_by_role("button", name="Next" if by == 1 else "Previous", exact=True).click()
    shown(page, wanted[place + by])
    assert (
        page.get_by_role("heading", name=wanted[place + by]).bounding_box()["y"] < 600
    )  # in sight


def test_a_map_of_too_few_cells_is_not_shown(predictor):
    answer = predict.answer_file(predictor, film_file(), "film.png")
    assert answer.overlays and min(answer.grid) >= predict.LEAST_CELLS
    coarse = replace(answer, overlays=(), grid=(2, 2))
    assert "2 x 2 cells, too few" in markup.film_html(coarse, predictor.card)
    assert "2 x 2 cells, too few" in downloads.summary_file(coarse, predictor.card).decode()


def test_too_many_films_are_answered_in_part(page):
    give(page, *[(f"{i}.png", film_file(seed=i, size=40)) for i in range(predict.MAX_FILMS + 1)])
    page.locator(
        "caption", has_text=f"{predict.MAX_FILMS} files: {predict.MAX_FILMS} answered"
    ).wait_for()
    page.get_by_text("25 films were given, and only the first 24 are answered").wait_for()


@pytest.mark.parametrize(
    "wider", [0, 0.04]
)  # letters, in em: the page must not depend on the fonts of a machine
def test_the_summary_is_one_printed_page_even_with_all_findings(
    page, browser, predictor, tmp_path, wider
):
    give(page, ("film.png", film_file()))
    shown(page, "film.png")
    content = content_of(page, "Summary to print").decode()
    assert 'alt="Heat map of ' in content and content.count("<tr") == 1 + len(FINDINGS)
    answer = predict.answer_file(predictor, film_file(size=700), "film.png")
    fourteen = {"probs": (0.5,) * 14, "flagged": (True,) * 14, "overlays": answer.overlays[:1] * 14}
    card = predictor.card | {"findings": list(prepare.FINDINGS), "thresholds": [0.4] * 14}
    card |= {"thresholds_from": ["fallback"] * 14, "data": {"phantom": True}}
    card["metrics"] = [METRICS[0] | {"finding": finding} for finding in card["findings"]]
    sheet = tmp_path / "summary.html"
    sheet.write_bytes(downloads.summary_file(replace(answer, unfamiliar=True, **fourteen), card))
    printed = browser.new_page()
    printed.goto(sheet.as_uri())
    printed.add_style_tag(content=f"* {{ letter-spacing: {wider}em }}")
    assert len(re.findall(rb"/Type\s*/Page\b", printed.pdf(prefer_css_page_size=True))) == 1
    printed.close()


def test_a_phantom_is_answered(page):
    page.get_by_role("button", name="Pneumothorax").click()
    page.get_by_role("heading", name="phantom-pneumothorax.png").wait_for()


def test_another_model_forgets_the_films_and_one_of_phantoms_says_so(page):
    give(page, ("film.png", film_file()))
    shown(page, "film.png")
    for model, warnings in {"b-drawn": 1, "a-real": 0}.items():
        page.get_by_role("combobox", name="Model").click()
        page.get_by_role("option", name=model).click()
        page.get_by_role("heading", name="film.png").wait_for(state="detached")
        page.get_by_role("heading", name=model, include_hidden=True).wait_for(state="attached")
        settle(page)
        expect(page.get_by_text("This model was trained on drawn films (phantoms)")).to_have_count(
            warnings
        )


def test_the_notice_is_always_in_sight(page):
    give(page, ("film.png", film_file()))
    shown(page, "film.png")
    page.locator(".finding").last.scroll_into_view_if_needed()
    notice = page.get_by_role("note").filter(has_text=NOTICE)
    box = notice.bounding_box()
    assert notice.is_visible() and box["y"] >= 0 and box["y"] + box["height"] <= 900


def test_every_control_and_picture_has_a_name(page):
    give(page, ("one.png", film_file()), ("two.png", film_file(seed=2)))
    shown(page, "one.png")
    tree = page.locator("body").aria_snapshot()
    nameless = re.findall(
        r"^\s*- (?:button|radio|checkbox|slider|combobox|img|heading|link)(?:$|:| \[)",
        tree,
        re.MULTILINE,
    )
    assert not nameless, tree
    assert (
        'heading "Findings on chest films" [level=1]' in tree
        and 'heading "one.png" [level=2]' in tree
    )


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_stands_out_from_what_is_behind_it(page, scheme):
    """WCAG 2.2: a contrast of 4.5 at least."""
    page.emulate_media(color_scheme=scheme)
    page.wait_for_function(
        f"getComputedStyle(document.querySelector('.stApp')).colorScheme === '{scheme}'"
    )
    give(
        page,
        ("black.png", film_file(grey=0, noise=0)),
        ("bright.png", film_file(grey=250)),
        ("bad.png", b"?"),
    )
    shown(page, "black.png")
    page.get_by_role("button", name="bright.png").click()
    shown(page, "bright.png")
    for place in (
        ".name",
        ".prob",
        ".facts",
        ".mark",
        "caption",
        ".refused td",
        ".legend p",
        "legend small",
        "h2",
    ):
        assert page.locator(f".root {place}").last.evaluate(CONTRAST) >= 4.5, place
    assert page.get_by_role("note").evaluate(CONTRAST) >= 4.5


def test_sessions_with_different_models_do_not_reload_each_others(models, monkeypatch):
    loaded, plain = [], Predictor.__init__

    def spy(self, path, **options):
        loaded.append(path.stem)
        plain(self, path, **options)

    monkeypatch.setattr(Predictor, "__init__", spy)
    monkeypatch.setattr(sys, "argv", ["page.py", str(models)])
    streamlit.cache_resource.clear()
    testing = importlib.import_module("streamlit.testing.v1")
    first, second = (
        testing.AppTest.from_file(REPO_ROOT / "app" / "page.py", default_timeout=60)
        for _ in range(2)
    )
    first.run()
    second.run().selectbox[0].select("b-drawn").run()
    first.run()
    second.run()
    assert not first.exception and not second.exception
    assert (first.selectbox[0].value, second.selectbox[0].value) == ("a-real", "b-drawn")
    assert loaded == ["a-real", "b-drawn"]


def test_no_upload_passes_through_the_disk(page):
    """The server may not write to any file, and large uploads are those that would pass through
    one."""
    data = film_file(size=1300, noise=120)
    assert len(data) > 1.5 * 2**20
    give(page, ("large.png", data))
    page.get_by_role("heading", name="large.png").wait_for()


def test_streamlit_lists_an_upload_that_it_keeps():
    """By the word that `uploads_kept` looks for."""
    from streamlit.runtime.memory_uploaded_file_manager import MemoryUploadedFileManager
    from streamlit.runtime.uploaded_file_manager import UploadedFileRec

    manager = MemoryUploadedFileManager("/upload")
    manager.add_file("session", UploadedFileRec("1", "film.png", "image/png", b"film"))
    assert "UploadedFileManager" in str(manager.get_stats())


def test_no_upload_is_kept(page, server):
    give(page, ("one.png", film_file()), ("two.png", film_file()))
    shown(page, "one.png")
    assert not server.uploads_kept()


def test_no_name_is_logged_and_nothing_went_wrong(page, server):
    give(page, ("a-name-to-look-for.png", film_file()), ("another-name.png", b"no image"))
    shown(page, "a-name-to-look-for.png")
    said = server.read()
    assert (
        "You can now view your Streamlit app" in said
        and "-name" not in said
        and "Traceback" not in said
    )


def test_the_server_stays_light(page, server):
    """After everything above has been asked of it, when the whole file is run."""
    give(page, ("film.png", film_file()))
    shown(page, "film.png")
    assert not server.modules() & set(HEAVY)


def test_nobody_else_is_asked(page, server, asked):
    assert (
        asked and [url for url in asked if not url.startswith((server.url, "data:", "blob:"))] == []
    )


@pytest.mark.parametrize(
    ("host", "status"), [("evil.example", 400), ("localhost:1", 200), ("127.0.0.1", 200)]
)
def test_only_names_of_this_machine_are_answered(server, host, status):
    request = urllib.request.Request(f"{server.url}/", headers={"Host": host})
    try:
        with urllib.request.urlopen(request, timeout=30) as response:
            found = response.status
    except urllib.error.HTTPError as error:
        found = error.code
    assert found == status
