"""In: a study file (YAML). Out: a checked `Study`, whose every row names known things and changes
one of them."""

import difflib
import re
from collections.abc import Hashable, Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from lib.config import REPO_ROOT, Config, config_problems, resolve, value_shown
from lib.exceptions import StudyError

METRICS = ("auroc", "average_precision", "f1")
"""What can be the primary metric of a study: the one whose differences become verdicts."""
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")
MOST_FOLDS = 100
MUST_BE = {
    "changes": "text",
    "about": "text",
    "init_from": "a run's name or null",
    "teacher": "a run's name or null",
    "int8_of": "a run's name",
    "reference": "true or false",
    "primary": f"one of {', '.join(METRICS)}",
    "margin": f"a metric and a difference in it between 0 and 1, as {{auroc: 0.01}}; metrics are {', '.join(METRICS)}",
    "study": "a name of letters, digits, '_', '.' and '-'",
    "folds": f"0 (official lists) or a whole number from 2 on, up to {MOST_FOLDS}",
}
"""What a field must be, for the message where it is something else."""
ELSEWHERE = {
    "run_dir": "the runner chooses the folder of a run",
    "seed": "write `seeds` beside `base`, or in the run",
    "folds": "write `folds` beside `base`, or `folds: 0` in a stage that keeps its official lists",
    "fold": "the runner trains every fold; write `folds` beside `base`",
    "init_from": "write `init_from` in the run, beside `set`",
    "teacher": "write `teacher` in the run, beside `set`",
}
ALONE = ("changes", "notebook", "set", "init_from", "teacher", "reference", "folds")
"""What a row with `int8_of` cannot have: it takes everything from the run that it quantizes."""


class _Fields(BaseModel):
    """Fields as they are written; `set`, `base`, `notebooks`, notebooks and seeds have checks of
    their own below."""

    model_config = ConfigDict(extra="forbid", strict=True)


def _no_single_fold(value: int) -> int:
    if not _are_folds(value):
        raise ValueError(MUST_BE["folds"])
    return value


def _are_folds(value: Any) -> bool:
    return type(value) is int and 0 <= value <= MOST_FOLDS and value != 1


Folds = Annotated[int, AfterValidator(_no_single_fold)]
Margin = Annotated[float, Field(gt=0, lt=1)]


class _RowFields(_Fields):
    notebook: Any = None
    set: Any = {}
    init_from: str | None = None
    teacher: str | None = None
    int8_of: str = ""
    changes: str = ""
    reference: bool = False
    about: str = ""
    seeds: Any = None
    folds: Folds | None = None


class _FileFields(_Fields):
    study: Annotated[str, Field(pattern=f"^(?:{NAME.pattern})$")]
    primary: Literal["auroc", "average_precision", "f1"] = "auroc"
    margin: dict[Literal["auroc", "average_precision", "f1"], Margin] = {}
    seeds: Any = None
    folds: Folds = 0
    base: Any = {}
    notebooks: Any = {}
    runs: Any = None


@dataclass(frozen=True)
class Row:
    """One row of `runs` as it is written; `things` says what it sets: notebook, init_from, teacher,
    keys of `set`."""

    name: str
    things: tuple[str, ...]
    notebook: str | None
    set: dict[str, Any]
    init_from: str | None
    changes: str | None
    reference: bool
    about: str | None
    seeds: tuple[int, ...] | None
    folds: int | None = None
    teacher: str | None = None
    int8_of: str | None = None

    @property
    def parent(self) -> str | None:
        """The row from which it takes over what it does not say."""
        return self.int8_of or self.changes


@dataclass(frozen=True)
class Study:
    """A checked study file; `base`, `notebooks` and `overrides` hold values as Config keeps
    them.

    folds: how many test sets all patients are divided into; 0: official lists. margin: the primary
    metric and the difference in it below which arms count as equivalent; empty: none.
    """

    name: str
    file: Path
    seeds: tuple[int, ...]
    base: dict[str, Any]
    notebooks: dict[str, dict[str, Any]]
    rows: dict[str, Row]
    overrides: dict[str, Any]
    primary: str = "auroc"
    folds: int = 0
    margin: dict[str, float] = field(default_factory=dict)


