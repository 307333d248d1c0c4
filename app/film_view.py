"""Streamlit components for one film and for a table of films.

In: their HTML. Out: both on the page, with their behaviour.
"""

from collections.abc import Callable
from pathlib import Path

import streamlit as st

_HERE = Path(__file__).parent
_STYLE = (_HERE / "film_view.css").read_text(encoding="utf-8")

_film = st.components.v2.component(
    "film",
    html='<div class="root"></div><p class="heard" role="status"></p>',
    css=_STYLE,
    js=(_HERE / "film_view.js").read_text(encoding="utf-8"),
)
_films = st.components.v2.component(
    "films",
    html='<div class="root"></div><p class="heard" role="status"></p>',
    css=_STYLE,
    js=(_HERE / "films_table.js").read_text(encoding="utf-8"),
)


def show_film(html: str, spoken: str, identity: str, step: Callable[[int], None]) -> None:
    """Show `html` (see `markup.film_html`), redrawn when `identity` changes.

    Screen readers read `spoken`. `step` is called with -1 for the previous film and 1 for the next
    one.
    """

    def stepped() -> None:
        step(int(st.session_state["film"]["step"]))

    _film(key="film", data={"html": html, "spoken": spoken, "id": identity}, on_step_change=stepped)


def show_films(
    html: str, spoken: str, identity: str, shown: int, choose: Callable[[int], None]
) -> None:
    """Show the table `html` (see `markup.films_html`) with the film `shown` marked.

    Screen readers read `spoken`. The table is redrawn when `identity` changes. `choose` is called
    with the number of a chosen film.
    """

    def chosen() -> None:
        choose(int(st.session_state["films"]["film"]))

    data = {"html": html, "spoken": spoken, "id": identity, "shown": str(shown)}
    _films(key="films", data=data, on_film_change=chosen)
