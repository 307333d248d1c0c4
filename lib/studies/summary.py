"""In: how the runs of a plan ended. Out: the sentence about it, and an exit code."""

from dataclasses import dataclass, field


@dataclass
class Summary:
    """How the runs of a plan ended; `failed` holds the reasons."""

    skipped: list[str] = field(default_factory=list)
    done: list[str] = field(default_factory=list)
    failed: dict[str, str] = field(default_factory=dict)
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
        if self.interrupted:
            return f"interrupted: {counts}; nothing is lost, the same command continues"
        return f"{counts}; the same command repeats the failed ones" if self.failed else counts