def read_study(file: Path, settings: Iterable[str] = (), name: str | None = None) -> Study:
    """The study in `file`, with `settings` ("KEY=VALUE" each) laid over it, under another `name`.

    Raises StudyError that lists every problem found in the file's own fields: unknown or doubled
    keys, unknown parameters, wrong types, unknown runs, missing notebooks, rows that change none or
    two things, and a missing or second reference.
    """
    data = _read_yaml(file)
    if name is not None:
        data["study"] = name
    problems: list[str] = []
    problems += _field_problems(_FileFields, data, "the file", "")
    study, primary = data.get("study"), data.get("primary", METRICS[0])
    margin = data.get("margin", {})
    if isinstance(margin, dict) and (others := [name for name in margin if name != primary]):
        problems.append(
            f"field 'margin' names {', '.join(map(value_shown, others))}, but verdicts are of the "
            f"primary metric, {primary}"
        )
    base = check_parameters(data.get("base", {}), "base", problems)
    notebooks = {
        _notebook(path, "notebooks", problems): check_parameters(
            values, f"notebooks, {path}", problems
        )
        for path, values in _mapping(
            data.get("notebooks", {}), "field 'notebooks'", problems
        ).items()
    }
    rows = {
        row: _read_row(row, fields, problems)
        for row, fields in _mapping(data.get("runs"), "field 'runs'", problems).items()
    }
    overrides = _read_settings(settings, problems)
    seeds = _seeds(data.get("seeds"), "field 'seeds'", problems)
    if "seeds" in overrides:
        seeds = overrides.pop("seeds")
        rows = {name: replace(row, seeds=None) for name, row in rows.items()}
    folds = overrides.pop("folds", data.get("folds", 0))
    _check_rows(rows, problems)
    if problems:
        raise StudyError("\n".join(f"{file}: {problem}" for problem in problems))
    return Study(study, file, seeds, base, notebooks, rows, overrides, primary, folds, margin)


# --- YAML
# -----------------------------------------------------------------------------------------------------


