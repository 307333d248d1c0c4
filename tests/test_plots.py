import itertools
import warnings

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.text import Text

from lib import plots
from lib.config import FINDINGS
from lib.metrics import error_analysis as errors
from lib.metrics import scores as metrics
from lib.metrics.error_analysis import box_scores, pointing_table
from lib.plots.style import FAMILIES, PHANTOM_NOTE, wrap

NAMES = ["Effusion", "Mass", "Hernia"]


def make_runs(arms=("adaptive", "direct"), seeds=2, intervals=True):
    rows = []
    for (i, arm), seed in itertools.product(enumerate(arms), range(seeds)):
        row = {"arm": arm, "seed": seed, "backbone": "resnet50.a1_in1k", "is_reference": i == 0}
        row |= {
            "auroc": 0.8 - 0.01 * i + 0.002 * seed,
            "average_precision": 0.3 - 0.01 * seed,
            "f1": 0.25,
        }
        if intervals:
            row |= {
                f"{m}_{end}": row[m] + d
                for m in ("auroc", "f1")
                for end, d in (("low", -0.01), ("high", 0.02))
            }
        rows.append(row)
    return pd.DataFrame(rows)


@pytest.fixture
def scored():
    """targets (60, 3), with NaN and a finding of one class, and probs (60, 3)."""
    rng = np.random.default_rng(0)
    targets = (rng.random((60, 3)) < (0.4, 0.2, 0)).astype(float)
    targets[:9, 0] = np.nan
    return targets, rng.random((60, 3))


@pytest.fixture
def frame(scored):
    return pd.DataFrame(scored[0], columns=NAMES)


@pytest.fixture
def history():
    columns = ["train_loss", "val_loss", "val_auroc", "val_average_precision", "lr", "seconds"]
    return pd.DataFrame({"epoch": [1, 2, 3], **{name: [0.3, np.nan, 0.1] for name in columns}})


@pytest.fixture
def figures(scored, frame, history):
    """Every figure, as a function of the flag `phantom`."""
    matrix = pd.DataFrame(
        [[0.5, np.nan], [0.7, 0.9]], index=["Mass", "macro"], columns=["a-s0", "b-s0"]
    )
    return {
        "label_counts": lambda **flag: plots.label_counts(frame, NAMES, **flag),
        "cooccurrence": lambda **flag: plots.cooccurrence(frame, NAMES, **flag),
        "image_grid": lambda **flag: plots.image_grid(np.zeros((3, 8, 8), np.uint8), NAMES, **flag),
        "training_curves": lambda **flag: plots.training_curves(
            {"a": history, "b": history[:1]}, **flag
        ),
        "roc_curves": lambda **flag: plots.roc_curves(*scored, NAMES, **flag),
        "precision_recall_curves": lambda **flag: plots.precision_recall_curves(
            *scored, NAMES, **flag
        ),
        "accuracy": lambda **flag: plots.accuracy_vs_all_negative(
            metrics.evaluate(*scored, NAMES), **flag
        ),
        "findings_by_runs": lambda **flag: plots.findings_by_runs(matrix, **flag),
        "ablation": lambda **flag: plots.ablation(
            make_runs(), chance_average_precision=0.1, **flag
        ),
        "column": lambda **flag: plots.ablation(make_runs(), column=True, **flag),
    } | compared_figures(scored)


def compared_figures(scored):
    """The figures that compare arms, groups, errors and heat maps."""
    changes = pd.DataFrame(
        {
            "arm": "direct",
            "metric": "auroc",
            "finding": ["Mass", "macro"],
            "difference": [0.1, -0.1],
        }
    )
    changes = changes.assign(low=-0.2, high=0.2, p_holm=[0.01, np.nan])
    scores = pd.DataFrame(
        {"arm": ["adaptive", "direct"], "metric": "auroc", "finding": "macro", "value": [0.8, 0.7]}
    )
    scores = scores.assign(low=0.6, high=0.9)
    runs = make_runs().assign(parameters=[1e6, 1e6, 5e7, 5e7], train_seconds=3.0)
    groups = pd.DataFrame(
        {"attribute": ["all", "sex"], "group": ["all", "F"], "value": [0.7, np.nan], "small": True}
    )
    groups = groups.assign(low=[0.6, np.nan], high=[0.8, np.nan], patients=9, findings=1)
    overlap = errors.error_overlap(*scored, None, NAMES)
    maps = np.random.default_rng(0).random((3, 4, 4))
    boxes = np.array([[0.2, 0.2, 0.5, 0.5]] * 3)
    pointing = box_scores(maps, boxes).assign(finding=NAMES, patient=["a", "b", "c"])
    films = np.zeros((3, 8, 8), np.uint8)
    return {
        "finding_differences": lambda **flag: plots.finding_differences(
            changes, "auroc", "AUROC", NAMES, **flag
        ),
        "cost_quality": lambda **flag: plots.cost_quality(runs, scores, **flag),
        "subgroup_scores": lambda **flag: plots.subgroup_scores(groups, **flag),
        "error_overlap": lambda **flag: plots.error_overlap(overlap, **flag),
        "pointing_scores": lambda **flag: plots.pointing_scores(
            pointing_table(pointing, NAMES), **flag
        ),
        "heat_grid": lambda **flag: plots.heat_grid(films, maps, boxes, NAMES, **flag),
    }


