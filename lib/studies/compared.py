"""In: a comparison of runs, studies and files named by hand. Out: its tables, sentences and figures
in a folder."""

from collections.abc import Sequence
from pathlib import Path

from lib.comparison import NAMES, Comparison
from lib.config import FINDINGS
from lib.files import write_figure, write_table, write_text
from lib.metrics.scores import MACRO
from lib.runs import read_record, read_runs


def write_comparison(
    verdicts: Comparison, folder: Path, compared: Sequence[Path] = ()
) -> list[Path]:
    """Writes scores.csv, differences.csv, answers.md, and comparison and findings as .png and .svg;
    returns their paths. An arm has its own colour.

    compared: the folders of the runs and studies; where one is of phantoms, the figures say so.
    """
    from lib.plots import (  # matplotlib, which `cxr status` does without
        ablation,
        finding_differences,
    )

    phantom = {"phantom": any(_of_phantoms(path) for path in compared)}
    write_table(folder / "scores.csv", verdicts.scores)
    write_table(folder / "differences.csv", verdicts.changes)
    write_text(folder / "answers.md", "".join(f"- {line}\n" for line in verdicts.all_sentences()))
    macro = verdicts.by_seed[verdicts.by_seed["finding"] == MACRO]
    dots = macro.pivot(index=["arm", "seed"], columns="metric", values="value").reset_index()
    order = {arm: place for place, arm in enumerate(verdicts.scores["arm"].drop_duplicates())}
    dots = dots.sort_values("arm", key=lambda names: names.map(order), kind="stable")
    dots = dots.assign(backbone=dots["arm"], is_reference=dots["arm"] == verdicts.reference)
    primary = verdicts.primary
    figures = {
        "comparison": ablation(
            dots, verdicts.scores, verdicts.changes, verdicts.ensembles, **phantom
        ),
        "findings": finding_differences(
            verdicts.changes, primary, NAMES[primary], FINDINGS, **phantom
        ),
    }
    paths = [folder / f"{name}.{kind}" for name in figures for kind in ("png", "svg")]
    for path in paths:
        write_figure(path, figures[path.stem])
    return [*(folder / name for name in ("scores.csv", "differences.csv", "answers.md")), *paths]


def _of_phantoms(path: Path) -> bool:
    """Whether a run, or any run of a study, was tested on phantoms; a file of predictions does not
    tell."""
    if (path / "plan.json").exists():
        return bool(read_runs(path)["phantom"].any())
    return (path / "record.json").exists() and read_record(path).data.phantom
