"""What the tests of the web app share: cards and films, the running server, and what a person does on
the page in a browser."""

import contextlib
import importlib
import io
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from processes import free_port, kill_tree
from tiny_model import FINDINGS, SIZE

from lib.config import REPO_ROOT
from lib.images.read import read_radiograph
from lib.inference.card import make_card
from lib.inference.ood import fit_familiarity
from lib.inference.predictor import Predictor

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
METRICS = [
    {
        "finding": "Atelectasis",
        "auroc": 0.8125,
        "auroc_low": 0.75,
        "auroc_high": 0.875,
        "positives": 1234,
    },
    {
        "finding": "Cardiomegaly",
        "auroc": 0.9,
        "auroc_low": None,
        "auroc_high": None,
        "positives": 7,
    },
]


def full_card(name: str, **parts) -> dict:
    """A card with all that `cxr export` writes, for the findings of the tiny model."""
    run = {"backbone": "tiny", "head": "linear", "findings": list(FINDINGS), "image_size": SIZE}
    run |= {"thresholds": [0.5, 0.6, 0.7], "data": {"phantom": parts.pop("phantom", False)}}
    metrics = [row | {"threshold_from": "validation"} for row in METRICS]
    metrics.append({"finding": "Effusion", "auroc": None, "threshold_from": "fallback"})
    known = {"precision": "fp32", "familiarity": None, "exported": "2026-01-01", "versions": {}}
    return make_card(name, run, metrics, **(known | parts))


def grey_familiarity() -> dict:
    """Statistics of mid-grey films, to which a black film is a stranger."""
    grey = np.random.default_rng(0).uniform(0.3, 0.7, (200, 1)) + np.zeros((1, 2))
    grey += np.random.default_rng(1).normal(0, 1e-3, grey.shape)
    return fit_familiarity(grey[:100], grey[100:])


def film_file(grey: int = 128, size: int = 64, noise: int = 20, seed: int = 0) -> bytes:
    """A film of about that grey, as a PNG."""
    pixels = np.random.default_rng(seed).integers(-noise, noise + 1, (size, size)) + grey
    file = io.BytesIO()
    Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8)).save(file, "PNG", compress_level=1)
    return file.getvalue()


def wanted_probs(predictor: Predictor, data: bytes) -> np.ndarray:
    return predictor.predict(read_radiograph(data, predictor.image_size).pixels[None]).probs[0]


def page_of(folder: Path, monkeypatch):
    """The page of a folder of models, without a browser."""
    from streamlit.testing.v1 import AppTest

    monkeypatch.setattr(sys, "argv", ["app.py", str(folder)])
    return AppTest.from_file(str(REPO_ROOT / "app" / "page.py"), default_timeout=120).run()


_START = """
import json, resource, signal, sys
resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))  # whoever writes to a file fails
signal.signal(signal.SIGUSR1, lambda *_: print(json.dumps({"modules": sorted(sys.modules)}), flush=True))
from streamlit.web.cli import main
sys.argv = ["streamlit", "run", *sys.argv[1:]]
main()
"""


class Server:
    """The running app, and what it said so far."""

    def __init__(self, models: Path):
        port = free_port()
        command = [
            sys.executable,
            "-c",
            _START,
            str(REPO_ROOT / "app" / "app.py"),
            "--server.port",
            str(port),
        ]
        self.process = subprocess.Popen(
            [*command, "--", str(models)],
            cwd=models,  # not the repository: the settings lie beside the page
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        os.set_blocking(self.process.stdout.fileno(), False)
        self.url, self.said = f"http://127.0.0.1:{port}", ""

    def wait(self) -> None:
        until = time.monotonic() + 240
        while self.process.poll() is None and time.monotonic() < until:
            try:
                with urllib.request.urlopen(f"{self.url}/_stcore/health", timeout=60):
                    return
            except OSError:
                time.sleep(0.1)
        raise RuntimeError(f"the server did not start: {self.read()}")

    def read(self) -> str:
        self.said += (self.process.stdout.read() or b"").decode()
        return self.said

    def modules(self) -> set[str]:
        self.process.send_signal(signal.SIGUSR1)
        for _ in range(600):
            if lines := re.findall(r'^{"modules".*\n', self.read(), re.MULTILINE):
                return set(json.loads(lines[-1])["modules"])
            time.sleep(0.1)
        raise RuntimeError("the server does not tell its modules")

    def uploads_kept(self) -> bool:
        with urllib.request.urlopen(f"{self.url}/_stcore/metrics", timeout=60) as answer:
            return "UploadedFileManager" in answer.read().decode()


@contextlib.contextmanager
def served(models: Path) -> Iterator[Server]:
    """The running app of a folder of models."""
    running = Server(models)
    try:
        running.wait()
        yield running
    finally:
        running.process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            running.process.wait(20)
        kill_tree(running.process)


@contextlib.contextmanager
def chromium() -> Iterator:
    """A browser; skips where there is none."""
    if CHROMIUM is None:
        pytest.skip("Chromium is missing: apt install chromium")
    playwright = pytest.importorskip(
        "playwright.sync_api", reason="playwright is missing: pip install -e '.[dev]'"
    )
    playwright.expect.set_options(timeout=120_000)
    with playwright.sync_playwright() as driver:
        running = driver.chromium.launch(
            executable_path=CHROMIUM, args=["--no-sandbox"], timeout=120_000
        )
        yield running
        running.close()


def settle(page) -> None:
    """Waits until the page computes nothing, and does not begin to: what was clicked reaches the
    server a moment later."""
    still = page.locator('[data-test-script-state="notRunning"]')
    for _ in range(100):
        still.wait_for()
        page.wait_for_timeout(200)
        if still.count():
            return
    raise RuntimeError("the page does not come to rest")


def expect(found):
    """What the page shows in the end."""
    return importlib.import_module("playwright.sync_api").expect(found)


def give(page, *files: tuple[str, bytes]) -> None:
    settle(page)
    page.locator("input[type=file]").set_input_files(
        [{"name": name, "mimeType": "image/png", "buffer": data} for name, data in files]
    )


def shown(page, name: str) -> None:
    """Waits until the film is on the page, and nothing moves any more."""
    page.get_by_role("heading", name=name).wait_for()
    expect(page.locator(".picture")).to_have_count(1)  # the film before may still be there
    page.locator(".picture").evaluate("image => image.decode()")
    settle(page)


def content_of(page, label: str) -> bytes:
    settle(page)
    with page.expect_download() as download:
        page.get_by_role("button", name=label).click()
    return Path(download.value.path()).read_bytes()


CONTRAST = """element => {
  const parts = (colour) => (colour.match(/[\\d.]+/g) || []).map(Number);
  const light = ([r, g, b]) => [r, g, b].map((v) => v / 255)
    .map((v) => (v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4))
    .reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0);
  let behind = element;
  while (behind && (parts(getComputedStyle(behind).backgroundColor)[3] ?? 1) < 1)
    behind = behind.parentElement || behind.getRootNode().host;
  const pair = [getComputedStyle(element).color, getComputedStyle(behind).backgroundColor];
  const [dark, bright] = pair.map(parts).map(light).sort((a, b) => a - b);
  return (bright + 0.05) / (dark + 0.05);
}"""
