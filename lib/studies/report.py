"""In: the folder of a study that was run. Out: its report folder: tables, figures, report.html;
texts."""

import os
import re
import shutil
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pandas as pd

from lib.comparison.words import NAMES
from lib.config import REPO_ROOT
from lib.exceptions import RunError, StudyError
from lib.files import atomic_write
from lib.metrics.scores import MACRO
from lib.runs.study import read_plan
from lib.studies.execute import process_environment, run_notebook
from lib.studies.file import read_study
from lib.studies.plan import QUANTIZE

NOTEBOOK = REPO_ROOT / "notebooks" / "ablations.ipynb"
STAGES = REPO_ROOT / "notebooks" / "stages.ipynb"
COMPRESSED = REPO_ROOT / "notebooks" / "compressed_arms.ipynb"
WRITTEN = ("table.csv", "ablation.png", "ablation.svg")
COMPRESSED_WRITTEN = ("costs.csv", "agreement.csv", "pareto.png", "pareto.svg")
STAGES_WRITTEN = ("stages.md", "stage_matrix.csv", "stage_differences.csv", "drift.csv")
PUBLISHED = (
    *("table.csv", "scores.csv", "differences.csv", "ensembles.csv", "summary.md", "answers.md"),
    *STAGES_WRITTEN,
    *("learning_curves.csv", "stage_gains.csv", "fairness.csv"),
    *("external.csv", "external.md"),
    *("robustness.csv", "robustness.md", "costs.csv", "agreement.csv"),
    *("int8.csv", "int8.md"),
)
FIGURES = (
    *("ablation*", "stage_*", "learning_curves", "fairness", "external", "robustness"),
    "pareto",
)


def study_folder(study: str, runs_dir: Path = REPO_ROOT / "runs") -> Path:
    """The folder of a study that was run, named by its YAML file, by its name, or by the folder
    itself.

    Raises StudyError when there is none.
    """
    path = Path(study)
    if path.suffix in (".yaml", ".yml"):
        path = runs_dir / read_study(path).name
    elif not path.is_dir():
        path = runs_dir / study
    if not (path / "plan.json").exists():
        raise StudyError(
            f"{path} contains no study (no plan.json): run it first with `cxr run FILE`"
        )
    return path.resolve()


def run_folder(name: str, runs_dir: Path = REPO_ROOT / "runs") -> Path:
    """The folder of a complete run, named by its path or as STUDY/RUN; raises StudyError when there
    is none."""
    for path in (Path(name), runs_dir / name):
        if (path / "record.json").exists():
            return path.resolve()
    raise StudyError(
        f"{name} is no complete run: give its folder, for example runs/demo/adaptive-s0"
    )


def run_or_arm_folders(name: str, runs_dir: Path = REPO_ROOT / "runs") -> Path | list[Path]:
    """The folder of a complete run as `run_folder` finds it, or those of all runs of an arm, named
    as STUDY/ARM, in a study with folds as STUDY/ARM-f0.

    Raises StudyError when there is neither, when a run of the arm is not complete, and for an arm
    whose fold is not named: every patient is in the training images of some other fold's runs.
    """
    try:
        return run_folder(name, runs_dir)
    except StudyError:
        path = next((p for p in (Path(name), runs_dir / name) if _has_plan(p.parent)), None)
        found = _runs_of_arm(path) if path else {}
        if path is None or not found:
            raise
    folds = {entry.get("fold") for entry in found.values()}
    if len(folds) > 1:
        raise StudyError(
            f"the runs of {name} were tested in {len(folds)} folds, and each trained on what others are tested on: "
            f"name one fold, for example {name}-f0"
        )
    if broken := [run for run in found if not (path.parent / run / "record.json").exists()]:
        raise StudyError(
            f"{name} has runs that are not complete ({', '.join(broken)}): run the study again first"
        )
    return [(path.parent / run).resolve() for run in found]


def _has_plan(folder: Path) -> bool:
    return (folder / "plan.json").exists()


def _runs_of_arm(path: Path) -> dict[str, dict[str, Any]]:
    """The planned runs of the arm (or arm and fold) that `path`, STUDY/ARM, names."""
    planned = read_plan(path.parent)["runs"]
    runs = {run: entry for run, entry in planned.items() if not entry["prerequisite"]}
    return {
        run: entry
        for run, entry in runs.items()
        if path.name in (entry["arm"], f"{entry['arm']}-f{entry.get('fold')}")
    }


