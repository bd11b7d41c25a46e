"""HTTP server laid out like upstream's sites, one folder for each host, and the ways in which such a server fails."""

import hashlib
import http.server
import io
import socket
import struct
import tarfile
import threading
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from toolchain import source, versions
from toolchain.paths import BIN, PULUMI_HOME

HEADER = "application/octet-stream"


@dataclass
class Request:
    """Request with what an answer is made of."""

    handler: http.server.BaseHTTPRequestHandler
    over: threading.Event

    def head(self, status: int, length: int | None, kind: str = HEADER, **headers: str) -> None:
        self.handler.send_response(status)
        self.handler.send_header("Content-Type", kind)
        for name, value in headers.items():
            self.handler.send_header(name, value)
        if length is not None:
            self.handler.send_header("Content-Length", str(length))
        self.handler.end_headers()

    def body(self, content: bytes) -> None:
        if self.handler.command != "HEAD":
            self.handler.wfile.write(content)
            self.handler.wfile.flush()


Answer = Callable[[Request], None]


def good(content: bytes, kind: str = HEADER) -> Answer:
    def answer(request: Request) -> None:
        request.head(200, len(content), kind)
        request.body(content)

    return answer


def page(request: Request) -> None:
    """A log-in page, or a proxy's refusal, with status 200."""
    content = b"<!DOCTYPE html><html><title>Please log in</title></html>"
    request.head(200, len(content), "text/html; charset=utf-8")
    request.body(content)


def status(code: int) -> Answer:
    def answer(request: Request) -> None:
        content = f"<html>{code}</html>".encode()
        request.head(code, len(content), "text/html")
        request.body(content)

    return answer


def redirect(path: str) -> Answer:
    return lambda request: request.head(302, 0, Location=path)


def truncated(content: bytes) -> Answer:
    """Ends half-way, in order."""

    def answer(request: Request) -> None:
        request.head(200, len(content))
        request.body(content[: len(content) // 2])

    return answer


def dies(content: bytes) -> Answer:
    """Resets the connection half-way, as a server that is killed."""

    def answer(request: Request) -> None:
        request.head(200, len(content))
        request.body(content[: len(content) // 2])
        request.handler.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        request.handler.connection.close()

    return answer


def stalls(content: bytes) -> Answer:
    """Sends half and then nothing, with the connection open."""

    def answer(request: Request) -> None:
        request.head(200, len(content))
        request.body(content[: len(content) // 2])
        request.over.wait()

    return answer


def drips(request: Request) -> None:
    """Sends a byte now and then, so that no read ever times out."""
    request.head(200, 1 << 30)
    while not request.over.wait(0.02):
        request.body(b"x")


@dataclass
class Upstream:
    """Server of answers by path; a list of answers is given one after the other, the last one from then on."""

    answers: dict[str, Answer | list[Answer]] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)

    def __enter__(self) -> "Upstream":
        self.over = threading.Event()
        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self.server.daemon_threads = True
        threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.over.set()
        self.server.shutdown()
        self.server.server_close()

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server.server_address[1]}"

    def serve(self, files: Mapping[str, bytes]) -> None:
        self.answers |= {path: good(content) for path, content in files.items()}

    def _answer(self, path: str) -> Answer:
        answer = self.answers.get(path, status(404))
        if isinstance(answer, list):
            return answer.pop(0) if len(answer) > 1 else answer[0]
        return answer

    def _handler(upstream) -> type[http.server.BaseHTTPRequestHandler]:
        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                upstream.asked.append(f"{self.command} {self.path}")
                # The client may be gone before the answer is.
                with suppress(OSError, ValueError):
                    upstream._answer(self.path)(Request(self, upstream.over))

            do_HEAD = do_GET

            def log_message(self, format: str, *args: object) -> None:
                """Say nothing."""

        return Handler


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def archive(members: Mapping[str, bytes | Path]) -> bytes:
    """tar.gz of executables."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w:gz", compresslevel=1) as tar:
        for name, content in members.items():
            data = content.read_bytes() if isinstance(content, Path) else content
            info = tarfile.TarInfo(name)
            info.size, info.mode = len(data), 0o755
            tar.addfile(info, io.BytesIO(data))
    return out.getvalue()


PULUMI = "/get.pulumi.com/releases/sdk"
KIND = f"/kind.sigs.k8s.io/dl/v{versions.KIND}/kind-linux-amd64"
KIND_RELEASE = f"/github.com/kubernetes-sigs/kind/releases/download/v{versions.KIND}/kind-linux-amd64"
KUBECTL = f"/dl.k8s.io/release/v{versions.KUBERNETES}/bin/linux/amd64/kubectl"


def plugin_path(name: str, version: str) -> str:
    file = f"pulumi-resource-{name}-v{version}-linux-amd64.tar.gz"
    return f"/github.com/pulumi/pulumi-{name}/releases/download/v{version}/{file}"


def releases(
    pulumi: Mapping[str, bytes | Path], kind: bytes, kubectl: bytes, plugins: Mapping[tuple[str, str], bytes | Path]
) -> Upstream:
    """Server with everything that the stock way downloads, laid out and listed as upstream does."""
    cli = archive({f"pulumi/{name}": content for name, content in pulumi.items()})
    name = f"pulumi-v{versions.PULUMI}-linux-x64.tar.gz"
    lists = f"{'0' * 64}  pulumi-v{versions.PULUMI}-darwin-x64.tar.gz\n{sha256(cli)}  {name}\n"
    made = Upstream()
    made.serve(
        {
            f"{PULUMI}/{name}": cli,
            f"{PULUMI}/pulumi-{versions.PULUMI}-checksums.txt": lists.encode(),
            KIND_RELEASE: kind,
            f"{KIND_RELEASE}.sha256sum": f"{sha256(kind)}  kind-linux-amd64\n".encode(),
            KUBECTL: kubectl,
            f"{KUBECTL}.sha256": sha256(kubectl).encode(),
        }
    )
    made.answers |= {f"{KIND}{ending}": redirect(f"{KIND_RELEASE}{ending}") for ending in ("", ".sha256sum")}
    for (plugin, version), binary in plugins.items():
        content, path = archive({f"pulumi-resource-{plugin}": binary, "LICENSE": b"text"}), plugin_path(plugin, version)
        folder, _, file = path.rpartition("/")
        made.serve(
            {
                path: content,
                f"{folder}/pulumi-{plugin}_{version}_checksums.txt": f"{sha256(content)}  {file}\n".encode(),
            }
        )
    return made


def of_this_checkout() -> Upstream:
    """Upstream's layout with what this checkout's set-up made or found; skips the test where it has not."""
    programs = {name: BIN / name for name in (*source.PULUMI_PROGRAMS, "kind", "kubectl")}
    plugins = {
        (name, version): PULUMI_HOME / "plugins" / f"resource-{name}-v{version}" / f"pulumi-resource-{name}"
        for name, version in source.PLUGINS
    }
    if lacking := [str(path) for path in (*programs.values(), *plugins.values()) if not path.exists()]:
        pytest.skip(f"set-up has not made {', '.join(lacking)}")
    pulumi = {name: programs[name] for name in source.PULUMI_PROGRAMS}
    return releases(pulumi, programs["kind"].read_bytes(), programs["kubectl"].read_bytes(), plugins)
