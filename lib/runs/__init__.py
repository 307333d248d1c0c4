"""One run's folder, written and read; the runs of a study as frames."""

from lib.runs.record import (
    RunRecord,
)
from lib.runs.run import (
    Run,
    finish_run,
    is_complete,
    start_run,
)
from lib.runs.study import (
    read_config_differences,
    read_histories,
    read_plan,
    read_record,
    read_run,
    read_runs,
    read_tables,
)

__all__ = [
    "Run",
    "RunRecord",
    "finish_run",
    "is_complete",
    "read_config_differences",
    "read_histories",
    "read_plan",
    "read_record",
    "read_run",
    "read_runs",
    "read_tables",
    "start_run",
]
