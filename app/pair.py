"""HTML for the answers of two models side by side.

In: the answers of both for the same films, and their cards. Out: pieces of HTML. All text from
outside is escaped here.
"""

from collections.abc import Sequence
from html import escape

from markup import (
    FLAGGED,
    NOT_WHERE,
    SCALE,
    TOOLS,
    UNSEEN,
    bar_html,
    counted,
    facts,
    grid_text,
    heat_html,
    listed_html,
    plain,
    spoken,
    steps_html,
    unlike_text,
    warned_text,
    window_html,
)
from pictures import data_uri
from predict import FilmAnswer
from served import Served, Two

Pair = tuple[FilmAnswer, FilmAnswer]
Places = dict[str, tuple[int | None, int | None]]


def places(models: Two) -> Places:
    """Return all findings with their index in the list of each model, None where it is not there.

    Those of A come first, in its order.
    """
    lists = [one.card["findings"] for one in models]
    names = dict.fromkeys([*lists[0], *lists[1]])
    return {
        name: tuple(found.index(name) if name in found else None for found in lists)
        for name in names
    }


def ranked(pair: Pair, models: Two) -> Places:
    """Return `places` with the findings that either model flags first, then by the higher of their
    probabilities."""

    def rank(where: tuple[int | None, int | None]) -> tuple[bool, float]:
        found = [(one, place) for one, place in zip(pair, where, strict=True) if place is not None]
        flagged = any(answer.flagged[place] for answer, place in found)
        return not flagged, -max(answer.probs[place] for answer, place in found)

    return dict(sorted(places(models).items(), key=lambda item: rank(item[1])))


def flagged_by_one(pair: Pair, models: Two) -> dict[str, Served]:
    """Return the findings that both predict and one alone flags, each at its own threshold; and
    which one."""
    found = {}
    for name, (a, b) in ranked(pair, models).items():
        if a is not None and b is not None and pair[0].flagged[a] != pair[1].flagged[b]:
            found[name] = models[0] if pair[0].flagged[a] else models[1]
    return found


def difference_text(pair: Pair, models: Two) -> str:
    """Return how many findings one model alone flags, and which, as sentences; not escaped."""
    where = places(models).values()
    both = [(a, b) for a, b in where if a is not None and b is not None]
    if not both:
        return "The two models have no finding in common."
    found = [
        f"{plain(name)} (by {one.letter})" for name, one in flagged_by_one(pair, models).items()
    ]
    count = f"{len(both)} findings" if len(both) > 1 else "1 finding"
    if found:
        verb = "is" if len(found) == 1 else "are"
        text = f"{len(found)} of {count} {verb} flagged by one model only: {', '.join(found)}."
    else:
        some = any(pair[0].flagged[a] for a, _ in both)
        text = f"The two models flag {'the same' if some else 'none'} of {count}."
    if alone := len(where) - len(both):
        text += f" Not counted: {alone} that only one of them predicts."
    return text


def pair_html(pair: Pair, models: Two, position: str = "") -> str:
    """Return a film with the heat maps of both models and one table of their findings;
    `film_view.js` adds behaviour.

    `position`, as "3 of 24", adds buttons to the previous and the next film.
    """
    where = ranked(pair, models)
    differ = flagged_by_one(pair, models)
    panes = "".join(_pane_html(pair, models, side, where) for side in (0, 1))
    rows = "".join(
        _row_html(pair, models, where, number, differ.get(name))
        for number, name in enumerate(where)
    )
    heading = "".join(f'<th scope="col">{_who(one)}</th>' for one in models)
    return f"""
{steps_html(position)}<h2>{escape(pair[0].name)}</h2>
{_remarks(pair, models)}<p class="difference">{escape(difference_text(pair, models))}</p>
<div class="view two">
  <div>
    {TOOLS}
    <div class="panes">{panes}</div>
    <div class="legend">
      {SCALE}
      <p><b>Heat maps: <span data-shown></span>.</b> Each is relative to its own maximum for this finding on this film:
      colours do not compare the models. {NOT_WHERE}</p></div>
  </div>
  <fieldset><legend>Findings <small>flagged first; choose one to see its heat maps</small></legend>
  <table class="pair"><thead><tr><th scope="col">Finding</th>{heading}</tr></thead><tbody>{rows}</tbody></table>
  </fieldset>
</div>"""


def pairs_html(
    pairs: Sequence[Pair], models: Two, order: Sequence[int], by: str | None = None
) -> str:
    """Return several films as a table with what both models flag; a film's name is a button that
    shows it.

    `order` holds the films' numbers in the order of display. With `by`, a finding, its
    probabilities come first.
    """
    rows = "".join(_film_row(i, pairs[i], models, by) for i in order)
    heading = "".join(
        f'<th scope="col">{_who(one)}: flagged, or the highest</th>' for one in models
    )
    return f"""
<div class="films"><table><caption>{counted([pair[0] for pair in pairs])} Choose a name to see the film.
{"; ".join(_who(one) for one in models)}.</caption>
<thead><tr><th scope="col">Film</th><th scope="col">Name</th>{heading}
<th scope="col">Flagged by one only</th><th scope="col">Remarks</th></tr></thead>
<tbody>{rows}</tbody></table></div>"""


