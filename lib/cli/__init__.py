"""In: a command line. Out: the library's results on the terminal, and an exit code."""

import sys
from collections.abc import Callable

import typer

if sys.platform == "win32":
    sys.exit(
        "cxr runs on Linux and macOS; on Windows use WSL (https://learn.microsoft.com/windows/wsl/install)"
    )

# What a command needs is imported in it: `cxr --help` stays quick, and nothing loads torch.
from lib.cli.data import check, download, phantom
from lib.cli.model import examine, export, predict
from lib.cli.scores import compare, evaluate, metrics, power, robustness
from lib.cli.study import clean, report, run, status, track_runs

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Chest X-ray studies. With CXR_DEBUG=1 in the environment, errors come with their traceback.",
)
data = typer.Typer(
    no_args_is_help=True, help="Look at a dataset folder, download one, or make a synthetic one."
)
COMMANDS: dict[str, Callable[..., None]] = {
    **{"run": run, "status": status, "clean": clean, "track": track_runs, "report": report},
    **{"compare": compare, "metrics": metrics, "power": power, "robustness": robustness},
    **{"export": export, "predict": predict, "evaluate": evaluate, "examine": examine},
}
DATA_COMMANDS: dict[str, Callable[..., None]] = {
    "check": check,
    "download": download,
    "phantom": phantom,
}
for name, command in COMMANDS.items():
    app.command(name)(command)
for name, command in DATA_COMMANDS.items():
    data.command(name)(command)
app.add_typer(data, name="data")

__all__ = ["app"]
