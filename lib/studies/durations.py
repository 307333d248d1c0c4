"""In: a duration as text or as seconds. Out: the other."""

import re

from lib.exceptions import StudyError

SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400}


def clock(seconds: float) -> str:
    """Seconds as "45 s", "12 min" or "3 h 20 min"."""
    minutes = round(seconds / 60)
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60} min"


def parse_duration(text: str, name: str) -> float:
    """Seconds of "45s", "90m", "2h", "1h30m" or "1d"; raises StudyError, which names the option,
    for anything else."""
    parts = re.findall(r"(\d+(?:\.\d+)?)([smhd])", text)
    seconds = sum(float(number) * SECONDS[unit] for number, unit in parts)
    if "".join(number + unit for number, unit in parts) != text or seconds == 0:
        raise StudyError(f"{name} {text}: write a number and a unit, such as 45s, 90m, 2h or 1h30m")
    return seconds
