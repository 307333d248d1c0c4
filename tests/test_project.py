"""The project's own rules: dependencies in step, imports one way, notebooks that keep the skeleton."""

import subprocess
import sys
import tomllib

import pytest
import yaml

from lib.config import REPO_ROOT

PROJECT = tomllib.loads((REPO_ROOT / "pyproject.toml").read_text())["project"]
OWNERS_PACKAGES = {"jupyterlab", "torch", "torchvision", "timm", "matplotlib", "scikit-learn", "pandas", "papermill"}


def names(requirements: list[str]) -> set[str]:
    return {requirement.split(">=")[0].split("==")[0].strip().lower() for requirement in requirements}


def test_environment_yml_installs_what_pyproject_says():
    environment = yaml.safe_load((REPO_ROOT / "environment.yml").read_text())
    python, pip, rest = environment["dependencies"]
    assert python == "python" + PROJECT["requires-python"] and pip == "pip"
    assert rest["pip"] == ["-c constraints.txt", "-e .[dev]"] and "dev" in PROJECT["optional-dependencies"]
    assert names(PROJECT["dependencies"]) >= OWNERS_PACKAGES


def test_constraints_name_an_exact_version_of_every_dependency_and_nothing_else():
    lines = (REPO_ROOT / "constraints.txt").read_text().split()
    assert all(line.count("==") == 1 for line in lines)
    wanted = names(PROJECT["dependencies"] + PROJECT["optional-dependencies"]["dev"])
    assert wanted - names(lines) == set()


@pytest.mark.parametrize("module", ["config", "metrics", "plots", "results", "studies", "cli"])
def test_modules_that_must_stay_light_import_no_torch(module):
    code = f"import sys, lib.{module}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=REPO_ROOT).returncode == 0
