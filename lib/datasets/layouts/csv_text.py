"""In: a CSV or text file, also compressed. Out: its header and rows as text, or a DatasetError that
names file and line."""

import codecs
import csv
import gzip
import zlib
from collections.abc import Iterable, Sequence
from pathlib import Path

from lib.exceptions import DatasetError


def table_lines(
    path: Path,
) -> tuple[list[str], list[tuple[int, list[str]]], list[tuple[int, str]]]:
    """The header, (line number, fields), and (line number, what is wrong) of a CSV file, blank
    lines left out.

    Each line is read by itself, so that a quote that is not closed costs one row and not all that
    follow.
    """
    header: list[str] | None = None
    lines, broken = [], []
    for number, line in enumerate(read_text(path).split("\n"), start=1):
        try:
            cells = next(csv.reader([line.rstrip("\r")], strict=True), [])
        except csv.Error as error:
            broken.append((number, f"{error}, as of a quote that is not closed: {line[:60]!r}"))
            continue
        if header is None:
            header = [name.strip() for name in cells]
        elif any(cells):
            lines.append((number, cells))
    return header or [], lines, broken


def check_columns(path: Path, header: Sequence[str], columns: Iterable[str]) -> None:
    """Raise DatasetError that names those of `columns` that a table lacks."""
    if missing := [name for name in columns if name not in header]:
        raise DatasetError(
            f"{path}: no column {' or '.join(map(repr, missing))}; its columns are {', '.join(header)}."
        )


def header_of(path: Path) -> list[str]:
    """The names in the first line of a table; none where it cannot be read as text."""
    try:
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
            line = file.readline(1 << 16).decode("utf-8-sig").strip()
        return [name.strip() for name in next(csv.reader([line]), [])]
    except (OSError, EOFError, ValueError, zlib.error, csv.Error):
        return []


def read_text(path: Path) -> str:
    """The text of a file in UTF-8, or in UTF-16 with its mark, also compressed by gzip; raises
    DatasetError that names file and line."""
    data = path.read_bytes()
    if path.suffix == ".gz":
        try:
            data = gzip.decompress(data)
        except (OSError, EOFError, zlib.error) as error:
            raise DatasetError(f"{path}: broken gzip ({error}); download it again.") from error
    marked = data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    try:
        return data.decode("utf-16" if marked else "utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise DatasetError(
            f"{path}: line {line} is not text in UTF-8 ({error.reason}); save the file as UTF-8."
        ) from error
