"""External validation: films that a model has met are left out; scores, drops and local thresholds by
hand."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from made_studies import NAMES, make_study
from PIL import Image
from tiny_model import BIAS, SLOPE, write_tiny_model
from typer.testing import CliRunner

from lib import plots
from lib.cli import app
from lib.comparison.arms import RunPredictions, read_run_predictions
from lib.config import FINDINGS, REPO_ROOT, Config
from lib.datasets.duplicates import copies_between, duplicate_pairs
from lib.exceptions import CxrError, DatasetError, ExportError, NotebookError, RunError
from lib.external import (
    evaluate_model,
    external_table,
    overview_text,
    parse_counts,
)
from lib.external.films import open_films, read_films
from lib.external.local import local_thresholds
from lib.external.models import Answers, calibrated_answers
from lib.external.overlap import TESTED_INSIDE, TRAINED_ON, met_by, same_hospital, without_met
from lib.external.rates import rate_table, wilson
from lib.external.scores import compare_sides, drop_interval
from lib.external.words import drop_sentence
from lib.files import write_json
from lib.metrics import evaluate
from lib.metrics.bootstrap import point_scores
from lib.metrics.calibration import calibration_scores
from lib.metrics.scores import auroc
from lib.metrics.thresholds import choose_thresholds, f1_threshold
from lib.studies.execute import run_notebook

pytestmark = pytest.mark.timeout(1200)  # on a machine that may be busy


def answered(targets: np.ndarray, probs: np.ndarray, cut: float = 0.5, patients=None) -> Answers:
    """Answers for (N, F) films, each of its own patient unless they are named."""
    count, findings = targets.shape
    people = np.arange(count).astype(str) if patients is None else np.asarray(patients)
    run = RunPredictions(
        findings=FINDINGS[:findings],
        images=np.array([f"{i:05d}.png" for i in range(count)]),
        patients=people,
        targets=targets.astype(float),
        probs=probs.astype(float),
        run="made",
        seed=0,
        thresholds=np.full(findings, cut),
    )
    return Answers(run, probs.astype(float))


def noisy(count: int, shift: float, seed: int, share: float = 0.3, findings: int = 2) -> Answers:
    """Answers that are higher by `shift` standard deviations where the finding is there."""
    rng = np.random.default_rng(seed)
    targets = (rng.random((count, findings)) < share).astype(float)
    return answered(targets, 1 / (1 + np.exp(-rng.normal(size=targets.shape) - shift * targets)))


def scores_of(table: pd.DataFrame, finding: str) -> pd.DataFrame:
    return table[table["finding"] == finding].set_index("metric")


# intervals


def test_the_drop_of_two_shares_has_the_published_interval():
    first, second = (
        tuple(np.array([value]) for value in (hit / count, *_wilson(hit, count)))
        for hit, count in ((56, 70), (48, 80))
    )  # Newcombe 1998, table II, column a, method 10
    low, high = drop_interval(first, second)
    assert (round(low[0], 4), round(high[0], 4)) == (0.0524, 0.3339)


def _wilson(hit: int, count: int) -> tuple[float, float]:
    share = hit / count
    error = np.sqrt(share * (1 - share) / count)
    ends = wilson(*(np.array([one]) for one in (share, error, 1.959964, count)))
    return float(ends[0][0]), float(ends[1][0])


def test_a_share_of_one_has_the_interval_of_as_many_patients():
    low, high = wilson(*(np.array([one]) for one in (1.0, 0.0, 1.96, 16)))
    assert low[0] == pytest.approx(16 / (16 + 1.96**2)) and high[0] == pytest.approx(1)


def test_the_drop_covers_the_true_one_in_about_95_percent():
    """Of two samples of 60 and 40 patients whose true AUROCs differ by 0.098."""
    from scipy.stats import norm

    truth = norm.cdf(1.5 / np.sqrt(2)) - norm.cdf(1.0 / np.sqrt(2))
    caught = []
    for seed in range(60):
        table = compare_sides(
            [noisy(60, 1.5, 2 * seed, findings=1)], [noisy(40, 1.0, 2 * seed + 1, findings=1)], {}
        )
        row = scores_of(table, FINDINGS[0]).loc["auroc"]
        caught.append(row["drop_low"] <= truth <= row["drop_high"])
    assert np.mean(caught) >= 0.88  # 2.5 standard errors below 0.95 with 60 trials


# scores


def test_rates_and_calibration_are_those_of_the_library():
    one = noisy(200, 1.0, 3)
    one.run.targets[:30, 0] = np.nan
    table = rate_table([one], np.array([True, True]))
    expected = evaluate(one.run.targets, one.run.probs, one.findings, one.run.thresholds).set_index(
        "finding"
    )
    losses = calibration_scores(one.run.targets, one.raw, one.findings).set_index("finding")
    for finding in one.findings:
        rows = scores_of(table, finding)["value"]
        for metric in ("sensitivity", "specificity", "accuracy", "accuracy_all_negative"):
            assert rows[metric] == pytest.approx(expected.loc[finding, metric])
        assert rows["brier"] == pytest.approx(losses.loc[finding, "brier"])
        assert rows["ece"] == pytest.approx(losses.loc[finding, "ece"])


def test_the_spread_of_trainings_widens_the_interval():
    runs = [noisy(200, shift, 5) for shift in (0.3, 1.0, 2.0)]
    alone = rate_table([runs[1]], np.array([True, True]))
    together = rate_table(runs, np.array([True, True]))
    one, all_three = (
        scores_of(table, FINDINGS[0]).loc["sensitivity"] for table in (alone, together)
    )
    assert all_three["high"] - all_three["low"] > one["high"] - one["low"]


def test_the_macro_row_is_over_the_findings_with_enough_patients_in_both_sets():
    inside, outside = noisy(100, 1.5, 7, findings=3), noisy(100, 1.0, 8, findings=3)
    outside.run.targets[:, 2] = 0
    table = compare_sides([inside], [outside], {})
    macro = scores_of(table, "macro").loc["auroc"]
    rows = table[(table["metric"] == "auroc") & table["finding"].isin(FINDINGS[:2])]
    assert macro["internal"] == pytest.approx(rows["internal"].mean())
    assert macro["external"] == pytest.approx(rows["external"].mean())
    lost = scores_of(table, FINDINGS[2]).loc["auroc"]
    assert np.isnan(lost["external"]) and lost["reason"].startswith("external: 0 patients have it")


def test_a_drop_is_told_with_its_interval_and_one_that_may_be_chance_is_called_so():
    far = compare_sides([noisy(300, 3.0, 1)], [noisy(300, 0.2, 2)], {}).assign(answers="run")
    near = compare_sides([noisy(60, 1.0, 1)], [noisy(60, 1.0, 2)], {}).assign(answers="run")
    assert "it drops by" in drop_sentence(far) and "may be chance" in drop_sentence(near)


# local thresholds


def test_a_threshold_of_one_finding_is_that_of_the_library():
    for seed, share in ((0, 0.3), (1, 0.05)):
        one = noisy(80, 1.0, seed, share, findings=1)
        y, p = one.run.targets, one.run.probs
        prevalence = [float(y.mean())]
        row = choose_thresholds(y, p, one.findings, prevalence).query("rule == 'f1'").iloc[0]
        assert f1_threshold(y[:, 0], p[:, 0], prevalence[0]) == (row["threshold"], row["source"])


def test_a_local_threshold_mends_a_frozen_one_that_calls_nothing():
    one = noisy(400, 3.0, 4, findings=1)
    shy = answered(one.run.targets, one.run.probs, cut=1.0)
    table = local_thresholds(shy, [100], draws=30).set_index("metric")
    assert table.loc["f1", "frozen"] == 0 and table.loc["f1", "local"] > 0.8
    assert table.loc["f1", "gain_low"] > 0 and table.loc["f1", "better"] == 1
    assert table.loc["f1", "drawn"] == 100


def test_draws_without_a_positive_film_keep_the_frozen_threshold():
    targets = np.zeros((300, 1))
    targets[:5] = 1
    rare = answered(targets, np.random.default_rng(0).random((300, 1)))
    table = local_thresholds(rare, [2], draws=40)
    assert table["no_positive"].iloc[0] > 0.8 and table["gain"].abs().max() < 0.2
    kept = local_thresholds(rare, [1], draws=1).set_index("metric").loc["f1"]
    assert kept["no_positive"] == 1 and kept["gain"] == 0


def test_patients_are_drawn_whole_and_too_many_films_are_said():
    targets = (np.arange(120) % 3 == 0).astype(float)[:, None]
    people = np.repeat(np.arange(30), 4)
    probs = np.random.default_rng(2).random((120, 1))
    table = local_thresholds(answered(targets, probs, patients=people), [10, 100], draws=5)
    assert table.loc[table["films"] == 10, "drawn"].eq(12).all()
    assert "100 are too many" in table.loc[table["films"] == 100, "reason"].iloc[0]


def test_numbers_of_films_that_are_none_are_refused():
    assert parse_counts("50, 20,20", "--local-films") == (20, 50)
    for text in ("", "0", "20;50", "-1", "1.5"):
        with pytest.raises(CxrError, match="--local-films is"):
            parse_counts(text, "--local-films")


# what a model has met


def test_copies_between_two_stores_are_those_of_one_store():
    rng = np.random.default_rng(0)
    coarse = rng.integers(0, 255, (12, 8, 8), dtype=np.uint8)
    films = np.array([np.asarray(Image.fromarray(one).resize((64, 64))) for one in coarse])
    other = np.concatenate([films[[3, 7]], 255 - films[:4], np.zeros((2, 64, 64), np.uint8)])
    found = copies_between(films, other)
    assert found.tolist() == [[3, 0], [7, 1]]
    both = duplicate_pairs(np.concatenate([films, other]))
    assert [[a, b - 12] for a, b in both.tolist() if a < 12 <= b] == found.tolist()
    assert copies_between(films, other[:0]).shape == (0, 2)


def draw(path: Path, seed: int) -> None:
    """A film of soft blobs, unlike those of other seeds."""
    path.parent.mkdir(parents=True, exist_ok=True)
    coarse = np.random.default_rng(seed).integers(0, 255, (6, 6), dtype=np.uint8)
    Image.fromarray(coarse).resize((64, 64)).save(path)


def write_nih(folder: Path, films: dict[str, tuple[str, int]]) -> Path:
    """A Kaggle sample: image -> (labels, the seed of its drawing)."""
    lines = [
        "Image Index,Finding Labels,Follow-up #,Patient ID,Patient Age,Patient Gender,View Position"
    ]
    for name, (labels, seed) in films.items():
        draw(folder / "sample" / "images" / name, seed)
        lines.append(f"{name},{labels},0,{int(name[:8])},057Y,M,PA")
    (folder / "sample_labels.csv").write_text("\n".join(lines) + "\n")
    return folder


@pytest.fixture
def trained(tmp_path) -> Path:
    """The folder of a run that was trained on two patients, validated with one and tested on one."""
    films = {
        f"{i:08d}_000.png": ("Cardiomegaly" if i % 2 else "No Finding", i) for i in range(1, 5)
    }
    write_nih(tmp_path / "home", films)
    folder = tmp_path / "run"
    folder.mkdir()
    config = Config(run_dir=str(folder), data_root=str(tmp_path), data_dir=["home"], image_size=64)
    write_json(folder / "config.json", config.model_dump(mode="json"))
    splits = zip(films, ("train", "train", "val", "test"), strict=True)
    rows = [f"{name},nih:{int(name[:8])},{split}" for name, split in splits]
    (folder / "splits.csv").write_text("\n".join(["image,patient,split", *rows]) + "\n")
    return folder


def test_films_that_the_model_has_met_are_left_out_with_the_reason(tmp_path, trained):
    """A patient of training, the test patient, a training film under another name, and a new one."""
    films = {
        "00000001_007.png": ("Cardiomegaly", 90),
        "00000004_001.png": ("No Finding", 91),
        "00000077_000.png": ("Cardiomegaly", 2),
        "00000099_000.png": ("No Finding", 92),
    }
    read = read_films(write_nih(tmp_path / "other", films), FINDINGS)
    opened, store = open_films(read, 64)
    met = met_by([trained])
    kept, notes = without_met(opened, store, met)
    assert list(kept.frame["image"]) == ["00000099_000.png"] and notes == []
    told = kept.left_out.set_index("image")[["reason", "by"]].apply(tuple, axis=1).to_dict()
    assert told == {
        "00000001_007.png": (TRAINED_ON, "patient"),
        "00000004_001.png": (TESTED_INSIDE, "patient"),
        "00000077_000.png": (TRAINED_ON, "radiograph"),
    }
    assert "same hospital" in same_hospital(read, met.populations)


def test_an_earlier_stage_that_is_gone_and_films_that_cannot_be_read_are_said(tmp_path, trained):
    config = json.loads((trained / "config.json").read_text())
    write_json(trained / "config.json", config | {"init_from": "runs/none/first-s0"})
    (tmp_path / "home" / "sample_labels.csv").unlink()
    read = read_films(write_nih(tmp_path / "other", {"00000099_000.png": ("Mass", 92)}), FINDINGS)
    _, notes = without_met(*open_films(read, 64), met_by([trained]))
    assert "earlier stage runs/none/first-s0" in notes[0] and "were not looked for" in notes[1]


def test_a_set_without_labels_or_findings_in_common_is_refused_in_a_sentence(tmp_path):
    write_nih(tmp_path / "other", {"00000099_000.png": ("Mass", 92)})
    with pytest.raises(DatasetError, match="no finding in common: the set labels Atelectasis"):
        read_films(tmp_path / "other", ("Fracture",))
    draw(tmp_path / "bare" / "test" / "00000001_000.png", 1)
    (tmp_path / "bare" / "test.csv").write_text("imageID\n00000001_000.png\n")
    (tmp_path / "bare" / "train.csv").write_text("imageID,disease\n")
    with pytest.raises(DatasetError, match="holds 1 image and no label"):
        read_films(tmp_path / "bare", FINDINGS)


def test_on_real_films_the_patients_of_training_are_found_in_the_kaggle_sample(tmp_path, real_data):
    """The sample is of the NIH's set: patients are counted from the file names by hand."""
    home = read_films(real_data / "real" / "dataset_full", FINDINGS).frame
    config = Config(
        run_dir=str(tmp_path), data_root=str(real_data / "real"), data_dir=["dataset_full"]
    )
    write_json(tmp_path / "config.json", config.model_dump(mode="json"))
    home[["image", "patient"]].assign(split="train").to_csv(tmp_path / "splits.csv", index=False)
    opened, store = open_films(read_films(real_data / "kaggle_sample", FINDINGS), 64)
    kept, notes = without_met(opened, store, met_by([tmp_path]))
    people = set(home["image"].str[:8])
    shared = opened.frame["image"].str[:8].isin(people)
    assert notes == [] and shared.sum() > 30
    assert (kept.left_out["by"] == "patient").sum() == shared.sum()
    assert set(kept.frame["image"]) == set(opened.frame["image"][~shared])


