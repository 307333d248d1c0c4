"""In: how the runs of a plan ended. Out: the sentence about it, an exit code, and what the user's
own command gets."""

import os
import subprocess
from dataclasses import dataclass, field


@dataclass
class Summary:
    """How the runs of a plan ended; `failed` holds the reasons, `repeated` the runs that were tried
    again and the number of their tries."""

    skipped: list[str] = field(default_factory=list)
    done: list[str] = field(default_factory=list)
    failed: dict[str, str] = field(default_factory=dict)
    repeated: dict[str, int] = field(default_factory=dict)
    interrupted: bool = False

    @property
    def exit_code(self) -> int:
        """130 after Ctrl-C, 1 when a run failed, else 0."""
        if self.interrupted:
            return 130
        return 1 if self.failed else 0

    def text(self) -> str:
        """One sentence: how it ended and, if something is left, how to continue."""
        if not self.done and not self.failed and not self.interrupted:
            return f"everything is complete ({len(self.skipped)} runs); nothing to do"
        counts = f"{len(self.done)} done, {len(self.failed)} failed, {len(self.skipped)} were complete before"
        if self.repeated:
            tries = ", ".join(f"{name} ({count} tries)" for name, count in self.repeated.items())
            counts += f", tried again: {tries}"
        if self.interrupted:
            return f"interrupted: {counts}; nothing is lost, the same command continues"
        return f"{counts}; the same command repeats the failed ones" if self.failed else counts


def tell_command(command: str, study: str, summary: Summary) -> str | None:
    """Runs `command` in the shell, with the study's end in its environment: CXR_STUDY, CXR_DONE,
    CXR_FAILED and CXR_SKIPPED (numbers of runs), CXR_FAILED_RUNS (names, with spaces between) and
    CXR_EXIT_CODE. Returns a sentence when it failed."""
    values = {
        "CXR_STUDY": study,
        "CXR_DONE": len(summary.done),
        "CXR_FAILED": len(summary.failed),
        "CXR_SKIPPED": len(summary.skipped),
        "CXR_FAILED_RUNS": " ".join(summary.failed),
        "CXR_EXIT_CODE": summary.exit_code,
    }
    environment = os.environ | {name: str(value) for name, value in values.items()}
    code = subprocess.run(command, shell=True, env=environment).returncode
    return f"--on-end: {command!r} ended with exit code {code}" if code else None
