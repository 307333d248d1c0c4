"""In: this machine. Out: the table of speeds, printed and written to runs/bench/; ratios are measured in one run."""

import os
import platform
import tempfile
from datetime import UTC, datetime
from pathlib import Path

import pandas as pd

from benchmarks.fitting import startup_rows, training_row
from benchmarks.loading import batch_row, films_of_1024, store_row
from lib.config import REPO_ROOT
from lib.results import git_state, package_versions, write_table


def main() -> None:
    with tempfile.TemporaryDirectory() as name:
        scratch = Path(name)
        paths, kind = films_of_1024(scratch)
        rows = [
            batch_row(paths, kind, scratch),
            store_row(paths, kind, scratch),
            training_row("resnet18", 128, scratch),
            training_row("efficientnet_b0", 64, scratch),
            *startup_rows(scratch),
        ]
    table = pd.DataFrame(
        {"what": r.what, "value": r.ours, "unit": r.unit, "ratio": r.ratio, "goal": r.goal, "against": r.against}
        for r in rows
    )
    now = datetime.now(UTC).strftime("%Y-%m-%d-%H%M")
    path = REPO_ROOT / "runs" / "bench" / f"{now}.csv"
    write_table(path, table.assign(commit=git_state()["commit"], torch=package_versions()["torch"]))
    print(f"{now}, {os.cpu_count()} cores ({platform.machine()}), torch {package_versions()['torch']}\n")
    print(table.round(2).to_string(index=False, na_rep=""))
    print(f"\n{path}")


if __name__ == "__main__":
    main()
