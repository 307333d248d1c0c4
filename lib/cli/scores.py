"""Commands that compare and score: arms, predictions, models on other or damaged images."""

from pathlib import Path
from typing import Annotated

import typer

from lib.cli.options import Labels, SkipUnknown, StudyRun, errors_as_sentences, need


def compare(
    folders: Annotated[
        list[str],
        typer.Argument(
            help="Runs (runs/STUDY/RUN), studies, or .csv and .parquet files of anybody's predictions; "
            "the first is the reference.",
            metavar="RUN_OR_STUDY_OR_FILE",
        ),
    ],
    labels: Labels = None,
    skip_unknown: SkipUnknown = False,
    margin: Annotated[
        float | None,
        typer.Option(
            metavar="D",
            help="A difference in AUROC (for a study: in its primary metric) that does not matter, as "
            "0.01: arms may then be equivalent, or not worse. By default the study's own margin.",
        ),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(metavar="FOLDER", help="Writes tables, sentences and figures there, too."),
    ] = None,
) -> None:
    """Compares two or more arms on their shared test images: which is better, or that the data do
    not show it.

    A study stands for its reference arm with all its seeds; one study alone: its arms against its
    reference. A file has a column of image ids and one per finding; it is scored on the test images
    of the first run or study.
    """
    with errors_as_sentences():
        from lib.comparison import compare_folders, is_prediction_table, verdict_text
        from lib.datasets import read_labels
        from lib.studies import run_or_study_folder, write_comparison

        paths = [
            Path(name) if is_prediction_table(Path(name)) else run_or_study_folder(name)
            for name in folders
        ]
        table = read_labels(labels) if labels else None
        verdicts = compare_folders(paths, table, skip_unknown=skip_unknown, margin=margin)
        typer.echo(verdict_text(verdicts))
        for path in write_comparison(verdicts, out.expanduser(), paths) if out else ():
            typer.echo(path)


def metrics(
    predictions: Annotated[
        Path, typer.Argument(help="A .csv or .parquet file: image ids, and a column per finding.")
    ],
    labels: Labels = None,
    skip_unknown: SkipUnknown = False,
    out: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Writes all metrics as .csv or .parquet.")
    ] = None,
) -> None:
    """Prints the scores of anybody's predictions, with intervals over patients.

    Labels come from --labels, else from columns such as target_Mass. Patients come from --labels,
    else from a column, else from NIH file names.
    """
    with errors_as_sentences():
        from lib.comparison import on_labels, read_prediction_table, scores_text
        from lib.datasets import read_labels
        from lib.files import write_table
        from lib.metrics import score_predictions

        table = read_labels(labels) if labels else None
        found = on_labels(read_prediction_table(predictions), table, skip_unknown=skip_unknown)
        (run,) = found.runs
        scores = score_predictions(run, ranks_only=run.ranks_only)
        typer.echo("\n".join([scores_text(scores), "", *found.notes]))
        if out:
            write_table(out.expanduser(), scores)
            typer.echo(out)


def power(study: StudyRun) -> None:
    """Prints the smallest difference that a study's test images and seeds can show, per metric, and
    the smallest margin within which equal arms would show to be equivalent."""
    with errors_as_sentences():
        from lib.comparison import compare_study, equivalence_text, power_table, power_text
        from lib.studies import study_folder

        verdicts = compare_study(study_folder(study))
        patients = verdicts.scores["patients"].max()
        table = power_table(verdicts)
        typer.echo(power_text(table, patients, verdicts.folds))
        if not table.empty:
            typer.echo("\n" + equivalence_text(power_table(verdicts, equivalence=True)))


def robustness(
    study: StudyRun,
    only: Annotated[
        list[str] | None, typer.Option(metavar="ARM", help="An arm. May be given again.")
    ] = None,
    jobs: Annotated[
        int, typer.Option(min=1, help="Runs at a time, which share the cores and the device.")
    ] = 1,
) -> None:
    """Has every model of a study answer its test films turned, washed out, noisy, compressed,
    blurred, small, inverted and marked, and compares the arms.

    Answers are kept in the folders of the runs, so the same command continues, and `cxr report`
    shows them.
    """
    with errors_as_sentences():
        from lib.robustness import (
            answer_study,
            compare_robustness,
            robustness_sentences,
            robustness_text,
        )
        from lib.studies import study_folder

        folder = study_folder(study)
        answered, failed = answer_study(folder, only or (), jobs)
        found = compare_robustness(folder)
        typer.echo("\n".join([robustness_text(found.table), "", *robustness_sentences(found)]))
        typer.echo(f"{answered} runs answered now")
        for run, reason in failed.items():
            typer.echo(f"{run}: {reason}", err=True)
        raise typer.Exit(1 if failed else 0)


def evaluate(
    models: Annotated[
        list[str],
        typer.Argument(
            help="A complete run (STUDY/RUN), an arm (STUDY/ARM, in a study with folds STUDY/ARM-f0) with "
            "all its seeds and their ensemble, or an exported .onnx file.",
            metavar="MODEL...",
        ),
    ],
    data: Annotated[
        Path, typer.Option(metavar="FOLDER", help="Another labelled set, in any layout.")
    ],
    name: Annotated[
        str | None, typer.Option(help="Of the evaluation; by default that of the folder.")
    ] = None,
    local_films: Annotated[
        str,
        typer.Option(metavar="K,K,...", help="How many local films a new threshold is chosen on."),
    ] = "20,50,100",
    replace: Annotated[
        bool, typer.Option("--replace", help="Repeats an evaluation that is there.")
    ] = False,
) -> None:
    """Scores models on the labelled films of another set (external validation): internal and external
    scores, the drop, calibration, and what a threshold from a few local films would give.

    Films that a model was trained on are left out. Writes evaluations/NAME beside the model.
    """
    with errors_as_sentences():
        need("compress", "onnx", "onnxscript", "onnxruntime")
        from lib.external import evaluate_model, parse_counts, read_evaluation, terminal_text
        from lib.studies import run_or_arm_folders

        films = parse_counts(local_films, "--local-films")
        for model in models:
            path = Path(model).expanduser()
            source = path if path.suffix == ".onnx" else run_or_arm_folders(model)
            place = evaluate_model(source, data, name, films=films, replace=replace, log=typer.echo)
            typer.echo(f"{terminal_text(*read_evaluation(place))}\n{place}")
