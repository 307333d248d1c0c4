"""In: a model and the folder of another set. Out: its evaluation there, in `evaluations/<name>/` beside the
model."""

import re
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from dataclasses import replace as changed
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from scipy.special import expit
from tqdm import tqdm

from lib.comparison.arms import RunPredictions
from lib.exceptions import DatasetError, RunError
from lib.external.films import Films, fingerprint, open_films, read_films
from lib.external.local import DRAWS, FILMS, local_thresholds
from lib.external.models import (
    EACH,
    ENSEMBLE,
    Answers,
    Model,
    inside_answers,
    model_digest,
    model_name,
    open_model,
)
from lib.external.overlap import Met, met_by, runs_of_file, same_hospital, without_met
from lib.external.scores import compare_sides
from lib.external.store import find_kept, write_evaluation
from lib.external.unlike import unlike_films
from lib.external.words import summary_text
from lib.files import read_json
from lib.system import git_state, package_versions

if TYPE_CHECKING:
    from lib.inference.predictor import Predictor

BATCH = 64
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
VERSION = 1
"""Increase it when the same model and films would give other numbers."""


@dataclass(frozen=True)
class External:
    """One model on one other set. metrics: of `scores.compare_sides`, with a column answers; local: of
    `local.local_thresholds`; about: what evaluation.json holds."""

    predictions: pd.DataFrame
    metrics: pd.DataFrame
    local: pd.DataFrame
    left_out: pd.DataFrame
    about: dict[str, Any]


def evaluate_model(
    source: Path | Sequence[Path],
    data: Path,
    name: str | None = None,
    *,
    films: Sequence[int] = FILMS,
    replace: bool = False,
    log: Callable[[str], None] = print,
) -> Path:
    """Evaluates a model on all labelled films of `data` that it has not met; returns the folder of the
    evaluation.

    source: the folder of a complete run, those of an arm's runs, or an exported .onnx file. name: of
    the evaluation, by default that of the folder. films: numbers of local films from which a new
    threshold is chosen. An evaluation of the same model, films and numbers is taken as it is, unless
    `replace`. Raises DatasetError for films that cannot be used, ExportError for a model that cannot,
    RunError where another evaluation has the name.
    """
    started = time.time()
    data = data.expanduser().absolute()
    kind, model, parent = model_name(source)
    place = parent / _checked_name(name or data.name, source)
    if kind == "file":
        opened = open_model(source)  # a broken file is refused before the films are read
        with opened as one:
            findings = one.findings
    else:
        folders = [source] if isinstance(source, Path) else source
        findings = _findings_of(folders)
    read = read_films(data, findings)
    key = {"version": VERSION, "model": model_digest(source), "local_films": list(films)}
    key |= {"data": fingerprint(read.data.frame)}
    if find_kept(place, key, replace):
        log(f"{model} on {data.name}: nothing changed since it was evaluated; --replace repeats it")
        return place
    with open_model(source) as opened_model:
        found = _evaluate(opened_model, read, films)
    about = {"key": key, "name": place.name, "model": {"kind": kind, "name": model}} | found.about
    about["seconds"] = round(time.time() - started, 1)
    text = summary_text(about, found.metrics, found.local)
    tables = {
        "metrics.csv": found.metrics,
        "predictions.parquet": found.predictions,
        "local_thresholds.csv": found.local,
        "left_out.csv": found.left_out,
    }
    return write_evaluation(place, tables, text, about)


def _checked_name(name: str, source: Path | Sequence[Path]) -> str:
    """The name of an evaluation; raises RunError for one that no folder can have, or that is a run's:
    what a run answers for the test set of another run is kept under that one's name."""
    if not NAME.fullmatch(name):
        raise RunError(
            f"{name!r} is no name of an evaluation: use letters, digits, '.', '_' and '-' (--name NAME)"
        )
    if isinstance(source, Path) and (source.parent / name / "config.json").exists():
        raise RunError(
            f"{name} is the name of a run of the same study; choose another one with --name NAME"
        )
    return name


def _findings_of(folders: Sequence[Path]) -> tuple[str, ...]:
    """The findings of the first run, from its card."""
    return tuple(read_json(folders[0] / "card.json")["findings"])


def _evaluate(model: Model, films: Films, counts: Sequence[int]) -> External:
    size = model.members[0].predictor.image_size
    total = len(films.frame)
    films, store = open_films(films, size)
    met, notes = _met(model)
    films, unchecked = without_met(films, store, met)
    if films.frame.empty:
        raise DatasetError(
            f"{films.folder}: the model was trained on, or tested inside on, all of its {total:,} labelled films or "
            "other films of their patients; nothing is left to evaluate. Name a set that it has not met"
        )
    outside, unlike, table = answer_films(model, films, store)
    inside = inside_answers(model)
    parts = [
        compare_sides(inside.get(how, []), runs, model.card).assign(answers=how)
        for how, runs in outside.items()
    ]
    metrics = pd.concat(parts, ignore_index=True)
    metrics = metrics[["answers", *(name for name in metrics if name != "answers")]]
    local = local_thresholds(outside[model.answered_by][0], counts)
    metrics = pd.concat([metrics, unlike_films(model, unlike, films)], ignore_index=True)
    hospital = same_hospital(films, _populations(model, met))
    about = {
        "findings": list(films.findings),
        "members": [member.name for member in model.members],
        "data": _about(films, total),
        "phantom": films.data.phantom or bool(model.data.get("phantom")),
        "same_hospital": hospital,
        "trained_on": model.data.get("layouts", {}),
        "notes": [*notes, *unchecked],
        "draws": DRAWS,
        "evaluated": datetime.now(UTC).isoformat(timespec="seconds"),
        "git": git_state(),
        "versions": package_versions(),
    }
    return External(table, metrics, local, films.left_out, about)


