"""Anybody's predictions: columns and ids are matched or refused with counts, rows in a wrong order are
noticed, and they compare as an arm does."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from delong import delong
from made_studies import NAMES, make_study
from scipy.special import expit, logit
from typer.testing import CliRunner

from lib.cli import app
from lib.comparison import compare_folders, compare_study, on_labels, read_prediction_table
from lib.comparison.arms import arm_scores, differences
from lib.comparison.external import match_ids
from lib.config import FINDINGS
from lib.datasets import read_labels
from lib.exceptions import ComparisonError, DatasetError
from lib.metrics import auroc, score_predictions

pytestmark = pytest.mark.timeout(1200)  # on a machine that may be busy


@pytest.fixture(scope="module")
def listed(tmp_path_factory) -> Path:
    """A study on one test list: 60 patients with two images each, two seeds."""
    return make_study(tmp_path_factory.mktemp("listed") / "listed", {"ours": 1.0}, folds=0)


@pytest.fixture(scope="module")
def folded(tmp_path_factory) -> Path:
    return make_study(tmp_path_factory.mktemp("folded") / "folded", {"ours": 1.0}, folds=3)


def answers(study: Path, shift: float = 1.5, seed: int = 9) -> pd.DataFrame:
    """Somebody's predictions for the test images of a study: Image Index and one column per
    finding."""
    parts = [pd.read_parquet(path) for path in sorted(study.glob("*-s0*/predictions.parquet"))]
    test = pd.concat(parts).query("split == 'test'").sort_values("image")
    y = test[[f"target_{name}" for name in NAMES]].to_numpy()
    z = shift * y + np.random.default_rng(seed).normal(size=y.shape) - 1
    frame = pd.DataFrame(expit(z), columns=list(NAMES))
    frame.insert(0, "Image Index", test["image"].to_numpy())
    return frame


def written(frame: pd.DataFrame, folder: Path, name: str = "theirs.csv") -> Path:
    frame.to_csv(folder / name, index=False)
    return folder / name


def compared(study: Path, frame: pd.DataFrame, folder: Path, **options):
    return compare_folders([study, written(frame, folder)], **options)


def refusal(study: Path, frame: pd.DataFrame, folder: Path) -> str:
    with pytest.raises(ComparisonError) as error:
        compared(study, frame, folder)
    return str(error.value)


def macro(verdicts, metric: str = "auroc") -> pd.Series:
    return verdicts.macro(metric).iloc[0]


# --- columns


@pytest.mark.parametrize("pattern", ["{}", "prob_{}", "{} score", "PRED-{}", "logit_{}"])
def test_findings_are_found_whatever_the_case_and_the_word_beside_them(pattern, listed, tmp_path):
    frame = answers(listed)
    frame.columns = ["path", *(pattern.format(name.upper()) for name in NAMES)]
    assert read_prediction_table(written(frame, tmp_path)).findings == NAMES


@pytest.mark.parametrize("name", ["image", "imageID", "Image Index", "file_name", "PATH", "id"])
def test_the_column_of_ids_is_found_by_name(name, listed, tmp_path):
    frame = answers(listed).rename(columns={"Image Index": name})
    assert read_prediction_table(written(frame, tmp_path)).images[0] == frame[name][0]


def test_what_was_read_from_where_and_what_was_not_is_said(listed, tmp_path):
    frame = answers(listed).rename(columns={"Mass": "p_mass"}).assign(age=3, lesion=0.1)
    (note,) = read_prediction_table(written(frame, tmp_path)).notes
    assert "image ids from 'Image Index'" in note and "Mass ('p_mass')" in note
    assert "not used: 'age', 'lesion'" in note


def test_ids_keep_their_leading_zeros(tmp_path):
    frame = pd.DataFrame({"id": ["0012", "0013"], "Mass": [0.1, 0.2]})
    assert read_prediction_table(written(frame, tmp_path)).images.tolist() == ["0012", "0013"]


def test_a_parquet_file_reads_as_its_csv_does(listed, tmp_path):
    frame = answers(listed)
    frame.set_index("Image Index").to_parquet(tmp_path / "theirs.parquet")
    one, other = (
        read_prediction_table(path)
        for path in (written(frame, tmp_path), tmp_path / "theirs.parquet")
    )
    assert np.array_equal(one.scores, other.scores) and np.array_equal(one.images, other.images)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda f: f.rename(columns={"Image Index": "who"}), "no column of image ids"),
        (lambda f: f[["Image Index"]], "no column of predictions"),
        (lambda f: f.assign(prob_Mass=0.1), "'Mass' and 'prob_Mass' both name Mass"),
        (lambda f: f.assign(Mass=f["Mass"].where(f.index > 2)), "3 of 120 rows .* (Mass 3)"),
        (lambda f: f.assign(Mass=f["Mass"].astype(object).where(f.index > 0, "high")), "1 of 120"),
        (lambda f: f.assign(Mass=f["Mass"].where(f.index > 0, np.inf)), "no finite number"),
        (lambda f: f.assign(target_Mass=2), "120 labels in 'target_Mass' are other than 0 and 1"),
        (
            lambda f: f.assign(**{"Image Index": f["Image Index"].where(f.index > 4)}),
            "5 rows have no",
        ),
    ],
)
def test_a_table_that_cannot_be_used_is_refused_in_a_sentence(change, message, listed, tmp_path):
    pattern = message.replace("(", r"\(").replace(")", r"\)")
    with pytest.raises(ComparisonError, match=pattern):
        read_prediction_table(written(change(answers(listed)), tmp_path))


def test_a_header_that_names_a_column_twice_is_refused(tmp_path):
    (tmp_path / "two.csv").write_text("image,Mass,Mass\na,0.1,0.2\n")
    with pytest.raises(ComparisonError, match="more than one column 'Mass'"):
        read_prediction_table(tmp_path / "two.csv")


@pytest.mark.parametrize("content", ["", "\x00\x01", "image\n"])
def test_a_file_that_is_no_table_is_refused(content, tmp_path):
    (tmp_path / "bad.csv").write_text(content)
    with pytest.raises(ComparisonError, match=r"bad\.csv"):
        read_prediction_table(tmp_path / "bad.csv")


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(ComparisonError, match=r"none\.csv is missing"):
        read_prediction_table(tmp_path / "none.csv")


# --- ids


@pytest.mark.parametrize(
    "spell",
    [
        lambda ids: ids,
        lambda ids: ids.str.replace(".png", ""),
        lambda ids: "/data/films/" + ids,
        lambda ids: "C:\\films\\" + ids.str.replace(".png", ".JPEG"),
    ],
)
def test_ids_match_with_and_without_folder_and_suffix(spell, listed, tmp_path):
    frame = answers(listed)
    plain = macro(compared(listed, frame, tmp_path))["difference"]
    frame["Image Index"] = spell(frame["Image Index"])
    assert macro(compared(listed, frame, tmp_path))["difference"] == plain


def test_ids_that_differ_in_their_folder_alone_are_not_taken_for_one():
    places, _ = match_ids(["b/1.png", "1.png"], ["a/1.png", "b/1.png"])
    assert places.tolist() == [1, -1]


def test_rows_that_do_not_match_are_refused_with_their_counts(listed, tmp_path):
    frame = answers(listed)
    strange = frame.head(2).assign(**{"Image Index": ["x.png", "y.png"]})
    text = refusal(listed, pd.concat([frame.iloc[3:], frame.tail(4), strange]), tmp_path)
    assert "3 of 120 are missing, as 00" in text and "4 rows repeat an image" in text
    assert "2 rows are of images that are not among them, as x.png" in text


def test_rows_of_other_images_are_left_out_when_asked_and_counted(listed, tmp_path):
    frame = answers(listed)
    more = pd.concat([frame, frame.head(2).assign(**{"Image Index": ["x.png", "y.png"]})])
    verdicts = compared(listed, more, tmp_path, skip_unknown=True)
    assert macro(verdicts)["difference"] == macro(compared(listed, frame, tmp_path))["difference"]
    assert any("2 rows of other images are left out" in note for note in verdicts.remarks)


def test_the_order_of_the_rows_changes_nothing(listed, tmp_path):
    frame = answers(listed)
    one = compared(listed, frame, tmp_path).changes
    other = compared(listed, frame.sample(frac=1, random_state=0), tmp_path).changes
    pd.testing.assert_frame_equal(one, other)


def test_labels_that_differ_from_those_of_the_test_images_are_counted(listed, tmp_path):
    frame = answers(listed).assign(target_Mass=1)
    assert "the labels of" in refusal(listed, frame, tmp_path)


# --- the comparison


def test_a_runs_own_predictions_differ_from_it_by_nothing(listed):
    run = listed / "ours-s0"
    verdicts = compare_folders([run, run / "predictions.parquet"])
    changes = verdicts.changes[verdicts.changes["metric"] != "f1"]
    assert (changes["difference"] == 0).all() and (changes[["low", "high"]] == 0).all(axis=None)


def test_a_file_differs_from_an_arm_as_another_arm_with_its_answers_does(folded, tmp_path):
    """With folds: scored within folds, patients resampled within folds."""
    both = make_study(tmp_path / "both", {"ours": 1.0, "better": 2.0}, seeds=1, folds=3)
    own = compare_study(both)
    parts = [pd.read_parquet(path) for path in both.glob("better-*/predictions.parquet")]
    theirs = pd.concat(parts).query("split == 'test'").drop(columns="split")
    verdicts = compare_folders([both, written(theirs, tmp_path)])
    columns = ["difference", "se_patients"]
    mine, made = (
        one.changes[one.changes["metric"] == "auroc"].set_index("finding")[columns]
        for one in (own, verdicts)
    )
    np.testing.assert_allclose(mine.to_numpy(), made.to_numpy(), rtol=1e-9)


def test_a_file_gets_a_verdict_from_the_noise_of_the_seeds_it_is_compared_with(listed, tmp_path):
    verdicts = compared(listed, answers(listed, 3.5), tmp_path)
    assert macro(verdicts)["p_holm"] < 0.1 and "one training each" not in verdicts.sentences()[0]
    assert any("is one training: it is assumed" in note for note in verdicts.remarks)


def test_what_one_training_for_all_folds_may_have_seen_is_said(folded, tmp_path):
    remarks = compared(folded, answers(folded), tmp_path).remarks
    assert any("test patients of all 3 folds" in note and "not known" in note for note in remarks)


def test_findings_that_the_file_lacks_are_named_and_the_others_compared(listed, tmp_path):
    verdicts = compared(listed, answers(listed)[["Image Index", "Mass"]], tmp_path)
    assert set(verdicts.changes["finding"]) == {"Mass", "macro"}
    assert any("does not answer for Cardiomegaly, Nodule" in note for note in verdicts.remarks)


def test_logits_rank_as_their_probabilities_do_and_have_no_f1(listed, tmp_path):
    frame = answers(listed)
    probs = compared(listed, frame, tmp_path)
    frame[list(NAMES)] = logit(frame[list(NAMES)])
    logits = compared(listed, frame, tmp_path)
    for metric in ("auroc", "average_precision"):
        for column in ("difference", "low", "high"):
            assert macro(logits, metric)[column] == pytest.approx(macro(probs, metric)[column])
    assert logits.changes["metric"].ne("f1").all()
    scores = logits.scores.query("arm == 'theirs.csv' and metric == 'f1'")
    assert scores["value"].isna().all()
    assert any("taken as scores that rank images" in note for note in logits.remarks)


def test_files_alone_are_compared_with_labels_of_their_own(listed, tmp_path):
    run = pd.read_parquet(listed / "ours-s0" / "predictions.parquet").query("split == 'test'")
    one = written(run, tmp_path, "one.csv")
    two = written(answers(listed), tmp_path, "two.csv")
    verdicts = compare_folders([one, two])
    assert verdicts.reference == "one.csv" and set(verdicts.changes["arm"]) == {"two.csv"}
    assert "one training each" in verdicts.sentences()[0]


def test_labels_beside_a_run_are_refused(listed, tmp_path):
    with pytest.raises(ComparisonError, match="leave --labels out"):
        compare_folders([listed, written(answers(listed), tmp_path)], pd.DataFrame())


# --- rows in a wrong order


@pytest.mark.parametrize("step", [1, -2])
def test_answers_moved_by_some_rows_are_refused(step, listed, tmp_path):
    frame = answers(listed, 2.5)
    frame[list(NAMES)] = np.roll(frame[list(NAMES)], step, axis=0)
    text = refusal(listed, frame, tmp_path)
    assert "do not seem to belong to their image ids" in text
    assert f"moved {'up' if step > 0 else 'down'} by {abs(step)} row" in text


def test_answers_in_reverse_are_refused(listed, tmp_path):
    frame = answers(listed, 2.5)
    frame[list(NAMES)] = frame[list(NAMES)].to_numpy()[::-1]
    assert "read backwards" in refusal(listed, frame, tmp_path)


def test_a_line_lost_in_the_middle_is_noticed(listed, tmp_path):
    frame = answers(listed, 2.5)
    values = frame[list(NAMES)].to_numpy(copy=True)
    values[60:] = np.roll(values[60:], -1, axis=0)
    text = refusal(listed, frame.assign(**dict(zip(NAMES, values.T, strict=True))), tmp_path)
    assert "moved down by 1 row" in text


def test_answers_in_random_order_are_warned_about(listed, tmp_path):
    frame = answers(listed)
    frame[list(NAMES)] = frame[list(NAMES)].sample(frac=1, random_state=2).to_numpy()
    assert any(
        "no better than chance" in note for note in compared(listed, frame, tmp_path).remarks
    )


def test_answers_of_absence_are_warned_about(listed, tmp_path):
    frame = answers(listed)
    frame[list(NAMES)] = 1 - frame[list(NAMES)]
    assert any("worse than chance" in note for note in compared(listed, frame, tmp_path).remarks)


def test_exchanged_columns_are_warned_about(listed, tmp_path):
    frame = answers(listed, 2.5).rename(columns={"Mass": "Nodule", "Nodule": "Mass"})
    (told,) = [note for note in compared(listed, frame, tmp_path).remarks if "exchanged:" in note]
    assert "Mass from the column of Nodule, Nodule from the column of Mass" in told


def test_good_answers_give_no_warning_but_say_what_cannot_be_known(listed, tmp_path):
    remarks = compared(listed, answers(listed), tmp_path).remarks
    assert not any(note.startswith("Warning") for note in remarks)
    assert any("a few exchanged rows would not show" in note for note in remarks)


# --- predictions alone


def labels(folder: Path, frame: pd.DataFrame) -> Path:
    """An NIH table without images: every third row a Mass."""
    table = pd.DataFrame({"Image Index": frame["image"], "Patient ID": np.arange(len(frame)) // 2})
    table["Finding Labels"] = np.where(np.arange(len(frame)) % 3 == 0, "Mass", "No Finding")
    return written(table, folder, "Data_Entry_2017_v2020.csv")


@pytest.fixture
def alone(tmp_path) -> pd.DataFrame:
    y = np.arange(90) % 3 == 0
    p = expit(2.0 * y + np.random.default_rng(0).normal(size=90) - 1)
    return pd.DataFrame({"image": [f"{i:08d}_000.png" for i in range(90)], "Mass": p})


def test_metrics_with_a_table_of_labels(alone, tmp_path):
    found = on_labels(
        read_prediction_table(written(alone, tmp_path)), read_labels(labels(tmp_path, alone))
    )
    (run,) = found.runs
    row = score_predictions(run).set_index("finding").loc["Mass"]
    assert row["auroc"] == auroc((np.arange(90) % 3 == 0).astype(float), alone["Mass"].to_numpy())
    assert row["positives"] == 30 and len(np.unique(run.patients)) == 45


def test_patients_come_from_nih_file_names_where_nothing_else_tells(alone, tmp_path):
    table = alone.assign(target_Mass=(np.arange(90) % 3 == 0).astype(int))
    table["image"] = [f"{i // 3:08d}_{i % 3:03d}" for i in range(90)]
    found = on_labels(read_prediction_table(written(table, tmp_path)))
    assert len(np.unique(found.runs[0].patients)) == 30
    assert any("NIH file names" in note for note in found.notes)


def test_images_that_stand_for_patients_are_said_to(alone, tmp_path):
    table = alone.assign(target_Mass=(np.arange(90) % 3 == 0).astype(int))
    table["image"] = [f"film{i}" for i in range(90)]
    notes = on_labels(read_prediction_table(written(table, tmp_path))).notes
    assert any("names no patients, so every image counts as one" in note for note in notes)


def test_predictions_without_any_label_are_refused(alone, tmp_path):
    with pytest.raises(ComparisonError, match=r"theirs\.csv has no labels: add columns such as"):
        on_labels(read_prediction_table(written(alone, tmp_path)))


def test_rows_without_a_label_are_refused_with_their_count(alone, tmp_path):
    known = read_labels(labels(tmp_path, alone.head(80)))
    with pytest.raises(
        ComparisonError, match=r"10 of 90 rows of theirs\.csv are of images without"
    ):
        on_labels(read_prediction_table(written(alone, tmp_path)), known)


def test_labels_of_another_heading_are_read(alone, tmp_path):
    table = pd.DataFrame({"imageID": alone["image"], "disease": "Mass|Nodule"})
    frame = read_labels(written(table, tmp_path, "mine.csv"))
    assert frame["Mass"].all() and frame["Nodule"].all() and not frame["Hernia"].any()


def test_labels_that_are_no_findings_are_refused(alone, tmp_path):
    table = pd.DataFrame({"imageID": alone["image"], "disease": "Mss"})
    with pytest.raises(DatasetError, match="90 x unknown finding"):
        read_labels(written(table, tmp_path, "mine.csv"))


def test_a_table_that_holds_no_labels_is_refused(alone, tmp_path):
    with pytest.raises(DatasetError, match="no table of labels of a known layout"):
        read_labels(written(alone, tmp_path))


# --- the commands


def cxr(*words: object) -> tuple[int, str]:
    done = CliRunner().invoke(app, [str(word) for word in words])
    return done.exit_code, done.output


def test_the_command_writes_tables_sentences_and_figures(listed, tmp_path):
    theirs, out = written(answers(listed), tmp_path), tmp_path / "out"
    code, text = cxr("compare", listed, theirs, "--out", out)
    assert code == 0 and "listed *" in text and "theirs.csv" in text
    names = {"scores.csv", "differences.csv", "answers.md"}
    names |= {f"{name}.{kind}" for name in ("comparison", "findings") for kind in ("png", "svg")}
    assert {path.name for path in out.iterdir()} == names


def test_the_command_prints_metrics_and_writes_them(alone, tmp_path):
    theirs, table = written(alone, tmp_path), labels(tmp_path, alone)
    code, text = cxr("metrics", theirs, "--labels", table, "--out", tmp_path / "m.csv")
    assert code == 0 and "AUROC (95 %)" in text and "90 rows of theirs.csv match" in text
    assert pd.read_csv(tmp_path / "m.csv")["finding"].tolist() == ["Mass", "macro"]


def test_a_refusal_is_a_sentence_on_the_terminal(listed, tmp_path):
    code, text = cxr("compare", listed, written(answers(listed).head(50), tmp_path))
    assert code == 1 and "70 of 120 are missing" in text and "Traceback" not in text


# --- published predictions

PRINTED = {
    "Atelectasis": 0.81798,
    "Cardiomegaly": 0.90901,
    "Effusion": 0.88272,
    "Infiltration": 0.71564,
    "Mass": 0.83768,
    "Nodule": 0.77558,
    "Pneumonia": 0.76169,
    "Pneumothorax": 0.87761,
    "Consolidation": 0.80020,
    "Edema": 0.89446,
    "Emphysema": 0.93162,
    "Fibrosis": 0.82509,
    "Pleural_Thickening": 0.78892,
    "Hernia": 0.91753,
    "macro": 0.83827,
}


@pytest.fixture(scope="module")
def chexnet(real_data) -> Path:
    return real_data / "predictions" / "reproduce_chexnet_test.csv.gz"


@pytest.fixture(scope="module")
def chexnet_run(chexnet):
    (run,) = on_labels(read_prediction_table(chexnet)).runs
    return run


def test_published_scores_come_out(chexnet_run):
    table = arm_scores([chexnet_run]).query("metric == 'auroc'").set_index("finding")["value"]
    assert {name: round(value, 5) for name, value in table.items()} == pytest.approx(
        PRINTED, abs=1.1e-5
    )


def test_published_predictions_differ_from_themselves_by_nothing(chexnet_run):
    table = differences([chexnet_run], [chexnet_run])
    assert (table["difference"] == 0).all() and (table["low"] == 0).all()


def test_published_predictions_moved_by_a_row_are_refused(chexnet, tmp_path):
    frame = pd.read_csv(chexnet)
    probs = [f"prob_{name}" for name in FINDINGS]
    frame[probs] = np.roll(frame[probs], 1, axis=0)
    with pytest.raises(ComparisonError, match="moved up by 1 row"):
        on_labels(read_prediction_table(written(frame, tmp_path)))


def test_published_predictions_in_random_order_are_warned_about(chexnet, tmp_path):
    frame = pd.read_csv(chexnet)
    probs = [f"prob_{name}" for name in FINDINGS]
    frame[probs] = frame[probs].sample(frac=1, random_state=0).to_numpy()
    notes = on_labels(read_prediction_table(written(frame, tmp_path))).notes
    assert any("no better than chance" in note for note in notes)


def test_delong_agrees_with_the_interval_of_single_findings(chexnet, chexnet_run, tmp_path):
    """Standard errors to 8 %: 1,000 resamples know theirs to 2 %, rare findings less well."""
    frame = pd.read_csv(chexnet)
    rng = np.random.default_rng(0)
    probs = [f"prob_{name}" for name in FINDINGS]
    frame[probs] = expit(
        logit(frame[probs].clip(1e-6, 1 - 1e-6)) + rng.normal(0, 0.7, (len(frame), 14))
    )
    (other,) = on_labels(read_prediction_table(written(frame, tmp_path))).runs
    table = differences([other], [chexnet_run]).query("metric == 'auroc'").set_index("finding")
    for j, name in enumerate(FINDINGS):
        found = delong(
            chexnet_run.targets[:, j], other.probs[:, j], chexnet_run.probs[:, j], other.patients
        )
        told = table.loc[name, ["difference", "se_patients"]].to_numpy(float)
        assert found[0] == pytest.approx(told[0], abs=1e-9)
        assert found[1] == pytest.approx(told[1], rel=0.08), name
