"""Divide the films of one table among machines.

In: the text I/N and the table's name. Out: which films are of shard I, and the name of its table.
"""

import re
from collections.abc import Iterable, Iterator
from hashlib import blake2b
from pathlib import Path
from typing import NamedTuple

from lib.exceptions import CxrError
from lib.inference.listing import Found, path_text

_NUMBER = "[0-9]{1,4}"


class Shard(NamedTuple):
    """One of the `of` parts of the films; `number` is from 1 to `of`."""

    number: int
    of: int

    def __str__(self) -> str:
        return f"{self.number}/{self.of}"


def parse_shard(text: str) -> Shard:
    """Return the shard that a text like 2/4 names; raises CxrError for another text."""
    found = re.fullmatch(f"({_NUMBER})/({_NUMBER})", text)
    shard = Shard(*map(int, found.groups())) if found else Shard(0, 0)
    if not 1 <= shard.number <= shard.of:
        raise CxrError(f"--shard {text}: a shard is I/N with 1 <= I <= N <= 9999, for example 2/4")
    return shard


def shard_number(path: str, of: int) -> int:
    """Return the number of the shard, 1 to `of`, that a file belongs to; `path` is as listed.

    It is a hash of the path and not the position in the list: a file that is added or removed
    leaves all others in their shards, so that a shard that runs again reuses its rows.
    """
    digest = blake2b(path_text(path).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") % of + 1


def of_shard(files: Iterable[Found], shard: Shard) -> Iterator[Found]:
    """Yield the files of one shard, in their order."""
    return (found for found in files if shard_number(found.path, shard.of) == shard.number)


def shard_table(out: Path, shard: Shard) -> Path:
    """Return the path of a shard's table, beside the whole table `out`."""
    return out.with_name(f"{out.stem}.shard-{shard.number}-of-{shard.of}{out.suffix}")


def shard_tables(out: Path) -> dict[Shard, Path]:
    """Return the tables of all shards of `out`, by number.

    Raises CxrError when there are none, some are missing, one is being written, or tables of two
    divisions lie there.
    """
    pattern = re.compile(
        rf"\.?{re.escape(out.stem)}\.shard-({_NUMBER})-of-({_NUMBER}){re.escape(out.suffix)}"
        r"(\.partial)?"
    )
    try:
        names = [path.name for path in out.parent.iterdir()]
    except OSError as error:
        raise CxrError(f"{out.parent} cannot be listed ({error.strerror})") from error
    divisions = sorted({int(found[2]) for found in map(pattern.fullmatch, names) if found})
    if not divisions:
        example = shard_table(out, Shard(1, 4)).name
        raise CxrError(
            f"{out.parent} has no shards of {out.name} (such as {example}); make them with --shard I/N"
        )
    if len(divisions) > 1:
        numbers = " and ".join(str(of) for of in divisions)
        raise CxrError(
            f"{out.parent} has shards of {out.name} that were divided in {numbers}; "
            "delete those that do not belong together"
        )
    shards = [Shard(number, divisions[0]) for number in range(1, divisions[0] + 1)]
    tables = {shard: shard_table(out, shard) for shard in shards}
    if problems := [text for shard in shards if (text := _problem(shard, tables[shard], names))]:
        raise CxrError("\n".join(problems))
    return tables


def _problem(shard: Shard, table: Path, names: list[str]) -> str:
    """Return why the table of a shard cannot be merged, or an empty string."""
    if f".{table.name}.partial" in names:
        return f"{table} is not complete: --shard {shard} is running or was interrupted; repeat it"
    return "" if table.name in names else f"{table} is missing; make it with --shard {shard}"
