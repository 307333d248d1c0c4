"""Make the card of an exported model, and render it as Markdown.

In: the record of a trained model. Out: the card of its export, as JSON values and as Markdown.
"""

import math
import re
from collections.abc import Iterable, Sequence
from pathlib import PurePath
from typing import Any

from lib.exceptions import ExportError
from lib.inference.teaching import teaching_text

CARD_FORMAT = 1
NOTICE = "Not a medical device. Not for diagnosis. Do not base any decision about patient care on this model."
INTENDED_USE = (
    "Research and teaching: to study how a network predicts findings on frontal chest radiographs, and which regions "
    "drive its predictions. It was tested only on the images named here: not in a clinic, and not on images of other "
    "machines or patients."
)
_RUN_ONLY = ("threshold", "threshold_from")  # for raw probabilities; the card has its own


def make_card(
    name: str, card: dict[str, Any], metrics: Sequence[dict[str, Any]], **parts: Any
) -> dict[str, Any]:
    """Return the card of an exported model.

    - name: the model's name.
    - card: the card of the run.
    - metrics: test metrics, rows of the run's record.
    - parts: further entries, for example precision, familiarity and run.

    A run keeps thresholds and operating points for raw probabilities. Here they go through the
    calibration, so that they apply to the output `probs`. A finding without a threshold gets 0.5.
    """
    findings = list(card["findings"])
    calibration = read_calibration(card)
    sources = {row["finding"]: row.get("threshold_from") for row in metrics}
    raw = card.get("thresholds") or [None] * len(findings)
    points = [row for row in card.get("operating_points") or [] if row["threshold"] is not None]
    lines = dict(
        zip(findings, zip(calibration["slope"], calibration["intercept"], strict=True), strict=True)
    )
    return {
        "format": CARD_FORMAT,
        "name": name,
        "backbone": card["backbone"],
        "head": card["head"],
        "findings": findings,
        "image_size": card["image_size"],
        "thresholds": [
            0.5 if cut is None else calibrated(cut, *lines[f])
            for f, cut in zip(findings, raw, strict=True)
        ],
        "thresholds_from": [
            "default" if cut is None else sources.get(finding) or "validation"
            for finding, cut in zip(findings, raw, strict=True)
        ],
        "operating_points": [
            row | {"threshold": calibrated(row["threshold"], *lines[row["finding"]])}
            for row in points
        ],
        "calibration": calibration,
        "data": _without_paths(card["data"]),
        "weights": card.get("weights"),
        **({"channels_removed": card["widths"]["share"]} if card.get("widths") else {}),
        "metrics": [_of_probs(row) for row in metrics],
        "intended_use": INTENDED_USE,
        "notice": NOTICE,
        **parts,
    }


def read_calibration(card: dict[str, Any]) -> dict[str, list]:
    """Return method, slope and intercept (F,) from a run's card.

    probs = sigmoid(slope * logit + intercept). Without calibration the slope is 1 and the intercept
    0.
    """
    count = len(card["findings"])
    given = card.get("calibration") or {
        "method": ["none"] * count,
        "slope": [1.0] * count,
        "intercept": [0.0] * count,
    }
    return {key: list(given[key]) for key in ("method", "slope", "intercept")}


def calibrated(prob: float, slope: float, intercept: float) -> float:
    """Return sigmoid(slope * logit(prob) + intercept).

    `prob` is in [0, 1] and slope > 0; 0 stays 0 and 1 stays 1.
    """
    if prob <= 0 or prob >= 1 or (slope == 1 and intercept == 0):
        return float(prob)
    logit = slope * (math.log(prob) - math.log1p(-prob)) + intercept
    return 1 / (1 + math.exp(-logit)) if logit >= 0 else math.exp(logit) / (1 + math.exp(logit))


def _of_probs(row: dict[str, Any]) -> dict[str, Any]:
    return {
        key: value
        for key, value in row.items()
        if key not in _RUN_ONLY and not key.startswith("n_")
    }


def _without_paths(data: dict[str, Any]) -> dict[str, Any]:
    """Keep folder names and drop absolute paths, which are private."""
    layouts = {PurePath(folder).name: layout for folder, layout in data.get("layouts", {}).items()}
    return data | ({"layouts": layouts} if layouts else {})


