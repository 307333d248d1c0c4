"""Measure memory and speed of the web app, served as the README says, with EfficientNet-B4 int8, and
with a small student, alone and beside its teacher.

The browser is Debian's Chromium, driven by Playwright. Its memory does not count, but its CPU load
slows the server.
"""

import contextlib
import re
import shutil
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import numpy as np
import psutil
import torch
from playwright.sync_api import Page, sync_playwright
from playwright.sync_api import TimeoutError as PlaywrightTimeout

from benchmarks.loading import films_of_1024
from benchmarks.predicting import without_labels
from benchmarks.students import STUDENT, TEACHER, write_student_and_teacher
from benchmarks.timing import Row
from lib.compression.quantize import QuantizationJob, quantize
from lib.config import FINDINGS, REPO_ROOT
from lib.export.onnx_file import write_card, write_onnx
from lib.inference.card import make_card
from lib.inference.session import run_file
from lib.models.classifier import Classifier, build_backbone, build_head
from lib.models.heatmaps import ServingModule

BACKBONE, SIZE = "tf_efficientnet_b4", 224
SESSIONS, ROUNDS = 5, 10
ALONE = 15
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
_NO_BROWSER = (
    "the web app was not measured: Chromium is missing, install it with `apt install chromium`"
)
_PORT = 8611
_PATIENCE = 120_000  # ms; memory is also measured on a busy machine
_IDLE = '[data-testid="stApp"][data-test-script-state="notRunning"]'
_MARK_CHOICE = "document.addEventListener('change', () => performance.mark('film-chosen'), true)"
_TAKEN = """() => {
  const last = (name) => performance.getEntriesByName(name).at(-1).startTime;
  return last("film-shown") - last("film-chosen");
}"""
_SHOWN = "(count) => performance.getEntriesByName('film-shown').length === count"


def serving_rows(scratch: Path) -> list[Row]:
    """Measure the server's peak resident memory and its growth, and the time per upload.

    The time is from an upload to its picture in the browser.
    """
    if CHROMIUM is None:
        print(_NO_BROWSER)
        return []
    folder = scratch / "models"
    write_b4(folder)
    films, kind = films_of_1024(scratch)
    with served(folder) as process, Memory(process) as memory, sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        alone = time_alone(browser.new_page(), films)
        pages = [browser.new_context().new_page() for _ in range(SESSIONS)]
        tenth, fiftieth = use_together(pages, films, memory)
        peak = memory.peak()
        browser.close()
    model = "EfficientNet-B4 int8 at 224 px"
    what = f"web app, {model}, {_uploads(kind)}"
    return [
        Row(f"{what}: peak resident memory", "MB", peak, goal="< 200"),
        Row(f"{what}: growth from the 10th to the 50th", "MB", fiftieth - tenth, goal="about 0"),
        Row(f"web app, {model}: from upload to picture, median", "ms", alone, goal="< 300"),
    ]


def student_rows(scratch: Path) -> list[Row]:
    """Measure the server's peak resident memory with a student alone, beside its teacher, and
    beside EfficientNet-B4 int8.

    Each is measured in a server of its own, whose folder holds only these models.
    """
    if CHROMIUM is None:
        print(_NO_BROWSER)
        return []
    films, kind = films_of_1024(scratch)
    pair, alone, beside = (scratch / name for name in ("pair", "alone", "beside"))
    student, _ = write_student_and_teacher(pair)
    b4 = write_b4(beside)
    alone.mkdir()
    for folder in (alone, beside):
        shutil.copy(student, folder)
    served_models = {
        STUDENT: (alone, None, "< 160"),
        f"{STUDENT} beside {TEACHER}": (pair, "teacher", "< 160"),
        f"{STUDENT} beside EfficientNet-B4 int8": (beside, b4.stem, ""),
    }
    return [
        Row(
            f"web app, {what}, {_uploads(kind)}: peak resident memory",
            "MB",
            peak_of(folder, films, other),
            goal=goal,
        )
        for what, (folder, other, goal) in served_models.items()
    ]


def peak_of(folder: Path, films: list[Path], other: str | None) -> float:
    """Return the server's peak resident memory in MB while several sessions upload films, with the
    student, and with the model `other` beside it."""
    with served(folder) as process, Memory(process) as memory, sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        pages = [browser.new_context().new_page() for _ in range(SESSIONS)]
        use_together(pages, films, memory, ["student", other] if other else ["student"])
        browser.close()
        return memory.peak()


def _uploads(kind: str) -> str:
    return f"{SESSIONS * ROUNDS} uploads of 1024 px ({kind}) by {SESSIONS} sessions at once"


