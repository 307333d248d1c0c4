"""Measure an exported file again on the images of its run.

In: an exported file and these images. Out: its own thresholds, calibration and test scores. A
quantized network is a different network: what was fitted or measured on fp32 predictions does not
hold for it.
"""

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pandas as pd
from scipy.special import expit

from lib.compression.images import CalibrationImages
from lib.inference.session import run_file
from lib.metrics.bootstrap import bootstrap_interval
from lib.metrics.calibration import fit_calibration
from lib.metrics.scores import evaluate
from lib.metrics.thresholds import apply_thresholds, choose_thresholds


def remeasure(
    path: Path, films: CalibrationImages, card: dict[str, Any]
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Return the run's `card` with values fitted for the file at `path`, and its test metrics.

    These values are thresholds, operating points and calibration. They are fitted on the file's
    predictions for the validation images, as a run fits its own.
    """
    findings = card["findings"]
    val, test = (
        expit(run_file(path, images)["logits"].astype(float)) for images in (films.val, films.test)
    )
    chosen = choose_thresholds(films.val_targets, val, findings, films.prevalence)
    best_f1 = chosen[chosen["rule"] == "f1"]
    cuts = best_f1["threshold"].to_numpy()
    metrics = evaluate(
        films.test_targets, test, findings, cuts, list(best_f1["source"]), films.test_patients
    )
    metrics = metrics.merge(
        bootstrap_interval(films.test_targets, test, films.test_patients, findings, cuts)
    )
    points = apply_thresholds(chosen, films.test_targets, test, films.test_patients)
    calibration = fit_calibration(films.val_targets, val, films.val_patients, findings)
    measured = {
        "thresholds": cuts.tolist(),
        "operating_points": _records(points),
        "calibration": calibration.as_card(),
    }
    return card | measured, _records(metrics)


def set_calibration(path: Path, slope: list[float], intercept: list[float]) -> None:
    """Make the file compute probs = sigmoid(slope * logits + intercept), replacing its own."""
    model = onnx.load(path)
    graph = model.graph
    graph.node.remove(next(node for node in graph.node if "probs" in node.output))
    _remove_unused(graph)
    for name, values in (("own_slope", slope), ("own_intercept", intercept)):
        graph.initializer.append(onnx.numpy_helper.from_array(np.array(values, np.float32), name))
    graph.node.extend(
        [
            onnx.helper.make_node(
                "Mul", ["logits", "own_slope"], ["own_scaled"], name="own_scaled"
            ),
            onnx.helper.make_node(
                "Add", ["own_scaled", "own_intercept"], ["own_shifted"], name="own_shifted"
            ),
            onnx.helper.make_node("Sigmoid", ["own_shifted"], ["probs"], name="own_probs"),
        ]
    )
    onnx.checker.check_model(model, full_check=True)
    onnx.save(model, path)


def _remove_unused(graph: onnx.GraphProto) -> None:
    """Remove nodes whose outputs are never read, last first, so that one pass is enough."""
    wanted = {output.name for output in graph.output}
    for node in reversed(list(graph.node)):
        if wanted.isdisjoint(node.output):
            graph.node.remove(node)
        else:
            wanted.update(node.input)


def _records(table: pd.DataFrame) -> list[dict[str, Any]]:
    """Return the rows as dicts, with None for a missing number."""
    return table.astype(object).where(table.notna(), None).to_dict("records")
