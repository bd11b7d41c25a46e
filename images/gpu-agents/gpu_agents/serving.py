"""What both programs do alike: end on a signal, and answer HTTP."""

import os
import signal
from collections.abc import Callable, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import NamedTuple

REQUEST_SECONDS = 10


class Answer(NamedTuple):
    """An HTTP answer."""

    status: int
    text: bytes
    content_type: str = "text/plain; charset=utf-8"


def end_on_signals() -> None:
    """From here on SIGTERM and SIGINT end the process at once with 0: it holds nothing that has to be handed back."""
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: os._exit(0))


def serve(port: int, routes: Mapping[str, Callable[[], Answer]]) -> int:
    """Answers GET on the routes' paths, in threads of its own; returns the port, which is another one for 0."""

    class Handler(BaseHTTPRequestHandler):
        timeout = REQUEST_SECONDS

        def do_GET(self) -> None:
            route = routes.get(self.path.partition("?")[0])
            answer = route() if route else Answer(404, f"not one of {', '.join(sorted(routes))}\n".encode())
            self.send_response(answer.status)
            self.send_header("Content-Type", answer.content_type)
            self.send_header("Content-Length", str(len(answer.text)))
            self.end_headers()
            self.wfile.write(answer.text)

        def log_message(self, format: str, *args: object) -> None:
            """Probes and scrapes come every few seconds: nothing to tell."""

    server = ThreadingHTTPServer(("", port), Handler)
    Thread(target=server.serve_forever, name="http", daemon=True).start()
    return server.server_port
