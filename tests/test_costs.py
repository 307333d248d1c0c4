"""What exported files cost: multiply-adds by hand, medians with intervals, the Pareto front."""

import math

import numpy as np
import onnx
import pandas as pd
import pytest
from onnx import TensorProto, helper, numpy_helper
from scipy.stats import binom
from tiny_model import SIZE, write_tiny_model

from lib.compression.costs import export_costs, median_interval, network_size, pareto
from lib.inference.session import THREADS
from lib.plots.pareto import quality_against_cost


def write_network(path, depthwise: bool = False):
    """A 3 x 3 convolution of 3 to 6 channels on 8 x 8 places, then 6 x 64 to 5 by a product."""
    groups = 3 if depthwise else 1
    kernel = np.zeros((6, 3 // groups, 3, 3), np.float32)
    nodes = [
        helper.make_node("Conv", ["images", "kernel"], ["maps"], pads=[1] * 4, group=groups),
        helper.make_node("Flatten", ["maps"], ["flat"]),
        helper.make_node("Gemm", ["flat", "matrix", "bias"], ["logits"]),
    ]
    constants = {"kernel": kernel, "matrix": np.zeros((384, 5), np.float32)}
    constants |= {"bias": np.zeros(5, np.float32), "unused": np.zeros(7, np.int64)}
    graph = helper.make_graph(
        nodes,
        "net",
        [helper.make_tensor_value_info("images", TensorProto.FLOAT, ["B", 3, 8, 8])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["B", 5])],
        [numpy_helper.from_array(values, name) for name, values in constants.items()],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)]), path)
    return path


def test_multiply_adds_and_parameters_by_hand(tmp_path):
    adds, parameters = network_size(write_network(tmp_path / "net.onnx"))
    assert adds == 6 * 64 * (3 * 9) + 384 * 5
    assert parameters == 6 * 3 * 9 + 384 * 5 + 5


def test_a_grouped_convolution_multiplies_within_its_group(tmp_path):
    adds, _ = network_size(write_network(tmp_path / "net.onnx", depthwise=True))
    assert adds == 6 * 64 * 9 + 384 * 5


def test_a_shape_that_is_not_known_makes_the_multiply_adds_unknown(tmp_path):
    model = onnx.load(write_network(tmp_path / "net.onnx"))
    model.graph.input[0].type.tensor_type.shape.dim[2].dim_param = "height"
    onnx.save(model, tmp_path / "open.onnx")
    assert math.isnan(network_size(tmp_path / "open.onnx")[0])


def test_the_costs_of_two_files_stand_side_by_side_with_an_interval(tmp_path):
    files = {name: write_tiny_model(tmp_path / f"{name}.onnx") for name in ("one", "two")}
    table = export_costs(files, rounds=10).set_index("model")
    assert list(table.index) == ["one", "two"] and (table["threads"] == THREADS).all()
    assert (table["ms_low"] <= table["milliseconds"]).all() and SIZE == 32
    assert (table["milliseconds"] <= table["ms_high"]).all() and (table["memory_mb"] > 1).all()
    assert table.loc["one", "megabytes"] == files["one"].stat().st_size / 2**20


@pytest.mark.parametrize("count", [6, 10, 30])
def test_the_interval_of_a_median_covers_it_as_the_binomial_says(count):
    low, high = median_interval(np.arange(1.0, count + 1))
    # rank k from either end leaves out fewer than k values below, or above, the median
    assert low + high == count + 1
    assert 2 * binom.cdf(low - 1, count, 0.5) <= 0.05 < 2 * binom.cdf(low, count, 0.5)


def test_five_values_have_no_95_percent_interval_of_the_median():
    assert all(map(math.isnan, median_interval(np.arange(5.0))))


def test_only_what_nothing_beats_in_both_is_on_the_front():
    table = pd.DataFrame(
        {"milliseconds": [1.0, 2.0, 3.0, 3.0, np.nan], "auroc": [0.6, 0.7, 0.65, 0.7, 0.9]}
    )
    assert pareto(table).tolist() == [True, True, False, False, False]


def test_two_that_are_equal_are_both_on_the_front():
    table = pd.DataFrame({"milliseconds": [1.0, 1.0], "auroc": [0.6, 0.6]})
    assert pareto(table).tolist() == [True, True]


def frame() -> pd.DataFrame:
    names = ["tiny", "teacher", "pruned_50"]
    table = pd.DataFrame(
        {"model": names, "value": [0.6, 0.75, 0.73], "megabytes": [np.nan, 2.0, 1.0]}
    )
    return table.assign(low=table["value"] - 0.02, high=table["value"] + 0.02, milliseconds=2.0)


FRONTS = dict.fromkeys(["milliseconds", "megabytes"], np.array([False, True, False]))


def test_the_figure_has_a_panel_per_cost_with_the_intervals_and_numbers_by_score():
    figure = quality_against_cost(frame(), FRONTS)
    first, second, key = figure.axes
    ends = [line.get_ydata().tolist() for line in first.lines if len(line.get_xdata()) == 2]
    assert [pytest.approx(0.73), pytest.approx(0.77)] in ends
    assert "ms" in first.get_xlabel() and "MiB" in second.get_xlabel()
    assert "AUROC" in first.get_ylabel() and first.get_ylim() == second.get_ylim()
    text = key.texts[0].get_text()
    assert text.index("1  teacher") < text.index("2  pruned_50") < text.index("measured: tiny")


def test_markers_that_would_cover_one_another_stand_side_by_side():
    table = frame().iloc[1:].assign(value=0.7)
    first = quality_against_cost(table, {"milliseconds": np.array([True, True])}).axes[0]
    (a,), (b,) = (points.get_offsets().tolist() for points in first.collections)
    assert a[0] == 2.0 and b[0] > a[0] and a[1] == b[1] == 0.7


def test_a_figure_of_nothing_measured_is_refused():
    with pytest.raises(ValueError, match="needs a model with both"):
        quality_against_cost(frame().iloc[:1], {"megabytes": np.array([True])})


def test_an_unknown_cost_is_refused():
    with pytest.raises(ValueError, match=r"costs can be milliseconds, .*; got watts"):
        quality_against_cost(frame(), {"watts": np.array([True] * 3)})
