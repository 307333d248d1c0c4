"""In: which rows of a study learn from which teacher. Out: nothing, or what cannot be, in
sentences."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lib.exceptions import StudyError

Needs = Mapping[str, tuple[str | None, ...]]
"""row -> the rows that it starts from and learns from; None where there is none."""


def check_teachers(file: Path, needs: Needs) -> None:
    """Raise StudyError that names a row which would need itself, through `init_from` and `teacher`
    of the rows between."""
    done: set[str] = set()
    for name in needs:
        _walk(file, needs, name, (), done)


def _walk(file: Path, needs: Needs, name: str, path: tuple[str, ...], done: set[str]) -> None:
    if name in path:
        cycle = " -> ".join([*path[path.index(name) :], name])
        raise StudyError(f"{file}: run {name!r}: field 'teacher' goes round in a cycle: {cycle}")
    if name in done:
        return
    for other in needs[name]:
        if other is not None:
            _walk(file, needs, other, (*path, name), done)
    done.add(name)


def teacher_problems(
    student: str, teacher: str, values: Mapping[str, Any], wanted: Mapping[str, Any]
) -> list[str]:
    """Why a teacher cannot answer for the films of a student, one sentence each.

    values: the teacher's parameters; wanted: the student's. Sizes must agree, because the answers
    are computed on the student's films; so must folds, because a teacher of another division has
    trained on patients whom the student is tested on.
    """
    problems = []
    if values["image_size"] != wanted["image_size"]:
        problems.append(
            f"run {student!r}: its image_size is {wanted['image_size']}, but its teacher {teacher!r} "
            f"has {values['image_size']}; give both the same"
        )
    if values["folds"] != wanted["folds"]:
        problems.append(
            f"run {student!r}: it is tested in {wanted['folds']} folds, but its teacher {teacher!r} "
            f"in {values['folds']}, and would have trained on patients whom the other is tested on; "
            "give both the same"
        )
    if missing := [name for name in wanted["findings"] if name not in values["findings"]]:
        problems.append(
            f"run {student!r}: its teacher {teacher!r} does not answer for {', '.join(missing)}; "
            "take these out of the findings, or name another teacher"
        )
    return problems
