"""Export a model to `savefolder/`.

In: a complete run, the runs of an arm, or the authors' published weights. Out:
`savefolder/NAME.onnx` with its card inside, and NAME.md.
"""

import re
import shutil
import tempfile
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from timm.utils import reparameterize_model

from lib.compression.quantize import (
    FLAG_LIMIT,
    LIMIT,
    MIN_POSITIVES,
    PROB_LIMIT,
    QuantizationJob,
    Trial,
    ValidationSet,
    best_trial,
    drift_text,
    halves,
    judged,
    quantize,
)
from lib.compression.remeasure import remeasure, set_calibration
from lib.config import REPO_ROOT
from lib.exceptions import ExportError
from lib.export.ensemble import describe_members, read_ensemble
from lib.export.onnx_file import check_parity, golden_films, write_card, write_onnx
from lib.export.source import Source, quantized_file, read_source
from lib.files import INT8, atomic_write
from lib.inference.card import card_text, make_card, read_calibration
from lib.inference.ood import fit_familiarity
from lib.inference.predictor import Predictor
from lib.inference.session import latencies_ms, run_file
from lib.models.classifier import Classifier
from lib.models.heatmaps import EnsembleModule, Served, ServingModule
from lib.system import package_versions

CALIBRATION_FILMS = 64
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


def export_run(
    source: Path | str | Sequence[Path],
    name: str | None = None,
    int8: bool = False,
    allow_drop: bool = False,
    out: Path = REPO_ROOT / "savefolder",
    log: Callable[[str], None] = print,
) -> Path:
    """Export a run, an ensemble of runs or published weights to ONNX, and return the path of
    NAME.onnx.

    - source: the folder of a run, those of the runs of one arm, or a state dict `all_14.pt` or
      `single_disease.pt`. An int8 run has its file already, which is copied.
    - name: by default that of the study and the run, or of the file.
    - int8: quantize. This needs the run's images, and a single run.
    - allow_drop: keep int8 even over the limits of `compression.quantize`, or not judged.
    - out: the folder for the files.
    - log: called with size, drift and latency, line by line.

    The ONNX file is compared with torch before it is kept. Int8 is calibrated on training images.
    Its recipe is chosen on one half of the validation patients and judged on the other half. It has
    thresholds, calibration and test scores of its own. Raises ExportError, DatasetError or
    ModelError; then no file is left behind.
    """
    if isinstance(source, str | Path) and (made := quantized_file(Path(source))):
        return _keep_again(made, name, out)
    found = read_source(Path(source)) if isinstance(source, str | Path) else read_ensemble(source)
    name = _checked(name or found.name + ("-int8" if int8 else ""))
    if int8 and found.members:
        raise ExportError(
            f"int8 is made for one network, and {found.name} is an ensemble of {len(found.members)}: "
            "export the ensemble in fp32, or one of its runs in int8"
        )
    if int8 and found.films is None:
        raise ExportError(f"int8 needs the run's images, but {found.no_films}; export fp32 instead")
    with tempfile.TemporaryDirectory() as place:
        plain = Path(place) / "fp32.onnx"
        parity = _write_plain(found, plain)
        log(f"torch and ONNX agree: probabilities differ by {parity:.1g} at most")
        shipped, run_card, metrics = plain, found.card, found.record.get("metrics", [])
        parts: dict[str, Any] = {"precision": "fp32"}
        if int8:
            shipped, parts = _write_int8(found, plain, allow_drop, log)
            run_card, metrics = remeasure(shipped, found.films, found.card)
            set_calibration(
                shipped, run_card["calibration"]["slope"], run_card["calibration"]["intercept"]
            )
        else:
            took = latencies_ms({"fp32": plain}, found.card["image_size"])["fp32"]
            log(
                f"fp32: {plain.stat().st_size / 2**20:.1f} MB, {took:.1f} ms per image at 2 threads"
            )
        parts["familiarity"] = _familiarity(found, shipped, log)
        parts["megabytes"] = round(shipped.stat().st_size / 2**20, 1)
        if found.members:
            parts["members"] = describe_members(found.members)
        card = make_card(name, run_card, metrics, **parts, **_made(found))
        write_card(shipped, card)
        return _keep(shipped, card, out / f"{name}.onnx")


def _checked(name: str) -> str:
    if not NAME.fullmatch(name):
        raise ExportError(
            f"{name!r} is not a valid model name: use letters, digits, '.', '_' and '-' (--name NAME)"
        )
    return name


def _keep_again(made: Path, name: str | None, out: Path) -> Path:
    """Keep the int8 file that a run consists of, under its new name."""
    name = _checked(name or "-".join(made.resolve().parts[-3:-1]))
    card = Predictor(made).card | {"name": name}
    with tempfile.TemporaryDirectory() as place:
        copy = Path(shutil.copyfile(made, Path(place) / INT8))
        write_card(copy, card)
        return _keep(copy, card, out / f"{name}.onnx")


def _write_plain(found: Source, path: Path) -> float:
    """Write the fp32 file; return the largest difference of its probabilities from torch's."""
    write_onnx(_network(found, merged=True), path)
    films = found.films.val if found.films else None
    return check_parity(
        _network(found, merged=False), path, golden_films(found.card["image_size"], films)
    )


