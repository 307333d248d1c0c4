"""Write and read tables of predictions.

In: rows of predictions. Out: a CSV, Parquet or leaderboard file, written completely or not at all;
and rows read from it.
"""

import csv
import io
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from math import inf
from pathlib import Path, PurePath
from typing import Any

from filelock import FileLock, Timeout

from lib.exceptions import CxrError

Row = dict[str, Any]
NO_FINDING = "No Finding"
KNOWN_BY = ("bytes", "modified", "model")
"""Columns that identify an up-to-date row: file size, modification time (ns), model."""

_ANSWER_COLUMNS = {
    "path": str,
    "status": str,
    "reason": str,
    "warnings": str,
    "unlikeness": float,
    "unfamiliar": bool,
}
_KINDS = _ANSWER_COLUMNS | {
    "flagged": str,
    "bytes": int,
    "modified": int,
    "model": str,
}  # of the columns; prob_* are float
_ENDINGS = (".csv", ".parquet")
BROKEN = (OSError, KeyError, TypeError, ValueError, NotImplementedError, csv.Error)
"""What reading a broken table raises, of pyarrow too."""


@dataclass
class Counts:
    """How many files were predicted now, refused, or predicted before.

    `unfamiliar` counts those predicted now that are unlike the training images. `device` is where
    the model was.
    """

    answered: int = 0
    refused: int = 0
    reused: int = 0
    unfamiliar: int = 0
    device: str = "cpu"

    def add(self, row: Row | None) -> None:
        """Count a row made now, or None for a row made before."""
        if row is None:
            self.reused += 1
            return
        self.answered += row["status"] == "ok"
        self.refused += row["status"] == "refused"
        self.unfamiliar += bool(row["unfamiliar"])

    def text(self) -> str:
        """Return the counts as a sentence; `reused` and `unfamiliar` appear only if not 0."""
        files = self.answered + self.refused + self.reused
        parts = [f"{files} files", f"{self.answered} answered", f"{self.refused} refused"]
        parts += [f"{self.reused} answered before"] * bool(self.reused)
        return ", ".join(
            parts + [f"{self.unfamiliar} unlike the training films"] * bool(self.unfamiliar)
        )


def columns(findings: Sequence[str]) -> list[str]:
    """Return the columns of a row.

    They are path, status (ok or refused), reason, warnings, ..., prob_<finding>, and `KNOWN_BY`.
    """
    return [*_ANSWER_COLUMNS, "flagged", *(f"prob_{finding}" for finding in findings), *KNOWN_BY]


def check_output(out: Path, findings: Sequence[str], leaderboard: bool) -> None:
    """Raise CxrError when predictions cannot be written to `out`.

    Also raise it when `out` exists and holds something other than predictions.
    """
    endings = [".csv"] if leaderboard else _ENDINGS
    if out.suffix not in endings:
        raise CxrError(f"{out}: predictions go to a file that ends with {', '.join(endings)}")
    if not out.parent.is_dir():
        raise CxrError(f"{out.parent} is not a folder; create it, or name another folder")
    if not out.exists():
        return
    try:
        held = _header(out)
    except BROKEN as error:
        raise CxrError(f"{out} exists but cannot be read ({error}); name another file") from error
    if held != (["imageID", "disease"] if leaderboard else columns(findings)):
        raise CxrError(
            f"{out} exists but does not hold predictions of these findings; name another file"
        )