def texts(figure: Figure) -> list[str]:
    figure.draw_without_rendering()
    return [text.get_text() for text in figure.findobj(Text) if text.get_text()]


def test_every_figure_can_be_drawn_without_a_warning(figures):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for make in figures.values():
            make().draw_without_rendering()


def test_no_figure_stays_open(figures):
    assert all(isinstance(make(), Figure) for make in figures.values()) and plt.get_fignums() == []


def test_phantoms_are_stamped_on_every_figure(figures):
    for name, make in figures.items():
        stamped, plain = (
            [text.get_text() for text in make(phantom=flag).texts] for flag in (True, False)
        )
        assert PHANTOM_NOTE in stamped and PHANTOM_NOTE not in plain, name


def test_the_stamp_lies_inside_the_figure_and_on_no_axes(figures):
    for name, make in figures.items():
        figure = make(phantom=True)
        figure.draw_without_rendering()
        (stamp,) = (text for text in figure.texts if text.get_text() == PHANTOM_NOTE)
        box = stamp.get_window_extent().padded(3)
        assert box.x0 >= 0 and box.x1 <= figure.bbox.x1 and box.y1 <= figure.bbox.y1, name
        assert not any(
            box.overlaps(axes.get_tightbbox()) for axes in figure.axes if axes.get_tightbbox()
        ), name


def test_every_data_figure_has_labelled_axes(figures):
    for name in figures.keys() - {
        "image_grid",
        "heat_grid",
        "roc_curves",
        "precision_recall_curves",
    }:
        assert any(axes.get_xlabel() for axes in figures[name]().axes), name
    assert figures["roc_curves"]().get_supxlabel() == "1 - specificity"
    assert figures["precision_recall_curves"]().get_supylabel() == "precision"


def test_label_counts_gives_the_share_of_annotated_images():
    frame = pd.DataFrame({"Mass": [1, 0, np.nan, np.nan], "Hernia": [np.nan] * 4})
    assert {"1  (50.0 %)", "0  (not annotated)"} <= set(
        texts(plots.label_counts(frame, ["Mass", "Hernia"]))
    )


def test_no_finding_is_fourteen_zeros():
    frame = pd.DataFrame(0.0, index=range(3), columns=list(FINDINGS))
    frame.iloc[0, 0], frame.iloc[1, 1] = 1, np.nan
    figure = plots.label_counts(frame)
    assert "1  (50.0 %)" in texts(figure) and "No Finding" in texts(figure)


def test_cooccurrence_is_a_percentage_of_the_row():
    frame = pd.DataFrame({"Mass": [1, 1, 1, 1, 0], "Hernia": [1, 0, 0, np.nan, 0]})
    shown = texts(plots.cooccurrence(frame, ["Mass", "Hernia"]))
    assert {"n=4", "33", "n=1", "100"} <= set(shown)


@pytest.mark.parametrize(
    "images", [np.zeros((0, 8, 8), np.uint8), np.zeros((2, 8, 8)), np.zeros((8, 8), np.uint8)]
)
def test_image_grid_refuses_what_is_no_stack_of_grey_images(images):
    with pytest.raises(ValueError, match=r"\(N, S, S\) uint8"):
        plots.image_grid(images)


def test_image_grid_needs_a_title_for_each_image():
    with pytest.raises(ValueError, match="2 images need as many titles"):
        plots.image_grid(np.zeros((2, 8, 8), np.uint8), ["one"])


def test_roc_panels_say_the_auroc(scored):
    assert f"AUROC {metrics.auroc(scored[0][:, 0], scored[1][:, 0]):.3f}" in texts(
        plots.roc_curves(*scored, NAMES)
    )


