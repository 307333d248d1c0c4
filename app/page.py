"""The page of the web app.

In: exported models, and uploaded films. Out: the page with the models' predictions.
"""

import sys
from functools import partial
from pathlib import Path

import streamlit as st
from choose import choose_models
from downloads import csv_file, json_file, json_of_all, summary_file
from examples import FINDINGS as EXAMPLES
from examples import draw_missing, example_path
from film_view import show_film, show_films
from markup import NOTICE_HTML, counted, film_html, films_html, ordered, plain, spoken
from pair import flagged_by_one, pair_html, pairs_html, spoken_pair
from predict import LONGEST, LONGEST_OF_MANY, MAX_FILMS, FilmAnswer, answer_by_all
from served import Served
from server import set_up
from streamlit.runtime.scriptrunner import get_script_run_ctx
from streamlit.runtime.uploaded_file_manager import UploadedFile

from lib.inference import Predictor, card_text

SAVEFOLDER = Path(__file__).resolve().parents[1] / "savefolder"
TYPES = ("png", "jpg", "jpeg", "tif", "tiff", "bmp", "gif", "dcm", "dicom")
GIVEN, DIFFER = "as given", "number of findings that one model alone flags"
EMPTY = """There is no model in `{folder}` yet. Export a trained run, then load this page again:

    cxr export runs/STUDY/RUN

`make app` does it for you. If there is no trained run, it first trains a small model on drawn films."""

state = st.session_state


def main() -> None:
    set_up()
    st.set_page_config(page_title="Findings on chest films", layout="wide")
    st.html(NOTICE_HTML)
    st.title("Findings on chest films", anchor=False)
    folder = Path(sys.argv[1]).resolve() if len(sys.argv) > 1 else SAVEFOLDER
    models = {path.stem: path for path in sorted(folder.glob("*.onnx"))}
    if not models:
        st.info(EMPTY.format(folder=folder.name))
        return
    for key, first in {
        "drops": 0,
        "waiting": [],
        "answers": [],
        "shown": 0,
        "note": "",
        "example": None,
    }.items():
        state.setdefault(key, first)
    left, right = st.columns([1, 2])
    with left:
        chosen = choose_models(models, changed=forget)
    if not chosen:
        return
    fit_answers(len(chosen))
    with right:
        take_films(folder / "examples")
    answer_waiting([predictor for _, predictor in chosen])
    show_answers([one for one, _ in chosen])
    for one, predictor in chosen:
        with st.expander(f"About {one.letter}, {one.title}" if one.letter else "About this model"):
            st.markdown(card_text(predictor.card).replace("\n#", "\n##").replace("# ", "## ", 1))


def take_films(examples: Path) -> None:
    """Show the uploader and the example buttons; given films wait in the session state.

    `examples` is the folder of the phantoms.
    """
    key = f"files-{state.drops}"
    st.file_uploader(
        f"Chest films: one image, or up to {MAX_FILMS}",
        type=TYPES,
        accept_multiple_files=True,
        key=key,
        on_change=take_uploads,
        args=(key,),
        help="Films stay in memory during prediction. They are never written to disk or sent anywhere.",
    )
    st.caption(
        "Films must be upright and frontal. Most films on their side are detected; films upside down are not."
    )
    with st.container(horizontal=True, vertical_alignment="center"):
        st.markdown("Or try a phantom, a drawn film:", width="content")
        for label in EXAMPLES:
            st.button(label, on_click=start, args=([], label))
    if state.example:
        path = example_path(examples, state.example)
        if not path.is_file():
            with st.spinner("Drawing phantoms: this takes some seconds, once"):
                draw_missing(examples)
        state.waiting, state.example = [(path.name, path.read_bytes())], None


def take_uploads(key: str) -> None:
    """Move the files out of the uploader and out of Streamlit's memory.

    The uploader's next key makes it empty. A browser that has not seen the new uploader yet sends
    the files of the old one again: its old `key` identifies them, and they are ignored.
    """
    if key != f"files-{state.drops}":
        return
    context = get_script_run_ctx()
    taken = []
    for file in state[key]:
        if isinstance(file, UploadedFile):  # skips a deleted file
            taken.append((file.name, file.getvalue()))
            file.close()
            context.uploaded_file_mgr.remove_file(context.session_id, file.file_id)
    start(taken)


def start(files: list[tuple[str, bytes]], example: str | None = None) -> None:
    """Clear the films on the page, and queue the given ones or the example."""
    state.drops += 1
    state.answers, state.waiting, state.example, state.shown = [], files[:MAX_FILMS], example, -1
    state.note = (
        f"{len(files)} films were given, and only the first {MAX_FILMS} are answered; "
        "for more: cxr predict MODEL FOLDER"
        if len(files) > MAX_FILMS
        else ""
    )


def forget() -> None:
    start([])