def write_answers(
    out: Path, rows: Iterable[Row], findings: Sequence[str], leaderboard: bool = False
) -> None:
    """Write the rows to a .csv or .parquet file, or as the leaderboard's CSV.

    The rows are never all in memory. In the leaderboard's file a refused image has no disease, not
    even No Finding.
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
        raise CxrError(
            f"{out} cannot be written ({reason}); free some space, then repeat the same command"
        ) from error
    finally:
        partial.unlink(missing_ok=True)
        table.unlink(missing_ok=True)


def read_answers(path: Path) -> Iterator[Row]:
    """Yield the rows of a file that `write_answers` wrote.

    Raises one of BROKEN where the file is broken.
    """
    for row in _read_parquet(path) if path.suffix == ".parquet" else _read_csv(path):
        _check(row)
        yield row


def _check(row: Row) -> None:
    """Raise ValueError for a row without a status, or without what a row of its status has."""
    if wrong := [name for name, value in row.items() if value is None and _needed(name, row)]:
        raise ValueError(f"the row of {row['path']!r} has no {wrong[0]}")
    if row["status"] not in ("ok", "refused"):
        raise ValueError(f"the row of {row['path']!r} has the status {row['status']!r}")


def _needed(name: str, row: Row) -> bool:
    """Whether a row of this status has a value in this column."""
    return name in ("path", "model") or (name.startswith("prob_") and row["status"] == "ok")


def line(row: Row) -> str:
    """Return a row as readable text: the path, then flagged findings or the refusal reason."""
    probs = {
        name.removeprefix("prob_"): value for name, value in row.items() if name.startswith("prob_")
    }
    if row["status"] != "ok":
        text = f"refused: {row['reason']}"
    else:
        flagged = row["flagged"].split("|") if row["flagged"] else []
        listed = sorted(flagged or probs, key=lambda finding: -probs[finding])[: len(flagged) or 1]
        text = ", ".join(f"{finding} {probs[finding]:.2f}" for finding in listed)
        text = text if flagged else f"none flagged (highest: {text})"
        text += (
            f"; unlike the training films ({row['unlikeness'] or inf:.3g})"
            if row["unfamiliar"]
            else ""
        )
        text += f"; {row['warnings']}" if row["warnings"] else ""
    return f"{escaped(row['path']):<40}  {text}"


def _scored(row: Row) -> Row:
    disease = (row["flagged"] or NO_FINDING) if row["status"] == "ok" else None
    return {"imageID": PurePath(row["path"]).name, "disease": disease}


def _header(path: Path) -> list[str]:
    if path.suffix == ".parquet":
        from pyarrow import parquet  # imported here, since it is heavy and rarely needed

        return parquet.read_schema(path).names
    with path.open(newline="", encoding="utf-8") as file:
        return next(csv.reader(file), [])


def _write_csv(path: Path, rows: Iterable[Row], names: Sequence[str]) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, names, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def _to_parquet(path: Path, table: Path, names: Sequence[str]) -> None:
    """Convert the CSV to Parquet block by block."""
    import pyarrow
    from pyarrow import csv as arrow_csv
    from pyarrow import parquet

    arrow = {
        str: pyarrow.string(),
        bool: pyarrow.bool_(),
        int: pyarrow.int64(),
        float: pyarrow.float64(),
    }
    schema = pyarrow.schema([(name, arrow[_KINDS.get(name, float)]) for name in names])
    types = arrow_csv.ConvertOptions(column_types=schema, null_values=[""])
    with (
        parquet.ParquetWriter(table, schema) as writer,
        arrow_csv.open_csv(path, convert_options=types) as reader,
    ):
        for batch in reader:
            writer.write_batch(batch)


def _read_csv(path: Path) -> Iterator[Row]:
    with path.open(newline="", encoding="utf-8") as file:
        for row in csv.DictReader(file):
            yield _values(row)


def _values(row: dict[str, str]) -> Row:
    return {name: _parsed(text, _KINDS.get(name, float)) for name, text in row.items()}


def _parsed(text: str, kind: type) -> Any:
    if kind is str:
        return text
    if text == "":
        return None
    return text == "True" if kind is bool else kind(text)


def _read_parquet(path: Path) -> Iterator[Row]:
    from pyarrow import parquet

    for group in parquet.ParquetFile(path).iter_batches(batch_size=1024):
        yield from group.to_pylist()


class Journal:
    """The rows of one output file, kept on disk; memory holds a path and two numbers per row.

    Raises CxrError when another process holds the journal, when it is broken, and when it cannot be
    written.
    """

    def __init__(self, path: Path, names: Sequence[str]):
        self.path, self.names = path, list(names)
        self.order: list[int] = []
        self.answered: dict[
            str, tuple[str, int]
        ] = {}  # path -> identity of its row, and offset of its line
        self.lock = FileLock(path.with_suffix(".lock"))
        try:
            path.open("ab").close()  # tells an unwritable folder from a lock that is held
            self.lock.acquire(timeout=0)
            self.file = path.open("a+b", buffering=0)
        except Timeout as error:
            raise CxrError(
                f"{path} is in use by another process that writes to it; wait for that process to end"
            ) from error
        except OSError as error:
            self.lock.release()
            raise CxrError(
                f"{path.parent} cannot be written to ({error.strerror}); name another folder"
            ) from error
        self._read()

    def _read(self) -> None:
        """Read the existing rows; drop a last line that was cut short when a process was killed."""
        at, head = 0, _line(self.names)
        self.file.seek(0)
        for number, line in enumerate(io.BufferedReader(io.FileIO(self.path)), 1):
            if not line.endswith(b"\n"):
                break
            if (line != head) if number == 1 else not self._learn(line, at):
                self.close(done=False)
                raise CxrError(
                    f"{self.path} is broken at line {number}; delete it, or name another output"
                )
            at += len(line)
        self.file.truncate(at)
        if not at:
            self._append(self.names)

    def _learn(self, line: bytes, at: int) -> bool:
        """Register a row that has predictions; return False if the line is not a valid row.

        A refused file is not reused, because the cause may have been fixed.
        """
        row = _parsed_line(line, self.names)
        if row is None:
            return False
        try:
            _check(_values(row))
        except ValueError:
            return False
        self.answered.pop(row["path"], None)
        if row["status"] == "ok":
            self.answered[row["path"]] = (_identity(row), at)
        return True

    def take_over(self, out: Path, rows: Iterator[Row]) -> None:
        """Append the predictions of an earlier output.

        Rows that the journal already has are newer and stay.
        """
        try:
            for row in rows:
                if row["status"] == "ok" and row["path"] not in self.answered:
                    cells = _cells(row, self.names)
                    self._learn(_line(cells), self._append(cells))
        except BROKEN as error:
            self.close(done=False)
            raise CxrError(f"{out} is broken ({error}); delete it, or name another file") from error

    def holds(self, row: Row) -> bool:
        """Return whether the same model has already predicted for the same file."""
        return self.answered.get(row["path"], ("", 0))[0] == _identity(row)

    def keep(self, path: str) -> None:
        """Reuse the existing row of this path as the next row."""
        self.order.append(self.answered[path][1])

    def add(self, row: Row) -> None:
        """Append the next row; it is in the file when this returns."""
        self.order.append(self._append(_cells(row, self.names)))

    def rows(self) -> Iterator[Row]:
        """Yield the rows of this call in order, with values as text."""
        with self.path.open("rb") as file:
            for at in self.order:
                file.seek(at)
                if row := _parsed_line(file.readline(), self.names):
                    yield row

    def close(self, done: bool) -> None:
        """Release the journal; delete its files if `done`."""
        self.file.close()
        if done:
            self.path.unlink()
            Path(self.lock.lock_file).unlink(
                missing_ok=True
            )  # the lock is still held, so no other process has taken it
        self.lock.release()

    def _append(self, cells: Sequence[object]) -> int:
        at, rest = self.file.seek(0, io.SEEK_END), _line(cells)
        try:
            while rest:
                rest = rest[self.file.write(rest) :]
        except OSError as error:
            raise CxrError(
                f"{self.path} cannot be written ({error.strerror}); finished predictions are kept: "
                "free some space, then repeat the same command"
            ) from error
        return at


def _line(cells: Sequence[object]) -> bytes:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerow(cells)
    return text.getvalue().encode()


def _cells(row: Row, names: Sequence[str]) -> list[object]:
    return [row[name] for name in names]


def _parsed_line(line: bytes, names: Sequence[str]) -> Row | None:
    try:
        cells = next(csv.reader([line.decode("utf-8", "replace")]), [])
    except csv.Error:
        return None
    return dict(zip(names, cells, strict=True)) if len(cells) == len(names) else None


def _identity(row: Row) -> str:
    return "|".join("" if row[name] is None else str(row[name]) for name in KNOWN_BY)


def escaped(text: str) -> str:
    """Return the text on one line, without characters that move a terminal's cursor."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
