"""Commands that export a model, predict with it, and examine it."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from lib.cli.options import errors_as_sentences, need


def export(
    source: Annotated[
        str,
        typer.Argument(
            help="A complete run (STUDY/RUN), an arm (STUDY/ARM) for one file of all its seeds, "
            "or the authors' all_14.pt or single_disease.pt."
        ),
    ],
    int8: Annotated[
        bool, typer.Option("--int8", help="Quantises, calibrated on training films of the run.")
    ] = False,
    name: Annotated[
        str | None, typer.Option(help="Of the file; by default the study's and the run's.")
    ] = None,
    allow_drop: Annotated[
        bool,
        typer.Option(
            "--allow-drop",
            help="Writes int8 even if it differs too much from fp32, or cannot be judged.",
        ),
    ] = False,
    out: Annotated[
        Path | None, typer.Option(metavar="FOLDER", help="Where to write; by default savefolder/.")
    ] = None,
) -> None:
    """Writes NAME.onnx, a model that needs no torch, and NAME.md, its model card."""
    with errors_as_sentences():
        need("compress", "onnx", "onnxscript", "onnxruntime")
        from lib.export import export_run
        from lib.studies import run_or_arm_folders

        path = Path(source)
        found = path if path.suffix == ".pt" else run_or_arm_folders(source)
        place = {} if out is None else {"out": out.expanduser()}
        typer.echo(
            export_run(found, name, int8=int8, allow_drop=allow_drop, log=typer.echo, **place)
        )


def predict(
    model: Annotated[Path, typer.Argument(help="An exported model, savefolder/NAME.onnx.")],
    paths: Annotated[
        list[str],
        typer.Argument(
            help="Films, folders, patterns like 'films/*.png', or - for a list from stdin."
        ),
    ],
    out: Annotated[
        Path | None, typer.Option(help="A .csv or .parquet file; the same command continues it.")
    ] = None,
    leaderboard: Annotated[
        bool,
        typer.Option("--leaderboard", help="Writes imageID,disease, as the challenge wants it."),
    ] = False,
    threads: Annotated[
        int | None, typer.Option(min=1, help="Cores to use; by default all.")
    ] = None,
    shard: Annotated[
        str | None,
        typer.Option(
            metavar="I/N",
            help="Predicts part I of N of the films, for example on one machine of several; "
            "writes predictions.shard-I-of-N.csv where --out is predictions.csv.",
        ),
    ] = None,
    merge: Annotated[
        bool,
        typer.Option(
            "--merge",
            help="Writes --out from the tables of all shards, after it has checked that every film "
            "has its row of this model.",
        ),
    ] = False,
    device: Annotated[
        Literal["auto", "cpu", "cuda"],
        typer.Option(
            help="cuda needs onnxruntime-gpu. auto: cuda for fp32 models where it works, else cpu."
        ),
    ] = "auto",
) -> None:
    """Predicts findings for PNG, JPEG, TIFF and DICOM files; a file that cannot be used is a row
    with the reason. Not for diagnosis."""
    with errors_as_sentences():
        need("compress", "onnxruntime")
        from lib.inference import predict_command

        raise typer.Exit(
            predict_command(
                model,
                paths,
                out,
                threads=threads,
                leaderboard=leaderboard,
                shard=shard,
                merge=merge,
                device=device,
            )
        )


def examine(
    model: Annotated[Path, typer.Argument(help="An exported model, savefolder/NAME.onnx.")],
    chests: Annotated[int, typer.Option(help="How many people to draw; at least 8.")] = 64,
    seed: Annotated[int, typer.Option(help="The same seed draws the same films.")] = 0,
    out: Annotated[
        Path | None,
        typer.Option(
            metavar="FOLDER", help="Where to write; by default savefolder/NAME.examination."
        ),
    ] = None,
    threads: Annotated[
        int | None, typer.Option(min=1, help="Cores to use; by default all.")
    ] = None,
) -> None:
    """Asks whether a model looks at the sign: the same drawn chest with and without it, fainter,
    elsewhere, and with another marker, device, view or exposure."""
    with errors_as_sentences():
        need("compress", "onnxruntime")
        from lib.examination import (
            examination_folder,
            examination_text,
            examine_model,
            write_examination,
        )

        found = examine_model(model, chests=chests, seed=seed, threads=threads)
        typer.echo(examination_text(found))
        folder = examination_folder(model) if out is None else out.expanduser()
        for path in write_examination(found, folder):
            typer.echo(path)
