"""Examination: films that differ in one thing, intervals of known formulas, and models whose
behaviour is known exactly: one reads a tag, one the sign, one nothing."""

from itertools import pairwise

import numpy as np
import pandas as pd
import pytest
from scipy import optimize, stats
from template_model import write_template_model
from typer.testing import CliRunner

from lib.cli import app
from lib.examination import examination_text, examine_model
from lib.examination.chests import CONTRASTS, STRENGTH, FilmKey, Films, draw_chest, overlap
from lib.examination.heat import heat_rows, heat_table
from lib.examination.intervals import mean_interval, p_above, p_mean, ratio_interval, share_interval
from lib.examination.nuisances import NUISANCES
from lib.examination.shortcuts import LIMIT, p_beyond
from lib.examination.signs import LADDERS, chance_of_rising
from lib.exceptions import CxrError, ExportError
from lib.phantoms.draw import Sign, draw_phantom, draw_shadow, plan_film
from lib.phantoms.film import expose

SIZE = 64
DRAWN = ("Cardiomegaly", "Mass", "Emphysema")


@pytest.fixture(scope="module")
def chest() -> Films:
    return draw_chest(2, 0, DRAWN, SIZE)


def film(chest: Films, sign: str, change: str) -> np.ndarray:
    """Grey levels (S, S) of one film of a chest."""
    return chest.pixels[chest.keys.index(FilmKey(sign, change))].astype(float)


# films with one thing changed


@pytest.mark.parametrize(
    ("finding", "view"), [("Cardiomegaly", "PA"), ("Atelectasis", "AP"), ("Nodule", "PA")]
)
def test_a_planned_film_is_that_of_draw_phantom(finding, view):
    plan = plan_film(seed=(3, 4), film=1, age=70, sex="F", view=view)
    shadow, boxes = draw_shadow(plan, [Sign(finding, 0.6)], SIZE)
    whole = draw_phantom(
        [finding], seed=(3, 4), film=1, age=70, sex="F", view=view, size=SIZE, strength=0.6
    )
    assert np.array_equal(expose(shadow, plan.technique, SIZE), whole[0]) and boxes == whole[1]


@pytest.mark.parametrize("finding", ["Cardiomegaly", "Edema", "Emphysema", "Mass", "Pneumothorax"])
def test_no_contrast_is_the_chest_without_the_sign(finding):
    plan = plan_film(seed=5)
    plain, faint, half, full = (
        draw_shadow(plan, signs, SIZE)[0]
        for signs in ([], *([Sign(finding, 0.7, c)] for c in (0.0, 0.5, 1.0)))
    )
    assert np.array_equal(plain, faint)
    assert 0 < np.abs(half - plain).sum() < np.abs(full - plain).sum()


def test_a_chest_is_the_same_every_time_and_others_differ(chest):
    again, other = draw_chest(2, 0, DRAWN, SIZE), draw_chest(3, 0, DRAWN, SIZE)
    assert np.array_equal(again.pixels, chest.pixels) and again.keys == chest.keys == other.keys
    assert not np.array_equal(other.pixels[0], chest.pixels[0])


@pytest.mark.parametrize("sign", ["", "Mass"])
@pytest.mark.parametrize(
    ("name", "rows", "columns"),
    [
        ("tag, top left", slice(0, 11), slice(0, 17)),
        ("tag, bottom left", slice(53, 64), slice(0, 17)),
        ("tag, bottom right", slice(53, 64), slice(47, 64)),
        ("pacemaker", slice(14, 21), slice(44, 52)),
    ],
)
def test_a_marker_or_device_changes_its_place_alone(chest, sign, name, rows, columns):
    change = np.abs(film(chest, sign, name) - film(chest, sign, ""))
    inside = np.zeros_like(change, bool)
    inside[rows, columns] = True
    assert change[inside].max() > 60 and change[~inside].max() <= 1


def test_a_tag_is_as_on_a_chest_without_the_sign(chest):
    """The same nuisance has the same place on both films of a chest."""
    tags = [
        np.abs(film(chest, sign, "tag, top left") - film(chest, sign, "")) > 60
        for sign in ("", "Mass")
    ]
    assert np.array_equal(*tags) and tags[0].sum() >= 10


def test_exposures_keep_the_order_of_grey_levels_and_move_their_mean(chest):
    plain, darker, lighter = (film(chest, "", name) for name in ("", "darker", "lighter"))
    assert darker.mean() < plain.mean() - 5 < plain.mean() + 5 < lighter.mean()
    for other in (darker, lighter):
        assert stats.spearmanr(plain.ravel(), other.ravel())[0] > 0.98


def test_a_portable_view_enlarges_the_heart_and_lifts_the_diaphragm(chest):
    plain, portable = film(chest, "", ""), film(chest, "", "portable view")
    assert portable[40:44, 8:56].mean() > plain[40:44, 8:56].mean() + 3


