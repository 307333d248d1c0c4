"""What can be known before training is known before training: one StudyError with every problem,
nothing started."""

import json
import os
import types
import warnings

import nbformat
import pytest
import safetensors.torch
import torch
import yaml
from made_datasets import write_smallest_dataset

from lib.config import Config
from lib.exceptions import CxrError, StudyError
from lib.studies.execute import run_notebook
from lib.studies.plan import plan_study
from lib.studies.preflight import check_runs
from lib.studies.runner import run_plan


@pytest.fixture
def plan(tmp_path):
    """rows -> the plan of a study of one notebook that ends its runs."""
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell("finish_run(run)")])
    nbformat.write(notebook, tmp_path / "n.ipynb")
    write_smallest_dataset(tmp_path / "dataset_full")

    def make(**rows: dict):
        reference = {"notebook": str(tmp_path / "n.ipynb"), "reference": True}
        runs = {
            "a": reference,
            **{name: {"changes": "a", "set": values} for name, values in rows.items()},
        }
        base = {"data_root": str(tmp_path), "backbone": "resnet10t", "pretrained": False}
        study = {"study": "tiny", "seeds": [0], "base": base, "runs": runs}
        (tmp_path / "study.yaml").write_text(yaml.safe_dump(study, sort_keys=False))
        return plan_study(tmp_path / "study.yaml", runs_dir=tmp_path / "runs")

    return make


def test_networks_that_cannot_be_built_are_refused_all_at_once_and_nothing_is_written(
    plan, tmp_path
):
    made = plan(
        unknown={"backbone": "resnet10tt"},
        deep={"freeze": 99},
        nowhere={"pretrained": "nowhere.safetensors"},
        device={"accelerator": "cuda"},
        fine={"epochs": 3},
    )
    with pytest.raises(StudyError) as error:
        run_plan(made)
    problems = str(error.value).splitlines()
    assert problems[0].endswith("study.yaml: nothing was started") and len(problems) == 5
    unknown = "run 'unknown-s0': backbone 'resnet10tt' is not known to timm; close names: resnet10t"
    assert problems[1].startswith(unknown)
    assert (
        problems[2]
        == "run 'deep-s0': freeze=99: this backbone has 5 stages; use a smaller number or 'backbone'"
    )
    assert problems[3].startswith("run 'nowhere-s0': pretrained: there is no file")
    assert problems[4].startswith("run 'device-s0': accelerator: cuda is not available")
    assert not (tmp_path / "runs" / "tiny").exists()


def test_weights_of_another_network_are_refused(plan, tmp_path):
    safetensors.torch.save_file({"odd.weight": torch.zeros(1)}, tmp_path / "odd.safetensors")
    made = plan(odd={"pretrained": str(tmp_path / "odd.safetensors")})
    with pytest.raises(StudyError, match="run 'odd-s0': the weights do not fit 'resnet10t'"):
        check_runs(made.file, made.runs.values())


def test_a_notebook_that_never_finishes_a_run_is_refused(plan, tmp_path):
    made = plan()
    nbformat.write(
        nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell("1 + 1")]), tmp_path / "n.ipynb"
    )
    with pytest.raises(StudyError, match=r"n.ipynb never calls finish_run"):
        check_runs(made.file, made.runs.values())


@pytest.mark.parametrize(
    ("name", "value"),
    [("lr", float("inf")), ("lr", float("nan")), ("image_size", 100_000), ("seed", 2**63)],
)
def test_impossible_numbers_are_refused_with_the_parameter(name, value):
    with pytest.raises(CxrError, match=f"parameter {name!r} is"):
        Config.from_namespace({name: value})


def test_a_seed_beyond_64_bits_is_refused_in_a_study(plan, tmp_path):
    plan()
    study = yaml.safe_load((tmp_path / "study.yaml").read_text()) | {"seeds": [2**64]}
    (tmp_path / "study.yaml").write_text(yaml.safe_dump(study))
    with pytest.raises(StudyError, match=r"from 0 to 2\*\*63 - 1"):
        plan_study(tmp_path / "study.yaml")


@pytest.mark.parametrize(
    ("name", "meant"),
    [("epoch", "epochs"), ("image_sizes", "image_size"), ("batchsize", "batch_size")],
)
def test_a_misspelt_parameter_of_a_notebook_is_mentioned(name, meant):
    with pytest.warns(
        UserWarning,
        match=f"^{name} = 3 is no parameter and changes nothing: did you mean {meant}\\?$",
    ):
        Config.from_namespace({name: 3})


def test_what_a_notebook_defines_beside_its_parameters_is_not_mentioned():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        Config.from_namespace(
            {"data": [], "model": None, "config": object(), "_i": "x", "run": 3, "frame": 1}
        )


def test_running_a_notebook_changes_no_environment_of_its_caller(tmp_path, monkeypatch):
    monkeypatch.setenv("MPLBACKEND", "agg")
    monkeypatch.setenv("IPYTHONDIR", "/mine")
    nbformat.write(
        nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell("1")]), tmp_path / "n.ipynb"
    )
    before = dict(os.environ)
    run_notebook(tmp_path / "n.ipynb", tmp_path / "out.ipynb", {})
    assert dict(os.environ) == before


def test_each_combination_of_model_parameters_is_built_once(plan, monkeypatch):
    asked = []

    def answer(command, *, input, **options):
        asked.extend(json.loads(input))
        return types.SimpleNamespace(
            returncode=0, stdout=json.dumps([None] * len(asked)), stderr=""
        )

    monkeypatch.setattr("lib.studies.preflight.subprocess.run", answer)
    made = plan(slow={"lr": 0.1}, quick={"epochs": 1}, linear={"head": "linear"})
    check_runs(made.file, made.runs.values())
    assert [values["head"] for values in asked] == ["mlp", "linear"]
