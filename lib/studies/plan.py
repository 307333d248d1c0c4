"""In: a checked `Study`. Out: a `Plan`: every run with its whole config, its folder and the runs it
needs first."""

import hashlib
import json
import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from lib.config import PHANTOMS, REPO_ROOT, Config
from lib.exceptions import StudyError
from lib.studies.file import Study, read_study
from lib.studies.teachers import check_teachers, teacher_problems

QUANTIZE = "notebooks/quantize.ipynb"
"""What makes the runs of a row with `int8_of`."""
INHERITED = ("backbone", "pretrained", "input_range", "head", "image_size")
# `choose_epoch_by` is not handed on: it may name a finding that the earlier stage does not have.
RECIPE = (
    *("optimizer", "lr", "weight_decay", "layer_decay", "drop_path", "warmup", "schedule", "ema"),
    *(
        "batch_size",
        "precision",
        "augment",
        "split_by",
        "epochs",
        "clip_norm",
        "loss_reduction",
        "head_bias",
    ),
)
EVERYWHERE = ("data_root", "weights_root", "on_bad", "accelerator", "devices_per_run", "epochs")
"""`--set` of these holds for every run, also for one that sets them itself: they say where and how
long, not what."""


@dataclass(frozen=True)
class PlannedRun:
    """One run of a plan: notebook + config -> `folder`, after the runs in `needs`."""

    name: str
    arm: str
    seed: int
    fold: int | None
    notebook: str
    prerequisite: bool
    reference: bool
    changes: str | None
    what: str | None
    about: str | None
    needs: tuple[str, ...]
    config: Config
    lineage: str
    folder: Path

    @property
    def start(self) -> str | None:
        """The run whose backbone it starts from: the first of `needs` that is no teacher."""
        return Path(self.config.init_from).name if self.config.init_from else None

    @property
    def teachers(self) -> tuple[str, ...]:
        """The runs of `needs` whose answers it learns."""
        return tuple(Path(folder).name for folder in self.config.teacher)


@dataclass(frozen=True)
class Plan:
    """All runs of a study, what is needed always before what needs it."""

    study: str
    file: Path
    folder: Path
    reference: str
    seeds: tuple[int, ...]
    runs: dict[str, PlannedRun]
    primary: str = "auroc"
    folds: int = 0
    margin: dict[str, float] = field(default_factory=dict)

    def as_json(self) -> dict[str, Any]:
        """What `plan.json` holds."""
        runs = {run.name: self.entry(run) for run in self.runs.values()}
        head = {
            "study": self.study,
            "file": below_root(self.file),
            "reference": self.reference,
            "primary": self.primary,
            "folds": self.folds,
            **({"margin": self.margin} if self.margin else {}),
        }
        return {**head, "seeds": list(self.seeds), "runs": runs}

    @staticmethod
    def entry(run: PlannedRun) -> dict[str, Any]:
        """What `plan.json` holds of one run."""
        fields = {key: value for key, value in vars(run).items() if key not in ("name", "folder")}
        config = run.config.model_dump(mode="json")
        return fields | {
            "needs": list(run.needs),
            "config": config,
            "config_hash": run.config.hash(),
        }


