"""Robustness: corruptions by hand and by other libraries, areas, resuming, verdicts, report."""

import io
import shutil
import signal
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from made_stages import LAST, TINY, entry, make_run
from made_studies import make_study
from PIL import Image
from scipy.ndimage import rotate
from scipy.stats import norm

from lib import plots
from lib.comparison.arms import read_run_predictions
from lib.config import REPO_ROOT, Config
from lib.datasets import load_images, read_dataset
from lib.exceptions import RunError
from lib.files import read_json, write_json, write_table
from lib.metrics import auroc
from lib.robustness import (
    CORRUPTIONS,
    answer_study,
    compare_robustness,
    corrupt,
    example_films,
    robustness_sentences,
    robustness_text,
)
from lib.robustness.corruptions import VARIANTS
from lib.robustness.curves import METRICS, WEIGHTS
from lib.robustness.kept import read_answers, write_answers
from lib.studies.report import make_report, publish

pytestmark = pytest.mark.timeout(1200)  # on a machine that may be busy

SIDE = 64


def films(count: int = 24, side: int = SIDE) -> tuple[np.ndarray, np.ndarray]:
    """Random films, smooth enough to look like something, with some grain; and their ids."""
    rng = np.random.default_rng(0)
    coarse = rng.integers(0, 256, (count, 8, 8), dtype=np.uint8)
    made = [Image.fromarray(one).resize((side, side), Image.Resampling.BICUBIC) for one in coarse]
    smooth = np.stack([np.asarray(one) for one in made])
    grain = rng.integers(-20, 21, smooth.shape)
    pixels = np.clip(smooth + grain, 0, 255).astype(np.uint8)
    return pixels, np.array([f"{i}.png" for i in range(count)])


def flat(grey: int, count: int = 1, side: int = SIDE) -> np.ndarray:
    return np.full((count, side, side), grey, np.uint8)


@pytest.mark.parametrize("name", CORRUPTIONS)
class TestEveryCorruption:
    def test_strength_0_changes_no_byte(self, name):
        pixels, ids = films()
        assert corrupt(pixels, ids, name, 0).tobytes() == pixels.tobytes()

    def test_every_strength_gives_other_bytes_of_the_same_shape(self, name):
        pixels, ids = films(200)
        before = pixels.copy()
        made = [corrupt(pixels, ids, name, step) for step in range(6)]
        assert all(one.dtype == np.uint8 and one.shape == pixels.shape for one in made)
        assert len({one.tobytes() for one in made}) == 6
        assert (pixels == before).all()

    def test_a_film_is_the_same_in_any_batch_and_order(self, name):
        pixels, ids = films()
        whole = corrupt(pixels, ids, name, 3)
        order = np.random.default_rng(1).permutation(len(ids))
        parts = [corrupt(pixels[p], ids[p], name, 3) for p in np.array_split(order, 5)]
        assert (np.concatenate(parts) == whole[order]).all()

    def test_five_settings_of_one_direction_in_a_unit(self, name):
        kind = CORRUPTIONS[name]
        steps = np.diff(kind.settings)
        assert len(kind.settings) == 5 and kind.unit and ((steps > 0).all() or (steps < 0).all())


def test_full_inversion_makes_black_white_and_the_rest_its_complement():
    pixels = np.arange(256, dtype=np.uint8).reshape(1, 16, 16)
    assert (corrupt(pixels, ["a"], "inversion", 5) == 255 - pixels).all()
    assert corrupt(flat(0), ["a"], "inversion", 5).min() == 255


def test_more_films_are_inverted_at_a_higher_strength_and_none_of_them_turns_back():
    pixels, ids = flat(0, 2000, 2), [f"{i}" for i in range(2000)]
    inverted = [corrupt(pixels, ids, "inversion", step)[:, 0, 0] == 255 for step in range(1, 6)]
    for share, fewer, more in zip((0.2, 0.4, 0.6, 0.8), inverted, inverted[1:], strict=False):
        assert fewer.mean() == pytest.approx(share, abs=0.03) and (more | ~fewer).all()
    assert inverted[-1].all()


def test_contrast_is_about_the_films_own_mean():
    pixels = np.array([[[100, 200], [100, 200]], [[0, 40], [40, 0]]], np.uint8)
    half = corrupt(pixels, ["a", "b"], "contrast", 2)  # times 0.5
    assert half.tolist() == [[[125, 175], [125, 175]], [[10, 30], [30, 10]]]


