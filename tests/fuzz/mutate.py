"""In: a sound file, as bytes, text or JSON values, and a random generator. Out: a mutated one."""

import copy
import json
import math
from random import Random
from typing import Any

TEXTS = (
    *("", " ", "0", "-1", "1e999", "nan", "null", "true", "=1+1", "|", "||", '"', "'", ",", "\t"),
    *("\\", "../x", "..", ".", "/", "/etc/passwd", "%s%n", "\x00", "\x1b[2J", "\r", "\u2028"),
    *("é", "胸", "\ufeff", "\u202e", "🫁", "a" * 300, "9" * 400, "None", "No Finding", "Mass|Mass"),
)
NUMBERS = (0, 1, -1, 2, 14, 255, 256, 65535, 2**31, 2**63, 2**64, 10**30, 0.5, -0.0, 1e-300, 1e308)
VALUES = (
    *TEXTS,
    *NUMBERS,
    None,
    True,
    False,
    math.nan,
    math.inf,
    -math.inf,
    [],
    {},
    [[]],
    {"": {}},
)
BYTES = (b"\x00", b"\xff", b"\n", b"\r\n", b'"', b",", b"\x00\x00\x00\x00", b"\xff\xff\xff\xff")
BYTES += (b"\x7f\xff\xff\xff", b"\xff\xfe", b"\xef\xbb\xbf", b"\x80", b"\xed\xa0\x80", b"|", b"\t")


def mutate_bytes(data: bytes, rng: Random, start: int = 0) -> bytes:
    """One to four changes: bits and bytes replaced, parts cut, doubled, moved, or added.

    Half of the changes lie in the first KiB from `start` on, where headers are.
    """
    for _ in range(rng.choice((1, 1, 2, 4))):
        if not data:
            return data
        near = min(len(data), start + 1024) if rng.random() < 0.5 else len(data)
        place = rng.randrange(min(start, near - 1), near)
        length = rng.choice((1, 2, 4, 16, 200))
        before, part, after = data[:place], data[place : place + length], data[place + length :]
        match rng.randrange(7):
            case 0:
                data = before + bytes([data[place] ^ (1 << rng.randrange(8))]) + data[place + 1 :]
            case 1:
                data = before + rng.randbytes(len(part)) + after
            case 2:
                data = before + after
            case 3:
                data = before + part + part + after
            case 4:
                data = before
            case 5:
                data = before + rng.choice(BYTES) + data[place:]
            case 6:
                word = rng.choice(BYTES)
                data = before + word + data[place + len(word) :]
    return data


def mutate_table(text: str, rng: Random) -> bytes:
    """One to four changes of cells, rows, columns, quotes or the encoding of a table."""
    lines = [line.split(",") for line in text.rstrip("\n").split("\n")]
    for _ in range(rng.choice((1, 1, 2, 4))):
        cells = rng.choice(lines)
        column = rng.randrange(len(cells)) if cells else 0
        match rng.randrange(10):
            case 0 | 1 | 2 if cells:
                cells[column] = rng.choice(TEXTS)
            case 3 if cells:
                cells[column] = rng.choice(rng.choice(lines) or [""])
            case 4 if cells:
                del cells[column]
            case 5:
                cells.insert(column, rng.choice(TEXTS))
            case 6:
                lines.insert(rng.randrange(len(lines) + 1), list(cells))
            case 7 if len(lines) > 1:
                lines.remove(cells)
            case 8:
                for row in lines:
                    del row[column : column + 1]
            case 9:
                lines.insert(rng.randrange(len(lines) + 1), [""] * rng.randrange(9))
    ending = rng.choice(("\n", "\n", "\n", "\r\n", "\r"))
    made = ending.join(",".join(row) for row in lines) + rng.choice((ending, ""))
    encoding = rng.choice(("utf-8", "utf-8", "utf-8", "utf-8-sig", "utf-16", "latin-1"))
    return made.encode(encoding, "replace")


def mutate_values(values: Any, rng: Random) -> Any:
    """JSON values with one to four of them, at any depth, replaced, left out, renamed or moved."""
    values = copy.deepcopy(values)
    for _ in range(rng.choice((1, 1, 2, 4))):
        places = [place for place in _places(values)]
        if not places:
            return rng.choice(VALUES)
        inside, key = rng.choice(places)
        match rng.randrange(8):
            case 0 | 1 | 2 | 3:
                inside[key] = copy.deepcopy(rng.choice(VALUES))
            case 4 | 5:
                del inside[key]
            case 6 if isinstance(inside, dict):
                inside[rng.choice(TEXTS)] = inside.pop(key)
            case _:
                other, place = rng.choice(places)
                inside[key] = copy.deepcopy(other[place])
    return values


def mutate_json(text: str, rng: Random) -> bytes:
    """JSON whose values are mutated, or whose bytes are."""
    if rng.random() < 0.25:
        return mutate_bytes(text.encode(), rng)
    if rng.random() < 0.03:
        return b"[" * 100_000
    return json.dumps(mutate_values(json.loads(text), rng)).encode()


def _places(values: Any) -> list[tuple[Any, Any]]:
    """(list or dict, index or key) of every value inside `values`."""
    keys = (
        list(values)
        if isinstance(values, dict)
        else range(len(values))
        if isinstance(values, list)
        else ()
    )
    found = [(values, key) for key in keys]
    return found + [place for key in keys for place in _places(values[key])]
