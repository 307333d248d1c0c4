"""In: where a file is published, its size and its checksum. Out: the file in a folder, whole and
checked.

What was received is kept in `.download/` in that folder, so that the same call continues it. Names
are given last: a file that has its name is the published one.
"""

import hashlib
import json
import os
import time
from contextlib import suppress
from dataclasses import dataclass
from http.client import HTTPException, HTTPMessage, HTTPResponse
from pathlib import Path
from urllib.error import HTTPError, URLError
from urllib.request import Request, urlopen

from tqdm.auto import tqdm

from lib.exceptions import DatasetError
from lib.files import write_json

SCRATCH = ".download"
"""The folder, in the one that is filled, of what is not whole yet."""

_CHUNK = 2**20  # bytes
_LONGEST_WAIT = 60.0  # seconds
_TRY_AGAIN = (408, 425, 429, 500, 502, 503, 504)
"""What a busy server answers."""


@dataclass(frozen=True)
class PublishedFile:
    """`checksum` is 'md5:...' or 'sha256:...'; `page` shows the file to a browser; `images` is how
    many an archive holds."""

    name: str
    url: str
    size: int
    checksum: str
    page: str
    images: int = 0


@dataclass(frozen=True)
class Patience:
    """How long a download waits, in seconds. `tries` are failures in a row that add nothing."""

    timeout: float = 60.0
    slowest: float = 1000.0  # bytes per second over `timeout`
    tries: int = 10
    wait: float = 1.0  # after the first failure; it doubles, up to a minute


class _Broken(Exception):
    """A download stopped for a reason that may pass."""


def fetch(
    file: PublishedFile, folder: Path, *, patience: Patience | None = None, progress: bool = True
) -> Path:
    """The path of `file` in `folder`, downloaded unless it is there.

    Continues by HTTP range; starts over where the server ignores ranges or has another file than
    before. A file that is wrong after all is fetched once more from its beginning. Raises
    DatasetError where that does not help, where the server does not have the file, and where
    another file has its name in `folder`.
    """
    target = folder / file.name
    if target.exists():
        if wrong := what_is_wrong(target, file):
            raise DatasetError(f"{target}: {wrong}. Delete it, and it is downloaded again.")
        return target
    partial = folder / SCRATCH / f"{file.name}.partial"
    partial.parent.mkdir(parents=True, exist_ok=True)
    for last in (False, True):
        _receive_all(file, partial, patience or Patience(), progress)
        if not (wrong := what_is_wrong(partial, file)):
            break
        partial.unlink()
        if last:
            raise DatasetError(f"{file.name}: {wrong}, twice. {_by_hand(file, folder)}")
        tqdm.write(f"{file.name}: {wrong}; it is downloaded once more")
    with partial.open("rb") as content:
        os.fsync(content.fileno())
    partial.replace(target)
    _facts_of(partial).unlink(missing_ok=True)
    return target


def what_is_wrong(path: Path, file: PublishedFile) -> str:
    """How a file differs from the published one; empty where it does not."""
    size = path.stat().st_size
    if size != file.size:
        return f"it has {size:,} bytes, the published file {file.size:,}"
    kind, _, published = file.checksum.partition(":")
    with path.open("rb") as content:
        found = hashlib.file_digest(content, kind).hexdigest()
    return "" if found == published else f"its {kind} is {found}, the published one {published}"


def _receive_all(file: PublishedFile, partial: Path, patience: Patience, progress: bool) -> None:
    """Receive until the partial file has the published size, trying again after what may pass."""
    failures = 0
    with tqdm(
        total=file.size, initial=_size(partial), desc=file.name, unit="B", unit_scale=True,
        disable=not progress, dynamic_ncols=True,
    ) as bar:  # fmt: skip
        while (before := _size(partial)) < file.size:
            try:
                _receive(file, partial, patience, bar)
            except _Broken as reason:
                failures = 1 if _size(partial) > before else failures + 1
                where = f"{file.name}: {reason}, at {_size(partial):,} of {file.size:,} bytes"
                if failures >= patience.tries:
                    advice = "What was received is kept: run the same command again to continue."
                    raise DatasetError(
                        f"{where}; {failures} tries added nothing. {advice}"
                    ) from None
                seconds = min(patience.wait * 2 ** (failures - 1), _LONGEST_WAIT)
                if progress:
                    tqdm.write(f"{where}; next try in {seconds:.0f} s")
                time.sleep(seconds)


