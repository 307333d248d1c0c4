"""In: what a run found and cost. Out: `RunRecord`, checked when it is written and when it is
read."""

from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, ValidationError, field_validator

from lib.config import Config, config_problems
from lib.exceptions import RunError
from lib.metrics.scores import MACRO


class Part(BaseModel):
    """Frozen; fields beyond those that are named are kept."""

    model_config = ConfigDict(frozen=True, extra="allow")


class DataPart(Part):
    """What a run was trained and tested on; see `datasets.describe_data`."""

    phantom: bool
    fingerprint: str
    """Of the image ids, splits and labels."""
    test_fingerprint: str
    """Of those of the test images: runs compare when it is the same."""
    warnings: tuple[str, ...] = ()


class DevicePart(Part):
    """What a run was trained on."""

    kind: str
    """cpu, cuda or mps"""
    name: str = ""
    ids: tuple[str, ...] = ()
    """As CUDA_VISIBLE_DEVICES names them; empty on a CPU."""
    host: str = ""
    devices: int = 1
    """How many trained together."""


class GitPart(Part):
    """The code: None outside git."""

    commit: str | None
    dirty: bool | None = None


class WeightsPart(Part):
    """Where a run's first weights came from; see `lib.models.weights.origin`."""

    source: Literal["timm", "file", "run", "none"]
    name: str = ""
    sha256: str | None = None
    """Of the weight file, or of the earlier run's model."""
    starts_from: "WeightsPart | None" = None
    """Where the earlier run's weights came from."""
    text: str = ""
    """The whole chain in words."""


class RunRecord(Part):
    """`record.json`: what one complete run was, found and cost; it is written last.

    metrics: the rows of metrics.csv, macro among them, null where a score does not exist. versions:
    package -> version. parameters: `all` and `trained`. files: without one of these the run is
    damaged.
    """

    run: str
    config: dict[str, Any]
    config_hash: str
    finished: str
    wall_seconds: float
    train_seconds: float
    best_epoch: int
    peak_memory_mb: float
    git: GitPart
    versions: dict[str, str | None]
    metrics: list[dict[str, Any]]
    data: DataPart
    parameters: dict[str, int]
    device: DevicePart
    weights: WeightsPart | None = None
    cpu_latency_ms: float | None = None
    files: tuple[str, ...] = ()

    @field_validator("metrics")
    @classmethod
    def _has_macro(cls, rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
        if not any(row.get("finding") == MACRO for row in rows):
            raise ValueError(f"no row has the finding {MACRO!r}")
        return rows

    @property
    def macro(self) -> dict[str, Any]:
        """The row of `metrics` that is the mean over findings."""
        return next(row for row in self.metrics if row["finding"] == MACRO)


def checked_config(content: Any, path: Path) -> Config:
    """`content` as the config in `path`; raises RunError that names the file and what is wrong."""
    if not isinstance(content, dict):
        raise RunError(f"{path} holds no parameters: it is damaged; run the study again")
    try:
        return Config(**content)
    except ValidationError as error:
        problems = "; ".join(config_problems(error, content))
        raise RunError(
            f"{path} is damaged or of another version ({problems}); run the study again"
        ) from error


def checked_record(content: Any, path: Path) -> RunRecord:
    """`content` as the record in `path`; raises RunError that names the file and what is missing or
    wrong."""
    if not isinstance(content, dict):
        raise RunError(f"{path} holds no record: it is damaged; run the study again")
    try:
        return RunRecord(**content)
    except ValidationError as error:
        problems = [f"{'.'.join(map(str, one['loc']))}: {one['msg']}" for one in error.errors()]
        raise RunError(
            f"{path} is damaged or of another version ({'; '.join(problems)}); run the study again"
        ) from error