def test_each_nuisance_changes_the_film():
    """A tube is faint, as in all phantoms."""
    assert len({one.name for one in NUISANCES}) == len(NUISANCES) == 13
    chests = [draw_chest(number, 0, (), SIZE) for number in range(3)]
    for one in NUISANCES:
        changes = [np.abs(film(each, "", one.name) - film(each, "", "")).max() for each in chests]
        assert min(changes) > (10 if one.name == "tube" else 25), one.name


def test_a_moved_sign_leaves_its_box():
    moved = 0
    for number in range(4):
        films = draw_chest(number, 1, ("Mass", "Cardiomegaly"), SIZE)
        assert "Cardiomegaly" in films.boxes and "Cardiomegaly" not in films.moved
        if "Mass" in films.moved:
            moved += 1
            assert overlap(films.boxes["Mass"], films.moved["Mass"]) <= 0.1
    assert moved >= 3


def test_overlap_is_a_share_of_the_smaller_box():
    assert overlap((0, 0, 0.4, 0.4), (0.2, 0.2, 0.4, 0.4)) == pytest.approx(0.25)
    assert overlap((0, 0, 0.4, 0.4), (0.1, 0.1, 0.1, 0.1)) == pytest.approx(1.0)
    assert overlap((0, 0, 0.4, 0.4), (0.4, 0, 0.4, 0.4)) == 0


def test_the_steps_of_a_ladder_rise():
    for rungs in LADDERS.values():
        assert rungs[0][0] == 0 and all(a[0] < b[0] for a, b in pairwise(rungs))
    assert len(LADDERS["contrast"]) == len(CONTRASTS) + 2
    assert chance_of_rising("contrast") == pytest.approx(1 / 120)


# intervals


def test_means_have_students_interval_and_test():
    values = np.random.default_rng(0).normal(0.3, 1, 12)
    test = stats.ttest_1samp(values, 0)
    assert mean_interval(values)[1:] == pytest.approx(tuple(test.confidence_interval()))
    assert p_mean(values) == pytest.approx(test.pvalue)
    above = stats.ttest_1samp(values, 0, alternative="greater").pvalue
    assert p_above(values) == pytest.approx(above)


def test_equal_values_are_certain_and_one_value_is_not():
    assert mean_interval(np.full(5, 0.1)) == (pytest.approx(0.1),) * 3
    assert (p_above(np.full(5, 0.1)), p_above(np.zeros(5)), p_mean(np.zeros(5))) == (0, 1, 1)
    assert np.isnan(mean_interval(np.array([2.0]))[1:]).all() and np.isnan(p_above(np.ones(1)))


def test_the_ends_of_fiellers_interval_are_where_the_paired_test_turns():
    rng = np.random.default_rng(1)
    bottom = rng.normal(2, 0.8, 15)
    top = 0.4 * bottom + rng.normal(0.3, 0.5, 15)
    ratio = ratio_interval(top, bottom)

    def beyond(r: float) -> float:
        return stats.ttest_1samp(top - r * bottom, 0).pvalue - 0.05

    low = optimize.brentq(beyond, ratio.value - 3, ratio.value)
    high = optimize.brentq(beyond, ratio.value, ratio.value + 3)
    assert ratio == pytest.approx((top.mean() / bottom.mean(), low, high))


def test_a_ratio_to_what_may_be_nothing_is_none():
    bottom = np.array([-1.0, 1.1, -0.9, 1.0])
    assert np.isnan(ratio_interval(np.ones(4), bottom)).all()


@pytest.mark.parametrize("hits", [0, 3, 10])
def test_shares_have_wilsons_interval(hits):
    ends = stats.binomtest(hits, 10).proportion_ci(method="wilson")
    assert share_interval(np.arange(10) < hits) == pytest.approx((hits / 10, ends.low, ends.high))


# what is caught


def test_a_nuisance_is_tested_against_half_of_the_sign_and_of_the_spread():
    rng = np.random.default_rng(2)
    by_sign, moved = rng.normal(2, 0.3, 20), rng.normal(1.6, 0.4, 20)
    of_sign, of_spread = (
        2 * stats.ttest_1samp(moved - margin, 0, alternative="greater").pvalue
        for margin in (LIMIT * by_sign, LIMIT * 2.5)
    )
    assert p_beyond(moved, by_sign, 0.1) == pytest.approx(of_sign)
    assert p_beyond(moved, by_sign, 2.5) == pytest.approx(of_spread)
    assert p_beyond(-moved, by_sign, 2.5) == pytest.approx(of_spread)  # either direction
    assert p_beyond(moved, -by_sign, 0.1) == pytest.approx(of_sign)


