"""HTML for the page.

In: predictions and a model's card. Out: pieces of HTML. All text from outside is escaped here.
"""

from collections.abc import Sequence
from html import escape
from math import isfinite
from typing import Any

from pictures import data_uri, legend_gradient
from predict import FilmAnswer, by_probability

from lib.inference import NOTICE

NOTICE_HTML = f"""<style>
.not-for-diagnosis {{ position: fixed; inset: auto 0 0 0; z-index: 999; padding: 0.45rem 1rem; text-align: center;
  font-weight: 600; color: #000; background: #f2c94c; border-top: 2px solid #000; }}
[data-testid="stMainBlockContainer"] {{ padding-top: 2rem; padding-bottom: 5rem; }}
h1 {{ font-size: 1.9rem !important; }}
[data-testid="stExpander"] h2 {{ font-size: 1.4rem; }}
[data-testid="stExpander"] h3 {{ font-size: 1.15rem; }}
</style><div class="not-for-diagnosis" role="note">{escape(NOTICE)}</div>"""
"""Always visible at the bottom of the window."""

PHANTOM = (
    "This model was trained on drawn films (phantoms), not on patients. "
    "Its predictions on real films mean nothing."
)
NOT_WHERE = "It shows what drove the prediction, not where a disease is."
FLAGGED = '<span class="mark">flagged</span>'
UNSEEN = "Nothing in this film raised the prediction, so the map is empty."
TOOLS = """<div class="tools" role="group" aria-label="View">
      <button type="button" data-zoom="1.5">Zoom in</button>
      <button type="button" data-zoom="0.6667">Zoom out</button>
      <button type="button" data-zoom="0">Whole film</button>
      <label><input type="checkbox" data-heat checked> Heat map</label>
      <label>Strength <input type="range" data-strength min="10" max="100" value="70"></label>
    </div>"""
SCALE = f"""<span class="scale" aria-hidden="true"><span style="background-image: {legend_gradient()}"></span></span>
      <span class="ends" aria-hidden="true"><span>nothing</span><span>this finding's maximum</span></span>"""


def film_html(answer: FilmAnswer, card: dict[str, Any], position: str = "") -> str:
    """Return the film with its heat maps and its list of findings; `film_view.js` adds behaviour.

    `position`, as "3 of 24", adds buttons to the previous and the next film.
    """
    order = by_probability(answer)
    heats = "".join(heat_html(answer, i, i) for i in order if answer.overlays)
    unseen = " ".join(str(i) for i in order if not answer.seen[i])
    findings = "".join(_finding_html(answer, card, i, i == order[0]) for i in order)
    return f"""
{steps_html(position)}<h2>{escape(answer.name)}</h2>
{_remarks(answer, card)}
<div class="view">
  <div>
    {TOOLS}
    {window_html(answer, heats)}
    <div class="legend">
      {SCALE}
      <p><b>Heat map: <span data-shown></span>.</b> <span data-when="{unseen}" hidden>{UNSEEN}
      </span>{grid_text(answer)} Relative to this finding's own
      maximum on this film. {NOT_WHERE}</p></div>
  </div>
  <fieldset><legend>Findings <small>flagged first; choose one to see its heat map</small></legend>{findings}</fieldset>
</div>"""


def steps_html(position: str) -> str:
    """Return the buttons to the previous and the next film; nothing without a position."""
    if not position:
        return ""
    return f"""<div class="steps" role="group" aria-label="Films">
<button type="button" data-step="-1" title="Key k or arrow up">Previous</button>
<button type="button" data-step="1" title="Key j or arrow down">Next</button>
<span>{escape(position)} <small>keys k and j, or arrows up and down</small></span></div>"""


