"""In: rows of answers as they come. Out: those known already, and all in order; a kill costs a second of work."""

import json
import sqlite3
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

from lib.answers import KNOWN_BY, Row
from lib.exceptions import CxrError

_SAVE_SECONDS = 1.0
_TABLE = "CREATE TABLE IF NOT EXISTS answers (path TEXT PRIMARY KEY, known TEXT, row TEXT, turn INTEGER UNIQUE)"


class Journal:
    """The rows of one output file, on disk, so that memory does not grow with them.

    Raises CxrError when another process holds the journal or it is broken.
    """

    def __init__(self, path: Path):
        self.path, self.saved = path, time.monotonic()
        try:
            self.database = sqlite3.connect(path, timeout=0.5)
            self.database.execute("PRAGMA locking_mode = EXCLUSIVE")
            self.database.execute(_TABLE)
            self.database.execute("UPDATE answers SET turn = NULL")  # and locks
            self.database.commit()
        except sqlite3.DatabaseError as error:
            if "locked" in str(error):
                raise CxrError(f"{path} is in use by another process that writes there; wait for it") from error
            raise CxrError(f"{path} cannot be used ({error}); delete it, or write somewhere else") from error

    def take_over(self, rows: Iterable[Row]) -> None:
        """Learns the answers of an earlier output file; those of the journal are newer and stay."""
        told = ((row["path"], _known(row), json.dumps(row)) for row in rows if row["status"] == "ok")
        self.database.executemany("INSERT OR IGNORE INTO answers (path, known, row) VALUES (?, ?, ?)", told)
        self.database.commit()

    def holds(self, turn: int, row: Row) -> bool:
        """Whether the same file was answered by the same model before; if so, that row is number `turn` now."""
        wanted = (row["path"], _known(row))
        found = self.database.execute("SELECT turn FROM answers WHERE path = ? AND known = ?", wanted).fetchone()
        if found and found[0] is None:
            self.database.execute("UPDATE answers SET turn = ? WHERE path = ?", (turn, row["path"]))
        return found is not None

    def add(self, turn: int, row: Row) -> None:
        """Row number `turn`. A refusal counts for this time only, since its reason may be gone tomorrow."""
        values = (row["path"], _known(row) if row["status"] == "ok" else None, json.dumps(row), turn)
        self.database.execute("INSERT OR REPLACE INTO answers (path, known, row, turn) VALUES (?, ?, ?, ?)", values)
        if time.monotonic() - self.saved > _SAVE_SECONDS:
            self.save()

    def save(self) -> None:
        """Everything so far is safe from here on."""
        self.database.commit()
        self.saved = time.monotonic()

    def rows(self) -> Iterator[Row]:
        """The rows of this time, in order."""
        for (text,) in self.database.execute("SELECT row FROM answers WHERE turn IS NOT NULL ORDER BY turn"):
            yield json.loads(text)

    def close(self, done: bool) -> None:
        """Saves and lets go; deletes the file when it is no longer wanted."""
        self.save()
        self.database.close()
        if done:
            self.path.unlink()


def _known(row: Row) -> str:
    return "|".join(str(row[name]) for name in KNOWN_BY)