def plan_study(
    file: Path,
    settings: Iterable[str] = (),
    *,
    name: str | None = None,
    runs_dir: Path = REPO_ROOT / "runs",
) -> Plan:
    """The plan of the study in `file`; `settings` are "KEY=VALUE" overrides, `name` is another than
    the file's.

    The value of a parameter comes from, later beats earlier: Config, `base`, the row (or the rows
    that it changes), the `notebooks` entry of a notebook where it is chosen, the rows that change
    that one in turn. An override beats all but a row's own `set`; one of EVERYWHERE beats that too,
    yet never the one thing that a row changes, nor the phantoms as a row's `data_root`: such a run
    looks for weights where the others do. With
    `folds` every arm and every stage is trained once per seed and fold, but stages that say
    `folds: 0`, which all folds share. A prerequisite takes over INHERITED from the run
    that needs it, and of RECIPE what that run has otherwise than `base`; what the prerequisite's
    own row sets stays. A teacher takes over nothing: a run needs all seeds of that row, in its own
    fold. Raises StudyError for everything `read_study` refuses, for cycles, for two
    arms that are the same experiment, and for a backbone or folds that a prerequisite contradicts,
    or a size or folds that a teacher does.
    """
    study = read_study(file, settings, name)
    rows = _resolve_rows(study)
    builder = _Builder(study, rows)
    needed = {row.init_from for name, row in rows.items() if not study.rows[name].int8_of}
    for name, row in study.rows.items():
        if (
            row.parent is None and name in needed and not row.reference
        ):  # a prerequisite: built where it is needed
            if row.seeds:
                builder.problems.append(
                    f"run {name!r}: remove field 'seeds': it has the seeds of the runs that need it"
                )
            continue
        for seed in row.seeds or study.seeds:
            for fold in range(max(builder.folds(name), 1)):
                builder.add(name, (seed, fold), builder.plain(name), frozenset(), arm=True)
    if builder.problems:
        raise StudyError("\n".join(f"{file}: {problem}" for problem in builder.problems))
    return _finish(study, rows, builder.nodes, runs_dir / study.name)


def below_root(path: Path) -> str:
    """`path` as text, relative to the repository's root where it lies below it."""
    path = path.resolve()
    return (path.relative_to(REPO_ROOT) if path.is_relative_to(REPO_ROOT) else path).as_posix()


# --- rows that change rows
# ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Row:
    """A row with everything that it takes over from the row that it changes.

    A notebook's own settings (`notebooks:` of the study) come between what was set before and after
    that notebook was chosen.
    """

    notebook: str
    init_from: str | None
    before_notebook: dict[str, Any]
    after_notebook: dict[str, Any]
    changed: frozenset[str] = frozenset()
    what: str | None = None
    teacher: str | None = None

    @property
    def settings(self) -> dict[str, Any]:
        return self.before_notebook | self.after_notebook


def _resolve_rows(study: Study) -> dict[str, _Row]:
    resolved: dict[str, _Row] = {}
    for name in study.rows:
        chain = _follow(study, name, lambda row: study.rows[row].parent, "changes")
        for row in reversed(chain):
            resolved.setdefault(row, _resolve(study, row, resolved))
    for name in study.rows:
        _follow(study, name, lambda row: resolved[row].init_from, "init_from")
    check_teachers(study.file, {row: (one.init_from, one.teacher) for row, one in resolved.items()})
    return resolved


def _resolve(study: Study, name: str, resolved: dict[str, _Row]) -> _Row:
    """One row, made of the row that it changes, which is resolved already. For example

    a: {notebook: cnn, set: {lr: 1}}   cnn   before {}               after {lr: 1}
    b: {changes: a, set: {size: 64}}   cnn   before {}               after {lr: 1, size: 64}
    c: {changes: b, notebook: vit}     vit   before {lr: 1, size: 64}  after {}
    """
    row = study.rows[name]
    if row.parent is None:
        return _Row(row.notebook, row.init_from, {}, row.set, teacher=row.teacher)
    parent = resolved[row.parent]
    if row.int8_of:
        return replace(parent, notebook=QUANTIZE, init_from=row.int8_of, what="int8")
    if row.notebook:
        return replace(
            parent,
            notebook=row.notebook,
            before_notebook=parent.settings,
            after_notebook={},
            what=f"notebook={row.notebook}",
        )
    if "init_from" in row.things:
        return replace(parent, init_from=row.init_from, what=f"init_from={row.init_from}")
    if "teacher" in row.things:
        return replace(parent, teacher=row.teacher, what=f"teacher={row.teacher}")
    return replace(
        parent,
        after_notebook=parent.after_notebook | row.set,
        changed=parent.changed | set(row.set),
        what=", ".join(f"{key}={value_text(value)}" for key, value in row.set.items()),
    )


def _follow(study: Study, name: str, following: Any, field_name: str) -> list[str]:
    """The rows met from `name` on; raises StudyError when one comes twice."""
    chain = [name]
    while (name := following(name)) is not None:
        if name in chain:
            cycle = " -> ".join([*chain[chain.index(name) :], name])
            raise StudyError(
                f"{study.file}: run {name!r}: field {field_name!r} goes round in a cycle: {cycle}"
            )
        chain.append(name)
    return chain