def test_calibrated_internal_answers_keep_the_scores_of_the_run(tmp_path):
    study = make_study(tmp_path / "made", {"ours": 1.5}, folds=0, seeds=1)
    own = read_run_predictions(study / "ours-s0")
    card = json.loads((study / "ours-s0" / "card.json").read_text())
    one = calibrated_answers(own, {"findings": list(NAMES), "calibration": card["calibration"]})
    told = pd.read_csv(study / "ours-s0" / "metrics.csv").set_index("finding").loc[list(NAMES)]
    found = point_scores(one.run.targets, one.run.probs, one.run.thresholds)
    for metric, values in found.items():
        assert values == pytest.approx(told[metric].to_numpy())


# a file, from end to end


@pytest.fixture
def file(tmp_path) -> Path:
    """The tiny model, whose probabilities are worked out by hand from an image's mean grey."""
    metrics = [
        {"finding": name, "auroc": 0.8, "auroc_low": 0.7, "auroc_high": 0.88, "in_macro": True}
        | {"positives": 30, "negatives": 70, "f1": 0.5}
        for name in ("Atelectasis", "Cardiomegaly", "Effusion", "macro")
    ]
    card = {"metrics": metrics, "operating_points": [], "data": {"populations": ["nih"]}}
    calibration = {"method": ["none"] * 3, "slope": [1.0] * 3, "intercept": [0.0] * 3}
    return write_tiny_model(tmp_path / "models" / "tiny.onnx", **card, calibration=calibration)


