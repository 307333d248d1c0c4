"""In: a command line. Out: the library's results on the terminal, and an exit code."""

import contextlib
import importlib.util
import os
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from lib.exceptions import CxrError

# What a command needs is imported in it: `cxr --help` stays quick, and nothing loads torch.

if sys.platform == "win32":
    sys.exit(
        "cxr runs on Linux and macOS; on Windows use WSL (https://learn.microsoft.com/windows/wsl/install)"
    )

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Chest X-ray studies. With CXR_DEBUG=1 in the environment, errors come with their traceback.",
)
data = typer.Typer(
    no_args_is_help=True, help="Look at a dataset folder, download one, or make a synthetic one."
)
app.add_typer(data, name="data")

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


@app.command()
def run(
    study: StudyFile,
    jobs: Annotated[str | None, typer.Option(metavar="N|auto", help=JOBS_HELP)] = None,
    dask: Annotated[str | None, typer.Option(metavar="CLUSTER", help=DASK_HELP)] = None,
    runs_per_device: Annotated[int, typer.Option(min=1, help="Runs that share a device.")] = 1,
    settings: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help=SET_HELP)
    ] = None,
    only: Annotated[
        list[str] | None,
        typer.Option(help="An arm or a run; brings what it needs. May be given again."),
    ] = None,
    name: Annotated[
        str | None,
        typer.Option(help="Runs the study under another name, in runs/NAME, beside what it has."),
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Shows the plan and starts nothing.")
    ] = False,
    replace: Annotated[
        bool,
        typer.Option(
            "--replace", help="Sets complete runs of other parameters aside and repeats them."
        ),
    ] = False,
    track: Annotated[
        bool, typer.Option("--track", help="Logs each run to MLflow when it is complete.")
    ] = False,
    tracking_uri: TrackingUri = None,
    retries: Annotated[
        int, typer.Option(min=0, help="How often a failed run is tried again, from its checkpoint.")
    ] = 0,
    time_limit: Annotated[
        str | None,
        typer.Option(metavar="TIME", help="Ends a try of a run after 90m, 2h, ...; it has failed."),
    ] = None,
    until_decided: Annotated[
        bool,
        typer.Option(
            "--until-decided",
            help="Adds seeds arm by arm until every verdict is decided, or more seeds would not help; "
            "p-values count the looks. Needs --max-seeds.",
        ),
    ] = False,
    max_seeds: Annotated[
        int | None, typer.Option(metavar="N", help="The most seeds with --until-decided.")
    ] = None,
    end_command: Annotated[
        str | None, typer.Option("--on-end", metavar="COMMAND", help=ON_END_HELP)
    ] = None,
) -> None:
    """Runs a study: checks it whole, then executes its notebooks, what is needed first.

    Complete runs are skipped and broken ones continue, so the same command resumes. The numbers of
    a run are the same bit for bit only with the same number of threads, which is the number of
    cores divided by --jobs. GPUs are those of CUDA_VISIBLE_DEVICES where it is set, else all.
    """
    with _errors_as_sentences():
        from rich.console import Console

        from lib.studies import (
            failure_text,
            open_cluster,
            parse_duration,
            parse_jobs,
            plan_study,
            plan_table,
            planned_states,
            run_plan,
            run_until_decided,
            select,
            tell_command,
            track_as_they_end,
        )

        seconds = parse_duration(time_limit, "--time-limit") if time_limit else None
        options: dict[str, Any] = {"runs_per_device": runs_per_device, "retries": retries}
        options |= {"jobs": parse_jobs(jobs) if jobs else None, "time_limit": seconds}
        options |= {"replace": replace, "confirm": _confirm}

        plan = plan_study(study, settings or (), name=name)
        if dry_run:
            chosen = select(plan, only or ())
            states = planned_states(plan, chosen)
            _print(plan_table(plan, [(run, states[run.name].name) for run in chosen]))
            return
        console = Console()
        if until_decided != (max_seeds is not None) or (until_decided and only):
            raise CxrError(
                "--until-decided needs --max-seeds N, the most seeds that an arm may get; it runs the "
                "whole study, without --only"
            )
        if tracking_uri and not track:
            raise CxrError("--tracking-uri says where to log, but nothing is logged: add --track")
        on_end = (
            track_as_they_end(plan.study, tracking_uri, plan.entry, typer.echo) if track else None
        )
        options |= {"only": only or (), "console": console, "on_end": on_end}
        with contextlib.ExitStack() as stack:
            if dask:
                _need("cluster", "distributed", "dask_jobqueue")
                say = partial(console.print, highlight=False, soft_wrap=True, markup=False)
                options["executor"] = stack.enter_context(open_cluster(dask, say))
            if max_seeds is None:
                summary = run_plan(plan, **options)
            else:
                summary = run_until_decided(
                    study,
                    settings or (),
                    max_seeds,
                    partial(run_plan, **options),
                    typer.echo,
                    name=name,
                )
        if summary.failed:
            typer.echo(failure_text(summary.failed))
        typer.echo(summary.text())
        if end_command and (failure := tell_command(end_command, plan.study, summary)):
            typer.echo(failure, err=True)
        raise typer.Exit(summary.exit_code)


