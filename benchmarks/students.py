"""Write a teacher and its student as files for the web app.

In: nothing. Out: two ONNX files of MobileNetV2 at width 0.35 and 128 px, one of them without half of
its channels, with random weights and cards that say who taught whom.
"""

from pathlib import Path
from typing import Any

import torch

from lib.config import FINDINGS
from lib.export.onnx_file import write_card, write_onnx
from lib.inference.card import make_card
from lib.models.classifier import Classifier, build_backbone, build_head
from lib.models.heatmaps import ServingModule
from lib.models.pruning import prune_backbone

BACKBONE, SIZE, SHARE = "mobilenetv2_035", 128, 0.5
TEACHER = f"MobileNetV2 0.35 at {SIZE} px"
STUDENT = f"{TEACHER} without {SHARE:.0%} of its channels"


def write_student_and_teacher(folder: Path) -> tuple[Path, Path]:
    """Write student.onnx and teacher.onnx, as `cxr export` writes them."""
    folder.mkdir(parents=True)
    taught = {"text": "random weights", "taught_by": ["bench/teacher-s0"]}
    return (
        _write(folder / "student.onnx", SHARE, weights=taught),
        _write(folder / "teacher.onnx", 0.0),
    )


def _write(path: Path, share: float, **changes: object) -> Path:
    """Write one model without `share` of its channels; `changes` are of its run's card."""
    torch.manual_seed(0)
    backbone = build_backbone(BACKBONE, SIZE)
    widths = prune_backbone(backbone, BACKBONE, SIZE, share) if share else None
    head = build_head("linear", backbone.head_hidden_size, len(FINDINGS), 0.3)
    model = Classifier(backbone, head, (0.5,) * 3, (0.25,) * 3).eval()
    count = len(FINDINGS)
    write_onnx(ServingModule(model, [1.0] * count, [0.0] * count, SIZE), path)
    run = {"backbone": BACKBONE, "head": "linear", "findings": FINDINGS, "image_size": SIZE}
    parts: dict[str, Any] = {
        "precision": "fp32",
        "familiarity": None,
        "exported": "",
        "versions": {},
    }
    made = {"study": "bench", "run": f"{path.stem}-s0"}
    card = make_card(
        path.stem, {**run, "data": {}, "widths": widths, **changes}, [], **parts, run=made
    )
    write_card(path, card)
    return path
