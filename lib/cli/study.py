"""Commands that run a study, show how far it is, and report it."""

import contextlib
import sys
from functools import partial
from typing import Annotated, Any

import typer

from lib.cli.options import (
    DASK_HELP,
    JOBS_HELP,
    ON_END_HELP,
    SET_HELP,
    StudyFile,
    StudyRun,
    TrackingUri,
    confirm,
    errors_as_sentences,
    need,
    print_table,
)
from lib.exceptions import CxrError


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
    with errors_as_sentences():
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
        options |= {"replace": replace, "confirm": confirm}

        plan = plan_study(study, settings or (), name=name)
        if dry_run:
            chosen = select(plan, only or ())
            states = planned_states(plan, chosen)
            print_table(plan_table(plan, [(run, states[run.name].name) for run in chosen]))
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
                need("cluster", "distributed", "dask_jobqueue")
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


def status(
    study: StudyRun,
    watch: Annotated[
        bool, typer.Option("--watch", help="Shows it anew every 2 s, until the study has ended.")
    ] = False,
) -> None:
    """Shows how far each run of a study is, its best validation score so far, and where it runs."""
    with errors_as_sentences():
        from rich.console import Console

        from lib.studies import status_table, study_folder, watch_study

        if watch:
            watch_study(study_folder(study), Console())
        else:
            print_table(status_table(study_folder(study)))


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
    with errors_as_sentences():
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


def track_runs(study: StudyRun, uri: TrackingUri = None) -> None:
    """Logs the complete runs of a study to MLflow, each once; needs the extra `track`."""
    with errors_as_sentences():
        from lib.studies import study_folder, track_study

        track_study(study_folder(study), uri, typer.echo)


def report(
    study: StudyRun,
    publish: Annotated[
        bool, typer.Option("--publish", help="Copies table and figures to results/<study>/.")
    ] = False,
) -> None:
    """Makes table.csv, the ablation figures (.png and .svg) and report.html of a study that was
    run."""
    with errors_as_sentences():
        from lib.studies import report as reports

        folder = reports.study_folder(study)
        paths = reports.make_report(folder)
        typer.echo(reports.table_text(folder))
        typer.echo(reports.answers_text(folder))
        for path in paths + (reports.publish(folder) if publish else []):
            typer.echo(path)
