"""In: a run, the runs of an arm, or an exported file. Out: a `Model`: its members, ready to answer, and
what they answered for their own test set.

Every run is exported to a temporary ONNX file, so that films are answered by what would be shipped:
preprocessing, calibration and thresholds included, frozen as training left them.
"""

import re
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from lib.comparison.arms import RunPredictions, read_run_predictions
from lib.comparison.ensembles import ensemble
from lib.exceptions import CxrError
from lib.files import model_files, sha256
from lib.metrics.calibration import Calibration
from lib.metrics.ensemble import ensemble_thresholds

if TYPE_CHECKING:  # onnxruntime, which reports do without
    from lib.inference.predictor import Predictor

ENSEMBLE, EACH = "ensemble", "mean of the runs"
"""How an arm answers: with its ensemble, and as the mean of its runs' scores."""


@dataclass(frozen=True)
class Answers:
    """What one training, or an ensemble, answered for some films.

    run: calibrated probabilities (N, F) and thresholds for them. raw: (N, F) before the calibration;
    NaN where it is not known.
    """

    run: RunPredictions
    raw: np.ndarray

    @property
    def findings(self) -> tuple[str, ...]:
        return self.run.findings

    def on(self, findings: Sequence[str]) -> "Answers":
        """The same for some findings, and the films annotated for at least one of them."""
        columns = [self.findings.index(name) for name in findings]
        kept = ~np.isnan(self.run.targets[:, columns]).all(axis=1)
        return Answers(self.run.on(findings), self.raw[kept][:, columns])


@dataclass(frozen=True)
class Member:
    """One network: its name, its file's predictor, and what it answered for its own test set (None
    where the file alone is there)."""

    name: str
    seed: int
    predictor: "Predictor"
    inside: Answers | None = None


@dataclass(frozen=True)
class Model:
    """What is evaluated. kind: run, arm or file. folders: of its runs, empty for a file. digest:
    changes with the weights, thresholds and calibration of any member."""

    kind: str
    name: str
    source: Path
    folders: tuple[Path, ...]
    digest: str
    members: tuple[Member, ...]

    @property
    def card(self) -> dict[str, Any]:
        """The card of the first member's file."""
        return self.members[0].predictor.card

    @property
    def data(self) -> dict[str, Any]:
        """What the card says of the films that trained it."""
        return self.card.get("data") or {}

    @property
    def findings(self) -> tuple[str, ...]:
        return self.members[0].predictor.findings

    @property
    def answered_by(self) -> str:
        """The answers that somebody would use: of the ensemble, or of the one network."""
        return ENSEMBLE if len(self.members) > 1 else self.kind


def model_name(source: Path | Sequence[Path]) -> tuple[str, str, Path]:
    """Kind, name and place of a model: the folder that its evaluations stand in.

    Those of a run stand in its folder, those of an arm in its study's, those of a file beside it.
    """
    if not isinstance(source, Path):
        if len(source) == 1:
            return model_name(source[0])
        names = {re.sub(r"-s\d+(?=$|-f\d+$)", "", folder.name) for folder in source}
        if len(names) > 1 or len({folder.parent for folder in source}) > 1:
            raise CxrError(f"{', '.join(map(str, source))} are not the runs of one arm")
        name = names.pop()
        return "arm", name, source[0].parent / "evaluations" / name
    if source.suffix == ".onnx":
        return "file", source.stem, source.parent / "evaluations" / source.stem
    return "run", source.name, source / "evaluations"


def model_digest(source: Path | Sequence[Path]) -> str:
    """Changes with the files that decide what the model answers."""
    if isinstance(source, Path) and source.suffix == ".onnx":
        return sha256(source)[:16] if source.is_file() else "missing"
    folders = [source] if isinstance(source, Path) else list(source)
    files = [path for folder in folders for path in model_files(folder)]
    return "-".join(sha256(path)[:8] for path in files)


@contextmanager
def open_model(source: Path | Sequence[Path]) -> Iterator[Model]:
    """The model of a run's folder, of an arm's folders, or of an exported file, with its temporary
    files.

    Raises ExportError for a file that is no such model, or runs that cannot be exported, and
    ComparisonError where the runs of an arm were not tested on the same films.
    """
    from lib.inference.predictor import Predictor

    kind, name, _ = model_name(source)
    digest = model_digest(source)
    if isinstance(source, Path) and kind == "file":
        yield Model(kind, name, source, (), digest, (Member(name, 0, Predictor(source)),))
        return
    from lib.export.run import export_run  # torch, which a file does without

    folders = (source,) if isinstance(source, Path) else tuple(source)
    with tempfile.TemporaryDirectory() as place:
        members = []
        for number, folder in enumerate(folders):
            path = export_run(folder, f"member-{number}", out=Path(place), log=lambda _: None)
            predictor = Predictor(path)
            own = read_run_predictions(folder)
            inside = calibrated_answers(own, predictor.card)
            members.append(Member(folder.name, own.seed, predictor, inside))
        parent = folders[0] if len(folders) == 1 else folders[0].parent
        yield Model(kind, name, parent, folders, digest, tuple(members))


def calibrated_answers(run: RunPredictions, card: dict[str, Any]) -> Answers:
    """The stored answers of a run with the calibration of its card; its thresholds go through the
    same map, so that they call the same films positive."""
    from lib.inference.card import read_calibration

    maps = Calibration.from_maps(card["findings"], **read_calibration(card)).on(run.findings)
    cuts = ensemble_thresholds([run.thresholds], [maps])
    same = {"probs": maps.apply(run.probs), "thresholds": cuts, "folder": None, "folds": 0}
    return Answers(replace(run, **same), run.probs)


def inside_answers(model: Model) -> dict[str, list[Answers]]:
    """How the model answered its own test set: {EACH: one per run, ENSEMBLE: [one]} of an arm,
    {kind: [one]} of a run; empty for a file."""
    found = [member.inside for member in model.members if member.inside is not None]
    if len(found) < 2:
        return {model.kind: found} if found else {}
    plain = [replace(read_run_predictions(folder), folds=0) for folder in model.folders]
    mean = ensemble(plain)
    assert isinstance(mean, RunPredictions)  # no folds
    raw = np.mean([one.raw for one in found], axis=0)
    return {ENSEMBLE: [Answers(replace(mean, folder=None), raw)], EACH: found}