@pytest.fixture(autouse=True)
def models(tmp_path) -> None:
    (tmp_path / "models").mkdir()


@pytest.fixture
def clinic(tmp_path) -> Path:
    """A set of class folders: flat grey films, the brighter the more often with Cardiomegaly."""
    rng = np.random.default_rng(0)
    for i in range(60):
        grey = int(rng.integers(40, 216))
        name = "CARDIOMEGALY" if grey + rng.normal(0, 40) > 128 else "NORMAL"
        path = tmp_path / "clinic" / name / f"{i:03d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((32, 32), grey, np.uint8)).save(path)
    return tmp_path / "clinic"


def test_a_file_is_evaluated_with_the_answers_worked_out_by_hand(file, clinic):
    place = evaluate_model(file, clinic, films=[20])
    assert place == file.parent / "evaluations" / "tiny" / "clinic"
    assert {path.name for path in place.iterdir()} == {
        *("metrics.csv", "predictions.parquet", "local_thresholds.csv", "left_out.csv"),
        *("summary.md", "evaluation.json"),
    }
    found = pd.read_parquet(place / "predictions.parquet")
    grey = np.array([np.asarray(Image.open(clinic / name)).mean() for name in found["image"]])
    probs = 1 / (1 + np.exp(-(SLOPE[1] * grey / 255 + BIAS[1])))
    assert found["prob_Cardiomegaly"].to_numpy() == pytest.approx(probs, abs=1e-5)
    metrics = pd.read_csv(place / "metrics.csv").set_index("metric")
    truth = np.array([float(name.startswith("CARDIO")) for name in found["image"]])
    row = metrics.loc["auroc"]
    assert row["external"] == pytest.approx(auroc(truth, probs)) and row["internal"] == 0.8
    assert row["drop_low"] < 0.8 - row["external"] < row["drop_high"]
    called = probs >= 0.6
    assert metrics.loc["sensitivity", "external"] == pytest.approx(called[truth == 1].mean())
    assert metrics.loc["prevalence", "internal"] == pytest.approx(0.3)
    told = (place / "summary.md").read_text()
    assert "was NOT checked" in told and "matched by name" in told
    assert "60 films of 60 patients from clinic" in told