def test_a_finding_of_one_class_says_so_instead_of_a_curve(scored):
    figure = plots.precision_recall_curves(*scored, NAMES)
    assert "AP: one class only" in texts(figure) and not figure.axes[2].lines


def test_area_under_the_drawn_precision_recall_steps_is_the_average_precision(scored):
    _, line = plots.precision_recall_curves(*scored, NAMES).axes[0].lines
    recall, precision = line.get_data()
    expected = metrics.average_precision(scored[0][:, 0], scored[1][:, 0])
    assert line.get_drawstyle() == "steps-pre"
    assert (np.diff(recall) * precision[1:]).sum() == pytest.approx(expected)


def test_ablation_shows_every_seed_as_a_dot():
    figure = plots.ablation(make_runs(seeds=3))
    dots = [
        c for c in figure.axes[0].collections if len(c.get_offsets()) == 3 and len(c.get_sizes())
    ]
    assert [offset[0] for c in dots for offset in c.get_offsets()] == pytest.approx(
        [0.8, 0.802, 0.804, 0.79, 0.792, 0.794]
    )


def test_ablation_says_which_arms_have_fewer_seeds_and_which_metric_has_the_stars():
    runs = pd.concat([make_runs(seeds=3), make_runs(["mlp"], seeds=1).assign(is_reference=False)])
    both = {"arm": "mlp", "finding": "macro"}
    changes = pd.DataFrame(
        [{**both, "metric": "auroc", "p_holm": 0.5}, {**both, "metric": "f1", "p_holm": np.nan}]
    )
    figure = plots.ablation(runs, changes=changes)
    labels = [label.get_text() for label in figure.axes[0].get_yticklabels()]
    assert labels == ["adaptive", "direct", "mlp (1 seed)"]
    told = [text.get_text() for text in figure.legends[0].get_texts()]
    assert "AUROC differs from the reference, p < 0.05 (Holm)" in told


def test_many_arms_of_the_differences_go_on_in_a_panel_below():
    row = {"metric": "auroc", "finding": "macro", "difference": 0.1, "low": 0.0, "high": 0.2}
    changes = pd.DataFrame([{**row, "arm": f"arm_{i}", "p_holm": 1.0} for i in range(25)])
    figure = plots.finding_differences(changes, "auroc", "AUROC", FINDINGS)
    labels = [[text.get_text() for text in axes.get_xticklabels()] for axes in figure.axes[:3]]
    assert [len(names) for names in labels] == [9, 9, 7]
    assert [arm for names in labels for arm in names] == [f"arm_{i}" for i in range(25)]


def test_ablation_marks_the_mean_of_the_reference():
    (line,) = (
        line for line in plots.ablation(make_runs()).axes[0].lines if line.get_linestyle() == "--"
    )
    assert line.get_xdata()[0] == pytest.approx(0.801)


def test_ablation_marks_a_floor_near_the_values_as_a_line_and_a_far_one_as_an_arrow():
    runs = make_runs().assign(f1=[0.0, 0.02, 0.01, 0.03]).drop(columns=["f1_low", "f1_high"])
    figure = plots.ablation(runs, chance_average_precision=0.123)
    assert {"← chance 0.5", "← chance 0.123", "all-negative 0"} <= set(texts(figure))


@pytest.mark.parametrize(
    ("arms", "seeds"), [(["only"], 1), ([f"arm_with_quite_a_long_name_{i}" for i in range(12)], 3)]
)
def test_ablation_draws_one_run_or_many(arms, seeds):
    figure = plots.ablation(make_runs(arms, seeds, intervals=False), phantom=True)
    figure.draw_without_rendering()
    assert [
        label.replace("\n", "")
        for label in (t.get_text() for t in figure.axes[0].get_yticklabels())
    ] == arms


@pytest.mark.parametrize("arms", [5, 13])
def test_a_column_of_a_paper_holds_the_whole_figure_in_letters_that_can_be_read(arms):
    runs = make_runs(
        [f"arm_of_some_length_{i}" if i % 4 == 3 else f"arm_{i}" for i in range(arms)], seeds=3
    )
    changes = pd.DataFrame({"arm": ["arm_1"], "metric": "f1", "finding": "macro", "p_holm": 0.01})
    page, column = (
        plots.ablation(runs, changes=changes, phantom=True, column=kind) for kind in (False, True)
    )
    told = [
        {text.replace("\n", "").replace(" ", "") for text in texts(figure)}
        for figure in (page, column)
    ]
    assert told[0] == told[1] and column.get_size_inches()[0] == 3.5
    shown = [text for text in column.findobj(Text) if text.get_text() and text.get_visible()]
    assert min(text.get_fontsize() for text in shown) >= 7
    boxes = [text.get_window_extent() for text in shown]
    assert not [a for a, b in itertools.combinations(boxes, 2) if a.overlaps(b)]
    assert column.get_tightbbox().x0 >= 0 and column.get_tightbbox().x1 <= 3.5


