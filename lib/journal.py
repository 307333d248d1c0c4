"""In: rows of answers as they come. Out: a CSV that only grows, so that a kill costs the row that was being written."""

import csv
import io
from collections.abc import Iterator, Sequence
from pathlib import Path

from filelock import FileLock, Timeout

from lib.answers import KNOWN_BY, Row
from lib.exceptions import CxrError


class Journal:
    """The rows of one output file. In memory stay a path and two numbers per row.

    Raises CxrError when another process holds the journal, when it is broken, and when it cannot be written.
    """

    def __init__(self, path: Path, names: Sequence[str]):
        self.path, self.names, self.order = path, list(names), []
        self.known: dict[str, tuple[str, int]] = {}  # path -> what it is known by, and where its line begins
        self.lock = FileLock(path.with_suffix(".lock"))
        try:
            path.open("ab").close()  # a folder that cannot be written to must not look like a lock that is held
            self.lock.acquire(timeout=0)
            self.file = path.open("a+b", buffering=0)
        except Timeout as error:
            raise CxrError(f"{path} is in use by another process that writes there; wait for it") from error
        except OSError as error:
            self.lock.release()
            raise CxrError(f"{path.parent} cannot be written to ({error.strerror}); name another folder") from error
        self._read()

    def _read(self) -> None:
        """Learns the rows that are there; drops a last line that a kill cut short."""
        at, head = 0, _line(self.names)
        self.file.seek(0)
        for number, line in enumerate(io.BufferedReader(io.FileIO(self.path)), 1):
            if not line.endswith(b"\n"):
                break
            if (line != head) if number == 1 else not self._learn(line, at):
                self.close(done=False)
                raise CxrError(f"{self.path} is broken in line {number}; delete it, or name another output")
            at += len(line)
        self.file.truncate(at)
        if not at:
            self._append(self.names)

    def _learn(self, line: bytes, at: int) -> bool:
        """Notes an answer; a refusal is not reused, because its cause may have been fixed. False for no such row."""
        row = _parsed(line, self.names)
        if row is None:
            return False
        self.known.pop(row["path"], None)
        if row["status"] == "ok":
            self.known[row["path"]] = (_known(row), at)
        return True

    def take_over(self, out: Path, rows: Iterator[Row]) -> None:
        """Appends the answers of an earlier output; those that the journal has are newer and stay."""
        try:
            for row in rows:
                if row["status"] == "ok" and row["path"] not in self.known:
                    cells = _cells(row, self.names)
                    self._learn(_line(cells), self._append(cells))
        except (KeyError, TypeError, ValueError) as error:
            self.close(done=False)
            raise CxrError(f"{out} is broken ({error}); delete it, or name another file") from error

    def holds(self, row: Row) -> bool:
        """Whether the same file was answered by the same model before."""
        return self.known.get(row["path"], ("", 0))[0] == _known(row)

    def keep(self, path: str) -> None:
        """The next row is the one that is known for this path."""
        self.order.append(self.known[path][1])

    def add(self, row: Row) -> None:
        """The next row; it is in the file when this returns."""
        self.order.append(self._append(_cells(row, self.names)))

    def rows(self) -> Iterator[Row]:
        """The rows of this time, in order, as texts."""
        with self.path.open("rb") as file:
            for at in self.order:
                file.seek(at)
                yield _parsed(file.readline(), self.names)

    def close(self, done: bool) -> None:
        """Lets go; deletes the files when they are no longer wanted."""
        self.file.close()
        if done:
            self.path.unlink()
            Path(self.lock.lock_file).unlink(missing_ok=True)  # still held: nobody else has taken it
        self.lock.release()

    def _append(self, cells: Sequence[object]) -> int:
        at, rest = self.file.seek(0, io.SEEK_END), _line(cells)
        try:
            while rest:
                rest = rest[self.file.write(rest) :]
        except OSError as error:
            raise CxrError(
                f"{self.path} cannot be written ({error.strerror}); what was answered so far is kept: "
                "make room, and give the same command again"
            ) from error
        return at


def _line(cells: Sequence[object]) -> bytes:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerow(cells)
    return text.getvalue().encode()


def _cells(row: Row, names: Sequence[str]) -> list[object]:
    return [row[name] for name in names]


def _parsed(line: bytes, names: Sequence[str]) -> Row | None:
    cells = next(csv.reader([line.decode("utf-8", "replace")]), [])
    return dict(zip(names, cells, strict=True)) if len(cells) == len(names) else None


def _known(row: Row) -> str:
    return "|".join("" if row[name] is None else str(row[name]) for name in KNOWN_BY)