def _network(found: Source, merged: bool) -> Served:
    """Return the network to serve; `merged`: parallel branches are one convolution (RepVGG)."""
    if found.members:
        return EnsembleModule([_network(member, merged) for member in found.members])
    model, calibration = found.model, read_calibration(found.card)
    if merged:
        mean, std = (values.flatten().tolist() for values in (model.mean, model.std))
        model = Classifier(reparameterize_model(model.backbone), model.head, mean, std)
    return ServingModule(
        model, calibration["slope"], calibration["intercept"], found.card["image_size"]
    )


def _write_int8(
    found: Source, plain: Path, allow_drop: bool, log: Callable[[str], None]
) -> tuple[Path, dict[str, Any]]:
    films, thresholds = found.films, np.array(make_card("", found.card, [])["thresholds"])
    judge = ValidationSet(films.val, films.val_targets, run_file(plain, films.val), thresholds)
    half = halves(films.val_patients)
    choosing, judging = judge.part(half), judge.part(~half)
    positives = min(choosing.positives, judging.positives)
    if positives < MIN_POSITIVES and not allow_drop:
        raise ExportError(
            f"int8 cannot be judged: half of the {len(half):,} validation images has {positives} positive labels, "
            f"and {MIN_POSITIVES} are needed; nothing was exported. Export fp32, or keep int8 with --allow-drop"
        )
    trials = quantize(
        QuantizationJob(plain, films.train[:CALIBRATION_FILMS], choosing, plain.parent), log
    )
    log(_trial_table(plain, choosing, trials, found.card["image_size"]))
    best = best_trial(trials)
    best = judged(judging, best.calibration, best.what, best.path)
    log(f"judged on the other half, {len(judging.images):,} images: {drift_text(best)}")
    if not best.fine and not allow_drop:
        raise ExportError(
            f"int8 differs too much from fp32 on {len(judging.images):,} validation images not used to choose it: "
            f"{drift_text(best)}; the limits are {LIMIT}, {PROB_LIMIT} and {FLAG_LIMIT:.0%}. Nothing was exported. "
            "Export fp32, or use --allow-drop to accept the change"
        )
    return best.path, {
        "precision": "int8",
        "drift": _drift(best, judging, positives >= MIN_POSITIVES),
    }


def _drift(best: Trial, judging: ValidationSet, enough: bool) -> dict[str, Any]:
    areas = {"auroc_fp32": judging.auroc, "auroc_int8": best.auroc, "auroc_drop": best.drop}
    return {name: None if np.isnan(value) else value for name, value in areas.items()} | {
        "images": len(judging.images),
        "positives": judging.positives,
        "prob_max": best.prob_max,
        "prob_mean": best.prob_mean,
        "flags_changed": best.flags,
        "judged": enough,
        "fine": best.fine,
        "calibration": best.calibration,
        "int8": best.what,
    }


def _trial_table(plain: Path, judge: ValidationSet, trials: list[Trial], size: int) -> str:
    took = latencies_ms(
        {"fp32": plain} | {str(i): trial.path for i, trial in enumerate(trials)}, size
    )
    rows = [
        (
            "calibration",
            "what is int8",
            "MB",
            "AUROC",
            "drop",
            "probs, most",
            "ms per image, 2 threads",
        )
    ]
    rows.append(
        (
            "",
            "nothing (fp32)",
            _megabytes(plain),
            f"{judge.auroc:.4f}",
            "",
            "",
            f"{took['fp32']:.1f}",
        )
    )
    for i, trial in enumerate(trials):
        numbers = (
            _megabytes(trial.path),
            f"{trial.auroc:.4f}",
            f"{trial.drop:+.4f}",
            f"{trial.prob_max:.3f}",
        )
        rows.append((trial.calibration, trial.what, *numbers, f"{took[str(i)]:.1f}"))
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        for row in rows
    )


def _megabytes(path: Path) -> str:
    return f"{path.stat().st_size / 2**20:.1f}"


def _familiarity(found: Source, shipped: Path, log: Callable[[str], None]) -> dict[str, Any] | None:
    """Return embedding statistics of the shipped file, for out-of-distribution scores.

    Without enough images it logs the reason and returns None.
    """
    reason = found.no_films
    if found.films is not None:
        embeddings = [
            run_file(shipped, films)["embedding"] for films in (found.films.train, found.films.val)
        ]
        try:
            return fit_familiarity(*embeddings)
        except ValueError as error:
            reason = str(error)
    log(f"the exported model cannot detect out-of-distribution images: {reason}")
    return None


def _made(found: Source) -> dict[str, Any]:
    keys = ("study", "run", "config_hash", "git")
    versions = package_versions() | {name: version(name) for name in ("onnx", "onnxruntime")}
    return {
        "exported": datetime.now(UTC).isoformat(timespec="seconds"),
        "run": {key: found.record.get(key) for key in keys},
        "versions": versions,
    }


def _keep(shipped: Path, card: dict[str, Any], target: Path) -> Path:
    """Write the Markdown card, then move the finished file to `target`, each atomically."""
    with atomic_write(target.with_suffix(".md")) as partial:
        partial.write_text(card_text(card), encoding="utf-8")
    with atomic_write(target) as partial:
        shutil.copyfile(shipped, partial)
    return target