def spoken_pair(pair: Pair, models: Two) -> str:
    """Return plain sentences for screen readers; not escaped."""
    if pair[0].reason:
        return spoken(pair[0], [])
    texts = [
        f"{one.letter}, {one.title}: {spoken(answer, one.card['findings'])}"
        for answer, one in zip(pair, models, strict=True)
    ]
    return " ".join([*texts, difference_text(pair, models)])


def _who(one: Served) -> str:
    role = f" <small>({escape(one.role)})</small>" if one.role else ""
    return f'<b class="letter">{one.letter}</b>&nbsp;{escape(one.name)}{role}'


def _remarks(pair: Pair, models: Two) -> str:
    strange = [
        f'<p class="strange">{one.letter}: {escape(unlike_text(answer, one.card))}</p>'
        for answer, one in zip(pair, models, strict=True)
        if answer.unfamiliar
    ]
    noticed = warned_text([*dict.fromkeys([*pair[0].warnings, *pair[1].warnings])])
    return "".join(strange) + (f'<p class="noticed">{escape(noticed)}</p>' if noticed else "")


def _pane_html(pair: Pair, models: Two, side: int, where: Places) -> str:
    """Return the film below the heat maps of one model, with what is to be said of them."""
    answer, one = pair[side], models[side]
    numbered = [(number, found[side]) for number, found in enumerate(where.values())]
    known = [(number, place) for number, place in numbered if place is not None]
    heats = "".join(heat_html(answer, place, number) for number, place in known if answer.overlays)
    empty = " ".join(str(number) for number, place in known if not answer.seen[place])
    other = " ".join(str(number) for number, place in numbered if place is None)
    return f"""<figure><figcaption>{_who(one)}</figcaption>
{window_html(answer, heats, f"Film with the heat map of {one.letter}, {one.title}")}
<p class="note">{grid_text(answer)} <span data-when="{empty}" hidden>{UNSEEN}</span>
<span data-when="{other}" hidden><b>Not predicted by {one.letter}: no map.</b></span></p></figure>"""


def _row_html(pair: Pair, models: Two, where: Places, number: int, only: Served | None) -> str:
    """Return one finding: its name, and what each model says of it; `only` is the one that flags
    it where the two differ."""
    name, found = list(where.items())[number]
    cells = "".join(
        f"<td>{_cell_html(answer, one, place)}</td>"
        for answer, one, place in zip(pair, models, found, strict=True)
    )
    mark = f'<span class="mark differs">≠ only {only.letter} flags it</span>' if only else ""
    return f"""
<tr><th scope="row"><label><input type="radio" name="finding" value="{number}"{" checked" * (not number)}>
<span class="name">{escape(plain(name))}</span></label> {mark}</th>{cells}</tr>"""


def _cell_html(answer: FilmAnswer, one: Served, place: int | None) -> str:
    if place is None:
        return '<span class="none">not predicted</span>'
    flagged, threshold = answer.flagged[place], one.card["thresholds"][place]
    return f"""<div class="cell{" flagged" * flagged}"><span class="prob">{answer.probs[place]:.2f}</span>
{FLAGGED * flagged}{bar_html(answer, one.card, place)}<span class="facts short">threshold {threshold:.2f}</span>
<span class="facts full">{facts(one.card, place)}</span></div>"""


def _film_row(number: int, pair: Pair, models: Two, by: str | None) -> str:
    name = escape(pair[0].name)
    if pair[0].reason:
        cells = f'<td></td><th scope="row">{name}</th><td colspan="4">{escape(pair[0].reason)}</td>'
        return f'<tr class="refused">{cells}</tr>'
    where = places(models).get(by, (None, None))
    cells = "".join(
        f'<td><b class="letter">{one.letter}</b> {listed_html(answer, one.card["findings"], place)}</td>'
        for answer, one, place in zip(pair, models, where, strict=True)
    )
    differ = flagged_by_one(pair, models)
    listed = ", ".join(f"{plain(finding)} (by {one.letter})" for finding, one in differ.items())
    notes = [
        f"{one.letter}: unlike the training films"
        for answer, one in zip(pair, models, strict=True)
        if answer.unfamiliar
    ]
    notes += dict.fromkeys([*pair[0].warnings, *pair[1].warnings])
    text = f'<span class="mark differs">≠ {len(differ)}</span> {escape(listed)}' if differ else ""
    return f"""<tr><td><img alt="" src="{data_uri(pair[0].thumbnail)}"></td>
<th scope="row"><button type="button" data-film="{number}">{name}</button></th>
{cells}<td>{text}</td><td>{escape("; ".join(notes))}</td></tr>"""