def test_rotation_is_that_of_scipy_in_either_direction():
    pixels, ids = films()
    turned = corrupt(pixels, ids, "rotation", 4)  # 20 degrees
    signs = set()
    for film, made in zip(pixels.astype(float), turned, strict=True):
        apart = {s: rotate(film, s * 20, reshape=False, order=1) - made for s in (-1, 1)}
        inner = {s: np.abs(one[16:-16, 16:-16]).max() for s, one in apart.items()}
        sign = min(inner, key=lambda s: inner[s])
        assert inner[sign] < 2
        signs.add(sign)
    assert signs == {-1, 1} and (turned[:, 0, 0] == 0).all()


def test_noise_has_its_standard_deviation_and_is_of_each_film_alone():
    noisy = corrupt(flat(128, 8), list("abcdefgh"), "noise", 3).astype(float) - 128
    assert noisy.std() == pytest.approx(24, rel=0.02) and abs(noisy.mean()) < 0.5
    assert np.abs(np.corrcoef(noisy.reshape(8, -1)) - np.eye(8)).max() < 0.08


def test_another_seed_gives_other_noise():
    assert (
        corrupt(flat(9), ["a"], "noise", 1) != corrupt(flat(9), ["a"], "noise", 1, seed=1)
    ).any()


def test_jpeg_is_what_pillow_writes_at_this_quality():
    pixels, ids = films(3)
    for film, made in zip(pixels, corrupt(pixels, ids, "jpeg", 4), strict=True):
        file = io.BytesIO()
        Image.fromarray(film).save(file, "JPEG", quality=8)
        assert (np.asarray(Image.open(file)) == made).all()