def run_or_study_folder(name: str, runs_dir: Path = REPO_ROOT / "runs") -> Path:
    """The folder of a complete run as `run_folder` finds it, else of a study as `study_folder`
    does."""
    try:
        return run_folder(name, runs_dir)
    except StudyError:
        return study_folder(name, runs_dir)


def make_report(folder: Path) -> list[Path]:
    """Executes `notebooks/ablations.ipynb` on a study's folder, `notebooks/stages.ipynb` where its
    reference arm starts from an earlier stage, and `notebooks/compressed_arms.ipynb` where an arm is
    pruned, taught or in int8; returns the paths of table, figures and pages.

    Raises NotebookError with the cell and its error when a notebook fails, RunError when it did
    not write what it has to.
    """
    report = folder / "report"
    report.mkdir(exist_ok=True)
    plan = read_plan(folder)
    page = report / "report.html"
    _execute(folder, NOTEBOOK, page, f"{plan['study']}: ablation report", WRITTEN)
    pages = [page]
    if any(run["reference"] and run["config"].get("init_from") for run in plan["runs"].values()):
        pages.insert(0, report / "stages.html")
        _execute(folder, STAGES, pages[0], f"{plan['study']}: between the stages", STAGES_WRITTEN)
    if any(_is_compressed(run) for run in plan["runs"].values()):
        pages.insert(0, report / "compression.html")
        title = f"{plan['study']}: cost and quality"
        _execute(folder, COMPRESSED, pages[0], title, COMPRESSED_WRITTEN)
    return [report / "table.csv", *_figures(report), *pages]


def _is_compressed(run: dict[str, Any]) -> bool:
    config = run["config"]
    return bool(config.get("prune") or config.get("teacher")) or run.get("notebook") == QUANTIZE


def _execute(folder: Path, notebook: Path, page: Path, title: str, written: Sequence[str]) -> None:
    """Executes a notebook on a study's folder and makes its page beside what it wrote."""
    executed = page.parent / notebook.name
    parameters = {"study": str(folder), "out": str(page.parent)}
    before = dict(os.environ)
    os.environ.update(process_environment(1))
    try:
        run_notebook(notebook, executed, parameters)
    finally:
        os.environ.clear()
        os.environ.update(before)
    with atomic_write(page) as partial:
        partial.write_text(_page(executed, title=title))
    if missing := [name for name in written if not (page.parent / name).exists()]:
        raise RunError(f"{notebook} ran, but did not write {', '.join(missing)} to {page.parent}")


def _figures(report: Path) -> list[Path]:
    """The figures as .png and .svg: ablation, in a column and of one finding too, fairness, external,
    robustness, and the stages'."""
    names = [f"{name}.{kind}" for name in FIGURES for kind in ("png", "svg")]
    return sorted(path for name in names for path in report.glob(name))


DARK = """<style>@media (prefers-color-scheme: dark) { :root {
--jp-layout-color0: #141414; --jp-layout-color1: #141414; --jp-layout-color2: #262626; --jp-border-color2: #444;
--jp-content-font-color0: #f2f2f2; --jp-content-font-color1: #e0e0e0; --jp-content-font-color2: #c8c8c8;
--jp-ui-font-color0: #f2f2f2; --jp-ui-font-color1: #e0e0e0; --jp-rendermime-table-row-background: #1e1e1e;
--jp-rendermime-table-row-hover-background: #2a2a2a; --jp-border-color1: #444; --jp-border-color0: #444; }
body { background: #141414; color: #e0e0e0; } img { border-radius: 4px; } }</style>"""


def _page(notebook: Path, title: str) -> str:
    """The notebook as one HTML text without code: images are embedded, nothing is loaded from
    elsewhere."""
    from nbconvert import HTMLExporter

    exporter = HTMLExporter(
        exclude_input=True, exclude_input_prompt=True, exclude_output_prompt=True
    )
    exporter.embed_images = True
    exporter.mathjax_url = ""
    exporter.require_js_url = ""
    html, _ = exporter.from_filename(str(notebook), resources={"metadata": {"name": title}})
    return _without_remote_scripts(html).replace("</head>", f"{DARK}</head>", 1)


