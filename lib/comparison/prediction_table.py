"""In: a CSV or Parquet file with one row per image and one column per finding. Out: its predictions
as a `PredictionTable`, with what was read from which column.

Columns are found by name; case, spaces, underscores and hyphens do not matter. The image: one of
IMAGE_NAMES. The patient: one of PATIENT_NAMES. A finding: its name, alone or with one of SCORE_WORDS
before or after it (`prob_Mass`, `Mass score`). Its label: the name with one of LABEL_WORDS
(`target_Mass`). Where a column `split` has rows `test`, only these are read.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa

from lib.config import FINDINGS
from lib.exceptions import ComparisonError

SUFFIXES = (".csv", ".csv.gz", ".parquet")
IMAGE_NAMES = (
    *("image", "image id", "image index", "image name", "image path", "image file"),
    *("file name", "file", "file path", "path", "dicom id", "id"),
)
PATIENT_NAMES = ("patient", "patient id", "subject", "subject id")
SCORE_WORDS = ("prob", "probability", "pred", "prediction", "score", "logit", "p")
LABEL_WORDS = ("target", "label", "truth", "gt", "y")
SYNONYMS = {"infiltrate": "Infiltration", "pleuraleffusion": "Effusion"}
_FINDINGS = {re.sub("[^a-z]", "", name.lower()): name for name in FINDINGS} | SYNONYMS


@dataclass(frozen=True)
class PredictionTable:
    """The predictions of a file, in its order.

    images: (N,) ids as they are written. scores: (N, F) in [0, 1]; where the file holds other
    numbers than probabilities (ranks_only) their ranks in each finding, scaled to (0, 1]. targets:
    (N, F), all NaN where the file has no labels. patients: (N,) or None. columns: where each finding
    was read from. notes: what was read and what was not, in sentences.
    """

    name: str
    findings: tuple[str, ...]
    images: np.ndarray
    scores: np.ndarray
    targets: np.ndarray
    patients: np.ndarray | None
    ranks_only: bool
    notes: tuple[str, ...]

    @property
    def has_targets(self) -> bool:
        """Whether the file holds any label."""
        return bool((~np.isnan(self.targets)).any())


def is_prediction_table(path: Path) -> bool:
    """Whether the name is that of a file that `read_prediction_table` reads."""
    return path.name.lower().endswith(SUFFIXES) and not path.is_dir()


def read_prediction_table(path: Path) -> PredictionTable:
    """The predictions in a file; raises ComparisonError where it cannot be read, lacks a column, names
    a finding twice, or has predictions that are missing or no numbers (with their count)."""
    frame = _read(path)
    image = _one_of(IMAGE_NAMES, frame.columns)
    if image is None:
        raise ComparisonError(
            f"{path} has no column of image ids: name it {', '.join(IMAGE_NAMES[:4])}, path or "
            f"file name; its columns are {', '.join(frame.columns)}"
        )
    patient, split = _one_of(PATIENT_NAMES, frame.columns), _one_of(("split",), frame.columns)
    notes = [f"image ids from {image!r}"]
    if split is not None and (frame[split] == "test").any():
        kept = (frame[split] == "test").to_numpy()
        notes.append(f"of {len(kept):,} rows the {kept.sum():,} of the split 'test'")
        frame = frame[kept]
    others = [name for name in frame.columns if name not in (image, patient, split)]
    scored, labelled = (_finding_columns(path, others, labels=which) for which in (False, True))
    if not scored:
        raise ComparisonError(
            f"{path} has no column of predictions: name columns after findings "
            f"({', '.join(FINDINGS[:3])}, ...); its columns are {', '.join(frame.columns)}"
        )
    if no_id := int(frame[image].isna().sum()):
        raise ComparisonError(f"{path}: {no_id:,} rows have no image id in {image!r}")
    scores = _scores(path, frame, scored)
    outside = int(((scores < 0) | (scores > 1)).any(axis=1).sum())
    found = tuple(name for name in FINDINGS if name in scored)
    notes.append(f"findings from {', '.join(_as_read(name, scored[name]) for name in found)}")
    if labelled:
        columns = ", ".join(map(repr, list(labelled.values())[:3]))
        notes.append(f"labels from {columns}{' ...' * (len(labelled) > 3)}")
    if patient:
        notes.append(f"patients from {patient!r}")
    used = {*scored.values(), *labelled.values()}
    if unused := [name for name in others if name not in used]:
        notes.append(f"not used: {', '.join(map(repr, unused[:20]))}{' ...' * (len(unused) > 20)}")
    sentences = [f"{path.name}: {'; '.join(notes)}."]
    if outside:
        from scipy.stats import rankdata  # half a second, and few tables hold logits

        scores = rankdata(scores, "dense", axis=0)
        scores = scores / (scores.max(axis=0) + 1)
        sentences.append(
            f"{path.name}: {outside:,} of {len(frame):,} rows have predictions outside 0 to 1. They "
            "are taken as scores that rank images: AUROC and average precision have values, F1 has "
            "none. A sigmoid makes probabilities of logits."
        )
    elif np.isin(scores, (0, 1)).all():
        sentences.append(
            f"{path.name}: every prediction is 0 or 1. Answers of yes and no, or labels, rank images "
            "badly: name the columns of probabilities."
        )
    return PredictionTable(
        name=path.name,
        findings=found,
        images=frame[image].to_numpy(str),
        scores=scores,
        targets=_labels(path, frame, [labelled.get(name) for name in found]),
        patients=None if patient is None else frame[patient].to_numpy(str),
        ranks_only=bool(outside),
        notes=tuple(sentences),
    )


def _read(path: Path) -> pd.DataFrame:
    """The file's columns; those of ids as text, so that leading zeros stay."""
    try:
        if path.suffix.lower() == ".parquet":
            frame = pd.read_parquet(path)
            return (frame.reset_index() if frame.index.name else frame).dropna(how="all")
        header = pd.read_csv(path, header=None, nrows=1, dtype=str).iloc[0].fillna("")
        if twice := sorted(set(header[header.duplicated() & (header != "")])):
            raise ComparisonError(f"{path} has more than one column {', '.join(map(repr, twice))}")
        text = {
            name: str for name in header if _plain(name) in map(_plain, IMAGE_NAMES + PATIENT_NAMES)
        }
        return pd.read_csv(path, dtype=text).dropna(how="all")
    except FileNotFoundError:
        raise ComparisonError(f"{path} is missing: name a file of predictions") from None
    except (ValueError, pa.ArrowException, EOFError) as error:
        first = (str(error).strip() or "it ends too early").splitlines()[0]
        raise ComparisonError(f"{path} is no table that can be read ({first})") from error