def window_html(answer: FilmAnswer, heats: str, which: str = "Film") -> str:
    """Return the film below its heat maps, in a window that can be zoomed; `which` names it."""
    name, shape = escape(answer.name), f"{answer.width} / {answer.height}"
    return f"""<div class="window" tabindex="0" role="group" style="--shape: {shape}; aspect-ratio: {shape}"
      aria-label="{escape(which)}. Plus and minus zoom, arrow keys move it, 0 shows it whole, H switches the heat map.">
      <div class="layers">
        <img class="picture" alt="Chest film {name}, {answer.width} by {answer.height} pixels"
          src="{data_uri(answer.picture)}">
        {heats}
      </div>
    </div>"""


def heat_html(answer: FilmAnswer, place: int, number: int) -> str:
    """Return the heat map of the finding with index `place`, hidden until the page's finding
    `number` is chosen."""
    source = data_uri(answer.overlays[place])
    return f'<img class="heat" alt="" src="{source}" data-finding="{number}" hidden>'


def ordered(answers: list[FilmAnswer], by: int | None) -> list[int]:
    """Return the films' numbers in the order of display.

    That is as given, or by falling probability of the finding with index `by`, refused ones last.
    """
    numbers = range(len(answers))
    if by is None:
        return list(numbers)
    return sorted(numbers, key=lambda i: -answers[i].probs[by] if answers[i].probs else 1.0)


def films_html(
    answers: list[FilmAnswer],
    findings: list[str],
    order: list[int] | None = None,
    by: int | None = None,
) -> str:
    """Return several films as a table with thumbnails; a film's name is a button that shows it.

    `order` holds the films' numbers in the order of display. With `by`, the index of a finding, its
    probability comes first in each row.
    """
    rows = "".join(_film_row(i, answers[i], findings, by) for i in order or range(len(answers)))
    advice = " Choose a name to see the film." * any(not answer.reason for answer in answers)
    return f"""
<div class="films"><table><caption>{counted(answers)}{advice}</caption>
<thead><tr><th scope="col">Film</th><th scope="col">Name</th><th scope="col">Flagged, or the highest</th>
<th scope="col">Remarks</th></tr></thead>
<tbody>{rows}</tbody></table></div>"""


def grid_text(answer: FilmAnswer) -> str:
    """Return how fine the heat maps are, or why there are none."""
    height, width = answer.grid
    cells = f"{height} x {width} cells"
    return (
        f"{cells}."
        if answer.overlays
        else f"This model's map has {cells}, too few to show a location."
    )


def counted(answers: list[FilmAnswer]) -> str:
    """Return how many files were answered and refused, as a sentence."""
    refused = sum(bool(answer.reason) for answer in answers)
    files = "1 file" if len(answers) == 1 else f"{len(answers)} files"
    return f"{files}: {len(answers) - refused} answered, {refused} refused."


def spoken(answer: FilmAnswer, findings: list[str]) -> str:
    """Return one plain sentence for screen readers; not escaped."""
    if answer.reason:
        return f"{answer.name} was refused. {answer.reason}"
    flagged = [plain(findings[i]) for i in by_probability(answer) if answer.flagged[i]]
    return f"{answer.name} is answered. " + (
        f"Flagged: {', '.join(flagged)}." if flagged else "Nothing is flagged."
    )


def plain(finding: str) -> str:
    """Return a finding's name with spaces for underscores."""
    return finding.replace("_", " ")


def facts(card: dict[str, Any], place: int) -> str:
    """Return what the card says about the finding with index `place`.

    That is its threshold and where it is from, the test AUROC with its interval, and the positives.
    """
    finding = card["findings"][place]
    row = next((row for row in card.get("metrics", []) if row["finding"] == finding), {})
    parts = [f"threshold {card['thresholds'][place]:.2f}"]
    source = (card.get("thresholds_from") or ["default"] * len(card["findings"]))[place]
    parts += {"fallback": ["few validation positives"], "default": ["not chosen on data"]}.get(
        source, []
    )
    if row.get("auroc") is not None:
        low, high = row.get("auroc_low"), row.get("auroc_high")
        interval = f" ({low:.2f} to {high:.2f})" if low is not None and high is not None else ""
        parts.append(f"test AUROC {row['auroc']:.2f}{interval}")
    else:
        parts.append("no test AUROC")
    if row.get("positives") is not None:
        parts.append(f"{int(row['positives']):,} positive test films")
    return escape("; ".join(parts))