def _without_remote_scripts(html: str) -> str:
    """Removes script elements that name another server: formula, diagram and widget loaders, all
    unused here."""
    scripts = re.compile(r"<script\b[^>]*>.*?</script>", re.DOTALL | re.IGNORECASE)
    remote = re.compile(r"""["'](https?:)?//|src=["']["']""")
    return scripts.sub(lambda found: "" if remote.search(found[0]) else found[0], html)


def table_text(folder: Path) -> str:
    """The runs of a study's report, the reference marked, as aligned text that fits a terminal.

    With folds its arms: the macro means of single folds are over other findings than those of all.
    """
    table = pd.read_csv(folder / "report" / "table.csv")
    runs = table[~table["prerequisite"]]
    if read_plan(folder).get("folds"):
        return _arms_text(folder, set(runs.loc[runs["is_reference"], "arm"]))
    shown = pd.DataFrame(
        {
            "run": runs["run"].where(~runs["is_reference"], runs["run"] + " *"),
            "AUROC": runs["auroc"],
            "95 % interval": runs["auroc_low"].map("{:.3f}".format)
            + runs["auroc_high"].map(" to {:.3f}".format),
            "avg precision": runs["average_precision"],
            "F1": runs["f1"],
            "accuracy": runs["accuracy"],
            "all-negative": runs["accuracy_all_negative"],
            "findings": runs["n_auroc"],
            "seconds": runs["train_seconds"].round().astype(int),
        }
    )
    note = (
        "macro means over `findings`, on the test films; * reference; "
        "all-negative: the accuracy of always predicting no"
    )
    return f"{shown.to_string(index=False, float_format='{:.3f}'.format)}\n{note}"


def _arms_text(folder: Path, reference: set[str]) -> str:
    """The arms of a report: macro scores over all folds with their intervals."""
    scores = pd.read_csv(folder / "report" / "scores.csv")
    macro = scores[scores["finding"] == MACRO]
    names = macro["arm"].where(~macro["arm"].isin(reference), macro["arm"] + " *")
    number = "{:.3f}".format
    ends = " (" + macro["low"].map(number) + " to " + macro["high"].map(number) + ")"
    table = macro.assign(arm=names, text=macro["value"].map(number) + ends)
    columns = dict.fromkeys(table["metric"])
    wide = table.pivot(index="arm", columns="metric", values="text")
    wide = wide.loc[list(dict.fromkeys(names)), list(columns)].rename(columns=NAMES)
    note = (
        "macro means over all folds and seeds with 95 % intervals; * reference; average precision is "
        "too high on small test sets: its intervals are corrected for that, its means are not"
    )
    return f"{wide.rename_axis(index=None, columns=None).to_string()}\n{note}"


def answers_text(folder: Path) -> str:
    """The sentences of a study's report about its primary metric; those about the others stand in
    the page."""
    path = folder / "report" / "answers.md"
    lines = path.read_text().splitlines() if path.exists() else []
    return "\n".join(line for line in lines if not line.startswith("- Secondary"))


def _has_rows(path: Path) -> bool:
    """Whether a table is there and holds more than its header; any other file only has to be there."""
    return path.exists() and (path.suffix != ".csv" or len(path.read_text().splitlines()) > 1)


def publish(folder: Path, results_dir: Path = REPO_ROOT / "results") -> list[Path]:
    """Copies table and figures of a study's report to `results/<study>/`, where they are committed,
    and logs it.

    The line in `results/LOG.md` says when, of how many runs, by which commits, packages and
    devices.
    """
    study, table = read_plan(folder)["study"], pd.read_csv(folder / "report" / "table.csv")
    target = results_dir / study
    target.mkdir(parents=True, exist_ok=True)
    tables = [folder / "report" / name for name in PUBLISHED if _has_rows(folder / "report" / name)]
    paths = [
        Path(shutil.copy2(path, target / path.name))
        for path in (*tables, *_figures(folder / "report"))
    ]
    columns = {
        name: ", ".join(sorted(table[name].astype(str).unique()))
        for name in ("commit", "torch", "device")
    }
    log = results_dir / "LOG.md"
    with log.open("a") as file:
        file.write(
            f"- {datetime.now(UTC):%Y-%m-%d} `{study}`: {len(table)} runs, "
            f"{table['train_seconds'].sum() / 60:.0f} minutes of training on {columns['device']} "
            f"({os.cpu_count()} cores), torch {columns['torch']}, commit {columns['commit']}\n"
        )
    return [*paths, log]