def test_the_same_call_reuses_and_another_is_refused_unless_it_replaces(file, clinic):
    said: list[str] = []
    place = evaluate_model(file, clinic, films=[20], log=said.append)
    before = (place / "evaluation.json").stat().st_mtime_ns
    evaluate_model(file, clinic, films=[20], log=said.append)
    assert "nothing changed" in said[-1]
    assert (place / "evaluation.json").stat().st_mtime_ns == before
    with pytest.raises(RunError, match="--replace, or choose another name"):
        evaluate_model(file, clinic, films=[30])
    evaluate_model(file, clinic, films=[30], replace=True)
    assert list(pd.read_csv(place / "local_thresholds.csv")["films"].unique()) == [30]
    assert [path.name for path in place.parent.iterdir()] == ["clinic"]


def test_a_name_that_holds_something_else_is_refused(file, clinic):
    (file.parent / "evaluations" / "tiny" / "clinic").mkdir(parents=True)
    with pytest.raises(RunError, match="is no evaluation; choose another name"):
        evaluate_model(file, clinic)


def test_names_that_no_folder_or_another_run_has_are_refused(file, clinic, trained):
    with pytest.raises(RunError, match="is no name of an evaluation"):
        evaluate_model(file, clinic, "../there")
    write_json(trained.parent / "first-s0" / "config.json", {})
    with pytest.raises(RunError, match="is the name of a run of the same study"):
        evaluate_model(trained, clinic, "first-s0")


