"""The figures of stages: what is drawn, labelled and stamped, and that nothing is cut off."""

import numpy as np
import pandas as pd
import pytest

from lib import plots
from lib.plots.style import PHANTOM_NOTE

SETS = ("Pneumonia stage", "Cardiomegaly stage", "14-finding stage")


def matrix_tables() -> tuple[pd.DataFrame, pd.DataFrame]:
    about = {"folders": "dataset_full and dataset_cardiomegaly", "patients": 1196}
    about |= {"low": 0.6, "high": 0.9}
    answers = {
        (SETS[0], "Pneumonia"): {SETS[0]: 0.95, SETS[2]: 0.86},
        (SETS[1], "Cardiomegaly"): {SETS[1]: 0.9, SETS[2]: 0.8},
        (SETS[2], "Pneumonia"): {SETS[0]: 0.7, SETS[2]: 0.75},
        (SETS[2], "Pleural_Thickening"): {SETS[2]: 0.65},
    }
    scores = pd.DataFrame(
        {"test_set": test, "finding": finding, "stage": stage, "value": value, **about}
        for (test, finding), values in answers.items()
        for stage, value in values.items()
    )
    changes = pd.DataFrame(
        {"test_set": test, "finding": finding, "later": SETS[2], "difference": -0.1}
        | {"low": -0.2 if test != SETS[1] else np.nan, "high": 0.0 if test != SETS[1] else np.nan}
        for (test, finding), values in answers.items()
        if len(values) > 1
    )
    return scores, changes


def drift_table() -> pd.DataFrame:
    names = [*SETS, "all 3 stages together", "direct (no stage before)"]
    rows = [
        {"transition": name, "depth": depth, "cka": 1 - depth / 10, "chance": 0.02}
        | {"least": 0.9 - depth / 10, "most": 1.0}
        for name in names
        for depth in range(1, 6)
    ]
    return pd.DataFrame(rows)


def sweep_table() -> pd.DataFrame:
    rows = {"frozen": [0, 3, 5], "value": [0.7, 0.69, 0.6], "low": 0.5, "high": 0.8}
    rows["seeds"] = [3, 3, 1]
    return pd.DataFrame({**rows, "is_reference": [True, False, False]})


def curves_table() -> pd.DataFrame:
    rows = [
        {"family": family, "train_fraction": share, "train_images": images, "value": 0.6}
        | {"low": 0.5, "high": 0.7, "backbone": "resnet50", "seeds": 3 if share == 1 else 1}
        for family in ("three_stages", "direct", "scratch")
        for share, images in ((0.1, 120.0), (0.3, np.nan), (1.0, 1196.0))
    ]
    return pd.DataFrame(rows)


FIGURES = {
    "matrix": lambda **flag: plots.stage_matrix(*matrix_tables(), "mobilenetv2_035", **flag),
    "drift": lambda **flag: plots.stage_drift(drift_table(), sweep_table(), "darknet53", **flag),
    "drift alone": lambda **flag: plots.stage_drift(
        drift_table(), sweep_table()[:0], "resnet50", **flag
    ),
    "curves": lambda **flag: plots.learning_curves(curves_table(), **flag),
}


@pytest.mark.parametrize("make", FIGURES.values(), ids=FIGURES)
def test_a_figure_has_labelled_axes_and_the_stamp_of_phantoms(make):
    figure = make(phantom=True)
    assert all(axes.get_xlabel() for axes in figure.axes)
    assert PHANTOM_NOTE in [text.get_text() for text in figure.texts]
    assert PHANTOM_NOTE not in [text.get_text() for text in make().texts]


@pytest.mark.parametrize("make", FIGURES.values(), ids=FIGURES)
def test_nothing_is_cut_off(make):
    figure = make(phantom=True)
    figure.draw_without_rendering()
    texts = [text for axes in figure.axes for text in axes.texts] + figure.texts
    texts += [text for legend in figure.legends for text in legend.get_texts()]
    texts += [label for axes in figure.axes for label in (axes.xaxis.label, axes.yaxis.label)]
    for text in filter(lambda text: text.get_text(), texts):
        box = text.get_window_extent()
        inside = box.x0 >= 0 and box.y0 >= 0 and box.x1 <= figure.bbox.x1
        assert inside and box.y1 <= figure.bbox.y1, text.get_text()


def test_the_matrix_shows_what_several_stages_answer():
    axes = FIGURES["matrix"]().axes[0]
    findings = [label.get_text() for label in axes.get_yticklabels()]
    assert findings == ["Pneumonia", "Cardiomegaly", "Pneumonia"]


def test_a_matrix_of_one_stage_a_finding_shows_all_of_them():
    scores, changes = matrix_tables()
    alone = scores[scores["stage"] == SETS[2]]
    axes = plots.stage_matrix(alone, changes[:0], "resnet50").axes[0]
    assert len(axes.get_yticklabels()) == 4


def test_shares_are_written_as_percent_with_the_images():
    axes = FIGURES["curves"]().axes[0]
    assert [label.get_text() for label in axes.get_xticklabels()] == [
        "10 %\n120",
        "30 %",
        "100 %\n1,196",
    ]
    assert axes.get_xscale() == "log"


@pytest.mark.parametrize("name", ["drift", "curves"])
def test_an_arm_of_one_seed_among_others_is_hollow(name):
    figure = FIGURES[name]()
    told = [text.get_text() for text in figure.legends[0].get_texts()]
    assert "hollow: one seed" in told
    hollow = [line for line in figure.axes[-1].lines if line.get_markerfacecolor() == "white"]
    assert sum(len(line.get_xdata()) for line in hollow) == (1 if name == "drift" else 6)


def test_no_line_of_the_sweep_goes_over_depths_that_no_arm_freezes():
    curve = FIGURES["drift"]().axes[1].lines[0]
    assert np.isnan(curve.get_ydata()[[1, 2, 4]]).all() and list(curve.get_xdata()) == list(
        range(6)
    )


def test_empty_tables_are_refused():
    scores, changes = matrix_tables()
    for make in (
        lambda: plots.stage_matrix(scores[:0], changes[:0], "resnet50"),
        lambda: plots.stage_drift(drift_table()[:0], sweep_table(), "resnet50"),
        lambda: plots.learning_curves(curves_table()[:0]),
    ):
        with pytest.raises(ValueError, match="at least one"):
            make()