def test_a_nuisance_of_exactly_the_limit_is_rarely_caught():
    """The test keeps its level at the edge: 5 % of samples, within three standard errors."""
    rng = np.random.default_rng(3)
    caught = [
        p_beyond(LIMIT * 2 + rng.normal(0, 1, 16), rng.normal(2, 0.5, 16), 0.1) < 0.05
        for _ in range(1000)
    ]
    assert np.mean(caught) < 0.05 + 3 * np.sqrt(0.05 * 0.95 / 1000)


# models that are known


def corner() -> np.ndarray:
    """Looks at the upper left corner; with grey levels above 0.95 alone, only a tag is seen."""
    template = np.zeros((SIZE, SIZE), np.float32)
    template[0:10, 0:16] = 4.0
    return template


def enlarged_heart() -> np.ndarray:
    """The mean change by the sign over chests of other people, balanced against brightness, away
    from the edges."""
    changes = []
    for seed in range(12):
        plan = plan_film(seed=(77, seed))
        ill, well = (
            expose(draw_shadow(plan, signs, SIZE)[0], plan.technique, SIZE).astype(np.float32)
            for signs in ([Sign("Cardiomegaly", STRENGTH)], [])
        )
        changes.append((ill - well) / 255)
    template = np.mean(changes, axis=0)
    template[np.abs(template) < 0.02] = 0
    inner = np.zeros_like(template)
    inner[12:52, 8:56] = 1
    return (template - template.sum() / inner.sum()) * inner


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    """The examination of a model that reads the heart for Cardiomegaly and nothing for Emphysema;
    Fever cannot be drawn."""
    nothing = np.zeros((SIZE, SIZE), np.float32)
    templates = {"Cardiomegaly": enlarged_heart(), "Fever": nothing, "Emphysema": nothing}
    path = write_template_model(tmp_path_factory.mktemp("model") / "heart.onnx", templates)
    return examine_model(path, chests=8, progress=False)


@pytest.fixture(scope="module")
def tagged(tmp_path_factory):
    """The examination of a model that reads a tag for Mass, trained on phantoms."""
    card = {"data": {"phantom": True}}
    path = tmp_path_factory.mktemp("model") / "tag.onnx"
    write_template_model(path, {"Mass": corner()}, above=0.95, **card)
    return path, examine_model(path, chests=8, progress=False)


def row(table: pd.DataFrame, **where) -> pd.Series:
    """The one row with these values."""
    for name, value in where.items():
        table = table[table[name] == value]
    assert len(table) == 1
    return table.iloc[0]


def test_the_reader_of_a_tag_is_caught_at_its_corner_and_there_alone(tagged):
    table = tagged[1].shortcuts
    caught = table[table["caught"]]
    assert set(caught["nuisance"]) == {"tag, top left"}
    assert set(caught["sign"]) == {"without", "with"}
    assert not row(tagged[1].signs, finding="Mass")["reacts"]


def test_the_change_by_the_tag_is_that_of_its_pixels(tagged):
    """The logit is 4 times the excess grey of the corner, so its change can be added up."""

    def logit(pixels: np.ndarray) -> float:
        return 4 * np.clip(pixels[0:10, 0:16] / 255 - 0.95, 0, None).sum()

    chests = [draw_chest(number, 0, ("Mass",), SIZE) for number in range(8)]
    changes = [logit(film(c, "", "tag, top left")) - logit(film(c, "", "")) for c in chests]
    tag = row(tagged[1].shortcuts, nuisance="tag, top left", sign="without")
    assert tag["logit_change"] == pytest.approx(np.mean(changes), abs=1e-4)


def test_the_reader_of_the_heart_reacts_at_every_step_and_to_no_marker(found):
    heart = row(found.signs, finding="Cardiomegaly")
    assert heart["reacts"] and heart["logit_change_low"] > 0 and heart["spread"] > 0
    assert heart["contrast_rises"] >= 0.9 and heart["strength_rises"] >= 0.9
    table = found.shortcuts[found.shortcuts["finding"] == "Cardiomegaly"]
    assert not table[table["kind"] == "marker"]["caught"].any()
    scores = table["logit_change"] / heart["logit_change"]
    assert table["score"].to_numpy() == pytest.approx(scores.to_numpy())
    doses = found.doses[found.doses["finding"] == "Cardiomegaly"]
    full = row(doses, ladder="contrast", dose=1.0)
    assert full["logit_change"] == pytest.approx(heart["logit_change"])
    assert full["prob"] == pytest.approx(heart["prob_with"])


def test_a_model_that_answers_to_nothing_is_accused_of_nothing(found):
    nothing = row(found.signs, finding="Emphysema")
    assert not nothing["reacts"] and nothing["logit_change"] == 0 and nothing["p"] == 1
    table = found.shortcuts[found.shortcuts["finding"] == "Emphysema"]
    assert not table["caught"].any() and table["score"].isna().all()


