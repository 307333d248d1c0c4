"""In: what a person named: files, folders, patterns, a list. Out: every file in it, in a fixed order, one at a time."""

import glob
import os
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import BinaryIO, NamedTuple


class Found(NamedTuple):
    """One entry of a list: its path, and why it cannot even be tried, if so."""

    path: str
    refused: str = ""


def find_files(named: Iterable[str], listing: BinaryIO | None = None) -> Iterator[Found]:
    """Every file of `named`, in the order given; the files of a folder and of those below it sorted by name.

    A name that does not exist and has wildcards is a pattern. `-` is read from `listing`: a path a line, or between
    zero bytes where there are any. Links to folders are not followed below a named one, so that no loop is endless.
    Nothing is dropped: what cannot be listed is an entry with the reason. Holds one folder's names in memory.
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
                yield Found(name, "is a pattern that nothing matches")
        else:
            yield from _below(name)


def once(files: Iterable[Found]) -> Iterator[Found]:
    """Leaves out files that came before, by whichever name of the same absolute path."""
    seen: set[str] = set()
    for found in files:
        path = os.path.abspath(found.path)  # noqa: PTH100
        if path not in seen:
            seen.add(path)
            yield found


def without_output(files: Iterable[Found], out: Path | None) -> Iterator[Found]:
    """Leaves out the output itself, and what is kept beside it while it grows: they may lie among the films."""
    folder = None if out is None else out.resolve().parent
    for found in files:
        path = Path(found.path)
        ours = out is not None and (path.name == out.name or path.name.startswith(f".{out.name}."))
        if not (ours and path.parent.resolve() == folder):
            yield found


def path_text(path: str) -> str:
    """The path as a line of text that any file can hold: control characters, and bytes that are no UTF-8, as \\xNN."""
    text = os.fsencode(path).decode("utf-8", "backslashreplace")
    return "".join(f"\\x{ord(c):02x}" if ord(c) < 32 or 127 <= ord(c) < 160 else c for c in text)


def escaped(text: str) -> str:
    """The text on one line, without characters that move a terminal's cursor."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def _below(path: str) -> Iterator[Found]:
    if not os.path.isdir(path):  # noqa: PTH112
        yield Found(path)
        return
    stack = [_entries(path)]  # no recursion: folders may lie deeper than Python's stack
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
            yield Found(entry.path, "is a link to a folder, which is not followed; name the folder itself"), False
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
