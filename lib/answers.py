"""In: rows of answers. Out: a CSV, Parquet or leaderboard file, whole or not at all; and rows again."""

import csv
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from math import inf
from pathlib import Path, PurePath
from typing import Any

from lib.exceptions import CxrError
from lib.filelist import escaped

Row = dict[str, Any]
NO_FINDING = "No Finding"
KNOWN_BY = ("bytes", "modified", "model")
"""What tells that a row still holds: size, time of change in ns, and model."""

_TOLD = {"path": str, "status": str, "reason": str, "warnings": str, "unlikeness": float, "unfamiliar": bool}
_KINDS = _TOLD | {"flagged": str, "bytes": int, "modified": int, "model": str}  # of the columns; prob_* are float
_ENDINGS = (".csv", ".parquet")


@dataclass
class Counts:
    """What became of the files: answered now, refused, known from before; and how many answered now look strange."""

    answered: int = 0
    refused: int = 0
    known: int = 0
    unfamiliar: int = 0

    def add(self, row: Row | None) -> None:
        """Counts a row made now, or None for one known from before."""
        if row is None:
            self.known += 1
            return
        self.answered += row["status"] == "ok"
        self.refused += row["status"] == "refused"
        self.unfamiliar += bool(row["unfamiliar"])

    def text(self) -> str:
        """The counts as a sentence; those that may be 0 are told when they are not."""
        files = self.answered + self.refused + self.known
        parts = [f"{files} files", f"{self.answered} answered", f"{self.refused} refused"]
        parts += [f"{self.known} known from before"] * bool(self.known)
        return ", ".join(parts + [f"{self.unfamiliar} unlike the training films"] * bool(self.unfamiliar))


def columns(findings: Sequence[str]) -> list[str]:
    """The columns of a row: path, status (ok or refused), reason, warnings, ..., prob_<finding>, and `KNOWN_BY`."""
    return [*_TOLD, "flagged", *(f"prob_{finding}" for finding in findings), *KNOWN_BY]


def check_output(out: Path, findings: Sequence[str], leaderboard: bool) -> None:
    """Raises CxrError when answers cannot be written to `out`, or would replace something else than answers."""
    endings = [".csv"] if leaderboard else _ENDINGS
    if out.suffix not in endings:
        raise CxrError(f"{out}: answers go to a file that ends with {', '.join(endings)}")
    if not out.parent.is_dir():
        raise CxrError(f"{out.parent} is no folder; make it, or name another place")
    if not out.exists():
        return
    try:
        held = _header(out)
    except (OSError, ValueError) as error:
        raise CxrError(f"{out} is there and cannot be read ({error}); name another file") from error
    if held != (["imageID", "disease"] if leaderboard else columns(findings)):
        raise CxrError(f"{out} is there and holds something else than such answers; name another file")


def write_answers(out: Path, rows: Iterable[Row], findings: Sequence[str], leaderboard: bool = False) -> None:
    """Writes the rows to a .csv or .parquet file, or as the leaderboard's CSV; never holds them all.

    In the leaderboard's file a film that was refused has no disease, not even No Finding.
    """
    partial = out.with_name(f".{out.name}.writing-{os.getpid()}")
    table = partial.with_name(f"{partial.name}.parquet")
    try:
        if leaderboard:
            _write_csv(partial, map(_scored, rows), ["imageID", "disease"])
        else:
            _write_csv(partial, rows, columns(findings))
        if out.suffix == ".parquet":
            _to_parquet(partial, table, columns(findings))
        (table if out.suffix == ".parquet" else partial).replace(out)
    except OSError as error:
        reason = error.strerror or error
        raise CxrError(f"{out} cannot be written ({reason}); make room, and give the same command again") from error
    finally:
        partial.unlink(missing_ok=True)
        table.unlink(missing_ok=True)


def read_answers(path: Path) -> Iterator[Row]:
    """The rows of a file that `write_answers` wrote, one after the other; raises ValueError where it is broken."""
    return _read_parquet(path) if path.suffix == ".parquet" else _read_csv(path)


def line(row: Row) -> str:
    """A row for a person: the path, then what is flagged with probabilities, or the reason."""
    probs = {name.removeprefix("prob_"): value for name, value in row.items() if name.startswith("prob_")}
    if row["status"] != "ok":
        text = f"refused: {row['reason']}"
    else:
        told = row["flagged"].split("|") if row["flagged"] else []
        listed = sorted(told or probs, key=lambda finding: -probs[finding])[: len(told) or 1]
        text = ", ".join(f"{finding} {probs[finding]:.2f}" for finding in listed)
        text = text if told else f"none flagged (highest: {text})"
        text += f"; unlike the training films ({row['unlikeness'] or inf:.3g})" if row["unfamiliar"] else ""
        text += f"; {row['warnings']}" if row["warnings"] else ""
    return f"{escaped(row['path']):<40}  {text}"


def _scored(row: Row) -> Row:
    disease = (row["flagged"] or NO_FINDING) if row["status"] == "ok" else None
    return {"imageID": PurePath(row["path"]).name, "disease": disease}


def _header(path: Path) -> list[str]:
    if path.suffix == ".parquet":
        from pyarrow import parquet  # here, since it is heavy and seldom wanted

        return parquet.read_schema(path).names
    with path.open(newline="", encoding="utf-8") as file:
        return next(csv.reader(file), [])


def _write_csv(path: Path, rows: Iterable[Row], names: Sequence[str]) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, names, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def _to_parquet(path: Path, table: Path, names: Sequence[str]) -> None:
    """The CSV as Parquet, a block at a time."""
    import pyarrow
    from pyarrow import csv as arrow_csv
    from pyarrow import parquet

    arrow = {str: pyarrow.string(), bool: pyarrow.bool_(), int: pyarrow.int64(), float: pyarrow.float64()}
    schema = pyarrow.schema([(name, arrow[_KINDS.get(name, float)]) for name in names])
    types = arrow_csv.ConvertOptions(column_types=schema, null_values=[""])
    with parquet.ParquetWriter(table, schema) as writer, arrow_csv.open_csv(path, convert_options=types) as reader:
        for batch in reader:
            writer.write_batch(batch)


def _read_csv(path: Path) -> Iterator[Row]:
    with path.open(newline="", encoding="utf-8") as file:
        for row in csv.DictReader(file):
            yield {name: _parsed(text, _KINDS.get(name, float)) for name, text in row.items()}


def _parsed(text: str, kind: type) -> Any:
    if kind is str:
        return text
    return None if text == "" else text == "True" if kind is bool else kind(text)


def _read_parquet(path: Path) -> Iterator[Row]:
    from pyarrow import parquet

    for group in parquet.ParquetFile(path).iter_batches():
        yield from group.to_pylist()