def _plain(name: str) -> str:
    """A name in lower case, of letters and digits alone."""
    return re.sub("[^a-z0-9]", "", str(name).lower())


def _one_of(names: Sequence[str], columns: Sequence[str]) -> str | None:
    """The column that has the first of these names that any has."""
    plain = {_plain(column): column for column in reversed(list(columns))}
    return next((plain[_plain(name)] for name in names if _plain(name) in plain), None)


def _finding_columns(path: Path, columns: Sequence[str], *, labels: bool) -> dict[str, str]:
    """finding -> the column of its predictions, or of its labels."""
    found: dict[str, str] = {}
    for column in columns:
        words = [word for word in re.split("[^a-z0-9]+", str(column).lower()) if word]
        marks = {word for word in (*words[:1], *words[-1:]) if word in (*SCORE_WORDS, *LABEL_WORDS)}
        finding = _FINDINGS.get("".join(word for word in words if word not in marks))
        if finding is None or bool(marks & set(LABEL_WORDS)) != labels:
            continue
        if finding in found:
            raise ComparisonError(
                f"{path}: {found[finding]!r} and {column!r} both name {finding}: remove or rename one"
            )
        found[finding] = column
    return found


def _as_read(finding: str, column: str) -> str:
    return finding if finding == column else f"{finding} ({column!r})"


def _scores(path: Path, frame: pd.DataFrame, columns: dict[str, str]) -> np.ndarray:
    """(N, F) finite numbers, findings in the order of FINDINGS."""
    names = [name for name in FINDINGS if name in columns]
    values = frame[[columns[name] for name in names]].apply(pd.to_numeric, errors="coerce")
    scores = values.to_numpy(float, na_value=np.nan)
    bad = ~np.isfinite(scores)
    if bad.any():
        counts = zip(names, bad.sum(axis=0), strict=True)
        counted = ", ".join(f"{name} {count:,}" for name, count in counts if count)
        raise ComparisonError(
            f"{path}: {bad.any(axis=1).sum():,} of {len(frame):,} rows have predictions that are "
            f"missing or no finite number ({counted}), the first in row "
            f"{int(np.flatnonzero(bad.any(axis=1))[0]) + 2}: predict these images, or leave them out"
        )
    return scores


def _labels(path: Path, frame: pd.DataFrame, columns: Sequence[str | None]) -> np.ndarray:
    """(N, F) of 1, 0 and NaN; NaN where there is no column or no label."""
    targets = np.full((len(frame), len(columns)), np.nan)
    for j, column in enumerate(columns):
        if column is None:
            continue
        targets[:, j] = pd.to_numeric(frame[column], errors="coerce")
        odd = (frame[column].notna() & ~np.isin(targets[:, j], (0, 1))).to_numpy()
        if odd.any():
            raise ComparisonError(
                f"{path}: {odd.sum():,} labels in {column!r} are other than 0 and 1, as "
                f"{frame[column][odd].iloc[0]!r}; leave a cell empty where a label is not known"
            )
    return targets