def value_text(value: Any) -> str:
    """A parameter's value as a person would write it."""
    return ",".join(map(str, value)) if isinstance(value, tuple) else str(value)


# --- runs and their prerequisites
# -----------------------------------------------------------------------------


@dataclass
class _Node:
    """A run before it has a name: what it computes, and from which other one."""

    row: str
    seed: int
    fold: int | None
    values: dict[str, Any]
    need: str | None
    arm: bool
    inherited: dict[str, Any]
    teachers: tuple[str, ...] = ()
    level: int = 0


@dataclass
class _Builder:
    """Collects runs, each experiment once, under a key that is the same for the same experiment."""

    study: Study
    rows: dict[str, _Row]
    nodes: dict[str, _Node] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)

    def plain(self, name: str) -> dict[str, Any]:
        """All parameters of a row by itself, without seed, run_dir and init_from."""
        row, study = self.rows[name], self.study
        if quantized := study.rows[name].int8_of:
            return self.plain(quantized)
        values = (
            _defaults()
            | study.base
            | row.before_notebook
            | study.notebooks.get(row.notebook, {})
            | row.after_notebook
        )
        if row.settings.get("data_root") == PHANTOMS and values["weights_root"] is None:
            data = study.base.get("data_root", values["data_root"])
            values["weights_root"] = study.overrides.get("data_root", data)
        for key, value in study.overrides.items():
            everywhere = key in EVERYWHERE and key not in row.changed
            everywhere &= not (key == "data_root" and row.settings.get(key) == PHANTOMS)
            if key not in row.settings or everywhere:
                values[key] = value
        return values | {"folds": self.folds(name)}

    def folds(self, name: str) -> int:
        """How many folds a row's runs are tested in, itself or by the row that it changes."""
        row = self.study.rows[name]
        if row.folds is not None:
            return row.folds
        return self.folds(row.parent) if row.parent else self.study.folds

    def add(
        self,
        name: str,
        part: tuple[int, int],
        values: dict[str, Any],
        inherited: frozenset[str],
        *,
        arm: bool,
    ) -> str:
        """Adds the run of a seed and fold, `part`, after what it needs; returns its key."""
        row = self.rows[name]
        seed, fold = part
        values = values | {"fold": fold if values["folds"] else 0}
        need = self._add_need(name, row.init_from, part, values) if row.init_from else None
        teachers = self._add_teachers(name, row.teacher, part, values) if row.teacher else ()
        if values["distil_data"] and not teachers:
            self._refuse(f"run {name!r}: it has distil_data, but no teacher that answers for it")
        # the hash leaves the root out: a folder may be moved, but two roots are two data sets
        same = [row.notebook, Config(**values, seed=seed).hash(), str(values["data_root"]), need]
        same += teachers
        key = _digest(same)
        node = self.nodes.get(key)
        if node is None:
            tested = fold if values["folds"] else None
            own = {field: values[field] for field in sorted(inherited)}
            self.nodes[key] = _Node(name, seed, tested, values, need, arm, own, teachers)
        elif arm and node.arm:
            self.problems.append(
                f"run {name!r}: with seed {seed} it is the same experiment as run {node.row!r}; remove one of them"
            )
        elif arm:
            node.row, node.arm, node.inherited = name, True, {}
        return key

    def _refuse(self, problem: str) -> None:
        """Adds a problem once, whatever the number of seeds and folds that have it."""
        self.problems += [] if problem in self.problems else [problem]

    def _add_teachers(
        self, student: str, name: str, part: tuple[int, int], wanted: dict[str, Any]
    ) -> tuple[str, ...]:
        """Adds the runs of the teacher `name`, of all its seeds, in the fold of `part`; returns their
        keys."""
        values = self.plain(name)
        for problem in teacher_problems(student, name, values, wanted):
            self._refuse(problem)
        values["folds"] = wanted["folds"]
        seeds = self.study.rows[name].seeds or self.study.seeds
        return tuple(
            self.add(name, (seed, part[1]), values, frozenset(), arm=False) for seed in seeds
        )

    def _add_need(
        self, dependent: str, name: str, part: tuple[int, int], wanted: dict[str, Any]
    ) -> str:
        values, settings = self.plain(name), self.rows[name].settings
        if values["folds"] not in (0, wanted["folds"]):
            problem = (
                f"run {dependent!r}: it is tested in {wanted['folds']} folds, but run {name!r}, from which "
                f"it starts, in {values['folds']}; give both the same, or write `folds: 0` in {name!r}"
            )
            self._refuse(problem)
            values["folds"] = wanted["folds"]
        defaults = _defaults() | self.study.base | self.study.overrides
        inheriting = [key for key in INHERITED if key not in settings]
        inheriting += [
            key for key in RECIPE if key not in settings and wanted[key] != defaults[key]
        ]
        if values["backbone"] != wanted["backbone"] and "backbone" in settings:
            self.problems.append(
                f"run {dependent!r}: its backbone is {wanted['backbone']!r}, but run {name!r}, from which it starts, "
                f"sets {settings['backbone']!r}; remove backbone from the set of {name!r}: it is inherited"
            )
        inherited = frozenset(key for key in inheriting if values[key] != wanted[key])
        return self.add(
            name, part, values | {key: wanted[key] for key in inheriting}, inherited, arm=False
        )


