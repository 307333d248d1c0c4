"""Commands of `cxr data`: check, download or draw images."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from lib.cli.options import Folder, errors_as_sentences


def check(
    folders: Annotated[list[Path], typer.Argument(help="Dataset folders.", metavar="FOLDER...")],
    on_bad: Annotated[
        Literal["raise", "skip"],
        typer.Option(help="skip: problems are listed, but do not fail the check."),
    ] = "raise",
) -> None:
    """Prints layout, images, patients, findings and every problem of dataset folders; exit code 1
    if there is any problem.

    Of several folders it also prints how many images, patients and labels each adds beyond the
    others, and whether a small model can tell their films apart.
    """
    with errors_as_sentences():
        from lib.datasets import check_folder, check_overlap, check_sources

        reports = [check_folder(folder) for folder in folders]
        for report in reports:
            typer.echo(report.text())
        if len(folders) > 1 and not any(report.failure for report in reports):
            typer.echo(check_overlap(folders))
            typer.echo(check_sources(folders))
        good = all(report.ok or (on_bad == "skip" and not report.failure) for report in reports)
        raise typer.Exit(0 if good else 1)


def download(
    name: Annotated[
        str,
        typer.Argument(
            help="nih: the NIH's release of ChestX-ray14, 45 GB; kaggle: how to get Kaggle's copies."
        ),
    ],
    folder: Annotated[
        Path | None, typer.Argument(help="The folder to fill, for example dataset_full.")
    ] = None,
    keep_archives: Annotated[
        bool, typer.Option("--keep-archives", help="Keeps each archive after it was unpacked.")
    ] = False,
) -> None:
    """Downloads a data set, checks every file and unpacks the images; the same command continues
    what was interrupted."""
    with errors_as_sentences():
        from lib.datasets import download_dataset

        typer.echo(download_dataset(name, folder, keep_archives=keep_archives))


def phantom(
    folder: Folder,
    patients: Annotated[int, typer.Option(help="How many people.")] = 480,
    size: Annotated[int, typer.Option(help="Width and height of a film in pixels.")] = 256,
    seed: Annotated[int, typer.Option(help="The same seed makes the same films.")] = 0,
) -> None:
    """Draws synthetic chest X-rays: FOLDER/dataset_full and FOLDER/dataset_cardiomegaly."""
    with errors_as_sentences():
        from lib.phantoms import write_phantoms

        typer.echo(write_phantoms(folder, patients=patients, size=size, seed=seed))
