"""The project's own rules: dependencies in step, imports one way, notebooks that keep the skeleton."""

import ast
import re
import subprocess
import sys
import tomllib

import pandas as pd
import pytest
import yaml
from tracked import tracked

from lib.config import REPO_ROOT

PROJECT = tomllib.loads((REPO_ROOT / "pyproject.toml").read_text())["project"]
CORE_PACKAGES = {"jupyterlab", "torch", "torchvision", "timm", "matplotlib", "scikit-learn", "pandas", "papermill"}


def names(requirements: list[str]) -> set[str]:
    return {requirement.split(">=")[0].split("==")[0].strip().lower() for requirement in requirements}


def test_environment_yml_installs_what_pyproject_says():
    environment = yaml.safe_load((REPO_ROOT / "environment.yml").read_text())
    python, pip, rest = environment["dependencies"]
    assert python == "python" + PROJECT["requires-python"] and pip == "pip"
    assert rest["pip"] == ["-c constraints.txt", "-e .[dev]"] and "dev" in PROJECT["optional-dependencies"]
    assert names(PROJECT["dependencies"]) >= CORE_PACKAGES


def test_constraints_name_an_exact_version_of_every_dependency():
    lines = (REPO_ROOT / "constraints.txt").read_text().split()
    assert all(line.count("==") == 1 for line in lines)
    wanted = names(PROJECT["dependencies"] + PROJECT["optional-dependencies"]["dev"])
    assert wanted - names(lines) == set()


@pytest.mark.parametrize(
    "module", ["config", "metrics", "plots", "results", "studies", "cli", "verdicts", "calibration", "track"]
)
def test_modules_that_must_stay_light_import_no_torch(module):
    code = f"import sys, lib.{module}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=REPO_ROOT).returncode == 0


def test_the_library_imports_neither_tests_nor_benchmarks():
    for path in (REPO_ROOT / "lib").glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            assert not [name for name in names if name.split(".")[0] in ("tests", "benchmarks")], path


def test_every_file_that_the_readme_links_to_is_there():
    text = (REPO_ROOT / "README.md").read_text()
    links = [link for link in re.findall(r"\]\(([^)]+)\)", text) if "://" not in link]
    assert links and [link for link in links if not (REPO_ROOT / link).exists()] == []
    assert "PLACEHOLDER" not in text


def test_the_demo_of_record_lies_in_the_band_that_makes_phantoms_useful():
    table = pd.read_csv(REPO_ROOT / "results" / "demo" / "table.csv")
    assert table["phantom"].all()
    adaptive = table.loc[table["is_reference"], "auroc"]
    assert len(adaptive) == 2 and adaptive.between(0.75, 0.97).all()


def test_the_readme_shows_the_published_numbers_and_no_others():
    text = (REPO_ROOT / "README.md").read_text()
    summaries = tracked("results/*/summary.md")
    assert summaries and [path.parent.name for path in summaries if path.read_text().strip() not in text] == []
    assert text.count("| arm | changes | macro AUROC |") == len(summaries)