def _defaults() -> dict[str, Any]:
    values = Config().model_dump()
    chosen = ("seed", "fold", "run_dir", "init_from", "teacher")
    return {key: value for key, value in values.items() if key not in chosen}


def _digest(parts: list[Any]) -> str:
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:12]


# --- names, folders, configs
# ----------------------------------------------------------------------------------


def _finish(study: Study, rows: dict[str, _Row], nodes: dict[str, _Node], folder: Path) -> Plan:
    names = _names(nodes)
    reference = next(row.name for row in study.rows.values() if row.reference)
    runs: dict[str, PlannedRun] = {}
    for key, node in nodes.items():
        row, name, need = rows[node.row], names[key], names.get(node.need)
        start = below_root(folder / need) if need else None
        teachers = tuple(names[one] for one in node.teachers)
        config = Config(
            **node.values,
            seed=node.seed,
            run_dir=below_root(folder / name),
            init_from=start,
            teacher=tuple(below_root(folder / one) for one in teachers),
        )
        before = [runs[need].lineage if need else None, *(runs[one].lineage for one in teachers)]
        runs[name] = PlannedRun(
            name=name,
            arm=node.row,
            seed=node.seed,
            fold=node.fold,
            notebook=row.notebook,
            prerequisite=not node.arm,
            reference=node.row == reference and node.arm,
            changes=study.rows[node.row].parent,
            what=row.what,
            about=study.rows[node.row].about,
            needs=tuple(dict.fromkeys([*([need] if need else []), *teachers])),
            config=config,
            lineage=_digest([row.notebook, config.hash(), *before]),
            folder=folder / name,
        )
    return Plan(
        study.name,
        study.file,
        folder,
        reference,
        study.seeds,
        runs,
        study.primary,
        study.folds,
        study.margin,
    )


def _names(nodes: dict[str, _Node]) -> dict[str, str]:
    """`<row>-s<seed>`, with folds `<row>-s<seed>-f<fold>`; a prerequisite says what it inherited:
    shortly, at length where two would share a name."""
    while True:
        names = {key: _name(key, node) for key, node in nodes.items()}
        uses = Counter(name.casefold() for name in names.values())
        clashing = [
            node for key, node in nodes.items() if uses[names[key].casefold()] > 1 and not node.arm
        ]
        if not clashing:
            return names
        for node in clashing:
            node.level += 1


def _name(key: str, node: _Node) -> str:
    inherited = node.inherited
    if node.level == 0 and "backbone" in inherited:
        inherited = {"backbone": inherited["backbone"]}
    parts = [node.row, *(_slug(field, value) for field, value in inherited.items())]
    parts += [key[: 3 + node.level]] if node.level >= 2 else []
    parts += [f"s{node.seed}", *([] if node.fold is None else [f"f{node.fold}"])]
    return "-".join(parts)


def _slug(field: str, value: Any) -> str:
    text = value.rsplit("/", 1)[-1] if isinstance(value, str) else f"{field}-{value}"
    return re.sub(r"[^A-Za-z0-9_.]+", "-", text).strip("-").lower()