def test_a_broken_file_is_told_in_a_sentence(tmp_path, clinic):
    (tmp_path / "models" / "bad.onnx").write_bytes(b"no model")
    with pytest.raises(ExportError, match="cannot be loaded as an ONNX model"):
        evaluate_model(tmp_path / "models" / "bad.onnx", clinic)


def test_the_command_prints_the_table_and_where_it_is(file, clinic):
    words = ["evaluate", str(file), "--data", str(clinic), "--name", "there", "--local-films", "20"]
    result = CliRunner().invoke(app, words)
    assert result.exit_code == 0, result.output
    assert "Cardiomegaly" in result.output and "evaluations/tiny/there" in result.output
    wrong = CliRunner().invoke(app, [*words[:-1], "many"])
    assert wrong.exit_code == 1 and "--local-films is 'many'" in wrong.output


# the study's report


def place_evaluation(folder: Path, metrics: pd.DataFrame, local: pd.DataFrame) -> None:
    data = {"folder": "/x/clinic", "layout": "class folders", "images": 9, "patients": 9}
    about = {"model": {"name": folder.parent.name, "kind": "arm"}, "name": folder.name}
    about |= {"phantom": True, "findings": list(NAMES), "same_hospital": "", "notes": []}
    about |= {"data": data | {"left_out": [], "warnings": []}, "trained_on": {}, "draws": 5}
    write_json(folder / "evaluation.json", about)
    metrics.to_csv(folder / "metrics.csv", index=False)
    local.to_csv(folder / "local_thresholds.csv", index=False)