def fit_answers(count: int) -> None:
    """Keep the answers of the first `count` models; forget the films where there are fewer.

    So the first model's answers stay when it is no longer compared.
    """
    if any(len(film) < count for film in state.answers):
        forget()
    state.answers = [film[:count] for film in state.answers]


def answer_waiting(predictors: list[Predictor]) -> None:
    """Predict for waiting films one by one; keep only what the page shows of each."""
    if not state.waiting:
        return
    done, total = len(state.answers), len(state.answers) + len(state.waiting)
    bar = st.progress(done / total, text=f"Answering {total} films") if total > 1 else None
    while state.waiting:
        name, data = state.waiting.pop(0)
        longest = LONGEST if total == 1 else LONGEST_OF_MANY
        state.answers.append(answer_by_all(predictors, data, name, longest))
        if bar:
            bar.progress(len(state.answers) / total, text=f"Answering {total} films")
    if bar:
        bar.empty()
    state.shown = next((i for i, film in enumerate(state.answers) if not film[0].reason), -1)


def show_answers(models: list[Served]) -> None:
    """Show the table of several films, the chosen film, and the downloads.

    A film has one answer of each model.
    """
    films: list[tuple[FilmAnswer, ...]] = state.answers
    if not films:
        return
    if state.note:
        st.warning(state.note)
    shown = films[state.shown] if state.shown >= 0 else None
    if len(films) > 1:
        show_many(films, models)
    elif shown:
        show_one(shown, models, "", [state.shown])
    else:
        findings = models[0].card["findings"]
        show_films(
            films_html([films[0][0]], findings), spoken(films[0][0], findings), "0", -1, choose
        )
    offer_files(films, shown, models)


def show_many(films: list[tuple[FilmAnswer, ...]], models: list[Served]) -> None:
    """Show the table of several films, and the chosen one."""
    first, findings = [film[0] for film in films], models[0].card["findings"]
    two = len(models) > 1
    film, table = st.columns([3, 2], gap="medium")  # the film first: a narrow screen stacks them
    with table:
        ways = [GIVEN, *[DIFFER] * two, *findings]
        by = st.selectbox("Sort by", ways, format_func=plain, key="sort")
        place = findings.index(by) if by in findings else None
        order = ordered(first, place)
        if by == DIFFER:
            order.sort(
                key=lambda i: -len(flagged_by_one(films[i], models)) if not first[i].reason else 1
            )
        if two:
            text = pairs_html(films, models, order, by if by in findings else None)
        else:
            text = films_html(first, findings, order, place)
        show_films(text, counted(first), f"{state.drops}-{len(models)}-{by}", state.shown, choose)
    if state.shown >= 0:
        answered = [i for i in order if not first[i].reason]
        position = f"{answered.index(state.shown) + 1} of {len(answered)}"
        with film:
            show_one(films[state.shown], models, position, answered)


def show_one(
    film: tuple[FilmAnswer, ...], models: list[Served], position: str, order: list[int]
) -> None:
    """Show the chosen film.

    Of several, `position` says which one it is, as "3 of 24". `order` holds the numbers of all
    films, for the buttons to the previous and the next one.
    """

    def step(by: int) -> None:
        state.shown = order[min(max(order.index(state.shown) + by, 0), len(order) - 1)]

    if len(models) > 1:
        html, said = pair_html(film, models, position), spoken_pair(film, models)
    else:
        card = models[0].card
        html, said = film_html(film[0], card, position), spoken(film[0], card["findings"])
    show_film(html, said, f"{state.drops}-{len(models)}-{state.shown}-{position}", step)


def choose(number: int) -> None:
    """Show another film; ignore a click on a table that no longer exists."""
    if number < len(state.answers) and not state.answers[number][0].reason:
        state.shown = number


def offer_files(
    films: list[tuple[FilmAnswer, ...]], shown: tuple[FilmAnswer, ...] | None, models: list[Served]
) -> None:
    """Show the download buttons, and the button that forgets the films."""
    cards = [one.card for one in models]
    two = len(models) > 1
    if two:
        st.caption(
            "The files hold both models: the CSV two rows per film, the JSON one list per model, under the models' "
            "names. A summary to print is of one model."
        )
    with st.container(horizontal=True):
        first = [film[0] for film in films]
        data = (lambda: json_of_all(films, cards)) if two else lambda: json_file(first, cards[0])
        offer("Answers as CSV", lambda: csv_file(films, cards), "answers.csv", "text/csv")
        offer("Answers as JSON", data, "answers.json", "application/json")
        for answer, one in zip(shown or (), models, strict=False):
            label = f"Summary of {one.letter} to print" if two else "Summary to print"
            offer(label, partial(summary_file, answer, one.card), "summary.html", "text/html")
        st.button("Forget the films", on_click=forget)


def offer(label: str, make, name: str, kind: str) -> None:
    """Show a download button; the file is made on click."""
    st.download_button(label, make, name, kind, on_click="ignore")


main()
