"""In: a process. Out: the most memory it has held. Standard library alone: what is measured stays light."""

import re
import sys
from pathlib import Path


def peak_memory_mb(process: int | str = "self") -> float:
    """The largest resident memory of a process (its id, or this one) so far, in MiB; other processes on Linux alone.

    Linux's own count begins with the program; that of getrusage may still hold the size of the process that started it.
    """
    status = Path(f"/proc/{process}/status")
    if status.exists():
        return float(re.search(r"VmHWM:\s+(\d+) kB", status.read_text())[1]) / 2**10
    import resource  # not on Windows

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10)
