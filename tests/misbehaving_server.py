"""A web server on this machine that serves files, each request as badly as it is told to."""

import contextlib
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

Answer = Callable[["Handler", bytes], None]


class Handler(BaseHTTPRequestHandler):
    """Answers with the first of `answers[path]`, which is used up unless it is the last."""

    def do_GET(self) -> None:
        site = self.server.site
        site.asked.append((self.path, self.headers.get("Range")))
        answers = site.answers.get(self.path, [])
        answer = answers.pop(0) if len(answers) > 1 else next(iter(answers), well)
        with contextlib.suppress(ConnectionError):  # the client may have left
            answer(self, site.files.get(self.path, b""))

    def head(self, code: int, **headers: str | int) -> None:
        self.send_response(code)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), str(value))
        self.end_headers()

    @property
    def start(self) -> int:
        """Where the range that was asked for begins; 0 without one."""
        return int((self.headers.get("Range") or "bytes=0-")[6:-1])

    def log_message(self, *args) -> None:
        pass


class Site:
    """What is served under an address, and what was asked for."""

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self.answers: dict[str, list[Answer]] = {}
        self.asked: list[tuple[str, str | None]] = []
        self.closing = threading.Event()
        self.url = ""

    def starts(self, path: str) -> list[int]:
        """Where each request of a path began."""
        return [int((asked or "bytes=0-")[6:-1]) for name, asked in self.asked if name == path]


@contextlib.contextmanager
def serving() -> Iterator[Site]:
    """A site on loopback, as long as the block lasts."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.site = Site()
    server.site.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    try:
        yield server.site
    finally:
        server.site.closing.set()
        server.shutdown()
        server.server_close()


def ranges(handler: Handler, content: bytes, of: slice = slice(None), **headers: str) -> None:
    """What follows the place that was asked for, as a good server does; `of` cuts what is sent."""
    start, size = handler.start, len(content)
    code = 206 if handler.headers.get("Range") else 200
    if code == 206:
        headers["Content_Range"] = f"bytes {start}-{size - 1}/{size}"
    handler.head(code, Content_Length=size - start, ETag='"one"', **headers)
    handler.wfile.write(content[start:][of])


def well(handler: Handler, content: bytes) -> None:
    ranges(handler, content)


def half(handler: Handler, content: bytes) -> None:
    """Breaks off in the middle of what is left."""
    ranges(handler, content, slice((len(content) - handler.start + 1) // 2))


def nothing(handler: Handler, content: bytes) -> None:
    """Promises all of it and sends none."""
    ranges(handler, content, slice(0))


def ignores_ranges(handler: Handler, content: bytes) -> None:
    handler.head(200, Content_Length=len(content), ETag='"one"')
    handler.wfile.write(content)


def lies(handler: Handler, content: bytes) -> None:
    """Names the range that was asked for, and sends as many bytes from the beginning."""
    start, size = handler.start, len(content)
    where = f"bytes {start}-{size - 1}/{size}"
    handler.head(206, Content_Range=where, Content_Length=size - start, ETag='"one"')
    handler.wfile.write(content[: size - start])


def other_range(handler: Handler, content: bytes) -> None:
    """Sends another range than the one that was asked for, and says so."""
    size = len(content)
    handler.head(206, Content_Range=f"bytes 0-{size - 1}/{size}", Content_Length=size, ETag='"one"')
    handler.wfile.write(content)


def stalls(handler: Handler, content: bytes) -> None:
    """Sends half of what is left, and then nothing more."""
    half(handler, content)
    handler.wfile.flush()
    handler.server.site.closing.wait(60)


def trickles(handler: Handler, content: bytes) -> None:
    """Sends a byte at a time, for ever."""
    handler.head(200, Content_Length=len(content), ETag='"one"')
    for byte in content:
        handler.wfile.write(bytes([byte]))
        handler.wfile.flush()
        if handler.server.site.closing.wait(0.05):
            return


def web_page(handler: Handler, content: bytes) -> None:
    page = b"<html>Please sign in</html>"
    handler.head(200, Content_Type="text/html; charset=utf-8", Content_Length=len(page))
    handler.wfile.write(page)


def endless(handler: Handler, content: bytes) -> None:
    """Never says how much there is, and never ends."""
    handler.head(200)
    while not handler.server.site.closing.is_set():
        handler.wfile.write(content + bytes(2**16))


def moved(to: str) -> Answer:
    return lambda handler, content: handler.head(302, Location=to, Content_Length=0)


def says(code: int) -> Answer:
    return lambda handler, content: handler.head(code, Content_Length=0)
