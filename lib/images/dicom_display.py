"""In: the stored values of a DICOM film, and its header. Out: grey levels for display (DICOM PS3.3,
C.11)."""

import numpy as np
from pydicom import Dataset
from pydicom.multival import MultiValue


def displayed(stored: np.ndarray, header: Dataset) -> tuple[np.ndarray, list[str]]:
    """(H, W) stored values of 8 or 16 bits -> (H, W) uint8 grey, bright where bone is, and
    warnings.

    Modality LUT or rescale, then VOI LUT or window (the first of several; the LUT where both are
    given), then MONOCHROME1 is inverted and padding becomes black. Without LUT or window the range
    is that of `lib.images.pixels.decode_grey`: the smallest power of two that holds the brightest
    pixel becomes 0..255.
    """
    stored = np.ascontiguousarray(stored, stored.dtype.newbyteorder("="))
    codes = stored.view(f"u{stored.dtype.itemsize}")  # (H, W)
    values = (
        np.arange(2 ** (8 * stored.dtype.itemsize))
        .astype(codes.dtype)
        .view(stored.dtype)
        .astype(float)
    )  # (K,)
    padding = _padding(values, header)  # (K,)
    seen = _seen(codes, len(values)) & ~padding  # (K,)
    values = _modality(values, header)
    shown, warnings = _voi(values, header)  # (K,) in 0..1
    if shown is None:
        low = min(0.0, values[seen].min(initial=0.0))
        high = values[seen].max(initial=0.0) - low
        shown = np.clip((values - low) / (2.0 ** max(8, int(high).bit_length()) - 1), 0, 1)
    if header.PhotometricInterpretation == "MONOCHROME1":
        shown = 1 - shown
    table = np.where(padding, 0, np.rint(255 * shown)).astype(np.uint8)  # (K,)
    grey = np.empty(codes.shape, np.uint8)
    for rows in _blocks(codes):
        grey[rows] = table[codes[rows]]
    return grey, warnings  # (H, W)


def _blocks(codes: np.ndarray) -> list[slice]:
    """A few rows at a time: looking values up takes eight bytes per pixel."""
    return [slice(start, start + 64) for start in range(0, len(codes), 64)]


def _seen(codes: np.ndarray, count: int) -> np.ndarray:
    seen = np.zeros(count, bool)
    for rows in _blocks(codes):
        seen[codes[rows]] = True
    return seen  # (K,)


def _padding(values: np.ndarray, header: Dataset) -> np.ndarray:
    """(K,) which stored values are padding: PixelPaddingValue, up to PixelPaddingRangeLimit where
    that is given."""
    first = header.get("PixelPaddingValue")
    if first is None:
        return np.zeros(len(values), bool)
    last = header.get("PixelPaddingRangeLimit")
    # taken as codes, since writers often get the sign wrong
    wrapped = [values[int(end) % len(values)] for end in (first, first if last is None else last)]
    return (values >= min(wrapped)) & (values <= max(wrapped))


def _modality(values: np.ndarray, header: Dataset) -> np.ndarray:
    if sequence := header.get("ModalityLUTSequence"):
        return _looked_up(values, sequence[0], header)[0]
    slope, intercept = header.get("RescaleSlope"), header.get("RescaleIntercept")
    return (
        values if slope is None or intercept is None else values * float(slope) + float(intercept)
    )


def _voi(values: np.ndarray, header: Dataset) -> tuple[np.ndarray | None, list[str]]:
    """(K,) display values in 0..1, or None where the header says nothing that can be used; and
    warnings."""
    if sequence := header.get("VOILUTSequence"):
        entries, depth = _looked_up(values, sequence[0], header)
        return np.clip(entries / (2.0**depth - 1), 0, 1), []
    center, width = _first(header, "WindowCenter"), _first(header, "WindowWidth")
    if center is None or width is None:
        return None, []
    function = str(header.get("VOILUTFunction") or "LINEAR").upper()
    if not np.isfinite([center, width]).all() or width < (1 if function == "LINEAR" else 1e-9):
        return None, [f"its window of width {width:g} is impossible, so all of its range is shown"]
    return window(values, center, width, function), []


def window(values: np.ndarray, center: float, width: float, function: str = "LINEAR") -> np.ndarray:
    """Values through a window, in 0..1: LINEAR, LINEAR_EXACT or SIGMOID (PS3.3, C.11.2.1.2 and
    C.11.2.1.3)."""
    if function == "SIGMOID":
        return 1 / (1 + np.exp(np.clip(-4 * (values - center) / width, -700, 700)))
    if function == "LINEAR_EXACT":
        return np.clip((values - center) / width + 0.5, 0, 1)
    return np.clip((values - (center - 0.5)) / max(width - 1, 1e-9) + 0.5, 0, 1)


def _first(header: Dataset, keyword: str) -> float | None:
    value = header.get(keyword)
    value = value[0] if isinstance(value, MultiValue) else value
    return None if value is None or value == "" else float(value)


def _looked_up(values: np.ndarray, item: Dataset, header: Dataset) -> tuple[np.ndarray, int]:
    """(K,) entries of a LUT item for the values, the ends for what lies outside; and the bits of an
    entry."""
    count, first, depth = item.LUTDescriptor
    count = count or 2**16
    data = item.LUTData
    if isinstance(data, bytes):
        order = "<" if header.file_meta.TransferSyntaxUID.is_little_endian else ">"
        data = np.frombuffer(data, np.uint8 if len(data) < 2 * count else f"{order}u2")
    entries = np.atleast_1d(np.asarray(data, dtype=float))[:count]
    first = (
        first - 2**16 if first >= 2**15 and values.min() < 0 else first
    )  # a signed start that was read as unsigned
    return entries[np.clip(np.rint(values) - first, 0, len(entries) - 1).astype(int)], depth
