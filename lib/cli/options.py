"""What several commands share: their options, errors as sentences, questions and tables."""

import contextlib
import importlib.util
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import typer

from lib.exceptions import CxrError

SET_HELP = (
    "Overrides a parameter for all runs; may be given again. A value is read as YAML where the parameter's type allows "
    "it, else as text. It beats `base` and `notebooks`; what a run sets itself stays, except data_root, on_bad, "
    "accelerator, devices_per_run and epochs: these hold everywhere but in a run that changes just them. "
    "`seeds` and `folds` may be set too: seeds=0, seeds=[0, 1], folds=5."
)
JOBS_HELP = (
    "Runs at a time, by default 1; the cores are shared among them, and where there are GPUs each gets its own. "
    "auto: one per GPU, without one a run per two cores."
)
DASK_HELP = (
    "Executes the runs on a Dask cluster: the address of its scheduler (tcp://HOST:8786), its scheduler file, or a "
    ".yaml file that starts one (studies/clusters); see docs/cluster.md. By default as many runs at a time as it takes."
)
ON_END_HELP = (
    "Runs a shell command at the end, which finds CXR_STUDY, CXR_DONE, CXR_FAILED, CXR_SKIPPED, CXR_FAILED_RUNS "
    "and CXR_EXIT_CODE in its environment."
)
TrackingUri = Annotated[
    str | None,
    typer.Option(
        metavar="URI",
        help="Where to log to: a server (http://host:5000) or a store (sqlite:////folder/file.db). "
        "By default MLFLOW_TRACKING_URI, else runs/mlflow.db.",
    ),
]
StudyFile = Annotated[
    Path, typer.Argument(help="A study file, for example studies/demo.yaml.", metavar="STUDY")
]
StudyRun = Annotated[
    str,
    typer.Argument(
        help="A study that was run: its file, its name, or its folder.", metavar="STUDY"
    ),
]
Labels = Annotated[
    Path | None,
    typer.Option(
        metavar="TABLE",
        help="Labels for the images of files: a dataset's table, as Data_Entry_2017_v2020.csv, or its "
        "folder.",
    ),
]
SkipUnknown = Annotated[
    bool, typer.Option("--skip-unknown", help="Leaves out a file's rows of other images.")
]
Folder = Annotated[Path, typer.Argument(help="A dataset folder.")]


@contextlib.contextmanager
def errors_as_sentences() -> Iterator[None]:
    """Prints expected errors as one sentence; unexpected ones keep their traceback."""
    try:
        yield
    except typer.Exit:
        raise
    except KeyboardInterrupt:
        typer.echo("interrupted", err=True)
        raise typer.Exit(130) from None
    except (CxrError, OSError) as error:
        if os.environ.get("CXR_DEBUG"):
            raise
        typer.echo(f"{error}", err=True)
        raise typer.Exit(1) from error


def need(extra: str, *modules: str) -> None:
    """Raises CxrError that names the extra to install where one of its modules is missing."""
    missing = [module for module in modules if importlib.util.find_spec(module) is None]
    if missing:
        raise CxrError(f"{', '.join(missing)} is not installed: pip install -e '.[{extra}]'")


def confirm(text: str) -> bool:
    """Asks on a terminal; elsewhere the answer is no."""
    return sys.stdin.isatty() and typer.confirm(f"{text}\nSet them aside and repeat them?")


def print_table(table: Any) -> None:
    """Shows a table; as plain lines in a pipe, or where it would not fit."""
    from rich.console import Console

    from lib.studies import plain_text

    console = Console()
    wide = console.measure(table).maximum <= console.width
    if console.is_terminal and wide:
        console.print(table)
    else:
        typer.echo(f"{table.title}\n{plain_text(table)}")