class _Loader(yaml.SafeLoader):
    """Safe YAML that refuses a key given twice and reads 5e-4 as a number."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        seen: set[str] = set()
        for key, _ in node.value:
            text = str(key.value)
            if text in seen:
                raise StudyError(
                    f"line {key.start_mark.line + 1}: key {text!r} is given twice; keep one of them"
                )
            if key.tag != "tag:yaml.org,2002:merge":
                seen.add(text)
        return super().construct_mapping(node, deep)


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"[-+]?(\d+\.?\d*|\.\d+)[eE][-+]?\d+$"),
    list("-+.0123456789"),
)


def _parsed(text: str) -> Any:
    """The values in a YAML text; raises yaml.YAMLError, or StudyError for a key given twice."""
    try:
        return yaml.load(text, _Loader)  # a SafeLoader
    except RecursionError:
        raise yaml.YAMLError("its values are nested too deeply") from None
    except (ValueError, OverflowError) as error:  # of what looks like a number or a date
        raise yaml.YAMLError(str(error)) from error


def _read_yaml(file: Path) -> dict[str, Any]:
    if not file.is_file():
        files = (
            ", ".join(sorted(path.name for path in (REPO_ROOT / "studies").glob("*.yaml")))
            or "none"
        )
        raise StudyError(
            f"{file} is not a file; the study files in {REPO_ROOT / 'studies'} are: {files}"
        )
    try:
        data = _parsed(file.read_text(encoding="utf-8-sig"))
    except UnicodeDecodeError as error:
        raise StudyError(
            f"{file} is not text in UTF-8 ({error.reason} at byte {error.start}); save it so"
        ) from error
    except StudyError as error:
        raise StudyError(f"{file}: {error}") from None
    except yaml.YAMLError as error:
        raise StudyError(f"{file} is not valid YAML: {' '.join(str(error).split())}") from error
    if not isinstance(data, dict):
        raise StudyError(
            f"{file} must hold the fields {', '.join(_FileFields.model_fields)}; it holds {type(data).__name__}"
        )
    if odd := [value_shown(key) for key in data if not isinstance(key, str)]:
        raise StudyError(f"{file}: the names of fields must be text; {', '.join(odd)} is not")
    return data


# --- fields
# ---------------------------------------------------------------------------------------------------


def check_parameters(values: Any, where: str, problems: list[str]) -> dict[str, Any]:
    """`values` as Config keeps them; what is unknown or of a wrong type is added to `problems`."""
    values = _mapping(values, where, problems)
    for name in values:
        if name in ELSEWHERE:
            problems.append(f"{where}: parameter {name!r} cannot be set here; {ELSEWHERE[name]}")
        elif name not in Config.model_fields:
            problems.append(
                f"{where}: unknown parameter {name!r}{_closest(name, Config.model_fields)}"
            )
    fields = {
        name: value
        for name, value in values.items()
        if name in Config.model_fields and name not in ELSEWHERE
    }
    try:
        config = Config(**fields)
    except ValidationError as error:
        problems.extend(f"{where}: {sentence}" for sentence in config_problems(error, fields))
        return {}
    return {name: getattr(config, name) for name in fields}


def _closest(name: Any, names: Iterable[str]) -> str:
    close = difflib.get_close_matches(str(name), list(names), n=1)
    return (
        f"; did you mean {close[0]!r}?" if close else f"; known are: {', '.join(names) or 'none'}"
    )


def _field_problems(
    model: type[_Fields], data: dict[str, Any], where: str, before: str
) -> list[str]:
    """One sentence per field that is unknown or of a wrong type, in the file's order where it can
    be."""
    try:
        model(**data)
    except ValidationError as error:
        return [_field_problem(one, model, data, where, before) for one in error.errors()]
    return []


def _field_problem(
    error: Any, model: type[_Fields], data: dict[str, Any], where: str, before: str
) -> str:
    name = str(error["loc"][0])
    if error["type"] == "extra_forbidden":
        return f"{where}: unknown field {name!r}{_closest(name, model.model_fields)}"
    return f"{before}field {name!r} is {value_shown(data.get(name))}, but must be {MUST_BE[name]}"


def _mapping(value: Any, where: str, problems: list[str]) -> dict[str, Any]:
    if isinstance(value, dict) and all(isinstance(key, str) for key in value):
        return value
    problems.append(f"{where} is {value_shown(value)}, but must be a mapping of names to values")
    return {}


def _seeds(value: Any, where: str, problems: list[str]) -> tuple[int, ...]:
    whole = isinstance(value, list) and all(
        type(seed) is int and 0 <= seed < 2**63 for seed in value
    )
    if whole and value and len(set(value)) == len(value):
        return tuple(value)
    problems.append(
        f"{where} is {value_shown(value)}, but must be a list of different whole numbers from 0 to 2**63 - 1,"
        " for example [0, 1, 2]"
    )
    return ()


def _notebook(value: Any, where: str, problems: list[str]) -> str:
    if not isinstance(value, str) or not value.endswith(".ipynb"):
        problems.append(f"{where}: {value_shown(value)} is not the path of a notebook (.ipynb)")
    elif not _is_file(value):
        problems.append(f"{where}: the notebook {value} does not exist below {REPO_ROOT}")
    return str(value)


def _is_file(path: str) -> bool:
    try:
        return resolve(path).is_file()
    except (OSError, RuntimeError):  # a name that is too long, or of an unknown user's home
        return False


def _read_settings(settings: Iterable[str], problems: list[str]) -> dict[str, Any]:
    """Checked overrides: YAML values where the parameter's type allows it, else the text as it
    stands."""
    overrides: dict[str, Any] = {}
    for setting in settings:
        key, equals, text = setting.partition("=")
        where = f"--set {setting}"
        if not equals:
            problems.append(f"{where}: write KEY=VALUE")
            continue
        try:
            value = _parsed(text)
        except yaml.YAMLError:
            value = text
        if key == "seeds":
            overrides["seeds"] = _seeds([value] if type(value) is int else value, where, problems)
            continue
        if key == "folds":
            problems += [] if _are_folds(value) else [f"{where}: folds must be {MUST_BE['folds']}"]
            overrides["folds"] = value
            continue
        as_yaml: list[str] = []
        checked = check_parameters({key: value}, where, as_yaml) or check_parameters(
            {key: text}, where, []
        )
        problems.extend([] if checked else as_yaml)
        overrides |= checked
    return overrides


# --- rows
# -----------------------------------------------------------------------------------------------------


def _read_row(name: str, fields: Any, problems: list[str]) -> Row:
    where = f"run {name!r}"
    if not NAME.fullmatch(name):
        problems.append(
            f"{where}: the name becomes a folder's: use letters, digits, '_', '.' and '-'"
        )
    fields = _mapping(fields, where, problems)
    problems += _field_problems(_RowFields, fields, where, f"{where}: ")
    if "int8_of" in fields and (others := [key for key in ALONE if key in fields]):
        problems.append(
            f"{where}: it has int8_of, so it is another run in 8 bits and nothing else: remove "
            f"{', '.join(others)}"
        )
    return Row(
        name=name,
        things=(
            *(key for key in ("notebook", "init_from", "teacher") if key in fields),
            *(fields["set"] if isinstance(fields.get("set"), dict) else ()),
        ),
        notebook=_notebook(fields["notebook"], where, problems) if "notebook" in fields else None,
        set=check_parameters(fields.get("set", {}), f"{where}, field 'set'", problems),
        init_from=fields.get("init_from"),
        changes=fields.get("changes"),
        reference=fields.get("reference") is True,
        about=fields.get("about"),
        seeds=_seeds(fields["seeds"], f"{where}: field 'seeds'", problems)
        if "seeds" in fields
        else None,
        folds=fields.get("folds"),
        teacher=fields.get("teacher"),
        int8_of=fields.get("int8_of"),
    )


def _check_rows(rows: dict[str, Row], problems: list[str]) -> None:
    for row in rows.values():
        where = f"run {row.name!r}"
        for key in ("changes", "init_from", "teacher", "int8_of"):
            other = getattr(row, key)
            if isinstance(other, str) and other not in rows:
                problems.append(
                    f"{where}: field {key!r} names the unknown run {other!r}{_closest(other, rows)}"
                )
            elif isinstance(other, str) and rows[other].int8_of:
                problems.append(
                    f"{where}: field {key!r} names {other!r}, which is int8: nothing can be made from "
                    f"that but predictions; name {rows[other].int8_of!r}"
                )
        if row.int8_of:
            continue
        if row.changes is None and "notebook" not in row.things:
            problems.append(
                f"{where}: field 'notebook' is missing (or 'changes', to change one thing of another run)"
            )
        if row.changes is not None and len(row.things) != 1:
            changed = (
                f"{len(row.things)} things ({', '.join(row.things)})" if row.things else "nothing"
            )
            problems.append(
                f"{where}: it changes {changed} of {row.changes!r}, but must change exactly one: "
                "notebook, init_from, teacher, or one key in set"
            )
    folded = [name.casefold() for name in rows]
    twins = [name for name in rows if folded.count(name.casefold()) > 1]
    problems.extend(
        f"run {name!r}: another run differs in capitals only; rename one" for name in twins
    )
    references = [row.name for row in rows.values() if row.reference]
    if len(references) != 1:
        found = (
            f"there are {len(references)}: {', '.join(references)}"
            if references
            else "there is none"
        )
        problems.append(f"field 'runs': exactly one run must say `reference: true`; {found}")