def test_an_arm_without_a_value_says_so():
    runs = make_runs()
    runs.loc[runs["arm"] == "direct", "auroc"] = np.nan
    assert texts(plots.ablation(runs)).count("no value") == 1


def test_ablation_without_any_value_can_be_drawn():
    plots.ablation(
        make_runs(intervals=False).assign(auroc=np.nan, f1=np.nan)
    ).draw_without_rendering()


def test_ablation_of_no_run_is_refused():
    with pytest.raises(ValueError, match="at least one run"):
        plots.ablation(make_runs().iloc[:0])


def test_figures_leave_the_frame_alone():
    runs = make_runs()
    before = runs.copy()
    plots.ablation(runs)
    pd.testing.assert_frame_equal(runs, before)


def test_a_backbone_has_one_colour_whatever_its_weights():
    assert plots.backbone_colour("resnet50") == plots.backbone_colour("resnet50.a1_in1k")


def test_an_unknown_backbone_has_a_lasting_colour():
    assert plots.backbone_colour("some_net") == plots.backbone_colour("some_net.v2") == "#CC6677"


@pytest.mark.parametrize(
    "sight",
    [
        np.eye(3),
        [
            [0.367322, 0.860646, -0.227968],
            [0.280085, 0.672501, 0.047413],
            [-0.011820, 0.042940, 0.968881],
        ],
        [
            [0.152286, 1.052583, -0.204868],
            [0.114503, 0.786281, 0.099216],
            [-0.003882, -0.048116, 1.051998],
        ],
    ],
    ids=["normal", "deuteranopia", "protanopia"],
)
def test_colours_of_known_backbones_can_be_distinguished(sight):
    # Machado, Oliveira and Fernandes 2009, severity 1; a CIE 1976 difference of about 2 is just
    # noticeable
    seen = [_lab(np.clip(np.asarray(sight) @ _linear(colour), 0, 1)) for _, colour in FAMILIES]
    assert min(np.linalg.norm(a - b) for a, b in itertools.combinations(seen, 2)) > 15


def _linear(colour):
    rgb = np.array(to_rgb(colour))
    return np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)


def _lab(linear):
    to_xyz = np.array(
        [[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]]
    )
    x, y, z = (value if value < 0 else np.cbrt(value) if value > 0.008856 else 7.787 * value + 16 / 116
               for value in to_xyz @ linear / (0.9505, 1, 1.089))  # fmt: skip
    return np.array([116 * y - 16, 500 * (x - y), 200 * (y - z)])


def test_wrapping_keeps_every_letter_and_breaks_at_underscores():
    assert wrap("pneumonia_then_cardiomegaly", 16) == "pneumonia_then_\ncardiomegaly"


@pytest.mark.parametrize("name", ["x" * 100, "a_" * 50, "long names with blanks - and_so-on " * 4])
def test_wrapped_lines_are_never_too_long(name):
    lines = wrap(name, 20).split("\n")
    assert max(map(len, lines)) <= 20 and "".join(lines).replace(" ", "") == name.replace(" ", "")


def test_wrapping_keeps_line_breaks():
    assert wrap("00000001_000.png\nNo Finding", 40) == "00000001_000.png\nNo Finding"


@pytest.mark.parametrize("count", [1, 3, 14])
def test_image_titles_lie_inside_the_figure(count):
    figure = plots.image_grid(
        np.zeros((count, 8, 8), np.uint8),
        ["00000001_000.png\nEffusion, Pleural_Thickening"] * count,
    )
    figure.draw_without_rendering()
    assert all(axes.title.get_window_extent().y1 <= figure.bbox.y1 for axes in figure.axes)


def test_differences_without_an_arm_to_compare_are_refused():
    none = pd.DataFrame(columns=["arm", "metric", "finding", "difference", "low", "high", "p_holm"])
    with pytest.raises(ValueError, match="at least one arm beside the reference"):
        plots.finding_differences(none, "auroc", "AUROC", FINDINGS)
