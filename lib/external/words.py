"""In: an evaluation's record and tables. Out: its words: summary.md and the table for a terminal."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from lib.comparison.words import count_text
from lib.external.films import NO_LABEL
from lib.external.overlap import TESTED_INSIDE, TRAINED_ON
from lib.external.scores import METRICS
from lib.external.store import find_evaluations, read_evaluation
from lib.external.unlike import ALL, UNLIKE
from lib.metrics.scores import MACRO

BY_NAME = (
    "Findings are matched by name: what counts as a finding may be defined otherwise in the two sets, and labels "
    "come from other readers or programs."
)
SHOWN = ("auroc", "average_precision", "f1", "sensitivity", "specificity")


def summary_text(about: dict[str, Any], metrics: pd.DataFrame, local: pd.DataFrame) -> str:
    """The evaluation in Markdown: what was asked, what was left out, the scores, the local
    thresholds."""
    answers = _main(metrics)
    title = f"# {about['model']['name']} on {about['name']}"
    warning = ["> **Synthetic phantoms, not patients.**"] if about["phantom"] else []
    parts = [
        title,
        *warning,
        "\n".join(f"- {line}" for line in sentences(about, metrics, local)),
        f"## Internal and external scores ({answers})",
        score_table(metrics, answers),
        "Each with its 95 % interval over patients; drop: internal less external, with the interval of two "
        "independent samples (MOVER, Zou and Donner 2008). Calibration errors and Brier scores are better when they "
        "are lower, so there a negative drop is a loss; chance alone raises calibration errors, so their intervals "
        "are corrected for that, as is that of macro average precision. All numbers: `metrics.csv`.",
        "## A threshold from local films",
        local_table(local),
        _local_note(about, local),
    ]
    return "\n\n".join(parts) + "\n"


def sentences(about: dict[str, Any], metrics: pd.DataFrame, local: pd.DataFrame) -> list[str]:
    """What a reader has to know: the films, the drop, and every reservation."""
    data = about["data"]
    films, patients = count_text(data["images"], "film"), count_text(data["patients"], "patient")
    lines = [
        f"{films} of {patients} from {Path(data['folder']).name} "
        f"({data['layout']}); findings that both know: {', '.join(about['findings'])}."
    ]
    lines += _left_out(data["left_out"])
    lines.append(drop_sentence(metrics))
    lines += about["notes"]
    lines += [about["same_hospital"]] if about["same_hospital"] else []
    if not about["same_hospital"]:
        lines.append(BY_NAME)
    lines += _unlike(metrics)
    return [*lines, *data["warnings"]]


def drop_sentence(metrics: pd.DataFrame) -> str:
    """What happens to the AUROC, in one sentence."""
    rows = metrics[(metrics["answers"] == _main(metrics)) & (metrics["metric"] == "auroc")]
    row = rows.iloc[-1]  # macro, or the only finding
    what = "macro AUROC" if row["finding"] == MACRO else f"AUROC of {row['finding']}"
    if np.isnan(row["external"]):
        return f"The {what} is not known: {row['reason'] or 'a class is missing'}."
    text = f"The {what} is {_ends(row, 'external')} here"
    if np.isnan(row["internal"]):
        return f"{text}; the model has no internal value."
    text += f" and {_ends(row, 'internal')} on the model's own test set"
    if np.isnan(row["drop_low"]):
        return f"{text}: {-row['drop']:+.3f}, without an interval ({row['reason']})."
    numbers = f"{abs(row['drop']):.3f} ({{}} to {{}})"
    if row["drop_low"] > 0:
        numbers = numbers.format(f"{row['drop_low']:.3f}", f"{row['drop_high']:.3f}")
        return f"{text}: it drops by {numbers}."
    if row["drop_high"] < 0:
        numbers = numbers.format(f"{-row['drop_high']:.3f}", f"{-row['drop_low']:.3f}")
        return f"{text}: it rises by {numbers}."
    ends = f"({row['drop_low']:+.3f} to {row['drop_high']:+.3f})"
    return f"{text}: internal less external is {row['drop']:+.3f} {ends}, which may be chance."


def score_table(metrics: pd.DataFrame, answers: str) -> str:
    """Internal, external and drop per finding in Markdown, one block per metric of SHOWN for the
    findings, all metrics for the mean."""
    rows = metrics[(metrics["answers"] == answers) & (metrics["finding"] != ALL)]
    heads = ["finding", "metric", "internal", "external", "drop", "positive films"]
    lines = [heads, ["---"] * len(heads)]
    for finding in dict.fromkeys(rows["finding"]):
        part = rows[rows["finding"] == finding].set_index("metric")
        alone = rows["finding"].nunique() == 1
        names = METRICS if finding == MACRO or alone else SHOWN
        for metric in names:
            row = part.loc[metric]
            counts = [_count(row[f"{side}_positives"]) for side in ("internal", "external")]
            cells = [_ends(row, "internal"), _ends(row, "external"), _drop(row)]
            lines.append(
                [finding, METRICS[metric], *cells, " / ".join(filter(None, counts))]
                if metric == "auroc"
                else ["", METRICS[metric], *cells, ""]
            )
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def local_table(local: pd.DataFrame) -> str:
    """F1, sensitivity and specificity with a threshold from k films, for the mean over findings or the
    only one."""
    rows = _local_main(local)
    heads = ["films", "metric", "frozen threshold", "local threshold (95 % of draws)"]
    heads += ["gain (95 % of draws)", "draws that gain"]
    lines = [heads, ["---"] * len(heads)]
    for row in rows.to_dict("records"):
        cells = [str(row["films"]), METRICS[row["metric"]]]
        if np.isnan(row.get("local", np.nan)):
            lines.append([*cells, "-", f"- ({row['reason']})", "-", "-"])
            continue
        value = f"{row['local']:.3f} ({row['low']:.3f} to {row['high']:.3f})"
        gain = f"{row['gain']:+.3f} ({row['gain_low']:+.3f} to {row['gain_high']:+.3f})"
        lines.append([*cells, f"{row['frozen']:.3f}", value, gain, f"{row['better']:.0%}"])
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def terminal_text(about: dict[str, Any], metrics: pd.DataFrame, local: pd.DataFrame) -> str:
    """The evaluation for a terminal: AUROC, F1 and rates per finding, then the sentences."""
    rows = metrics[(metrics["answers"] == _main(metrics)) & (metrics["finding"] != ALL)]
    shown = []
    for finding in dict.fromkeys(rows["finding"]):
        part = rows[rows["finding"] == finding].set_index("metric")
        area = part.loc["auroc"]
        line = {"finding": finding, "positives": _count(area["external_positives"])}
        line |= {"AUROC internal": _ends(area, "internal"), "external": _ends(area, "external")}
        line |= {"drop": _drop(area)}
        for metric in ("f1", "sensitivity", "specificity"):
            line[METRICS[metric]] = _number(part.loc[metric, "external"])
        accuracy = part.loc[["accuracy", "accuracy_all_negative"], "external"]
        line["accuracy (all-negative)"] = f" ({_number(accuracy.iloc[1])})".join(
            [_number(accuracy.iloc[0]), ""]
        )
        shown.append(line)
    lines = sentences(about, metrics, local) + _local_sentences(local)
    head = f"{about['model']['name']} on {about['name']} ({_main(metrics)})"
    return "\n".join([head, pd.DataFrame(shown).to_string(index=False), "", *lines])


def _local_sentences(local: pd.DataFrame) -> list[str]:
    rows = _local_main(local)
    parts = [
        f"{row['films']} films {row['local']:.3f} ({row['low']:.3f} to {row['high']:.3f})"
        for row in rows[rows["metric"] == "f1"].to_dict("records")
        if np.isfinite(row.get("local", np.nan))
    ]
    if not parts:
        return ["There are too few films here to say what a threshold from local films would give."]
    frozen = rows.loc[rows["metric"] == "f1", "frozen"].dropna().iloc[0]
    return [
        f"F1 with the frozen threshold {frozen:.3f}; with one from local films, mean and 95 % of draws: "
        f"{'; '.join(parts)}."
    ]


def _local_note(about: dict[str, Any], local: pd.DataFrame) -> str:
    text = (
        f"{about['draws']} draws of so many films, whole patients; the threshold is that of the best F1 where the "
        "draw has at least 10 positive films, else the one that calls as large a share positive as is positive among "
        "them; where none is positive the frozen one stays. All other films score it."
    )
    rows = local[(local["finding"] != MACRO) & (local["metric"] == "f1")].dropna(subset=["local"])
    if rows.empty:
        return text
    means = rows.groupby("films")[["no_positive", "few_positives"]].mean()
    shares = "; ".join(
        f"{films} films: {row['no_positive']:.0%} and {row['few_positives']:.0%}"
        for films, row in means.iterrows()
    )
    return f"{text} Draws without a positive film, and with fewer than 10, as means over findings: {shares}."


def _local_main(local: pd.DataFrame) -> pd.DataFrame:
    """The rows of the mean over findings; where there is none, of the finding that has values, or the
    first."""
    if (local["finding"] == MACRO).any():
        return local[local["finding"] == MACRO]
    valued = local.dropna(subset=["local"])["finding"] if "local" in local else pd.Series(dtype=str)
    names = [*valued, *local["finding"]]
    return local[local["finding"] == names[0]]


def _left_out(counts: list[dict[str, Any]]) -> list[str]:
    """One sentence per reason why films are left out."""
    lines = []
    for reason in dict.fromkeys(row["reason"] for row in counts):
        rows = [row for row in counts if row["reason"] == reason]
        total = sum(row["images"] for row in rows)
        found = ", ".join(f"{row['images']:,} by {row['by']}" for row in rows if row["by"])
        verb = "is" if total == 1 else "are"
        why = {
            TRAINED_ON: "the model, or an earlier stage of it, was trained on or validated with them or their patients",
            TESTED_INSIDE: "they, or their patients, are in the model's own test set",
            NO_LABEL: "they have no label of a finding that the model knows",
        }.get(reason, "they cannot be used")
        tail = f" ({found})" if found else ""
        lines.append(
            f"{count_text(total, 'image')} {verb} left out because {why}{tail}; `left_out.csv` names each."
        )
    return lines


def _unlike(metrics: pd.DataFrame) -> list[str]:
    rows = metrics[metrics["finding"] == ALL].set_index("metric")
    if rows.empty or rows["external"].isna().all():
        reason = "" if rows.empty else rows["reason"].iloc[0]
        return [f"How unlike the films are is not known: {reason}."] if reason else []
    median, share = (rows.loc[name] for name in UNLIKE)
    return [
        f"Unlike the training films: median {_ends(median, 'external')}, where validation films have "
        f"{median['internal']:.2f}; {share['external']:.1%} ({share['external_low']:.1%} to "
        f"{share['external_high']:.1%}) are over the threshold that {share['internal']:.1%} of the validation films "
        "exceed."
    ]


def _main(metrics: pd.DataFrame) -> str:
    return metrics["answers"].iloc[0]


def _ends(row: pd.Series, side: str) -> str:
    value, low, high = (row[f"{side}{end}"] for end in ("", "_low", "_high"))
    if np.isnan(value):
        return "-"
    return (
        f"{value:.3f} ({low:.3f} to {high:.3f})"
        if np.isfinite(low)
        else f"{value:.3f} (no interval)"
    )


def _drop(row: pd.Series) -> str:
    if np.isnan(row["drop"]):
        return "-"
    if np.isnan(row["drop_low"]):
        return f"{row['drop']:+.3f}"
    return f"{row['drop']:+.3f} ({row['drop_low']:+.3f} to {row['drop_high']:+.3f})"


def _number(value: float) -> str:
    return "-" if np.isnan(value) else f"{value:.3f}"


def _count(value: float) -> str:
    return "" if np.isnan(value) else f"{int(value):,}"


def overview_text(study: Path) -> str:
    """All evaluations of a study in Markdown: one row each, then what a reader has to know of each."""
    heads = ["model", "answers", "other set", "films", "AUROC", "internal", "external", "drop"]
    lines, notes = [heads, ["---"] * len(heads)], []
    for place in find_evaluations(study):
        about, metrics, local = read_evaluation(place)
        model, name = about["model"]["name"], about["name"]
        for answers, rows in metrics[metrics["metric"] == "auroc"].groupby("answers", sort=False):
            row = rows.iloc[-1]
            what = "mean over findings" if row["finding"] == MACRO else row["finding"]
            cells = [model, str(answers), name, f"{about['data']['images']:,}", what]
            lines.append([*cells, _ends(row, "internal"), _ends(row, "external"), _drop(row)])
        notes += [f"- {model} on {name}: {line}" for line in sentences(about, metrics, local)]
    if not notes:
        return ""
    table = "\n".join("| " + " | ".join(line) + " |" for line in lines)
    return f"{table}\n\n" + "\n".join(notes)
