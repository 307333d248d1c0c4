"""Read the card of an exported file without opening its network.

In: an ONNX file. Out: its card. The network is skipped, so that the cards of a folder are read in
little time and memory, whatever the size of its models.
"""

import os
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from typing import Any, BinaryIO

from lib.exceptions import ExportError
from lib.inference.predictor import parse_card

_METADATA = 14  # the number of ModelProto's field metadata_props, pairs of key (1) and value (2)
_VARINT, _EIGHT_BYTES, _COUNTED, _FOUR_BYTES = 0, 1, 2, 5  # how protobuf stores a field


def stored_card(path: Path) -> dict[str, Any]:
    """Return the card in an exported file; nothing of it is checked but that it is a JSON object.

    Raises ExportError for a file that cannot be read, or holds no card.
    """
    try:
        with path.open("rb") as file:
            pairs = [dict(_fields(BytesIO(part), 1, 2)) for _, part in _fields(file, _METADATA)]
        text = next(pair[2] for pair in pairs if pair.get(1) == b"card").decode()
    except (OSError, ValueError, LookupError, StopIteration) as error:
        raise ExportError(f"{path} holds no card that can be read; export the run again") from error
    return parse_card(text, path)


def _fields(file: BinaryIO, *wanted: int) -> Iterator[tuple[int, bytes]]:
    """Yield number and content of the counted fields `wanted` of a protobuf message; skip others.

    Raises ValueError where the message is damaged.
    """
    size = file.seek(0, os.SEEK_END)
    file.seek(0)
    while file.tell() < size:
        number, kind = divmod(_varint(file), 8)
        if kind == _VARINT:
            _varint(file)
            continue
        if kind not in (_EIGHT_BYTES, _COUNTED, _FOUR_BYTES):
            raise ValueError(f"a field of the unknown kind {kind}")
        length = _varint(file) if kind == _COUNTED else 8 if kind == _EIGHT_BYTES else 4
        if length > size - file.tell():
            raise ValueError("a field ends behind the file")
        if kind == _COUNTED and number in wanted:
            yield number, file.read(length)
        else:
            file.seek(length, os.SEEK_CUR)


def _varint(file: BinaryIO) -> int:
    """Return the next number: seven bits a byte, the lowest first, as long as the eighth is set."""
    value = 0
    for place in range(10):
        byte = file.read(1)
        if not byte:
            break
        value |= (byte[0] & 127) << (7 * place)
        if byte[0] < 128:
            return value
    raise ValueError("a number is cut short")
