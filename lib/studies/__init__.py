"""A study file -> a plan -> papermill -> a report."""

from lib.studies.clean import (
    find_removable,
    remove,
)
from lib.studies.cluster import (
    open_cluster,
)
from lib.studies.compared import (
    write_comparison,
)
from lib.studies.devices import (
    parse_jobs,
)
from lib.studies.durations import (
    parse_duration,
)
from lib.studies.execute import (
    run_notebook,
)
from lib.studies.plan import (
    Plan,
    PlannedRun,
    plan_study,
)
from lib.studies.progress import (
    failure_text,
    plain_text,
    plan_table,
)
from lib.studies.report import (
    answers_text,
    make_report,
    publish,
    run_or_arm_folders,
    run_or_study_folder,
    study_folder,
    table_text,
)
from lib.studies.runner import (
    run_plan,
    select,
)
from lib.studies.states import (
    planned_states,
)
from lib.studies.status import (
    status_table,
    watch_study,
)
from lib.studies.summary import (
    tell_command,
)
from lib.studies.tracking import (
    track_as_they_end,
    track_study,
)
from lib.studies.until_decided import (
    run_until_decided,
)

__all__ = [
    "Plan",
    "PlannedRun",
    "answers_text",
    "failure_text",
    "find_removable",
    "make_report",
    "open_cluster",
    "parse_duration",
    "parse_jobs",
    "plain_text",
    "plan_study",
    "plan_table",
    "planned_states",
    "publish",
    "remove",
    "run_notebook",
    "run_or_arm_folders",
    "run_or_study_folder",
    "run_plan",
    "run_until_decided",
    "select",
    "status_table",
    "study_folder",
    "table_text",
    "tell_command",
    "track_as_they_end",
    "track_study",
    "watch_study",
    "write_comparison",
]
