"""Make the files to download.

In: predictions, and the card of the model or of each model. Out: a CSV file, a JSON file, and a page
to print for one image.
"""

import csv
import json
from collections.abc import Sequence
from html import escape
from io import StringIO
from math import isfinite
from typing import Any

from markup import NOT_WHERE, PHANTOM, facts, grid_text, plain, remarks
from pictures import data_uri
from predict import FilmAnswer, by_probability

_COLUMNS = ("file", "status", "reason", "warnings", "unlikeness", "unfamiliar", "flagged")
_FORMULA = (
    "=",
    "+",
    "-",
    "@",
    "\t",
    "\r",
)  # a spreadsheet reads text that starts with one of these as a formula


def csv_file(films: Sequence[Sequence[FilmAnswer]], cards: Sequence[dict[str, Any]]) -> bytes:
    """Return one row per file and model; each film has an answer for each of the cards.

    The findings of all models are columns, in the models' order, empty where a model does not
    predict one. Text never becomes a formula in a spreadsheet.
    """
    findings = dict.fromkeys(finding for card in cards for finding in card["findings"])
    probs = {finding: f"prob_{finding}" for finding in findings}
    columns = [*_COLUMNS, *probs.values(), "model"]
    text = StringIO()
    writer = csv.DictWriter(text, columns, lineterminator="\n")
    writer.writeheader()
    for answers in films:
        for answer, card in zip(answers, cards, strict=True):
            row = _row(answer, card["findings"])
            row |= {probs[finding]: prob for finding, prob in row.pop("probs").items()}
            row |= {
                "warnings": "; ".join(row["warnings"]),
                "flagged": "|".join(row["flagged"]),
                "model": card["name"],
            }
            writer.writerow({key: _not_formula(value) for key, value in row.items()})
    return text.getvalue().encode("utf-8")


def json_file(answers: Sequence[FilmAnswer], card: dict[str, Any]) -> bytes:
    """Return the answers of one model as JSON, with the thresholds and the notice."""
    return _json({"notice": card["notice"]} | _content(answers, card))


def json_of_all(films: Sequence[Sequence[FilmAnswer]], cards: Sequence[dict[str, Any]]) -> bytes:
    """Return the same for several models, a list of what `json_file` has of each."""
    models = [_content([answers[i] for answers in films], card) for i, card in enumerate(cards)]
    return _json({"notice": cards[0]["notice"], "models": models})


def summary_file(answer: FilmAnswer, card: dict[str, Any]) -> bytes:
    """Return an HTML page for one sheet of A4: the image, a heat map, and all findings.

    The heat map is that of the first finding. The page contains its pictures and makes no network
    requests.
    """
    order = by_probability(answer)
    rows = "".join(_summary_row(answer, card, i) for i in order)
    drawn = [PHANTOM] * bool(card["data"].get("phantom", False))
    notes = "".join(f"<p>{escape(line)}</p>" for line in [*remarks(answer, card), *drawn])
    first = escape(plain(card["findings"][order[0]]))
    picture = f'<img alt="Chest film" src="{data_uri(answer.picture)}">'
    heat = f"<p>{grid_text(answer)}</p>"
    if answer.overlays:
        heat = f"""<figure><div>{picture}<img class="heat" alt="Heat map of {first}"
src="{data_uri(answer.overlays[order[0]])}"></div>
<figcaption>Heat map of {first}, {grid_text(answer)} {NOT_WHERE}</figcaption></figure>"""
    page = f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>{escape(answer.name)}</title>
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; img-src data:; style-src 'unsafe-inline'">
<style>{_SUMMARY_STYLE}</style></head><body>
<p class="notice">{escape(card["notice"])}</p>
<h1>{escape(answer.name)}</h1>
<p>Predicted by {escape(card["name"])}; the film has {answer.width} x {answer.height} pixels.</p>{notes}
<div class="films"><figure><div>{picture}</div><figcaption>Film</figcaption></figure>
{heat}</div>
<table><thead><tr><th>Finding</th><th>Probability</th><th></th><th>What is known of it</th></tr></thead>
<tbody>{rows}</tbody></table></body></html>"""
    return page.encode("utf-8")


def _content(answers: Sequence[FilmAnswer], card: dict[str, Any]) -> dict[str, Any]:
    return {
        "model": card["name"],
        "thresholds": dict(zip(card["findings"], card["thresholds"], strict=True)),
        "films": [_row(answer, card["findings"]) for answer in answers],
    }


def _json(content: dict[str, Any]) -> bytes:
    return (json.dumps(content, indent=1, ensure_ascii=False, allow_nan=False) + "\n").encode()


def _row(answer: FilmAnswer, findings: Sequence[str]) -> dict[str, Any]:
    order = by_probability(answer)
    return {
        "file": answer.name,
        "status": "refused" if answer.reason else "ok",
        "reason": answer.reason,
        "warnings": list(answer.warnings),
        "unlikeness": answer.unlikeness if isfinite(answer.unlikeness) else None,
        "unfamiliar": None if answer.reason else answer.unfamiliar,
        "flagged": [findings[i] for i in order if answer.flagged[i]],
        "probs": dict(zip(findings, answer.probs, strict=False)),  # empty for a refused image
    }


def _not_formula(value: Any) -> Any:
    return f"'{value}" if isinstance(value, str) and value.startswith(_FORMULA) else value


def _summary_row(answer: FilmAnswer, card: dict[str, Any], place: int) -> str:
    flagged = answer.flagged[place]
    name = escape(plain(card["findings"][place]))
    return f"""<tr{' class="flagged"' * flagged}><th>{name}</th><td>{answer.probs[place]:.2f}</td>
<td>{"flagged" * flagged}</td><td>{facts(card, place)}</td></tr>"""


# The page fits one sheet with any font: the sizes leave a reserve for letters wider than those of
# DejaVu Sans, the widest common font.
_SUMMARY_STYLE = """
@page { size: A4; margin: 11mm; }
body { font: 9pt/1.25 sans-serif; font-size-adjust: 0.52; max-width: 188mm; margin: 0 auto;
  color: #000; background: #fff; }
h1 { font-size: 13pt; margin: 1.5mm 0; overflow-wrap: anywhere; }
p { margin: 0 0 1mm; }
.notice { border: 1.5pt solid #000; padding: 1mm 3mm; font-weight: bold; }
.films { display: flex; gap: 4mm; margin: 2mm 0; break-inside: avoid; }
figure { margin: 0; flex: 1; min-width: 0; }
figure div { position: relative; width: fit-content; }
figure img { display: block; max-width: 100%; max-height: 76mm; }
figure .heat { position: absolute; inset: 0; width: 100%; height: 100%; opacity: 0.7; image-rendering: pixelated; }
figcaption { font-size: 8pt; }
table { border-collapse: collapse; width: 100%; font-size: 7.5pt; line-height: 1.15; }
tr { break-inside: avoid; }
th, td { text-align: left; font-weight: normal; padding: 0.6mm 2mm 0.6mm 0; border-bottom: 0.5pt solid #999; }
td:last-child { width: 70%; font-size: 7pt; }
.flagged th, .flagged td:not(:last-child) { font-weight: bold; }
* { print-color-adjust: exact; }
"""
