"""Runs that are forked from a process with its imports done: each has its own processes,
environment and chance."""

import base64
import json
import sys

import nbformat
import pytest

from lib.studies.execute import execute_run, process_environment
from lib.studies.fork_server import ForkedKernel, can_fork, start_server

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="forking is for Linux")

CELL = """
import json, os, sys
import numpy, psutil
print(json.dumps({
    "pid": os.getpid(), "name": psutil.Process().name(), "driver": psutil.Process().parent().name(),
    "imported": "timm" in sys.modules, "threads": os.environ["OMP_NUM_THREADS"], "mark": os.environ.get("CXR_MARK"),
    "chance": numpy.random.random(),
}))
"""

FIGURE = "from lib.plots.style import new_figure\nnew_figure(2, 2).add_subplot().figure"


@pytest.fixture(scope="module")
def settings() -> dict[str, str]:
    start_server(process_environment(1))

    return process_environment(1)


@pytest.fixture
def execute(tmp_path, settings):
    """Executes the cell as a run; gives what it printed, or showed."""
    notebook = tmp_path / "n.ipynb"

    def one(name: str, environment: dict[str, str] = settings, cell: str = CELL):
        cells = [nbformat.v4.new_code_cell(cell)]
        nbformat.write(nbformat.v4.new_notebook(cells=cells), notebook)
        folder = tmp_path / name
        spec = {"notebook": str(notebook), "folder": str(folder), "parameters": {}, "lineage": ""}
        reason = execute_run({**spec, "environment": environment, "stop": str(tmp_path / "stop")})
        assert reason.startswith("finished without a record")
        output = nbformat.read(folder / "notebook.ipynb", 4).cells[0].outputs[0]
        return json.loads(output.text) if "text" in output else output.data

    return one


def test_a_forked_run_has_its_own_driver_kernel_environment_and_random_state(execute, monkeypatch):
    monkeypatch.setenv("CXR_MARK", "first")
    first = execute("first")
    monkeypatch.setenv("CXR_MARK", "second")
    second = execute("second")
    assert first["name"] == "cxr-kernel" and first["driver"] == "cxr-run" and first["imported"]
    assert [first["mark"], second["mark"]] == ["first", "second"]
    assert first["pid"] != second["pid"] and first["chance"] != second["chance"]


def test_the_figures_of_a_forked_run_are_pictures_in_its_notebook(execute):
    output = execute("figure", cell=FIGURE)
    assert base64.b64decode(output["image/png"]).startswith(b"\x89PNG")


def test_a_run_with_other_settings_than_the_server_is_a_fresh_process(execute, settings):
    threads = str(1 + int(settings["OMP_NUM_THREADS"]))
    other = {
        name: threads if name.endswith("_THREADS") else value for name, value in settings.items()
    }
    assert can_fork(settings) and not can_fork(other)
    told = execute("fresh", other)
    assert told["name"] != "cxr-kernel" and not told["imported"] and told["threads"] == threads


def test_a_user_can_forbid_forking(settings, monkeypatch):
    monkeypatch.setenv("CXR_FORK", "0")
    assert not can_fork(settings)


def test_a_kernel_is_not_forked_from_a_process_with_threads(monkeypatch):
    monkeypatch.setattr("threading.active_count", lambda: 2)
    with pytest.raises(RuntimeError, match="from one thread only"):
        ForkedKernel()
