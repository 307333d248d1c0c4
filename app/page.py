"""The page of the web app.

In: exported models, and uploaded films. Out: the page with the models' predictions.
"""

import sys
from pathlib import Path

import streamlit as st
from downloads import csv_file, json_file, summary_file
from examples import FINDINGS as EXAMPLES
from examples import draw_missing, example_path
from film_view import show_film, show_films
from markup import NOTICE_HTML, PHANTOM, counted, film_html, films_html, ordered, plain, spoken
from predict import LONGEST, LONGEST_OF_MANY, MAX_FILMS, FilmAnswer, answer_file
from server import set_up
from streamlit.runtime.scriptrunner import get_script_run_ctx
from streamlit.runtime.uploaded_file_manager import UploadedFile

from lib.exceptions import CxrError
from lib.inference import Predictor, card_text
from lib.system import available_cores

SAVEFOLDER = Path(__file__).resolve().parents[1] / "savefolder"
TYPES = ("png", "jpg", "jpeg", "tif", "tiff", "bmp", "gif", "dcm", "dicom")
THREADS = 4  # at most, per prediction
GIVEN = "as given"
MODELS = 3  # in memory at a time, so that sessions with different models do not evict each other's
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
        predictor = choose_model(models)
    if predictor is None:
        return
    with right:
        take_films(folder / "examples")
    answer_waiting(predictor)
    show_answers(predictor.card)
    with st.expander("About this model"):
        st.markdown(card_text(predictor.card).replace("\n#", "\n##").replace("# ", "## ", 1))


def choose_model(models: dict[str, Path]) -> Predictor | None:
    """Return the chosen model, ready to predict.

    When its file is broken, return None and show the reason on the page.
    """
    path = models[st.selectbox("Model", list(models), on_change=forget)]
    try:
        predictor = load(path, path.stat().st_mtime_ns)
    except CxrError as error:
        st.error(str(error))
        return None
    if predictor.card["data"].get("phantom"):
        st.warning(PHANTOM)
    return predictor


@st.cache_resource(max_entries=MODELS, show_spinner="Loading the model")
def load(path: Path, modified: int) -> Predictor:
    """Load a model, shared by all sessions that use it.

    `modified` is the file's modification time: a rewritten file is loaded again.
    """
    predictor = Predictor(path, threads=min(THREADS, available_cores()))
    predictor.warm_up()
    card_text(predictor.card)  # a card that cannot be shown is refused here
    return predictor


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


def answer_waiting(predictor: Predictor) -> None:
    """Predict for waiting films one by one; keep only what the page shows of each."""
    if not state.waiting:
        return
    done, total = len(state.answers), len(state.answers) + len(state.waiting)
    bar = st.progress(done / total, text=f"Answering {total} films") if total > 1 else None
    while state.waiting:
        name, data = state.waiting.pop(0)
        state.answers.append(
            answer_file(predictor, data, name, LONGEST if total == 1 else LONGEST_OF_MANY)
        )
        if bar:
            bar.progress(len(state.answers) / total, text=f"Answering {total} films")
    if bar:
        bar.empty()
    state.shown = next((i for i, answer in enumerate(state.answers) if not answer.reason), -1)


def show_answers(card: dict) -> None:
    """Show the table of several films, the chosen film, and the downloads."""
    answers: list[FilmAnswer] = state.answers
    if not answers:
        return
    if state.note:
        st.warning(state.note)
    shown = answers[state.shown] if state.shown >= 0 else None
    if len(answers) == 1:
        if shown:
            show_one(shown, card, "")
        else:
            show_films(
                films_html(answers, card["findings"]),
                spoken(answers[0], card["findings"]),
                "0",
                -1,
                choose,
            )
    else:
        film, table = st.columns(
            [3, 2], gap="medium"
        )  # the film first: a narrow screen stacks the columns
        with table:
            by = st.selectbox("Sort by", [GIVEN, *card["findings"]], format_func=plain, key="sort")
            place = card["findings"].index(by) if by != GIVEN else None
            order = ordered(answers, place)
            text = films_html(answers, card["findings"], order, place)
            show_films(text, counted(answers), f"{state.drops}-{by}", state.shown, choose)
        with film:
            if shown:
                answered = [i for i in order if not answers[i].reason]
                show_one(
                    shown, card, f"{answered.index(state.shown) + 1} of {len(answered)}", answered
                )
    with st.container(horizontal=True):
        offer("Answers as CSV", lambda: csv_file(answers, card), "answers.csv", "text/csv")
        offer(
            "Answers as JSON", lambda: json_file(answers, card), "answers.json", "application/json"
        )
        if shown:
            offer(
                "Summary to print", lambda: summary_file(shown, card), "summary.html", "text/html"
            )
        st.button("Forget the films", on_click=forget)


def show_one(answer: FilmAnswer, card: dict, position: str, order: list[int] | None = None) -> None:
    """Show the chosen film.

    Of several, `position` says which one it is, as "3 of 24". `order` holds the numbers of all
    films, for the buttons to the previous and the next one.
    """
    order = order or [state.shown]

    def step(by: int) -> None:
        state.shown = order[min(max(order.index(state.shown) + by, 0), len(order) - 1)]

    identity = f"{state.drops}-{state.shown}-{position}"
    show_film(film_html(answer, card, position), spoken(answer, card["findings"]), identity, step)


def choose(number: int) -> None:
    """Show another film; ignore a click on a table that no longer exists."""
    if number < len(state.answers) and not state.answers[number].reason:
        state.shown = number


def offer(label: str, make, name: str, kind: str) -> None:
    """Show a download button; the file is made on click."""
    st.download_button(label, make, name, kind, on_click="ignore")


main()
