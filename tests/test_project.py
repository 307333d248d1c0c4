"""The project's own rules: dependencies in step, imports one way, notebooks that keep the
skeleton."""

import ast
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml
from tracked import tracked

from lib.config import REPO_ROOT

PROJECT = tomllib.loads((REPO_ROOT / "pyproject.toml").read_text())["project"]
CORE_PACKAGES = {
    "jupyterlab",
    "torch",
    "torchvision",
    "timm",
    "matplotlib",
    "scikit-learn",
    "pandas",
    "papermill",
}


def names(requirements: list[str]) -> set[str]:
    return {
        requirement.split(">=")[0].split("==")[0].strip().lower() for requirement in requirements
    }


def test_environment_yml_installs_what_pyproject_says():
    environment = yaml.safe_load((REPO_ROOT / "environment.yml").read_text())
    python, pip, rest = environment["dependencies"]
    assert python == "python" + PROJECT["requires-python"] and pip == "pip"
    assert (
        rest["pip"] == ["-c constraints.txt", "-e .[dev]"]
        and "dev" in PROJECT["optional-dependencies"]
    )
    assert names(PROJECT["dependencies"]) >= CORE_PACKAGES


def test_constraints_name_an_exact_version_of_every_dependency():
    lines = (REPO_ROOT / "constraints.txt").read_text().split()
    assert all(line.count("==") == 1 for line in lines)
    wanted = names(PROJECT["dependencies"] + PROJECT["optional-dependencies"]["dev"])
    assert wanted - names(lines) == set()


@pytest.mark.parametrize(
    "module",
    [
        "config",
        "datasets",
        "metrics",
        "plots",
        "runs",
        "comparison",
        "robustness",
        "studies",
        "inference",
        "examination",
        "phantoms",
        "cli",
    ],
)
def test_modules_that_must_stay_light_import_no_torch(module):
    code = f"import sys, lib.{module}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=REPO_ROOT).returncode == 0


@pytest.mark.parametrize(
    ("module", "heavy"),
    [
        ("datasets", {"torch", "matplotlib", "scipy", "sklearn"}),
        ("studies", {"torch", "matplotlib", "scipy.stats", "sklearn"}),
        ("external", {"torch", "matplotlib", "onnxruntime"}),
    ],
)
def test_what_reads_a_frame_or_a_status_imports_nothing_heavy(module, heavy):
    code = f"import sys, lib.{module}; print(*(set(sys.modules) & {heavy}))"
    found = subprocess.run(
        [sys.executable, "-c", code], cwd=REPO_ROOT, capture_output=True, text=True, check=True
    )
    assert found.stdout.split() == []


def sources(folder: Path) -> list[Path]:
    """Every Python file of the package `lib` below `folder`, at any depth; an empty set tests
    nothing and fails."""
    found = sorted((folder / "lib").rglob("*.py"))
    assert found, f"there is no Python file below {folder / 'lib'}"
    return found


def imported(path: Path) -> set[str]:
    """The modules that a file imports, wherever in it."""
    nodes = list(ast.walk(ast.parse(path.read_text())))
    plain = {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
    return plain | {node.module or "" for node in nodes if isinstance(node, ast.ImportFrom)}


def strange_imports(folder: Path) -> list[str]:
    """The files of `lib` below `folder` that import tests or benchmarks."""
    strange = {"tests", "benchmarks"}
    return [
        path.name
        for path in sources(folder)
        if strange & {name.split(".")[0] for name in imported(path)}
    ]


def test_the_library_imports_neither_tests_nor_benchmarks():
    assert strange_imports(REPO_ROOT) == []


def test_imports_are_looked_for_in_packages_too(tmp_path):
    (tmp_path / "lib" / "models").mkdir(parents=True)
    (tmp_path / "lib" / "models" / "deep.py").write_text(
        "def late():\n    from tests.tiny_model import tiny\n"
    )
    assert strange_imports(tmp_path) == ["deep.py"]


def test_a_library_without_files_is_no_pass(tmp_path):
    with pytest.raises(AssertionError, match="no Python file"):
        sources(tmp_path)


def test_every_file_that_the_readme_links_to_is_there():
    text = (REPO_ROOT / "README.md").read_text()
    links = [link for link in re.findall(r"\]\(([^)]+)\)", text) if "://" not in link]
    assert links and [link for link in links if not (REPO_ROOT / link).exists()] == []
    assert "PLACEHOLDER" not in text


def test_the_readme_leads_to_every_published_table():
    text = (REPO_ROOT / "README.md").read_text()
    summaries = tracked("results/*/summary.md")
    assert summaries
    assert [path for path in summaries if str(path.relative_to(REPO_ROOT)) not in text] == []
    assert (
        "| arm | changes | macro AUROC |" not in text
    )  # they stand in one place, beside their figures
