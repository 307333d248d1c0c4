"""The notebook of compressed arms, on a study of a network and of the same with half its channels."""

import nbformat
import pandas as pd
import pytest
from made_stages import LAST, TINY, entry, make_run

from lib.compression.agreement import OTHER_SEEDS
from lib.config import REPO_ROOT, Config
from lib.files import write_json
from lib.studies.execute import run_notebook

pytestmark = pytest.mark.timeout(1200)  # files are exported, on a machine that may be busy


@pytest.fixture(scope="module")
def study(tmp_path_factory, tiny_phantoms):
    """The folder of a study whose models are not trained: `whole`, `half`, and `one` finding."""
    folder = tmp_path_factory.mktemp("runs") / "narrow"
    runs = {}
    changes = {"whole": {}, "half": {"prune": 0.5}, "one": {"findings": ("Cardiomegaly",)}}
    for seed, arm in ((0, "whole"), (1, "whole"), (0, "half"), (0, "one")):
        name = f"{arm}-s{seed}"
        values = {
            **TINY,
            **LAST,
            "image_size": 64,
            "data_root": str(tiny_phantoms),
            "seed": seed,
            **changes[arm],
        }
        config = Config(**values, run_dir=str(folder / name))
        make_run(config, moved=0.5)
        runs[name] = entry(config, arm, reference=arm == "whole")
    head = {"study": "narrow", "reference": "whole", "primary": "auroc", "seeds": [0, 1]}
    write_json(folder / "plan.json", {**head, "runs": runs})
    return folder


@pytest.fixture(scope="module")
def report(study, tmp_path_factory):
    out = tmp_path_factory.mktemp("report")
    parameters = {"study": str(study), "out": str(out)}
    run_notebook(REPO_ROOT / "notebooks/compressed_arms.ipynb", out / "arms.ipynb", parameters)
    return out


def test_half_of_the_channels_cost_about_a_quarter(report):
    costs = pd.read_csv(report / "costs.csv").set_index("model")
    whole, half = costs.loc["whole"], costs.loc["half"]
    assert half["parameters"] / whole["parameters"] == pytest.approx(0.25, abs=0.03)
    assert half["multiply_adds"] / whole["multiply_adds"] == pytest.approx(0.28, abs=0.06)
    assert half["megabytes"] < whole["megabytes"] / 2
    assert (costs["low"] < costs["value"])[["whole", "half"]].all() and costs["on_front"].any()


def test_the_agreement_is_with_the_reference_of_the_same_seed(report):
    table = pd.read_csv(report / "agreement.csv").set_index("arm")
    assert list(table.index) == [OTHER_SEEDS, "whole", "half", "one"]
    assert table.loc["whole", ["flags", "heat_maps"]].tolist() == [0, pytest.approx(1)]
    assert table.loc["half", "runs"] == 1 and 0 < table.loc["half", "flags"] < 1
    assert -1 < table.loc["half", "heat_maps"] < 0.999


def test_an_arm_of_other_findings_is_not_compared_with_the_reference(report):
    row = pd.read_csv(report / "agreement.csv").set_index("arm").loc["one"]
    alone = row.index.str.startswith("detection")
    assert row["runs"] == 0 and row[~alone].drop("runs").isna().all()
    assert (
        row["detection_low"] <= row["detection"] <= row["detection_high"] and row["detection"] > 0.8
    )


def test_the_notebook_shows_the_figure_and_leaves_the_files(report):
    cells = nbformat.read(report / "arms.ipynb", 4).cells
    shown = [one for cell in cells for one in cell.get("outputs", []) if "image/png" in str(one)]
    assert len(shown) == 1 and (report / "pareto.svg").exists()
    names = {path.name for path in (report / "exports").glob("*.onnx")}
    assert names == {"narrow-whole-s0.onnx", "narrow-half-s0.onnx", "narrow-one-s0.onnx"}
