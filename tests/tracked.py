"""The files of the repository, without what else lies in a working copy."""

import subprocess
from pathlib import Path

from lib.config import REPO_ROOT


def tracked(pattern: str) -> list[Path]:
    """The files that match and that git tracks; outside git, all that match."""
    command = ["git", "ls-files", "-z", "--", f":(glob){pattern}"]
    try:
        told = subprocess.run(command, cwd=REPO_ROOT, capture_output=True, text=True).stdout
    except OSError:  # no git
        told = ""
    return [REPO_ROOT / name for name in told.split("\0") if name] or sorted(
        REPO_ROOT.glob(pattern)
    )