def _populations(model: Model, met: Met) -> set[str]:
    return met.populations | set(model.data.get("populations", ()))


def _met(model: Model) -> tuple[Met, list[str]]:
    """What the model has met, and a warning where a file's runs are not here to say so."""
    if model.folders:
        return met_by(model.folders), []
    folders = runs_of_file(model.card)
    if folders:
        return met_by(folders), []
    return Met(), [
        "The file does not list the films that it was trained on, and its run is not here: whether it has met these "
        "films was NOT checked. Evaluate the run to be sure."
    ]


def answer_films(
    model: Model, films: Films, store: np.ndarray
) -> tuple[dict[str, list[Answers]], np.ndarray, pd.DataFrame]:
    """The model's answers by how it answers (see `models.inside_answers`); the unlikeness (N,) that
    its first member gives; and the table of all predictions."""
    frame, unlike = films.frame, np.zeros(0)
    answered: list[Answers] = []
    tables: list[pd.DataFrame] = []
    ids = {name: frame[f"{name[:-1]}"].to_numpy(str) for name in ("images", "patients")}
    for member in model.members:
        predictor = member.predictor
        logits, probs, scores = _predict(member.name, predictor, store, frame["row"].to_numpy())
        columns = [predictor.findings.index(name) for name in films.findings]
        raw, probs = expit(logits[:, columns].astype(float)), probs[:, columns]
        run = RunPredictions(
            findings=films.findings,
            targets=films.targets,
            probs=probs.astype(float),
            run=member.name,
            seed=member.seed,
            thresholds=predictor.thresholds[columns].astype(float),
            **ids,
        )
        ensemble_file = "members" in model.card.get("calibration", {}).get("method", ())
        answered.append(Answers(run, np.full(raw.shape, np.nan) if ensemble_file else raw))
        unlike = scores if not tables else unlike
        tables.append(_table(frame, answered[-1], scores))
    table = pd.concat(tables, ignore_index=True)
    if len(answered) == 1:
        return {model.kind: answered}, unlike, table
    return {ENSEMBLE: [_mean(answered)], EACH: answered}, unlike, table


def _mean(answered: Sequence[Answers]) -> Answers:
    """The ensemble of several trainings (`metrics.ensemble`), of probabilities that are calibrated."""
    values = {
        name: np.mean([getattr(one.run, name) for one in answered], axis=0)
        for name in ("probs", "thresholds")
    }
    run = changed(answered[0].run, run=ENSEMBLE, **values)
    return Answers(run, np.mean([one.raw for one in answered], axis=0))


def _predict(
    name: str, predictor: "Predictor", store: np.ndarray, rows: np.ndarray
) -> tuple[np.ndarray, ...]:
    """Of the store's rows (N,): logits (N, F), calibrated probabilities (N, F) and unlikeness (N,)."""
    parts = []
    starts = range(0, len(rows), BATCH)
    for start in tqdm(starts, desc=name, unit="batch", disable=None, leave=False):
        one = predictor.predict(store[rows[start : start + BATCH]])
        parts.append((one.logits, one.probs, one.unlikeness))
    return tuple(np.concatenate(values) for values in zip(*parts, strict=True))


def _table(frame: pd.DataFrame, answers: Answers, unlike: np.ndarray) -> pd.DataFrame:
    """run, image, patient, age, sex, view, source, unlikeness, then target_*, prob_* (calibrated) and
    raw_*."""
    about = frame[["image", "patient", "age", "sex", "view", "source"]].reset_index(drop=True)
    parts = [about.assign(run=answers.run.run, unlikeness=unlike)]
    values = {"target": answers.run.targets, "prob": answers.run.probs, "raw": answers.raw}
    for kind, array in values.items():
        parts.append(pd.DataFrame(array, columns=answers.findings).add_prefix(f"{kind}_"))
    return pd.concat(parts, axis=1)


def _about(films: Films, labelled: int) -> dict[str, Any]:
    """What the record says of the films."""
    left_out = films.left_out.groupby(["reason", "by"]).size().reset_index(name="images")
    return {
        "folder": str(films.folder),
        "layout": next(iter(films.data.layouts.values())),
        "fingerprint": fingerprint(films.frame),
        "populations": sorted(films.populations),
        "labelled": labelled,
        "images": len(films.frame),
        "patients": int(films.frame["patient"].nunique()),
        "left_out": left_out.to_dict("records"),
        "warnings": list(films.data.warnings),
    }