def card_text(card: dict[str, Any]) -> str:
    """Return the card in Markdown: intended use, origin, test results, inputs and outputs.

    A card may come from anyone: its own text is shown as text, never as a link, an image or HTML.
    Raises ExportError for a card that lacks what is shown.
    """
    try:
        return _text(_as_text(card))
    except (LookupError, TypeError, ValueError, AttributeError, RecursionError) as error:
        reason = f"{type(error).__name__}: {error}"
        raise ExportError(
            f"the card of {card.get('name')!r} cannot be shown ({reason}); export the run again"
        ) from error


def _text(card: dict[str, Any]) -> str:
    size, data = card["image_size"], card["data"]
    parts = [
        f"# {card['name']}",
        f"**{card['notice']}**",
        "## What it is for",
        card["intended_use"],
        *(
            ["**It was trained on drawn images (phantoms), not on patients.**"]
            if data.get("phantom")
            else []
        ),
        "## What it is",
        f"{card['backbone']} with a head `{card['head']}`, {card['precision']}, exported {card['exported']}. It "
        f"predicts {len(card['findings'])} findings on grey images, resized to {size} x {size} pixels without "
        "keeping their aspect ratio.",
        *([text] if (text := teaching_text(card)) else []),
        _table(("", ""), [(key, value) for key, value in _made(card).items() if value]),
        *(_members(card["members"]) if card.get("members") else []),
        "## Where the weights came from",
        _weights(card),
        "## How well it does",
        _reliability(card),
        *([_points(card)] if card["operating_points"] else []),
        *(_drift(card["drift"]) if card.get("drift") else []),
        "## What goes in and comes out",
        _IN_AND_OUT.format(size=size, count=len(card["findings"])),
        _familiar(card["familiarity"]),
    ]
    return "\n\n".join(parts) + "\n"


_IN_AND_OUT = """\
- `images` uint8 (B, {size}, {size}): grey images.
- `logits` (B, {count}), and `probs` (B, {count}): the sigmoid of the logits after the calibration.
- `heatmaps` (B, {count}, h, w): the regions that raised each logit, >= 0, not normalised. Grad-CAM (Selvaraju et al.
  2017) for CNNs; for transformers the attention of the class token, weighted with its contribution to the finding
  (Chefer et al. 2021). A heat map shows what drove the prediction. It does not outline or prove a finding.
- `embedding` (B, D): the input features of the head."""


def _as_text(value: Any) -> Any:
    """Return the value with every string and key escaped for Markdown and on one line."""
    if isinstance(value, dict):
        return {
            _as_text(key) if not str(key).isidentifier() else key: _as_text(item)
            for key, item in value.items()
        }
    if isinstance(value, list | tuple):
        return [_as_text(item) for item in value]
    return _escaped(value) if isinstance(value, str) else value


def _escaped(text: str) -> str:
    """Escape text so that Markdown shows it unchanged.

    A colon inside a word is escaped too: it would start a link or a directive.
    """
    return re.sub(r"([\\`*_{}\[\]<>#|!~$&@]|:(?=\S))", r"\\\1", " ".join(text.split()))


def _made(card: dict[str, Any]) -> dict[str, str]:
    data, run = card["data"], card.get("run") or {}
    images = ", ".join(
        f"{count:,} {split}" for split, count in data.get("images", {}).items() if count
    )
    patients = ", ".join(
        f"{count:,} {split}" for split, count in data.get("patients", {}).items() if count
    )
    return {
        "run": " / ".join(str(run[key]) for key in ("study", "run") if run.get(key)),
        "config": run.get("config_hash") or "",
        "file size": f"{card['megabytes']} MB" if card.get("megabytes") else "",
        "commit": (run.get("git") or {}).get("commit") or "",
        "data": "; ".join(
            f"{folder}: {layout}" for folder, layout in data.get("layouts", {}).items()
        )
        or data.get("about", ""),
        "images": images,
        "patients": patients,
        "data fingerprint": data.get("fingerprint", ""),
        "versions": ", ".join(
            f"{name} {number}" for name, number in card["versions"].items() if number
        ),
    }


