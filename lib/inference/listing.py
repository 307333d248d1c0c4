"""List the files to predict for.

In: names of files, folders and patterns, or a list of paths. Out: every file once, in order.
"""

import glob
import os
import re
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import BinaryIO, NamedTuple


class Found(NamedTuple):
    """One file to predict for: its path, and, if it cannot be tried, the reason."""

    path: str
    refused: str = ""


def find_files(named: Iterable[str], listing: BinaryIO | None = None) -> Iterator[Found]:
    """Yield every file of `named` in the given order, files inside a folder sorted by name.

    Folders are searched recursively. A name that does not exist and contains wildcards is a
    pattern. `-` reads paths from `listing`: one per line, or separated by zero bytes if it has any.
    Links to folders below a named folder are not followed, so that a cycle cannot loop forever.
    Nothing is dropped: what cannot be listed is an entry with the reason. Only the names of one
    folder are held in memory.
    """
    for name in named:
        if name == "-" and listing is not None:
            for path in _listed(listing):
                yield from _below(path)
        elif glob.has_magic(name) and not os.path.lexists(name):
            matches = sorted(glob.glob(name, recursive=True))  # noqa: PTH207
            for path in matches:
                yield from _below(path)
            if not matches:
                yield Found(name, "is a pattern that matches no file")
        else:
            yield from _below(name)


def once(files: Iterable[Found]) -> Iterator[Found]:
    """Yield each file once; files are the same if their absolute paths are equal."""
    seen: set[str] = set()
    for found in files:
        path = os.path.abspath(found.path)  # noqa: PTH100
        if path not in seen:
            seen.add(path)
            yield found


def without_output(files: Iterable[Found], out: Path | None) -> Iterator[Found]:
    """Leave out the output file, the tables of its shards, and the temporary files of all these.

    They may lie in the same folder as the images.
    """
    if out is None:
        yield from files
        return
    folder = out.resolve().parent
    name = rf"{re.escape(out.stem)}(\.shard-[0-9]+-of-[0-9]+)?{re.escape(out.suffix)}"
    ours = re.compile(rf"{name}|\.{name}\..*", re.DOTALL)
    for found in files:
        path = Path(found.path)
        if not (ours.fullmatch(path.name) and path.parent.resolve() == folder):
            yield found


def path_text(path: str) -> str:
    """Return the path as one line of text that any file can hold.

    Control characters, and bytes that are not UTF-8, become \\xNN.
    """
    text = os.fsencode(path).decode("utf-8", "backslashreplace")
    return "".join(f"\\x{ord(c):02x}" if ord(c) < 32 or 127 <= ord(c) < 160 else c for c in text)


def _below(path: str) -> Iterator[Found]:
    if not os.path.isdir(path):  # noqa: PTH112
        yield Found(path)
        return
    stack = [_entries(path)]  # no recursion: folders may be nested deeper than Python's stack
    while stack:
        for found, is_folder in stack[-1]:
            if is_folder:
                stack.append(_entries(found.path))
                break
            yield found
        else:
            stack.pop()


def _entries(folder: str) -> Iterator[tuple[Found, bool]]:
    try:
        with os.scandir(folder) as entries:
            found = sorted(entries, key=lambda entry: entry.name)
    except OSError as error:
        yield Found(folder, f"is a folder that cannot be listed: {error.strerror}"), False
        return
    for entry in found:
        if entry.is_symlink() and os.path.isdir(entry.path):  # noqa: PTH112
            yield (
                Found(
                    entry.path,
                    "is a link to a folder, which is not followed; name the folder itself",
                ),
                False,
            )
        else:
            yield Found(entry.path), entry.is_dir(follow_symlinks=False)


def _listed(listing: BinaryIO) -> Iterator[str]:
    read: Callable[[int], bytes] = getattr(listing, "read1", listing.read)
    rest = block = read(1 << 16)
    separator = b"\0" if b"\0" in block else b"\n"
    while block:
        *paths, rest = rest.split(separator)
        yield from (os.fsdecode(path) for path in paths if path)
        block = read(1 << 16)
        rest += block
    if rest:
        yield os.fsdecode(rest)