def write_b4(folder: Path) -> Path:
    """Write an EfficientNet-B4 in int8, as `cxr export --int8` writes it.

    It has 14 findings and random weights.
    """
    torch.manual_seed(0)
    backbone = build_backbone(BACKBONE, SIZE)
    model = Classifier(
        backbone,
        build_head("mlp", backbone.head_hidden_size, len(FINDINGS), 0.3),
        (0.5,) * 3,
        (0.25,) * 3,
    )
    work = folder / "work"
    work.mkdir(parents=True)
    write_onnx(
        ServingModule(model.eval(), [1.0] * len(FINDINGS), [0.0] * len(FINDINGS), SIZE),
        work / "fp32.onnx",
    )
    films = np.random.default_rng(0).integers(0, 256, (8, SIZE, SIZE), dtype=np.uint8)
    judge = without_labels(films, run_file(work / "fp32.onnx", films))
    trials = quantize(QuantizationJob(work / "fp32.onnx", films, judge, work), lambda line: None)
    card = {
        "backbone": BACKBONE,
        "head": "mlp",
        "findings": FINDINGS,
        "image_size": SIZE,
        "data": {},
    }
    path = folder / "b4-int8.onnx"
    shutil.move(trials[0].path, path)
    parts: dict[str, Any] = {
        "precision": "int8",
        "familiarity": None,
        "exported": "",
        "versions": {},
    }
    write_card(path, make_card("b4-int8", card, [], **parts))
    shutil.rmtree(work)
    return path


@contextlib.contextmanager
def served(folder: Path) -> Iterator[psutil.Process]:
    """Start the server of the models in `folder` as the README says; yield it once it responds."""
    command = [
        sys.executable,
        "-m",
        "streamlit",
        "run",
        "app/app.py",
        "--server.port",
        str(_PORT),
        "--",
        str(folder),
    ]
    with subprocess.Popen(
        command, cwd=REPO_ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
    ) as process:
        try:
            wait_for_server(process)
            yield psutil.Process(process.pid)
        finally:
            process.terminate()


def wait_for_server(process: subprocess.Popen, seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while time.monotonic() < end and process.poll() is None:
        with (
            contextlib.suppress(OSError),
            urlopen(f"http://127.0.0.1:{_PORT}/_stcore/health", timeout=5),
        ):
            return
        time.sleep(0.1)
    raise RuntimeError(f"the web app did not start within {seconds:g} s; port {_PORT} may be taken")


class Memory:
    """Resident memory of a process and its children in MB.

    `now` is the current value, and `peak` the highest since the block began.
    """

    def __init__(self, process: psutil.Process):
        self.process, self.seen, self.going = process, 0.0, True
        self.thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> "Memory":
        self.thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.going = False
        self.thread.join()

    def now(self) -> float:
        """Return the current memory; a child that ends during the count adds nothing."""
        total = self.process.memory_info().rss
        for child in self.process.children(recursive=True):
            with contextlib.suppress(psutil.NoSuchProcess):
                total += child.memory_info().rss
        return total / 2**20

    def peak(self) -> float:
        """Return the highest of many samples and of Linux's peak of the process alone.

        Linux's peak misses nothing, but leaves out the children.
        """
        status = Path(f"/proc/{self.process.pid}/status")
        lines = status.read_text().splitlines() if status.exists() else []
        return max(
            [
                self.seen,
                *(int(line.split()[1]) / 1024 for line in lines if line.startswith("VmHWM:")),
            ]
        )

    def _watch(self) -> None:
        while self.going:
            self.seen = max(self.seen, self.now())
            time.sleep(0.02)


def time_alone(page: Page, films: list[Path]) -> float:
    """Return the median milliseconds from choosing a file to its picture on the screen.

    They are measured in the browser, after one upload as a warm-up.
    """
    open_page(page)
    taken = []
    for count in range(ALONE + 1):
        upload(page, films[count % len(films)])
        page.wait_for_function(_SHOWN, arg=count + 1)
        taken.append(page.evaluate(_TAKEN))
    page.close()
    return statistics.median(taken[1:])


def use_together(
    pages: list[Page], films: list[Path], memory: Memory, models: Sequence[str] = ()
) -> tuple[float, float]:
    """Let every session upload in every round, without waiting for the others.

    `models` are chosen in every session, the second to compare with. Returns the memory after 10
    uploads and after all.
    """
    after = []
    for page in pages:
        open_page(page)
        for label, name in zip(("Model", "Compare with"), models, strict=False):
            choose(page, label, name)
    for count in range(ROUNDS):
        for place, page in enumerate(pages):
            upload(page, films[(count * SESSIONS + place) % len(films)])
        for page in pages:
            page.wait_for_function(_SHOWN, arg=count + 1)
        time.sleep(0.5)  # the server frees memory after its predictions
        after.append(memory.now())
    return after[10 // SESSIONS - 1], after[-1]


def open_page(page: Page) -> None:
    page.set_default_timeout(_PATIENCE)
    page.goto(f"http://127.0.0.1:{_PORT}")
    page.locator("input[type=file]").wait_for(state="attached")
    page.evaluate(_MARK_CHOICE)


def choose(page: Page, label: str, name: str) -> None:
    """Choose the model `name`, whose role may follow its name in the list.

    The list is opened again where an earlier choice changes and closes it.
    """
    option = page.get_by_role("option", name=re.compile(rf"^{re.escape(name)}( \(.*\))?$"))
    end = time.monotonic() + _PATIENCE / 1000
    while time.monotonic() < end:
        page.locator(_IDLE).wait_for()
        page.get_by_role("combobox", name=label).click()
        with contextlib.suppress(PlaywrightTimeout):
            option.click(timeout=5000)
            page.locator(_IDLE).wait_for()
            return
        page.keyboard.press("Escape")
    raise RuntimeError(f"the page offers no {name} under {label!r}")


def upload(page: Page, film: Path) -> None:
    page.locator(_IDLE).wait_for()
    page.locator("input[type=file]").set_input_files(film)