def _members(members: Sequence[dict[str, Any]]) -> list[str]:
    lines = [
        (row["run"], row["seed"], row["config_hash"], _number(row.get("auroc"))) for row in members
    ]
    return [
        "## Members",
        f"An ensemble of {len(members)} runs, which differ in their seed: its probabilities are the mean of "
        "their calibrated probabilities, its thresholds the mean of their calibrated thresholds, its heat maps the "
        "mean of theirs. The numbers of images and patients above, the embedding, and with it the "
        f"out-of-distribution score, are those of {members[0]['run']}.",
        _table(("run", "seed", "config", "mean test AUROC"), lines),
    ]


def _weights(card: dict[str, Any]) -> str:
    text = (card.get("weights") or {}).get("text")
    return f"Its training started from {text}." if text else "Its card does not say."


def _reliability(card: dict[str, Any]) -> str:
    rows = {row["finding"]: row for row in card["metrics"]}
    cuts = zip(
        card["findings"],
        card["thresholds"],
        card["thresholds_from"],
        card["calibration"]["method"],
        strict=True,
    )
    lines = []
    for finding, cut, source, method in cuts:
        row = rows.get(finding, {})
        numbers = [
            _number(row.get(key))
            for key in ("average_precision", "f1", "sensitivity", "specificity")
        ]
        lines.append(
            (
                finding,
                _interval(row),
                *numbers,
                row.get("positives", ""),
                f"{_number(cut)} ({source})",
                method,
            )
        )
    if macro := rows.get("macro"):
        numbers = [
            _number(macro.get(key))
            for key in ("average_precision", "f1", "sensitivity", "specificity")
        ]
        lines.append(("**mean**", _interval(macro), *numbers, macro.get("positives", ""), "", ""))
    heading = (
        "finding",
        "AUROC (95 %)",
        "average precision",
        "F1",
        "sensitivity",
        "specificity",
        "positives",
    )
    paragraph = (
        "Measured on test images, which were not used in training."
        if rows
        else "There are no test results for this model."
    )
    return paragraph + "\n\n" + _table((*heading, "threshold (from)", "calibration"), lines)


def _points(card: dict[str, Any]) -> str:
    lines = [
        (
            row["finding"],
            row["rule"],
            *map(_number, (row["threshold"], row.get("sensitivity"), row.get("specificity"))),
        )
        for row in card["operating_points"]
    ]
    heading = ("finding", "rule", "threshold", "test sensitivity", "test specificity")
    return "Operating points:\n\n" + _table(heading, lines)


def _drift(drift: dict[str, Any]) -> list[str]:
    judged = drift["auroc_drop"] is not None
    area = (
        f"macro AUROC {drift['auroc_fp32']:.4f} in fp32, {drift['auroc_int8']:.4f} in int8"
        if judged
        else "no AUROC"
    )
    unjudged = f"**This change was not judged: {drift['positives']} positive labels are too few.**"
    unlike = "**The predictions differ from fp32 by more than the limits of the export.**"
    return [
        "## What int8 changes",
        f"On {drift['images']:,} validation images that were not used to choose its recipe, with the calibration and "
        f"thresholds of fp32 for both: {area}; probabilities differ by {drift['prob_mean']:.4f} on average and by "
        f"{drift['prob_max']:.3f} at most; {drift['flags_changed']:.1%} of the flags change.",
        *([] if drift["judged"] else [unjudged]),
        *([] if drift["fine"] else [unlike]),
        "The test scores on this page are those of int8, measured with this file. Its thresholds and calibration were "
        "fitted on its own validation predictions.",
    ]


def _familiar(statistics: dict[str, Any] | None) -> str:
    if statistics is None:
        return (
            "It cannot detect out-of-distribution images: "
            "it has no statistics of the embeddings of its training images."
        )
    return (
        f"An image counts as unlike the training images when its score, computed from the embedding, is over "
        f"{statistics['threshold']:.2f}. Half of the validation images score under "
        f"{statistics['quantiles']['0.5']:.2f}, "
        f"and 99.5 % under the threshold."
    )


def _table(heading: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    lines = [heading, ["---"] * len(heading), *rows]
    return "\n".join("| " + " | ".join(str(cell) for cell in line) + " |" for line in lines)


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.3f}"


def _interval(row: dict[str, Any]) -> str:
    low, high = (_number(row.get(f"auroc_{end}")) for end in ("low", "high"))
    return _number(row.get("auroc")) + (f" ({low} to {high})" if low and high else "")
