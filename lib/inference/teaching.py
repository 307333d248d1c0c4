"""Say which runs taught a model, and what was removed from it before its training.

In: the cards of exported models. Out: names of runs, the part that one model had in the training of
another, and sentences. Cards of before there were teachers name none.
"""

import re
from collections.abc import Iterable, Mapping
from typing import Any

TEACHER = "teacher"
ONE_TEACHER = "one of the teachers"
SAME_ARM = "another run of the teacher's arm"
TEACHERS = (TEACHER, ONE_TEACHER, SAME_ARM)
"""What a model may be to its student, the nearest first."""


def taught_by(card: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the runs whose mean answer the model learned, as `study/run`; empty without a
    teacher."""
    names = _mapping(card.get("weights")).get("taught_by")
    return tuple(name for name in _list(names) if isinstance(name, str))


def runs_of(card: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the runs that the model is made of, as `study/run`: one, or those of an ensemble."""
    run = _mapping(card.get("run"))
    rows = map(_mapping, _list(card.get("members")) or [run])
    return tuple(f"{run.get('study')}/{row['run']}" for row in rows if row.get("run"))


def arms_of(runs: Iterable[str]) -> tuple[str, ...]:
    """Return the arms of runs, as `study/arm`, each once: `compress/teacher-s0-f1` is of
    `compress/teacher`."""
    return tuple(dict.fromkeys(re.sub(r"(-s\d+)?(-f\d+)?$", "", run) for run in runs))


def part_in(teacher: Mapping[str, Any], student: Mapping[str, Any]) -> str:
    """Return which of TEACHERS the model of the card `teacher` is to that of `student`; an empty
    string for none.

    It is the teacher where all runs that taught the student are in it.
    """
    wanted, given = set(taught_by(student)), set(runs_of(teacher))
    if not wanted:
        return ""
    if wanted <= given:
        return TEACHER
    if wanted & given:
        return ONE_TEACHER
    return SAME_ARM if set(arms_of(wanted)) & set(arms_of(given)) else ""


def teaching_text(card: Mapping[str, Any]) -> str:
    """Return sentences about the teacher and the removed channels; empty where there was
    neither."""
    lines = []
    if share := card.get("channels_removed"):
        lines.append(
            f"About {share:.0%} of its backbone's channels were removed before its training."
        )
    if runs := taught_by(card):
        answers = "the mean answer of the runs" if len(runs) > 1 else "the answers of the run"
        arms = arms_of(runs)
        lines.append(
            f"It is a student of the arm{'s' * (len(arms) > 1)} {', '.join(arms)}: it learned {answers} "
            f"{', '.join(runs)} (knowledge distillation)."
        )
    return " ".join(lines)


def _mapping(value: Any) -> Mapping[str, Any]:
    """Return the value, or nothing where a card from elsewhere has something else here."""
    return value if isinstance(value, Mapping) else {}


def _list(value: Any) -> Iterable[Any]:
    return value if isinstance(value, list | tuple) else []