def test_a_study_gathers_its_evaluations_and_draws_them(tmp_path):
    study = make_study(tmp_path / "made", {"ours": 1.5}, folds=0)
    assert external_table(study).empty and overview_text(study) == ""
    metrics = compare_sides([noisy(80, 1.5, 1)], [noisy(80, 0.5, 2)], {}).assign(answers="ensemble")
    local = local_thresholds(noisy(80, 0.5, 2), [20], draws=5)
    place_evaluation(study / "evaluations" / "ours" / "clinic", metrics, local)
    table = external_table(study)
    assert set(table["model"]) == {"ours"} and len(table) == len(metrics)
    assert "| ours | ensemble | clinic | 9 |" in overview_text(study)
    figure = plots.external_scores(table, "ours on clinic", phantom=True)
    labels = [label.get_text() for label in figure.axes[0].get_yticklabels()]
    assert labels[-1] == "mean over findings" and len(labels) == 3
    assert any("phantoms" in text.get_text() for text in figure.texts)
    with pytest.raises(ValueError, match="nothing to draw"):
        plots.external_scores(table[table["metric"] == "f1"], "none")


def test_the_notebook_says_what_to_name_where_there_is_no_run(tmp_path):
    path = REPO_ROOT / "notebooks/external_validation.ipynb"
    with pytest.raises(NotebookError, match="is no complete run: give its folder"):
        run_notebook(path, tmp_path / "out.ipynb", {"model": f"{tmp_path}/none"})
