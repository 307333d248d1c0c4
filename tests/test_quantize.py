"""int8: what is quantised and what is not, in which order ways are tried, and by what they are
judged."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from sklearn.metrics import roc_auc_score
from small_models import FINDINGS, SIZE, films, small_classifier

from lib.compression import quantize as quantizing
from lib.compression.graph import light_nodes, weighted_nodes
from lib.compression.quantize import (
    QuantizationJob,
    Trial,
    ValidationSet,
    best_trial,
    halves,
    judged,
    macro_auroc,
    quantize,
)
from lib.exceptions import ExportError
from lib.export.onnx_file import write_onnx
from lib.inference.session import run_file
from lib.models.heatmaps import ServingModule


def graph_of(*nodes: tuple, constants: tuple[str, ...]) -> onnx.ModelProto:
    """(op, name, inputs, output) -> a model; nothing runs it."""
    made = [helper.make_node(op, inputs, [output], name=name) for op, name, inputs, output in nodes]
    tensors = [helper.make_tensor(name, TensorProto.FLOAT, [1], [1.0]) for name in constants]
    given = helper.make_tensor_value_info("images", TensorProto.FLOAT, None)
    outputs = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, None)
        for name in ("embedding", "logits")
    ]
    return helper.make_model(helper.make_graph(made, "net", [given], outputs, tensors))


MOBILE = graph_of(
    ("Div", "grey", ["images", "c"], "x"),
    ("Conv", "stem", ["x", "w1"], "a"),
    ("Sigmoid", "silu gate", ["a"], "s"),
    ("Mul", "silu", ["a", "s"], "b"),
    ("ReduceMean", "squeeze", ["b"], "m"),
    ("Conv", "reduce", ["m", "w2"], "r"),
    ("Sigmoid", "inner gate", ["r"], "t"),
    ("Mul", "inner silu", ["r", "t"], "u"),
    ("Conv", "expand", ["u", "w3"], "e"),
    ("Sigmoid", "excite", ["e"], "g"),
    ("Mul", "gate", ["b", "g"], "h"),
    ("Conv", "project", ["h", "w4"], "p"),
    ("Add", "skip", ["p", "x"], "q"),
    ("Mul", "constant", ["q", "c"], "k"),
    ("ReduceMean", "pool", ["k"], "embedding"),
    ("Gemm", "head", ["embedding", "w5"], "logits"),
    ("MatMul", "maps", ["k", "w5"], "heat"),
    constants=("c", "w1", "w2", "w3", "w4", "w5"),
)


def test_convolutions_on_the_way_to_the_embedding_are_weighted_less_squeeze_excitation_head_and_maps():
    assert weighted_nodes(MOBILE) == ["stem", "project"]


def test_products_sums_and_sigmoids_of_activations_are_light():
    assert light_nodes(MOBILE) == ["silu gate", "silu", "gate", "skip"]


def test_in_a_transformer_only_products_with_weights_are_quantised():
    model = graph_of(
        ("LayerNormalization", "norm", ["images", "c"], "n"),
        ("MatMul", "queries", ["n", "w"], "q"),
        ("MatMul", "attention", ["q", "n"], "a"),
        ("Add", "residual", ["a", "images"], "embedding"),
        ("Gemm", "head", ["embedding", "w"], "logits"),
        constants=("c", "w"),
    )
    assert weighted_nodes(model) == ["queries"] and light_nodes(model) == []


def test_macro_auroc_is_the_mean_over_findings_with_both_classes():
    generator = np.random.default_rng(0)
    logits = generator.normal(size=(60, 4)) * 30
    targets = (generator.random((60, 4)) < 0.3).astype(float)
    targets[:, 2], targets[:10, 0] = 0, np.nan
    known = ~np.isnan(targets[:, 0])
    wanted = [roc_auc_score(targets[known, 0], logits[known, 0])]
    wanted += [roc_auc_score(targets[:, j], logits[:, j]) for j in (1, 3)]
    assert macro_auroc(targets, logits) == pytest.approx(np.mean(wanted))
    assert np.isnan(macro_auroc(np.zeros((5, 2)), np.zeros((5, 2))))


@pytest.fixture(scope="module")
def plain(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("plain") / "fp32.onnx"
    write_onnx(
        ServingModule(small_classifier("thin", "mlp"), [1.0] * FINDINGS, [0.0] * FINDINGS, SIZE),
        path,
    )
    return path


def int8_convolutions(path: Path) -> int:
    kinds = {tensor.name: tensor.data_type for tensor in onnx.load(path).graph.initializer}
    return sum(
        kind == TensorProto.INT8 and name.endswith("_quantized") for name, kind in kinds.items()
    )


@pytest.fixture
def bench(plain, tmp_path) -> QuantizationJob:
    """Labels are what fp32 answers, less the middle half: its AUROC is 1, and no film is hard to
    tell."""
    images = films(48, seed=3).numpy()
    answers = run_file(plain, images)
    low, high = np.quantile(answers["logits"], (0.25, 0.75), axis=0)
    targets = np.where(
        answers["logits"] > high, 1.0, np.where(answers["logits"] < low, 0.0, np.nan)
    )
    return QuantizationJob(
        plain,
        films(16, seed=4).numpy(),
        ValidationSet(images, targets, answers, np.full(FINDINGS, 0.5)),
        tmp_path,
    )


def test_the_first_way_that_is_good_enough_ends_the_search(bench):
    said = []
    trials = quantize(bench, said.append)
    assert bench.judge.auroc == 1.0
    assert len(trials) == len(said) == 1 and trials[0].fine
    assert 0 < trials[0].prob_mean < trials[0].prob_max < 0.1


def test_weights_take_7_bits_with_a_scale_a_channel_and_the_head_stays_in_floating_point(bench):
    model = onnx.load(quantize(bench, lambda line: None)[0].path)
    tensors = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    weights = [
        name for name, values in tensors.items() if values.dtype == np.int8 and values.ndim == 4
    ]
    assert len(weights) == len(weighted_nodes(bench.model)) > 10
    makers = {
        node.input[0]: node for node in model.graph.node if node.op_type == "DequantizeLinear"
    }
    for name in weights:
        assert np.abs(tensors[name].astype(int)).max() <= 64
        assert tensors[makers[name].input[1]].shape == (len(tensors[name]),)
    heads = [node for node in model.graph.node if node.op_type == "Gemm"]
    assert len(heads) == 3 and all(tensors[node.input[1]].dtype == np.float32 for node in heads)


def test_when_nothing_is_good_enough_all_ways_are_tried_in_order(bench, monkeypatch):
    monkeypatch.setattr(quantizing, "PROB_LIMIT", 1e-9)
    trials = quantize(bench, lambda line: None)
    assert [trial.calibration for trial in trials[:4]] == [
        "minmax",
        "minmax",
        "percentile",
        "entropy",
    ]
    assert [trial.what for trial in trials] == [
        "layers and activations",
        *["layers"] * 3,
        "layers, first and last in fp32",
        "layers, most sensitive quarter in fp32",
        "layers, most sensitive half in fp32",
    ]
    least = min(trial.prob_mean for trial in trials)
    assert best_trial(trials).prob_mean == least
    left = [int8_convolutions(trial.path) for trial in trials]
    assert left[0] == left[1] == left[4] + 2 and left[1] > left[5] > left[6] > 0


def test_the_part_that_suffers_most_is_the_one_that_comes_first(bench):
    heavy = weighted_nodes(bench.model)
    order = quantizing._by_harm(bench, "minmax", heavy)
    assert sorted(name for part in order for name in part) == sorted(heavy)
    harm = []
    for part in (order[0], order[-1]):
        quantizing._write_int8(bench, bench.folder / "one.onnx", "minmax", part)
        answers = run_file(bench.folder / "one.onnx", bench.films)["logits"]
        harm.append(np.square(answers - run_file(bench.plain, bench.films)["logits"]).mean())
    assert harm[0] > harm[1] > 0


def test_of_several_the_first_good_one_is_shipped_else_the_least_bad():
    def trial(name: str, drop: float) -> Trial:
        return Trial(name, "", Path(), 0.0, drop, 0.0, 0.0)

    fine, better, bad, worse = (
        trial("a", 0.004),
        trial("b", -0.001),
        trial("c", 0.006),
        trial("d", 0.02),
    )
    assert best_trial([worse, fine, better]) is fine and best_trial([worse, bad]) is bad


@pytest.mark.parametrize(
    ("drop", "mean", "flags"), [(-0.0051, 0, 0), (0.0051, 0, 0), (0, 0.021, 0), (0, 0, 0.021)]
)
def test_a_change_over_any_limit_is_not_fine(drop, mean, flags):
    assert not Trial("minmax", "layers", Path(), 0.8, drop, 0.1, mean, flags).fine


def test_a_change_under_every_limit_is_fine():
    assert Trial("minmax", "layers", Path(), 0.8, -0.004, 0.4, 0.01, 0.01).fine


def test_the_halves_share_no_patient_and_are_of_one_size():
    patients = np.array([f"p{i // 3}" for i in range(60)])
    half = halves(patients)
    assert half.sum() == 30 and not set(patients[half]) & set(patients[~half])


def test_positives_count_only_where_there_are_negatives(bench):
    targets = np.array([[1, 1, np.nan], [1, 0, 0], [1, 1, 0], [1, np.nan, 0]])
    assert ValidationSet(bench.judge.images[:4], targets, {}, np.full(3, 0.5)).positives == 2


def test_changed_flags_are_counted_at_the_thresholds(bench):
    answers = {name: values.copy() for name, values in bench.judge.answers.items()}
    answers["probs"][:12] = (
        1 - answers["probs"][:12]
    )  # every one of a quarter goes to the other side of one half
    trial = judged(replace(bench.judge, answers=answers), "none", "nothing", bench.plain)
    assert trial.flags == 0.25


def test_too_few_films_to_calibrate_on_are_refused(bench):
    with pytest.raises(
        ExportError, match="3 training images are too few to calibrate int8: 4 are needed"
    ):
        quantize(
            QuantizationJob(bench.plain, bench.films[:3], bench.judge, bench.folder),
            lambda line: None,
        )
