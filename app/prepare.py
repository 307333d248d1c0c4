"""In: savefolder/ and what was run. Out: a model in savefolder/ where there was none, and phantoms
to try it with.

`python app/prepare.py [FOLDER]` is what `make app` does before it starts the page.
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
    """Exports the demo's best model into `folder` where it holds no model, running the demo's
    reference if need be."""
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
    """The planned and complete run of all findings with the highest AUROC on validation; None where
    there is none."""
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
    """Runs the reference of the demo and what it needs; some minutes on two cores."""
    print(
        f"nothing of the demo was run yet: training {REFERENCE} on phantoms first, for some minutes"
    )
    plan = plan_study(STUDY)
    summary = run_plan(plan, only=[REFERENCE], console=Console())
    if summary.exit_code:
        reasons = "; ".join(f"{name}: {reason}" for name, reason in summary.failed.items())
        raise RunError(
            f"{REFERENCE} of {STUDY.name} did not run to its end: {reasons or 'interrupted'}"
        )
    return REPO_ROOT / "runs" / STUDY.stem / REFERENCE


def export(run: Path, folder: Path) -> Path:
    """Exports in int8 and, where that would cost too much of the scores or cannot be judged, in
    fp32."""
    try:
        return export_run(run, int8=True, out=folder)
    except ExportError as error:
        print(f"no int8: {error}")
    return export_run(run, out=folder)


if __name__ == "__main__":
    try:
        prepare(Path(sys.argv[1]) if len(sys.argv) > 1 else REPO_ROOT / "savefolder")
    except (CxrError, OSError) as error:
        sys.exit(str(error))