def _receive(file: PublishedFile, partial: Path, patience: Patience, bar: tqdm) -> None:
    """Ask once, and append what comes to the partial file."""
    have = _size(partial)
    request = Request(file.url, headers={"Range": f"bytes={have}-"} if have else {})
    try:
        with urlopen(request, timeout=patience.timeout) as response:
            facts = _check_answer(response, file, partial)
            if response.status == 200:
                have = 0
            elif not _continues(response.headers, have, facts, partial):
                partial.unlink(missing_ok=True)
                raise _Broken("the server does not continue the file, so it starts over")
            if not have:
                partial.unlink(missing_ok=True)
            bar.n = have
            write_json(_facts_of(partial), facts)
            _copy(response, partial, file.size, patience, bar)
    except HTTPError as error:
        if error.code == 416:  # what is here is not a part of what is there
            partial.unlink(missing_ok=True)
        elif error.code not in _TRY_AGAIN:
            advice = _by_hand(file, partial.parents[1])
            raise DatasetError(
                f"{file.name}: {file.url} answers {error.code} {error.reason}. {advice}"
            ) from error
        raise _Broken(f"the server answers {error.code} {error.reason}") from error
    except (URLError, ConnectionError, TimeoutError, HTTPException) as error:
        reason = getattr(error, "reason", None) or error or type(error).__name__
        raise _Broken(f"the connection failed ({reason})") from error
    if _size(partial) < file.size:
        raise _Broken("the connection broke off")


def _check_answer(response: HTTPResponse, file: PublishedFile, partial: Path) -> dict:
    """What the server says of the file: size, etag and date. Raises DatasetError where it is another
    file."""
    headers, advice = response.headers, _by_hand(file, partial.parents[1])
    if headers.get_content_type() == "text/html":
        raise DatasetError(
            f"{file.name}: {file.url} answers with a web page in place of the file. {advice}"
        )
    size = headers.get("Content-Range", "").rpartition("/")[2]
    if response.status == 200:
        size = headers.get("Content-Length", "")
    if size.isdigit() and int(size) != file.size:
        raise DatasetError(
            f"{file.name}: {file.url} has {int(size):,} bytes, the published file {file.size:,}. {advice}"
        )
    return {"etag": headers.get("ETag"), "modified": headers.get("Last-Modified")}


def _continues(headers: HTTPMessage, have: int, facts: dict, partial: Path) -> bool:
    """Whether a partial answer begins where the file here ends, and is of the same file."""
    if not headers.get("Content-Range", "").startswith(f"bytes {have}-"):
        return False
    with suppress(OSError, ValueError):
        return facts == json.loads(_facts_of(partial).read_text())
    return False


def _copy(response: HTTPResponse, partial: Path, size: int, patience: Patience, bar: tqdm) -> None:
    """Append what comes, not much beyond `size` bytes; raises _Broken where it comes too slowly."""
    since, received = time.monotonic(), 0
    with partial.open("ab") as out:
        while out.tell() <= size and (chunk := response.read1(_CHUNK)):
            out.write(chunk)
            bar.update(len(chunk))
            received += len(chunk)
            seconds = time.monotonic() - since
            if seconds > patience.timeout:
                if received < patience.slowest * seconds:
                    raise _Broken(f"only {received:,} bytes came in {seconds:.0f} s")
                since, received = time.monotonic(), 0


def _size(partial: Path) -> int:
    """Bytes received so far; what has no facts beside it counts as nothing."""
    return partial.stat().st_size if partial.exists() and _facts_of(partial).exists() else 0


def _facts_of(partial: Path) -> Path:
    return partial.with_suffix(".json")


def _by_hand(file: PublishedFile, folder: Path) -> str:
    return (
        f"Download it in a browser from {file.page}, put it into {folder} as {file.name}, and run "
        "the same command again."
    )
