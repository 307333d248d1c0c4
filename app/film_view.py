"""In: HTML of a film and of a table of films. Out: both on the page, with their behaviour, as
Streamlit components."""

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
    """Draws `html` (see `pieces.film_html`) anew when `identity` changes, and tells screen readers
    what was `spoken`.

    `step` is called with -1 for the previous film and 1 for the next one.
    """

    def stepped() -> None:
        step(int(st.session_state["film"]["step"]))

    _film(key="film", data={"html": html, "spoken": spoken, "id": identity}, on_step_change=stepped)


def show_films(
    html: str, spoken: str, identity: str, shown: int, choose: Callable[[int], None]
) -> None:
    """Draws the table `html` (see `pieces.films_html`) with the film `shown` marked; calls `choose`
    with a number."""

    def chosen() -> None:
        choose(int(st.session_state["films"]["film"]))

    data = {"html": html, "spoken": spoken, "id": identity, "shown": str(shown)}
    _films(key="films", data=data, on_film_change=chosen)
