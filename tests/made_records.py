"""What the records of runs hold that tests make up."""

from typing import Any

PARTS = {
    "data": {"phantom": True, "fingerprint": "f00", "test_fingerprint": "f00"},
    "parameters": {"all": 3, "trained": 3},
    "device": {"kind": "cpu", "name": "A processor"},
}
"""What a notebook gives to `finish_run` beside the history and the metrics."""


def full_record(**changes: Any) -> dict[str, Any]:
    """A whole record as JSON, with some fields changed."""
    made = {"run": "run", "config": {}, "config_hash": "", "finished": "2030-01-01T00:00:00+00:00"}
    cost = {"wall_seconds": 1.0, "train_seconds": 1.0, "best_epoch": 1, "peak_memory_mb": 1.0}
    code = {"git": {"commit": None, "dirty": None}, "versions": {"torch": "2"}}
    return {**made, **cost, **code, "metrics": [{"finding": "macro"}], **PARTS, **changes}