def test_what_cannot_be_drawn_is_a_row_and_is_named(found):
    assert found.undrawn == ("Fever",)
    assert list(found.signs["finding"]) == ["Cardiomegaly", "Fever", "Emphysema"]
    fever = row(found.signs, finding="Fever")
    assert not fever["drawn"] and np.isnan(fever["logit_change"]) and fever["chests"] == 0
    assert "phantoms do not show it: Fever" in examination_text(found)


def test_the_sentences_say_what_was_found(found):
    text = examination_text(found)
    lines = {line.split("**")[1]: line for line in text.splitlines() if line.startswith("- **")}
    assert "the sign raises the answer" in lines["Cardiomegaly"]
    assert "No nuisance is caught" in lines["Emphysema"]
    assert "Its sign has no box" in lines["Emphysema"]
    assert "films that its card does not name" in text and "is not shown to be wrong" in text
    assert "cannot say how unlike" in text


# heat maps


def test_a_map_that_goes_with_the_sign_follows_it_and_one_that_stays_does_not():
    left, right = (0.0, 0.0, 0.5, 1.0), (0.5, 0.0, 0.5, 1.0)
    films = Films((), np.zeros((0, 2, 2)), {"Mass": left}, {"Mass": right})
    on_left, on_right = np.array([[3.0, 1.0]]), np.array([[1.0, 3.0]])

    def rows(there: np.ndarray, after: np.ndarray) -> dict:
        maps = {FilmKey("Mass", ""): there, FilmKey("Mass", "moved"): after}
        return heat_rows(0, films, maps | {FilmKey("Mass", "without"): on_left})[0]

    goes, stays = rows(on_left, on_right), rows(on_left, on_left)
    assert (goes["energy_there"], goes["energy_after"], goes["energy_elsewhere"]) == (
        0.75,
        0.75,
        0.25,
    )
    assert (stays["energy_there"], stays["energy_after"], stays["energy_elsewhere"]) == (
        0.75,
        0.25,
        0.5,
    )
    table = heat_table(pd.DataFrame([goes | {"chest": i} for i in range(3)]), ("Mass", "Edema"))
    assert table["energy_follow"][0] == 0.5 and table["follows"].tolist() == [True, False]
    table = heat_table(pd.DataFrame([stays | {"chest": i} for i in range(3)]), ("Mass",))
    assert table["energy_follow"][0] == 0 and table["pointing_follow"][0] == 0


def test_a_map_that_is_empty_has_nothing_in_any_box_and_is_counted():
    films = Films((), np.zeros((0, 2, 2)), {"Edema": (0.0, 0.0, 0.5, 1.0)}, {})
    maps = {FilmKey("Edema", name): np.zeros((1, 2)) for name in ("", "without", "moved")}
    (only,) = heat_rows(0, films, maps)
    assert only["empty"] == 2 and only["energy_there"] == 0 and np.isnan(only["energy_after"])


# the command


def test_the_command_writes_tables_figure_and_sentences(tagged, tmp_path):
    command = ["examine", str(tagged[0]), "--chests", "8", "--out", str(tmp_path / "out")]
    result = CliRunner().invoke(app, command)
    assert result.exit_code == 0, result.output
    endings = {f"examination.{ending}" for ending in ("png", "svg", "md")}
    tables = {f"{name}.csv" for name in ("findings", "doses", "shortcuts")}
    assert {path.name for path in (tmp_path / "out").iterdir()} == endings | tables
    assert "was trained on phantoms" in result.output
    assert "Caught: tag, top left" in result.output
    assert "synthetic phantoms" in (tmp_path / "out" / "examination.svg").read_text()
    written = pd.read_csv(tmp_path / "out" / "shortcuts.csv")
    assert written["p"].to_numpy() == pytest.approx(tagged[1].shortcuts["p"].to_numpy())
    assert pd.read_csv(tmp_path / "out" / "findings.csv")["heat_moved"][0] > 0


@pytest.mark.parametrize("options", [{"chests": 7}, {"seed": -1}])
def test_too_few_chests_and_negative_seeds_are_refused(tmp_path, options):
    model = write_template_model(tmp_path / "m.onnx", {"Mass": corner()})
    with pytest.raises(CxrError, match=r"chests >= 8 and seed >= 0; got chests="):
        examine_model(model, **options, progress=False)


def test_a_model_of_what_phantoms_do_not_show_is_refused(tmp_path):
    model = write_template_model(tmp_path / "m.onnx", {"Fever": corner()})
    with pytest.raises(CxrError, match="predicts Fever: phantoms show none of it"):
        examine_model(model, progress=False)


def test_a_missing_model_is_named(tmp_path):
    with pytest.raises(ExportError, match=r"none\.onnx is not a file"):
        examine_model(tmp_path / "none.onnx", progress=False)
