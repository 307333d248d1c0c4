"""In: an examination. Out: its tables, figure and sentences in a folder."""

from pathlib import Path

from lib.config import REPO_ROOT
from lib.examination.examine import Examination
from lib.examination.words import examination_text
from lib.files import write_figure, write_table, write_text


def examination_folder(model: Path) -> Path:
    """Where an examination goes by default: savefolder/NAME.examination."""
    return REPO_ROOT / "savefolder" / f"{model.stem}.examination"


def write_examination(found: Examination, folder: Path) -> list[Path]:
    """Write findings.csv, doses.csv, shortcuts.csv, examination.png, .svg and .md; returns their
    paths. Each appears whole or not at all."""
    from lib.plots.examination import examination

    heat = found.heat.drop(columns=["chests"]).add_prefix("heat_")
    findings = found.signs.merge(heat, how="left", left_on="finding", right_on="heat_finding")
    tables = {
        "findings": findings.drop(columns=["heat_finding"]),
        "doses": found.doses,
        "shortcuts": found.shortcuts,
    }
    paths = []
    for name, table in tables.items():
        paths.append(folder / f"{name}.csv")
        write_table(paths[-1], table)
    figure = examination(found.signs, found.doses, found.shortcuts, found.heat, found.card["name"])
    for ending in (".png", ".svg"):
        paths.append(folder / f"examination{ending}")
        write_figure(paths[-1], figure)
    paths.append(folder / "examination.md")
    write_text(paths[-1], examination_text(found))
    return paths
