"""Whether the API server of a stack's Kind cluster answers, asked of a server that is not Kubernetes'."""

import base64
import re
import socket
import ssl
import subprocess
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import yaml

from machine import kind_api, prerequisites
from machine.findings import Finding
from tests.unit.test_prerequisites import (  # noqa: F401 (fixtures)
    CLUSTER,
    IMAGES,
    Machine,
    Proved,
    create_by_this_checkout,
    failed,
    inotify,
    machine,
    on_kind,
    stack,
)

SECONDS = 30


@dataclass
class Server:
    """Answers to `/readyz`: the next of `answers`, the last of them again and again."""

    kubeconfig: Path
    answers: list[tuple[int, str]] = field(default_factory=lambda: [(200, "ok")])
    asked: list[str] = field(default_factory=list)

    def write_kubeconfig(self, port: int, authority: bytes) -> None:
        data = base64.b64encode(authority).decode()
        cluster = {"server": f"https://127.0.0.1:{port}", "certificate-authority-data": data}
        self.kubeconfig.write_text(yaml.safe_dump({"clusters": [{"name": "a", "cluster": cluster}]}))

    def silent(self, seconds: float = SECONDS) -> Finding | None:
        return kind_api.silent(CLUSTER, self.kubeconfig, seconds)


@pytest.fixture(scope="module")
def key_and_certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("tls") / "both.pem"
    subject = ["-subj", "/CN=kubernetes", "-addext", "subjectAltName=IP:127.0.0.1"]
    made = ["-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-keyout", str(file), "-out", f"{file}.crt"]
    subprocess.run(["openssl", "req", *made, *subject], capture_output=True, check=True)
    file.write_text(file.read_text() + Path(f"{file}.crt").read_text())
    return file


@pytest.fixture
def server(tmp_path: Path, key_and_certificate: Path) -> Iterator[Server]:
    served = Server(tmp_path / "kubeconfig")

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            status, text = served.answers[0] if len(served.answers) == 1 else served.answers.pop(0)
            served.asked.append(self.path)
            self.send_response(status)
            self.end_headers()
            self.wfile.write(text.encode())

        def log_message(self, format: str, *args: Any) -> None:
            """Nothing: the test's output is not the server's."""

    http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(key_and_certificate)
    http.socket = context.wrap_socket(http.socket, server_side=True)
    thread = threading.Thread(target=http.serve_forever, daemon=True)
    thread.start()
    served.write_kubeconfig(http.server_port, Path(f"{key_and_certificate}.crt").read_bytes())
    yield served
    http.shutdown()
    http.server_close()
    thread.join()


@pytest.mark.parametrize("status", [200, 401, 403])
def test_server_that_answers_is_not_silent_whatever_it_lets_anybody_see(server: Server, status: int):
    server.answers = [(status, "")]
    assert server.silent() is None and server.asked == ["/readyz"]


def test_server_that_starts_is_waited_for(server: Server):
    server.answers = [(500, "[+]ping ok\n[-]poststarthook/rbac/bootstrap-roles failed: reason withheld\n"), (200, "ok")]
    assert server.silent() is None and len(server.asked) == 2


def test_server_that_is_not_ready_says_what_failed(server: Server):
    server.answers = [(500, "[+]ping ok\n[-]etcd failed: reason withheld\nreadyz check failed\n")]
    finding = server.silent(0)
    assert finding and not finding.ok
    seen = "its nodes run, and its API server does not answer ([-]etcd failed: reason withheld)"
    assert finding.observed == f"{CLUSTER}: {seen}"
    assert f"`docker restart {CLUSTER}-control-plane`" in finding.remedy and "`make down`" in finding.remedy


def test_server_without_words_has_its_status(server: Server):
    server.answers = [(503, "")]
    finding = server.silent(0)
    assert finding and "(status 503)" in finding.observed


def test_port_behind_which_nobody_is_is_silent(server: Server, key_and_certificate: Path):
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        port = unused.getsockname()[1]
    server.write_kubeconfig(port, Path(f"{key_and_certificate}.crt").read_bytes())
    finding = server.silent(0)
    assert finding and "Connection refused" in finding.observed


def test_port_that_closes_each_connection_is_silent(server: Server, key_and_certificate: Path):
    # As Docker's proxy does for a container in which nothing listens.
    with socket.create_server(("127.0.0.1", 0)) as listening:
        server.write_kubeconfig(listening.getsockname()[1], Path(f"{key_and_certificate}.crt").read_bytes())
        closer = threading.Thread(target=lambda: listening.accept()[0].close())
        closer.start()
        finding = server.silent(0)
        closer.join()
    assert finding and re.search(r"does not answer \((it closes connections|.*reset by peer.*)\)", finding.observed)


@pytest.mark.parametrize("text", ["", "clusters: []\n", "clusters: [{cluster: {server: x}}]\n", "a: [\n"])
def test_kubeconfig_that_tells_nothing_is_no_finding(server: Server, text: str):
    server.kubeconfig.write_text(text)
    assert server.silent(0) is None


def test_kubeconfig_that_is_not_there_is_no_finding(tmp_path: Path):
    assert kind_api.silent(CLUSTER, tmp_path / "none", 0) is None


SILENT = Finding("cluster", f"{CLUSTER}: its nodes run, and its API server does not answer (x)", False, "restart it")


def test_running_cluster_that_does_not_answer_stops_an_update(
    machine: Machine,  # noqa: F811
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
):
    monkeypatch.setattr(kind_api, "silent", lambda *_: SILENT)
    assert failed(on_kind()) == [], "there is no cluster yet"
    create_by_this_checkout(machine, tmp_path / ".state" / "test")
    assert failed(on_kind()) == [SILENT]


def test_cluster_that_proves_the_rest_has_to_answer_all_the_same(stack: Proved, monkeypatch: pytest.MonkeyPatch):  # noqa: F811
    stack.looked(on_kind())
    monkeypatch.setattr(kind_api, "silent", lambda *_: SILENT)
    with pytest.raises(prerequisites.PrerequisiteError, match="its API server does not answer"):
        prerequisites.require(on_kind(), IMAGES)