def remarks(answer: FilmAnswer, card: dict[str, Any]) -> list[str]:
    """Return the remarks about a film, as sentences; not escaped."""
    lines = [unlike_text(answer, card)] if answer.unfamiliar else []
    return lines + [warned_text(answer.warnings)] * bool(answer.warnings)


def unlike_text(answer: FilmAnswer, card: dict[str, Any]) -> str:
    """Return that a film is unlike the training films, with its score."""
    usual = f"{card['familiarity']['threshold']:.1f}"
    score = f"{answer.unlikeness:.1f}" if isfinite(answer.unlikeness) else "beyond measure"
    return (
        f"This does not look like the chest films that the model was trained on (its score is {score}, where up to "
        f"{usual} is usual): do not rely on the prediction."
    )


def warned_text(warnings: Sequence[str]) -> str:
    """Return what was noticed while a film was read; nothing for no warnings."""
    return f"Noticed: {', '.join(warnings)}." if warnings else ""


def _remarks(answer: FilmAnswer, card: dict[str, Any]) -> str:
    kinds = ["strange", "noticed"] if answer.unfamiliar else ["noticed"]
    lines = zip(kinds, remarks(answer, card), strict=False)
    return "".join(f'<p class="{kind}">{escape(line)}</p>' for kind, line in lines)


def _finding_html(answer: FilmAnswer, card: dict[str, Any], place: int, chosen: bool) -> str:
    flagged = answer.flagged[place]
    return f"""
<label class="finding{" flagged" * flagged}">
  <input type="radio" name="finding" value="{place}"{" checked" * chosen}>
  <span class="name">{escape(plain(card["findings"][place]))}</span> {FLAGGED * flagged}
  <span class="prob">{answer.probs[place]:.2f}</span>
  {bar_html(answer, card, place)}
  <span class="facts">{facts(card, place)}</span>
</label>"""


def bar_html(answer: FilmAnswer, card: dict[str, Any], place: int) -> str:
    """Return the probability of the finding with index `place` as a bar, its threshold as a
    line."""
    prob, threshold = answer.probs[place], card["thresholds"][place]
    return f"""<span class="bar" aria-hidden="true"><span style="width: {100 * prob:.1f}%"></span>
    <i style="left: {100 * threshold:.1f}%"></i></span>"""


def _film_row(number: int, answer: FilmAnswer, findings: list[str], by: int | None = None) -> str:
    name = escape(answer.name)
    if answer.reason:
        cells = f'<td></td><th scope="row">{name}</th><td colspan="2">{escape(answer.reason)}</td>'
        return f'<tr class="refused">{cells}</tr>'
    text = listed_html(answer, findings, by)
    notes = ["unlike the training films"] * answer.unfamiliar + list(answer.warnings)
    return f"""<tr><td><img alt="" src="{data_uri(answer.thumbnail)}"></td>
<th scope="row"><button type="button" data-film="{number}">{name}</button></th>
<td>{text}</td><td>{escape("; ".join(notes))}</td></tr>"""


def listed_html(answer: FilmAnswer, findings: list[str], by: int | None = None) -> str:
    """Return what is flagged on a film, else the highest probability; with `by`, the index of a
    finding, its probability first."""
    order = by_probability(answer)
    flagged = [i for i in order if answer.flagged[i]]
    listed = ", ".join(
        f"{escape(plain(findings[i]))} {answer.probs[i]:.2f}" for i in flagged or order[:1]
    )
    text = f"<b>{listed}</b>" if flagged else f"nothing flagged (highest: {listed})"
    if by is None:
        return text
    return f"{escape(plain(findings[by]))} <b>{answer.probs[by]:.2f}</b><br><small>{text}</small>"