@app.command()
def status(
    study: StudyRun,
    watch: Annotated[
        bool, typer.Option("--watch", help="Shows it anew every 2 s, until the study has ended.")
    ] = False,
) -> None:
    """Shows how far each run of a study is, its best validation score so far, and where it runs."""
    with _errors_as_sentences():
        from rich.console import Console

        from lib.studies import status_table, study_folder, watch_study

        if watch:
            watch_study(study_folder(study), Console())
        else:
            _print(status_table(study_folder(study)))


@app.command()
def clean(
    study: Annotated[
        str | None,
        typer.Argument(help="A study that was run; without one, all studies and the image caches."),
    ] = None,
    set_aside: Annotated[
        bool,
        typer.Option("--set-aside", help="Deletes runs and checkpoints that were set aside, too."),
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Deletes without a question.")] = False,
) -> None:
    """Lists image caches and what was set aside; asks, then deletes the caches, with --set-aside
    the rest too."""
    with _errors_as_sentences():
        from lib.studies import find_removable, remove, study_folder

        found = find_removable(study_folder(study) if study else None)
        for one in found:
            typer.echo(
                f"{one.size / 2**20:10,.1f} MB  last used {one.days:4.0f} days ago  {one.what}  {one.paths[0]}"
            )
        chosen = [one for one in found if one.is_cache or set_aside]
        kind = "things" if set_aside else "caches"
        typer.echo(
            f"{len(chosen)} {kind} can be deleted, {sum(one.size for one in chosen) / 2**20:,.1f} MB"
        )
        if chosen and (yes or (sys.stdin.isatty() and typer.confirm("Delete them?"))):
            kept = [one for one in chosen if not remove(one)]
            typer.echo(f"deleted {len(chosen) - len(kept)}; {len(kept)} are in use")


@app.command("track")
def track_runs(study: StudyRun, uri: TrackingUri = None) -> None:
    """Logs the complete runs of a study to MLflow, each once; needs the extra `track`."""
    with _errors_as_sentences():
        from lib.studies import study_folder, track_study

        track_study(study_folder(study), uri, typer.echo)


@app.command()
def report(
    study: StudyRun,
    publish: Annotated[
        bool, typer.Option("--publish", help="Copies table and figures to results/<study>/.")
    ] = False,
) -> None:
    """Makes table.csv, the ablation figures (.png and .svg) and report.html of a study that was
    run."""
    with _errors_as_sentences():
        from lib.studies import report as reports

        folder = reports.study_folder(study)
        paths = reports.make_report(folder)
        typer.echo(reports.table_text(folder))
        typer.echo(reports.answers_text(folder))
        for path in paths + (reports.publish(folder) if publish else []):
            typer.echo(path)


@app.command()
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
    with _errors_as_sentences():
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


@app.command()
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
    with _errors_as_sentences():
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


@app.command()
def power(study: StudyRun) -> None:
    """Prints the smallest difference that a study's test images and seeds can show, per metric, and
    the smallest margin within which equal arms would show to be equivalent."""
    with _errors_as_sentences():
        from lib.comparison import compare_study, equivalence_text, power_table, power_text
        from lib.studies import study_folder

        verdicts = compare_study(study_folder(study))
        patients = verdicts.scores["patients"].max()
        table = power_table(verdicts)
        typer.echo(power_text(table, patients, verdicts.folds))
        if not table.empty:
            typer.echo("\n" + equivalence_text(power_table(verdicts, equivalence=True)))


@app.command()
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
    with _errors_as_sentences():
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


@app.command()
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
    with _errors_as_sentences():
        _need("compress", "onnx", "onnxscript", "onnxruntime")
        from lib.export import export_run
        from lib.studies import run_or_arm_folders

        path = Path(source)
        found = path if path.suffix == ".pt" else run_or_arm_folders(source)
        place = {} if out is None else {"out": out.expanduser()}
        typer.echo(
            export_run(found, name, int8=int8, allow_drop=allow_drop, log=typer.echo, **place)
        )


@app.command()
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
    with _errors_as_sentences():
        _need("compress", "onnxruntime")
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


@app.command()
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
    with _errors_as_sentences():
        _need("compress", "onnx", "onnxscript", "onnxruntime")
        from lib.external import evaluate_model, parse_counts, read_evaluation, terminal_text
        from lib.studies import run_or_arm_folders

        films = parse_counts(local_films, "--local-films")
        for model in models:
            path = Path(model).expanduser()
            source = path if path.suffix == ".onnx" else run_or_arm_folders(model)
            place = evaluate_model(source, data, name, films=films, replace=replace, log=typer.echo)
            typer.echo(f"{terminal_text(*read_evaluation(place))}\n{place}")


@app.command()
def examine(
    model: Annotated[Path, typer.Argument(help="An exported model, savefolder/NAME.onnx.")],
    chests: Annotated[int, typer.Option(help="How many people to draw; at least 8.")] = 32,
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
    with _errors_as_sentences():
        _need("compress", "onnxruntime")
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


@data.command()
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
    with _errors_as_sentences():
        from lib.datasets import check_folder, check_overlap, check_sources

        reports = [check_folder(folder) for folder in folders]
        for report in reports:
            typer.echo(report.text())
        if len(folders) > 1 and not any(report.failure for report in reports):
            typer.echo(check_overlap(folders))
            typer.echo(check_sources(folders))
        good = all(report.ok or (on_bad == "skip" and not report.failure) for report in reports)
        raise typer.Exit(0 if good else 1)


@data.command()
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
    with _errors_as_sentences():
        from lib.datasets import download_dataset

        typer.echo(download_dataset(name, folder, keep_archives=keep_archives))


@data.command()
def phantom(
    folder: Folder,
    patients: Annotated[int, typer.Option(help="How many people.")] = 480,
    size: Annotated[int, typer.Option(help="Width and height of a film in pixels.")] = 256,
    seed: Annotated[int, typer.Option(help="The same seed makes the same films.")] = 0,
) -> None:
    """Draws synthetic chest X-rays: FOLDER/dataset_full and FOLDER/dataset_cardiomegaly."""
    with _errors_as_sentences():
        from lib.phantoms import write_phantoms

        typer.echo(write_phantoms(folder, patients=patients, size=size, seed=seed))


@contextlib.contextmanager
def _errors_as_sentences() -> Iterator[None]:
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


def _need(extra: str, *modules: str) -> None:
    """Raises CxrError that names the extra to install where one of its modules is missing."""
    missing = [module for module in modules if importlib.util.find_spec(module) is None]
    if missing:
        raise CxrError(f"{', '.join(missing)} is not installed: pip install -e '.[{extra}]'")


def _confirm(text: str) -> bool:
    """Asks on a terminal; elsewhere the answer is no."""
    return sys.stdin.isatty() and typer.confirm(f"{text}\nSet them aside and repeat them?")


def _print(table: Any) -> None:
    """Shows a table; as plain lines in a pipe, or where it would not fit."""
    from rich.console import Console

    from lib.studies import plain_text

    console = Console()
    wide = console.measure(table).maximum <= console.width
    if console.is_terminal and wide:
        console.print(table)
    else:
        typer.echo(f"{table.title}\n{plain_text(table)}")


if __name__ == "__main__":
    app()
