"""In: a study file and the most seeds. Out: its runs, with seeds added arm by arm until every verdict is
decided, or the test patients are the limit."""

from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path

from lib.comparison import compare_study
from lib.comparison.looks import OPEN, Looks, add_look, arm_states, read_looks, states_text
from lib.exceptions import StudyError
from lib.studies.plan import Plan, plan_study
from lib.studies.summary import Summary

FEWEST = 2
"""Seeds at the first look: of one training each nothing is known of how trainings differ."""


def run_until_decided(
    file: Path,
    settings: Iterable[str],
    most: int,
    run: Callable[[Plan], Summary],
    say: Callable[[str], None],
    name: str | None = None,
) -> Summary:
    """Runs the study in `file` with its seeds, two at least, then with one more for the reference and
    each arm that is not decided, up to `most`; returns how all runs ended.

    run: executes a plan. Verdicts are of the primary metric, and their p-values count the looks
    (`comparison.looks`). The same call continues where it was interrupted. Raises StudyError where
    the study starts with more seeds than `most`, or was begun with another number, and for a study
    with teachers: one more seed makes another teacher, whose students would all be trained again.
    """
    settings = list(settings)
    plan = plan_study(file, settings, name=name)
    if taught := [one.arm for one in plan.runs.values() if one.teachers]:
        raise StudyError(
            f"{file}: --until-decided adds seeds, and a teacher with one more seed is another teacher: "
            f"run the study without it, or take out the arms with a teacher, such as {taught[0]!r}"
        )
    looks = read_looks(plan.folder) or Looks(most)
    first = max(len(plan.seeds), FEWEST)
    if looks.most != most:
        raise StudyError(
            f"{plan.folder} was begun with --max-seeds {looks.most}, on which its p-values depend: "
            "give the same number, or another --name"
        )
    if first > most:
        raise StudyError(f"--max-seeds is {most}, but {file} starts with {first} seeds")
    whole = Summary()
    states = arm_states(compare_study(plan.folder), looks) if looks.seeds else {}
    while True:
        more = not looks.seeds or OPEN in states.values()
        count = (looks.seeds[-1] + more) if looks.seeds else first
        seeds = _seeds(plan.seeds, count)
        planned = plan_study(file, [*settings, f"seeds={seeds}"], name=name)
        summary = run(_needed(planned, looks, states, seeds))
        whole = _joined(whole, summary)
        if summary.exit_code or not more:
            return whole
        measured = compare_study(plan.folder).macro()
        still = ~measured["arm"].isin(_closed(looks, states))
        looks = add_look(plan.folder, looks, count, measured[still])
        states |= arm_states(compare_study(plan.folder), looks)
        say(f"{count} of at most {most} seeds\n{states_text(states)}")
        if OPEN not in states.values():
            return whole


def _seeds(planned: tuple[int, ...], count: int) -> list[int]:
    """The first seeds of the study, and the next whole numbers after its largest."""
    more = range(max(planned) + 1, max(planned) + 1 + count)
    return [*planned, *more][:count]


def _needed(plan: Plan, looks: Looks, states: dict[str, str], seeds: list[int]) -> Plan:
    """The plan without the seeds that an arm no longer gets: those after its last look."""
    given = _closed(looks, states)
    kept = {
        one.name
        for one in plan.runs.values()
        if not one.prerequisite and seeds.index(one.seed) < given.get(one.arm, len(seeds))
    }
    for one in reversed(plan.runs.values()):  # what is needed stands before what needs it
        if one.name in kept:
            kept |= set(one.needs)
    return replace(plan, runs={name: one for name, one in plan.runs.items() if name in kept})


def _closed(looks: Looks, states: dict[str, str]) -> dict[str, int]:
    """arm -> the number of its seeds, of the arms that get no more: those that were not part of the last
    look, or are not open after it."""
    return {
        arm: looks.seeds[len(measured) - 1]
        for arm, measured in looks.arms.items()
        if len(measured) < len(looks.seeds) or states.get(arm, OPEN) != OPEN
    }


def _joined(one: Summary, other: Summary) -> Summary:
    """How the runs of two calls ended; what the first has done, the second skips."""
    skipped = [name for name in other.skipped if name not in one.done]
    return Summary(
        skipped,
        one.done + other.done,
        one.failed | other.failed,
        one.repeated | other.repeated,
        one.interrupted or other.interrupted,
    )
