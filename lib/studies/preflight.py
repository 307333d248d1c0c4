"""In: the runs of a plan that are about to start. Out: nothing, or one StudyError with all that
would fail later.

Checked before training: notebooks that never finish a run, networks that timm does not know or that
do not fit their options, weight files, devices. What needs
torch is asked of `lib.models.check` in a process of its own, so that the command line stays quick.
"""

import json
import os
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

from lib.config import REPO_ROOT, resolve
from lib.exceptions import StudyError
from lib.studies.plan import PlannedRun

MODEL_PARAMETERS = (
    "backbone",
    "pretrained",
    "input_range",
    "head",
    "dropout",
    "drop_path",
    "freeze",
    "prune",
    "image_size",
    "accelerator",
    "devices_per_run",
)


def check_runs(file: Path, runs: Iterable[PlannedRun]) -> None:
    """Raise StudyError, one line per problem, for runs that would fail before their first epoch."""
    runs = list(runs)
    problems = [*_check_notebooks(runs), *_check_models(runs)]
    if problems:
        raise StudyError("\n".join([f"{file}: nothing was started", *problems]))


def _check_notebooks(runs: list[PlannedRun]) -> list[str]:
    """A notebook that never calls finish_run would train for hours without a complete run."""
    problems = []
    for notebook in dict.fromkeys(run.notebook for run in runs):
        try:
            cells = json.loads(resolve(notebook).read_text())["cells"]
            code = "\n".join(
                "".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"
            )
        except (OSError, ValueError, KeyError, TypeError) as error:
            problems.append(f"{notebook} cannot be read as a notebook ({error!r})")
            continue
        if "finish_run(" not in code:
            problems.append(
                f"{notebook} never calls finish_run(...), so its runs would never be complete: add it"
            )
    return problems


def _check_models(runs: list[PlannedRun]) -> list[str]:
    """One sentence per combination of model parameters that cannot be built, with the first run
    that has it."""
    wanted: dict[str, str] = {}
    for run in runs:
        places = ["data_root", "weights_root"] if run.config.weights_places else []
        names = {*MODEL_PARAMETERS, *places}
        values = run.config.model_dump(mode="json", include=names)
        values["pretrained"] = False if run.config.init_from else values["pretrained"]
        wanted.setdefault(json.dumps(values, sort_keys=True), run.name)
    if not wanted:
        return []
    paths = [str(REPO_ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    process = subprocess.run(
        [sys.executable, "-m", "lib.models.check"],
        input=json.dumps([json.loads(values) for values in wanted]),
        capture_output=True, text=True, cwd=REPO_ROOT, env={**os.environ, "PYTHONPATH": os.pathsep.join(paths)},
    )  # fmt: skip
    if process.returncode:
        raise RuntimeError(f"the check of the models failed:\n{process.stderr}")
    answers = json.loads(process.stdout.splitlines()[-1])
    return [
        f"run {name!r}: {answer}"
        for name, answer in zip(wanted.values(), answers, strict=True)
        if answer
    ]
