"""Make one table of the tables of all shards.

In: the model, the files that were predicted for, and the tables of the shards. Out: the table that
one process would have written.
"""

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import BinaryIO

from lib.exceptions import CxrError
from lib.inference.batch import unanswered
from lib.inference.listing import Found, find_files, once, without_output
from lib.inference.predictor import Predictor
from lib.inference.shards import Shard, shard_number, shard_tables
from lib.inference.table import (
    BROKEN,
    KNOWN_BY,
    Counts,
    Row,
    check_output,
    read_answers,
    write_answers,
)


def merge_shards(
    model: Path,
    named: Iterable[str],
    *,
    out: Path,
    leaderboard: bool = False,
    listing: BinaryIO | None = None,
) -> Counts:
    """Write `out` from the tables of its shards (see `shard_tables`) and return the counts.

    The files are listed again, and each one's row is taken from its shard, so that `out` has one
    row per file, in the order of the list. No more than a few rows per shard are held in memory.

    Raises CxrError that names the shard when a table is missing, incomplete or broken, when it is
    of another model or another list of files, and when a file has changed since its row was made.
    """
    predictor = Predictor(model, threads=1)
    check_output(out, predictor.findings, leaderboard)
    tables = shard_tables(out)
    for table in tables.values():
        check_output(table, predictor.findings, leaderboard=False)
    files = without_output(once(find_files(named, listing)), out)
    counts = Counts()
    rows = _merged(files, tables, predictor, counts)
    write_answers(out, rows, predictor.findings, leaderboard)
    return counts


def _merged(
    files: Iterable[Found], tables: dict[Shard, Path], predictor: Predictor, counts: Counts
) -> Iterator[Row]:
    """Yield the row of each file, in order; a shard has its rows in the same order."""
    of = len(tables)
    readers = {shard: _rows(shard, table) for shard, table in tables.items()}
    for found, wanted in unanswered(files, predictor):
        shard = Shard(shard_number(found.path, of), of)
        row = next(readers[shard], None)
        if problem := _mismatch(row, wanted):
            raise CxrError(_again(shard, tables[shard], problem))
        assert row is not None
        counts.add(row)
        yield row
    for shard, reader in readers.items():
        if row := next(reader, None):
            problem = f"has a row of {row['path']}, which is not among the files (any more)"
            raise CxrError(_again(shard, tables[shard], problem))


def _rows(shard: Shard, table: Path) -> Iterator[Row]:
    try:
        yield from read_answers(table)
    except BROKEN as error:
        raise CxrError(_again(shard, table, f"is broken ({error})")) from error


def _mismatch(row: Row | None, wanted: Row) -> str:
    """Return why `row` is not the row of the file that `wanted` describes, or an empty string."""
    path = wanted["path"]
    if row is None:
        return f"ends before the row of {path}"
    if row["path"] != path:
        return f"has a row of {row['path']} where the files have {path}; their list has changed"
    if row["model"] != wanted["model"]:
        return f"is of another model ({row['model']}, and this one is {wanted['model']})"
    if any(row[name] != wanted[name] for name in KNOWN_BY):
        return f"has a row of {path} from before that file changed"
    return ""


def _again(shard: Shard, table: Path, problem: str) -> str:
    return f"{table} {problem}; run this shard again with --shard {shard}: it keeps what is right"
