"""Make sure that there are a model and examples for the page.

In: savefolder/ and earlier runs. Out: a model in savefolder/ if there was none, and phantoms as
examples. `make app` runs `python app/prepare.py [FOLDER]` before it starts the page.
"""

import csv
import sys
from pathlib import Path

from examples import draw_missing
from rich.console import Console

from lib.config import FINDINGS, REPO_ROOT
from lib.exceptions import CxrError, ExportError, RunError
from lib.export import export_run
from lib.files import read_json
from lib.runs import is_complete, read_plan
from lib.studies import plan_study, run_plan

STUDY = REPO_ROOT / "studies" / "demo.yaml"
REFERENCE = "adaptive-s0"


def prepare(folder: Path) -> None:
    """Export the demo's best model into `folder` if it holds no model.

    Runs the demo's reference first if no run is complete.
    """
    if models := sorted(path.name for path in folder.glob("*.onnx")):
        print(f"{folder} holds {', '.join(models)}")
    else:
        run = best_run(REPO_ROOT / "runs" / STUDY.stem) or run_reference()
        print(
            f"{folder} holds no model: exporting {run.parent.name}/{run.name}, the best of the demo's complete runs"
        )
        print(f"exported {export(run, folder)}")
    draw_missing(folder / "examples")


def best_run(study: Path) -> Path | None:
    """Return the run with the highest validation AUROC; None if there is none.

    Only planned and complete runs of all findings in the folder `study` count.
    """
    if not (study / "plan.json").is_file():
        return None
    scores = {}
    for run in (study / name for name in read_plan(study)["runs"]):
        if not is_complete(run) or read_json(run / "record.json")["config"]["findings"] != list(
            FINDINGS
        ):
            continue
        with (run / "history.csv").open(newline="", encoding="utf-8") as file:
            aurocs = [float(row["val_auroc"]) for row in csv.DictReader(file) if row["val_auroc"]]
        if aurocs:
            scores[run] = max(aurocs)
    return max(scores, key=scores.__getitem__, default=None)


def run_reference() -> Path:
    """Run the demo's reference and its dependencies; some minutes on two cores."""
    print(
        f"the demo has no complete run yet: training {REFERENCE} on phantoms first, which takes some minutes"
    )
    plan = plan_study(STUDY)
    summary = run_plan(plan, only=[REFERENCE], console=Console())
    if summary.exit_code:
        reasons = "; ".join(f"{name}: {reason}" for name, reason in summary.failed.items())
        raise RunError(f"{REFERENCE} of {STUDY.name} did not finish: {reasons or 'interrupted'}")
    return REPO_ROOT / "runs" / STUDY.stem / REFERENCE


def export(run: Path, folder: Path) -> Path:
    """Export in int8, or in fp32 if int8 loses too much or cannot be judged."""
    try:
        return export_run(run, int8=True, out=folder)
    except ExportError as error:
        print(f"exporting fp32 instead of int8: {error}")
    return export_run(run, out=folder)


if __name__ == "__main__":
    try:
        prepare(Path(sys.argv[1]) if len(sys.argv) > 1 else REPO_ROOT / "savefolder")
    except (CxrError, OSError) as error:
        sys.exit(str(error))