@pytest.mark.parametrize("side", [64, 128])
def test_blur_turns_an_edge_into_the_normal_distribution(side):
    pixels = flat(0, side=side)
    pixels[:, :, side // 2 :] = 255
    blurred = corrupt(pixels, ["a"], "blur", 5)[0, side // 2]  # sigma of 0.04 of the side
    at = (np.arange(side) + 0.5 - side / 2) / (0.04 * side)
    assert np.abs(blurred / 255 - norm.cdf(at)).max() < 0.01


def test_a_lower_resolution_leaves_the_means_of_blocks():
    board = np.indices((SIDE, SIDE)).sum(axis=0) % 2 * 200
    half = corrupt(board[None].astype(np.uint8), ["a"], "resolution", 1)  # 2 x 2 px become one
    assert (half == 100).all()


def test_a_marker_is_a_white_letter_in_an_upper_corner():
    pixels, ids = flat(10, 40), [f"{i}" for i in range(40)]
    marked = corrupt(pixels, ids, "marker", 5)  # 20 px high of 64, 14 px wide, 2 px from the edge
    white = marked == 255
    assert ((marked == 10) | white).all() and not white[:, 22:].any() and not white[:, :2].any()
    left, right = white[:, :, 2:16].any(axis=(1, 2)), white[:, :, 48:62].any(axis=(1, 2))
    assert (left ^ right).all() and left.any() and right.any()
    assert len({one.tobytes() for one in white}) == 4
    assert white[:, 2:22].any(axis=2).all()  # from the top of the letter to its foot


def test_what_is_no_strength_and_no_id_is_refused():
    pixels, ids = films(3)
    for strength, names in ((6, ids), (-1, ids), (1, ids[:2])):
        with pytest.raises(ValueError, match="strength"):
            corrupt(pixels, names, "noise", strength)


def test_an_area_is_the_trapezoidal_rule_over_equal_steps():
    scores = np.full(len(VARIANTS), 0.9)
    for step, value in enumerate((0.8, 0.7, 0.6, 0.5, 0.4), 1):
        scores[VARIANTS.index(("blur", step))] = value
    found = dict(zip(METRICS["metric"], WEIGHTS @ scores, strict=True))
    # (0.9 / 2 + 0.8 + 0.7 + 0.6 + 0.5 + 0.4 / 2) / 5 = 3.25 / 5
    assert found["blur: area"] == pytest.approx(0.65) and found["noise: area"] == pytest.approx(0.9)
    assert found["all: area"] == pytest.approx((7 * 0.9 + 0.65) / 8)
    assert found["blur: loss"] == pytest.approx(0.25) and found["noise: loss"] == pytest.approx(0)
    assert found["all: loss"] == pytest.approx(0.25 / 8) and found["blur 5"] == 0.4


@pytest.fixture(scope="module")
def untouched(tmp_path_factory, tiny_phantoms) -> Path:
    """A study of two arms of untrained models, two seeds each, that answered no corrupted film."""
    folder, runs = tmp_path_factory.mktemp("robust") / "runs" / "made", {}
    for arm, seed in (("one", 0), ("one", 1), ("two", 0), ("two", 1)):
        name, base = f"{arm}-s{seed}", {**TINY, **LAST, "seed": seed}
        config = Config(**base, data_root=str(tiny_phantoms), run_dir=str(folder / name))
        make_run(config, moved=0.0 if arm == "one" else 0.5)
        runs[name] = entry(config, arm, reference=arm == "one")
    head = {"study": "made", "reference": "one", "primary": "auroc", "seeds": [0, 1]}
    write_json(folder / "plan.json", {**head, "runs": runs})
    return folder


@pytest.fixture(scope="module")
def answered(untouched, tmp_path_factory) -> Path:
    """The same, all films answered."""
    folder = tmp_path_factory.mktemp("answered") / "made"
    shutil.copytree(untouched, folder)
    assert answer_study(folder, progress=False) == (4, {})
    return folder


@pytest.fixture
def study(untouched, tmp_path) -> Path:
    shutil.copytree(untouched, tmp_path / "made")
    return tmp_path / "made"


def answers_of(folder: Path) -> np.ndarray:
    return read_answers(folder, read_run_predictions(folder))


def test_clean_answers_are_those_of_the_run(answered):
    own = read_run_predictions(answered / "two-s1")
    np.testing.assert_allclose(answers_of(answered / "two-s1")[0], own.probs, atol=1e-5)


def test_an_answer_is_the_models_for_the_corrupted_film(answered):
    import torch

    from lib.models import load_model

    folder = answered / "two-s0"
    own, model = read_run_predictions(folder), load_model(folder)[0]
    data = read_dataset(Config(**read_json(folder / "config.json")).data_folders)
    pixels = load_images(data, own.images, 32)
    for variant in (("noise", 4), ("jpeg", 5), ("marker", 2)):
        worse = corrupt(pixels, own.images, *variant)
        with torch.inference_mode():
            expected = model(torch.from_numpy(worse)[:, None].float() / 255).sigmoid().numpy()
        made = answers_of(folder)[VARIANTS.index(variant)]
        np.testing.assert_allclose(made, expected, atol=1e-5)


def test_a_second_call_answers_nothing_and_only_takes_its_arms(study):
    assert answer_study(study, ["two"], progress=False) == (2, {})
    assert answer_study(study, ["two"], progress=False) == (0, {})
    assert not list(study.glob("one-*/robustness.parquet"))
    with pytest.raises(RunError, match=r"no complete run of three; its arms are one, two"):
        answer_study(study, ["three"], progress=False)


def test_several_at_a_time_answer_the_same(study, answered):
    assert answer_study(study, jobs=2, progress=False) == (4, {})
    for name in ("one-s0", "two-s1"):
        np.testing.assert_allclose(answers_of(study / name), answers_of(answered / name), atol=1e-5)


def test_after_a_kill_the_same_command_continues(study, answered, popen):
    command = [sys.executable, "-m", "lib.cli", "robustness", str(study)]
    first = popen(command, cwd=REPO_ROOT)
    while first.poll() is None and not list(study.glob("*/robustness.parquet")):
        time.sleep(0.05)
    first.send_signal(signal.SIGKILL)
    first.wait()
    done = {path: path.stat().st_mtime_ns for path in study.glob("*/robustness.parquet")}
    assert 1 <= len(done) < 4
    assert answer_study(study, progress=False) == (4 - len(done), {})
    assert all(path.stat().st_mtime_ns == before for path, before in done.items())
    found, expected = (compare_robustness(folder).table for folder in (study, answered))
    pd.testing.assert_frame_equal(found, expected, rtol=1e-4, atol=1e-4)


def test_answers_of_another_model_count_as_missing(study):
    answer_study(study, ["two"], progress=False)
    with (study / "two-s0" / "card.json").open("a") as card:
        card.write("\n")
    found = compare_robustness(study)
    assert any(text.startswith("two: 1 of its runs not answered") for text in found.remarks)
    assert answer_study(study, ["two"], progress=False) == (1, {})


def test_a_model_that_answers_clean_films_otherwise_is_named_and_the_others_go_on(study):
    path = study / "two-s0" / "predictions.parquet"
    frame = pd.read_parquet(path)
    pd.DataFrame.to_parquet(frame.assign(prob_Mass=1 - frame["prob_Mass"]), path)
    count, failed = answer_study(study, ["two"], progress=False)
    assert count == 1 and list(failed) == ["two-s0"]
    assert "answers its clean test films otherwise" in failed["two-s0"]


def test_a_clean_row_is_the_mean_auroc_and_an_arm_differs_from_itself_by_0(answered, tmp_path):
    folder = tmp_path / "twins"
    shutil.copytree(answered, folder)
    plan = read_json(folder / "plan.json")
    for ours, theirs in (("one-s0", "two-s0"), ("one-s1", "two-s1")):
        shutil.rmtree(folder / theirs)
        shutil.copytree(folder / ours, folder / theirs)
        plan["runs"][theirs]["config"] = plan["runs"][ours]["config"]
    write_json(folder / "plan.json", plan)
    table = compare_robustness(folder).table
    twin = table[table["arm"] == "two"]
    assert (twin["difference"] == 0).all()
    assert (twin["difference_low"] == -twin["difference_high"]).all()  # trainings still differ
    tested = twin[twin["measure"] == "area"]
    assert (tested["p"] == 1).all() and (tested["p_holm"] == 1).all()
    assert twin.loc[twin["measure"] != "area", "p"].isna().all()
    runs = [read_run_predictions(folder / f"one-s{seed}") for seed in (0, 1)]
    by_hand = [
        np.mean([auroc(run.targets[:, j], run.probs[:, j]) for j in np.flatnonzero(run.counted)])
        for run in runs
    ]
    clean = table[(table["arm"] == "one") & (table["corruption"] == "none")]
    assert clean["value"].tolist() == pytest.approx([np.mean(by_hand)], abs=1e-5)


def seen(run, texture: bool) -> np.ndarray:
    """What a reader answers (V, N, F) who sees only fine texture, or only how bright a region is:
    each finding shows in its region by both, beneath what varies from film to film."""
    rng = np.random.default_rng([len(run.run), run.seed, run.fold])
    count, third = len(run.images), SIDE // 3
    board = np.where(np.indices((SIDE, third)).sum(axis=0) % 2, 1.0, -1.0)
    pixels = np.full((count, SIDE, SIDE), 110.0)
    for j in range(3):
        sign = np.where(run.targets[:, j] == 1, 0.7, -0.7) + np.random.default_rng(j).normal(
            size=count
        )
        where = (slice(None), slice(None), slice(j * third, (j + 1) * third))
        pixels[where] += 8 * sign[:, None, None] * (1 + board)
    pixels = np.clip(pixels, 0, 255).astype(np.uint8)
    answers = []
    for variant in VARIANTS:
        made = corrupt(pixels, run.images, *variant).astype(float)
        regions = made[:, :, : 3 * third].reshape(count, SIDE, 3, third)
        shown = (regions * (board[:, None] if texture else 1)).mean(axis=(1, 3))
        shown = shown + rng.normal(size=shown.shape)
        answers.append(1 / (1 + np.exp(-(shown - shown.mean()) / 20)))
    return np.array(answers)


@pytest.fixture(scope="module", params=[0, 3], ids=["one list", "folds"])
def planted(request, tmp_path_factory) -> Path:
    """A study whose arm `fine` reads only texture, and whose reference only brightness."""
    folder = tmp_path_factory.mktemp("planted") / "planted"
    make_study(folder, {"coarse": 1.0, "fine": 1.0}, folds=request.param, patients=240)
    for path in sorted(folder.glob("*-s*")):
        run = read_run_predictions(path)
        (path / "model.safetensors").write_bytes(path.name.encode())
        write_answers(path, run, seen(run, path.name.startswith("fine")))
    return folder


def test_an_arm_that_reads_what_blur_destroys_is_told_as_less_robust(planted):
    found = compare_robustness(planted)
    mine = found.table[found.table["arm"] == "fine"]
    rows = mine[mine["measure"] == "area"].set_index("corruption")
    clean = mine[mine["corruption"] == "none"].iloc[0]
    assert abs(clean["difference"]) < 0.1
    for name in ("blur", "resolution"):
        row = rows.loc[name]
        assert row["difference_high"] < 0 and row["p_holm"] < 0.05
        end = found.table.query(f"arm == 'fine' and corruption == '{name}' and strength == 5")
        assert end["value"].iloc[0] == pytest.approx(0.5, abs=0.08)
    whole = rows.loc["all"]
    assert whole["difference"] < 0 and whole["p_holm"] < 0.05
    text = robustness_sentences(found)
    assert any(line.startswith("fine is worse than coarse by 0.") for line in text)
    (single,) = [line for line in text if line.startswith("Single corruptions")]
    assert "blur -0." in single and "resolution -0." in single


def test_with_folds_an_area_is_the_mean_over_folds_and_seeds(planted):
    table = compare_robustness(planted).table
    row = table.query("arm == 'fine' and corruption == 'noise' and measure == 'area'").iloc[0]
    areas = []
    for path in planted.glob("fine-s*"):
        run, answers = read_run_predictions(path), answers_of(path)
        places = [VARIANTS.index(v) for v in (("none", 0), *(("noise", k) for k in range(1, 6)))]
        curve = [
            np.mean([auroc(run.targets[:, j], answers[v][:, j]) for j in range(3)]) for v in places
        ]
        areas.append(np.trapezoid(curve) / 5)
    assert row["value"] == pytest.approx(np.mean(areas), abs=1e-6)
    assert (
        row["low"] < row["value"] < row["high"]
        and row["folds"] == len(set(table["folds"]) - {0}) * 3
    )


def test_loss_is_the_clean_score_less_the_area_and_its_interval_may_hold_0(planted):
    rows = compare_robustness(planted).table.query("arm == 'coarse'")
    clean = rows.query("corruption == 'none'")["value"].iloc[0]
    for name in (*CORRUPTIONS, "all"):
        area, loss = (
            rows[(rows["corruption"] == name) & (rows["measure"] == what)].iloc[0]
            for what in ("area", "loss")
        )
        assert loss["value"] == pytest.approx(clean - area["value"], abs=1e-6)
    marker = rows.query("corruption == 'marker' and measure == 'loss'").iloc[0]
    assert marker["low"] < marker["value"] < marker["high"]


def test_without_the_reference_nothing_compares_and_that_is_said(planted, tmp_path):
    shutil.copytree(planted, tmp_path / "alone")
    for path in (tmp_path / "alone").glob("coarse-*/robustness.parquet"):
        path.unlink()
    found = compare_robustness(tmp_path / "alone")
    assert found.table["difference"].isna().all() and set(found.table["arm"]) == {"fine"}
    text = robustness_sentences(found)
    assert any("reference coarse has no answers" in line for line in text)
    assert any(line.startswith("coarse: ") and "not answered" in line for line in text)


def test_answers_that_are_not_of_the_runs_films_are_refused(planted, tmp_path):
    shutil.copytree(planted, tmp_path / "odd")
    path = sorted((tmp_path / "odd").glob("fine-*"))[0]
    run = read_run_predictions(path)
    write_answers(path, run.rows(np.arange(len(run.images)) > 0), answers_of(path)[:, 1:])
    with pytest.raises(RunError, match="has not the test films of its run"):
        compare_robustness(tmp_path / "odd")


def test_the_text_has_a_line_per_arm_and_corruption(planted):
    lines = robustness_text(compare_robustness(planted).table).splitlines()
    assert len(lines) == 1 + 2 * (len(CORRUPTIONS) + 1) and "area (95 %)" in lines[0]


def test_the_figure_has_a_panel_per_corruption_and_a_line_per_arm(planted):
    found = compare_robustness(planted)
    looks = dict.fromkeys(("coarse", "fine"), "resnet50")
    figure = plots.robustness_curves(found.table, found.reference, looks, phantom=True)
    assert [axes.get_title(loc="left") for axes in figure.axes] == list(CORRUPTIONS)
    drawn = figure.axes[4].get_lines()[:2]  # blur
    expected = found.table.query("arm == 'coarse' and corruption == 'blur' and measure == 'auroc'")
    assert drawn[0].get_ydata()[1:].tolist() == expected["value"].tolist()
    assert drawn[0].get_color() != drawn[1].get_color() and figure.texts
    with pytest.raises(ValueError, match="at least one arm"):
        plots.robustness_curves(found.table.iloc[:0], "coarse", looks)


def test_the_report_shows_and_publishes_curves_but_no_film(answered, tmp_path):
    shutil.copytree(answered, tmp_path / "runs" / "made")
    folder = tmp_path / "runs" / "made"
    films_of, reason = example_films(folder / "one-s0")
    assert set(films_of) == set(CORRUPTIONS) and not reason
    losses = {"train_loss": [0.3], "val_loss": [0.3], "val_average_precision": [0.5], "lr": [0.1]}
    for path in folder.glob("*/history.csv"):
        write_table(path, pd.read_csv(path).assign(**losses))
    make_report(folder)
    table = pd.read_csv(folder / "report" / "robustness.csv")
    assert set(table["arm"]) == {"one", "two"} and set(table["corruption"]) >= set(CORRUPTIONS)
    page = (folder / "report" / "report.html").read_text()
    assert "Under corruption: the mean over 8 corruptions" in page
    published = {path.name for path in publish(folder, tmp_path / "results")}
    names = {"robustness.csv", "robustness.md", "robustness.png", "robustness.svg"}
    assert names <= published and not any("film" in name for name in published)
