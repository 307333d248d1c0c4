"""Choose the model, and another one to compare it with.

In: the models of a folder. Out: those chosen, ready to predict.
"""

from collections.abc import Callable
from pathlib import Path

import streamlit as st
from markup import PHANTOM
from served import STUDENT, Card, Served, related, side_by_side

from lib.exceptions import CxrError
from lib.inference import Predictor, card_text, stored_card
from lib.system import available_cores

THREADS = 4  # at most, per prediction
MODELS = 4  # in memory at a time: two sessions that compare other models do not evict each other's
NONE = ""  # no file has this name
_LINEAGE = ("run", "members", "weights")  # what a card says of a model's runs and of its teacher

Chosen = list[tuple[Served, Predictor]]


def choose_models(models: dict[str, Path], changed: Callable[[], None]) -> Chosen:
    """Return the chosen model, and behind it the one to compare it with, if any.

    `changed` is called when other models are to answer, not when the first goes on alone. Where the
    file of the first is broken, return nothing and show the reason on the page.
    """
    name = st.selectbox("Model", list(models), on_change=changed)
    names = [name]
    if len(models) > 1:
        other = _choose_other(name, models, changed)
        names += [other] if other != NONE else []
    predictors = {one: ready for one in names if (ready := _ready(models[one]))}
    if name not in predictors:
        return []
    served = side_by_side({one: ready.card for one, ready in predictors.items()})
    for one in served:
        if one.card["data"].get("phantom"):
            st.warning(f"{one.letter}: {PHANTOM}" if one.letter else PHANTOM)
    return list(zip(served, predictors.values(), strict=True))


def _choose_other(name: str, models: dict[str, Path], changed: Callable[[], None]) -> str:
    """Return the model to compare with, or NONE; teachers come first, as a suggestion."""
    cards = {one: lineage(path, path.stat().st_mtime_ns) for one, path in models.items()}
    words = related(name, cards)
    key = f"other-of-{name}"
    other = st.selectbox(
        "Compare with",
        [NONE, *words],
        format_func=lambda one: f"{one} ({words[one]})" if words.get(one) else one or "none",
        key=key,
        on_change=lambda: st.session_state[key] == NONE or changed(),
        help="Both answer for the same films. Films that are on the page are to be given again.",
    )
    best = next(iter(words))
    if other == NONE and words[best] not in ("", STUDENT):
        st.caption(f"To compare with: {best} ({words[best]}).")
    return other


@st.cache_resource
def lineage(path: Path, modified: int) -> Card:
    """Return what a model's card says of its runs and its teacher; nothing where it cannot be read.

    The network is not loaded. `modified` is the file's modification time.
    """
    try:
        card = stored_card(path)
    except CxrError:
        return {}
    return {key: card[key] for key in _LINEAGE if key in card}


def _ready(path: Path) -> Predictor | None:
    try:
        return load(path, path.stat().st_mtime_ns)
    except CxrError as error:
        st.error(str(error))
        return None


@st.cache_resource(max_entries=MODELS, show_spinner="Loading the model")
def load(path: Path, modified: int) -> Predictor:
    """Load a model, shared by all sessions that use it.

    `modified` is the file's modification time: a rewritten file is loaded again.
    """
    predictor = Predictor(path, threads=min(THREADS, available_cores()))
    predictor.warm_up()
    card_text(predictor.card)  # a card that cannot be shown is refused here
    return predictor
