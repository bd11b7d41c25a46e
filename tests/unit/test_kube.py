"""The commands' way to a cluster: as kubectl's, whatever proxies there are; and what goes wrong is a message."""

import http.server
import json
import os
import ssl
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import kr8s
import pytest
import yaml

from components.commands import kube, wait_for_gpus
from components.commands.kube import ClusterError, connect, explain, proxy_for
from toolchain.paths import CHECKOUT

DEAD = "http://127.0.0.1:9"  # the port for discarded data, where nothing listens
COMMANDS = {
    "wait_for_gpus": {"EXPECTED_GPUS": "{}", "WAIT_SECONDS": "1", "DRIVER_NAMESPACE": "d"},
    "mps_limits": {"NODES": '["worker"]', "WAIT_SECONDS": "1", "MPS_NAMESPACE": "m"},
}

DAEMON_SETS = {
    "name": "daemonsets",
    "singularName": "daemonset",
    "kind": "DaemonSet",
    "namespaced": True,
    "verbs": ["get"],
}
DISCOVERY: dict[str, dict[str, Any]] = {
    "/api": {"versions": ["v1"]},
    "/api/v1": {"resources": []},
    "/apis": {"groups": [{"name": "apps", "versions": [{"version": "v1", "groupVersion": "apps/v1"}]}]},
    "/apis/apps/v1": {"resources": [DAEMON_SETS]},
}


class Handler(http.server.BaseHTTPRequestHandler):
    """API server that knows its version, its namespaces and one token."""

    statuses: dict[str, int] = {}  # noqa: RUF012 - of one server class, made for each test

    def do_GET(self) -> None:
        path, status = self.path.partition("?")[0].rstrip("/"), 200
        if self.headers.get("Authorization", "Bearer good") != "Bearer good":
            status = 401
        status = self.statuses.get(path, status)
        answer: dict[str, Any] = {"gitVersion": "v1.37.2", "items": [], **DISCOVERY.get(path, {})}
        if status != 200:
            answer = {"kind": "Status", "message": f"{path} is forbidden: no" if status == 403 else "Unauthorized"}
        body = json.dumps(answer).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        pass


@pytest.fixture
def server() -> Iterator[str]:
    Handler.statuses = {}
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    yield f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture(autouse=True)
def no_proxies(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.lower().endswith("_proxy"):
            monkeypatch.delenv(name)
    # What `connect` sets in its own process is undone after a test.
    for name in ("NO_PROXY", "no_proxy"):
        monkeypatch.setenv(name, "x")
        monkeypatch.delenv(name)


def write(folder: Path, server: str, user: dict[str, Any] | None = None, **cluster: Any) -> str:
    content = {
        "contexts": [{"name": "lab", "context": {"cluster": "lab", "user": "me"}}],
        "clusters": [{"name": "lab", "cluster": {"server": server, **cluster}}],
        "users": [{"name": "me", "user": user or {"token": "good"}}],
    }
    path = folder / "config"
    path.write_text(yaml.safe_dump(content))
    return str(path)


def failure(path: str) -> str:
    with pytest.raises(ClusterError) as caught:
        connect(path, "lab")
    return str(caught.value)


CHECK = "`kubectl --kubeconfig {path} --context lab get --raw /readyz`"


@pytest.mark.parametrize("variable", ["HTTP_PROXY", "http_proxy", "ALL_PROXY", "HTTPS_PROXY"])
@pytest.mark.parametrize("proxy", [DEAD, "socks5://127.0.0.1:9", "proxy.example.com:3128"])
@pytest.mark.parametrize("rules", [None, "10.0.0.0/8,fd00::/8", "*.example.com"])
def test_this_machine_is_asked_directly_whatever_proxies_there_are(
    server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, variable: str, proxy: str, rules: str | None
):
    monkeypatch.setenv(variable, proxy)
    if rules:
        monkeypatch.setenv("NO_PROXY", rules)
    api = connect(write(tmp_path, server), "lab")
    assert api.version()["gitVersion"] == "v1.37.2"
    # What programs in Go go by is as it was.
    assert os.environ["NO_PROXY"] == (rules or "127.0.0.1")


def test_forbidden_is_told_as_such_where_proxies_are_set(server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    # kr8s connects anew after a refusal, and has to go the same way then.
    monkeypatch.setenv("HTTP_PROXY", DEAD)
    path = forbidden(tmp_path, server)
    with pytest.raises(kr8s.ServerError) as caught:
        list(connect(path, "lab").get("daemonsets.apps", namespace="d"))
    assert "(403)" in explain(caught.value, path, "lab")


def test_proxy_of_the_kubeconfig_is_used_and_named(server: str, tmp_path: Path):
    message = failure(write(tmp_path, server, **{"proxy-url": DEAD}))
    assert f": {DEAD} does not let it through (" in message and "NO_PROXY" in message


def test_proxy_of_the_environment_is_used_and_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("HTTPS_PROXY", DEAD)
    assert f": {DEAD} does not let it through (" in failure(write(tmp_path, "https://lab.example.com:6443"))


def test_proxy_that_cannot_be_spoken_to_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("HTTPS_PROXY", "socks5://10.0.0.1:1080")
    message = failure(write(tmp_path, "https://lab.example.com:6443"))
    assert message.startswith("socks5://10.0.0.1:1080: is the proxy of https://lab.example.com:6443, and only http")
    assert message.endswith("or the API server in NO_PROXY")


@pytest.mark.parametrize(
    ("server", "rules", "direct"),
    [
        *(("https://127.0.0.1:6443", "", True), ("https://localhost:6443", "", True), ("https://[::1]:6443", "", True)),
        *(("https://10.1.2.3:6443", "", False), ("https://10.1.2.3:6443", "10.0.0.0/8", True)),
        *(("https://10.1.2.3:6443", "nonsense/8, 10.1.2.3", True), ("https://10.1.2.3:6443", "10.1.2.3:443", False)),
        *(("https://10.1.2.3:6443", "10.1.2.3:6443", True), ("https://10.1.2.30:6443", "10.1.2.3", False)),
        *(("https://[fd00::5]:6443", "fd00::/8", True), ("https://[fd00::5]:6443", "fd00::5", True)),
        *(("https://[fd00::5]:6443", "[fd00::5]:6443", True), ("https://[fd00::5]:6443", "fd00::6", False)),
        *(
            ("https://a.lab.io", "lab.io", True),
            ("https://lab.io", "lab.io", True),
            ("https://lab.io", ".lab.io", False),
        ),
        *(("https://a.lab.io", ".lab.io", True), ("https://a.lab.io", "*.lab.io", True), ("https://lab.io", "*", True)),
        *(("https://collab.io", "lab.io", False), ("https://A.Lab.io", "LAB.IO", True)),
        *(("https://lab.io", "lab.io:443", True), ("https://lab.io:6443", "lab.io:443", False)),
        *(("http://10.1.2.3:8080", "", True),),  # HTTPS_PROXY is for https
    ],
)
def test_proxy_is_taken_by_the_rules_of_go(server: str, rules: str, direct: bool):
    environment = {"HTTPS_PROXY": "proxy.example.com:3128", "NO_PROXY": rules, "ALL_PROXY": DEAD}
    assert proxy_for(server, environment) == (None if direct else "http://proxy.example.com:3128")


def test_program_that_gets_credentials_is_told_of_the_cluster_and_its_own_proxies(
    server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("HTTPS_PROXY", DEAD)
    monkeypatch.setenv("NO_PROXY", "corp.example.com")
    program = tmp_path / "get-token"
    program.write_text(
        f'#!/bin/sh\necho "$KUBERNETES_EXEC_INFO" >{tmp_path}/info\necho "$NO_PROXY $no_proxy" >{tmp_path}/proxies\n'
        'echo \'{"status": {"token": "good"}}\'\n'
    )
    program.chmod(0o755)
    (tmp_path / "ca.crt").write_text("certificate")
    api_version = "client.authentication.k8s.io/v1"
    user = {"exec": {"apiVersion": api_version, "command": "./get-token", "provideClusterInfo": True}}
    connect(write(tmp_path, server, user), "lab")
    told = json.loads((tmp_path / "info").read_text())
    cluster = {"server": server}
    assert told == {
        "kind": "ExecCredential",
        "apiVersion": api_version,
        "spec": {"interactive": False, "cluster": cluster},
    }
    assert (tmp_path / "proxies").read_text() == "corp.example.com corp.example.com\n"


def test_token_of_a_file_is_used(server: str, tmp_path: Path):
    (tmp_path / "token").write_text("good\n")
    assert connect(write(tmp_path, server, {"tokenFile": "token"}), "lab")


def no_file(folder: Path, server: str) -> str:
    return str(folder / "nothing")


def no_yaml(folder: Path, server: str) -> str:
    (folder / "config").write_text("{\n")
    return str(folder / "config")


def no_certificate(folder: Path, server: str) -> str:
    return write(folder, server, **{"certificate-authority": "gone.crt"})


def no_program(folder: Path, server: str) -> str:
    program = {"apiVersion": "client.authentication.k8s.io/v1", "command": "no-such-program-here"}
    return write(folder, server, {"exec": program})


def no_listener(folder: Path, server: str) -> str:
    return write(folder, "http://127.0.0.1:9")


def no_tls(folder: Path, server: str) -> str:
    return write(folder, server.replace("http:", "https:"))


def dead_proxy(folder: Path, server: str) -> str:
    return write(folder, server, **{"proxy-url": DEAD})


def wrong_token(folder: Path, server: str) -> str:
    return write(folder, server, {"token": "bad"})


def forbidden(folder: Path, server: str) -> str:
    Handler.statuses = {"/apis/apps/v1/namespaces/d/daemonsets": 403}
    return write(folder, server)


def password(folder: Path, server: str) -> str:
    return write(folder, server, {"username": "me", "password": "secret"})


@pytest.mark.parametrize(
    ("world", "rule", "remedy"),
    [
        (
            no_file,
            "nothing: cannot be used as a kubeconfig (FileNotFoundError: ",
            "check it with `kubectl config view`",
        ),
        (no_yaml, "config: cannot be used as a kubeconfig (ParserError: ", "check it with `kubectl config view`"),
        (no_certificate, "gone.crt as certificate-authority of context lab, which is not there", "put it there"),
        (no_program, "no-such-program-here is not there, and is needed", "install it"),
        (no_listener, "no API server answers (", "is the cluster up? try"),
        (no_tls, "TLS fails (", "let its certificate-authority be the cluster's"),
        (dead_proxy, f"{DEAD} does not let it through (", "name the API server's address or range in NO_PROXY"),
        (wrong_token, "Unauthorized (401); the cluster does not know this user", "renew the credentials"),
        (forbidden, "is forbidden: no (403); this user may not do that", "use credentials that may"),
        (password, "username/password authentication was removed", "try `kubectl"),
    ],
)
def test_command_that_cannot_use_its_cluster_ends_with_one_message(
    server: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    world: Any,
    rule: str,
    remedy: str,
):
    path = world(tmp_path, server)
    for name, value in {"KUBECONFIG": path, "KUBE_CONTEXT": "lab", **COMMANDS["wait_for_gpus"]}.items():
        monkeypatch.setenv(name, value)
    assert kube.reported(wait_for_gpus.main) == 1
    printed = capsys.readouterr()
    assert printed.out == "" and len(printed.err.splitlines()) == 1
    assert rule in printed.err and remedy in printed.err and path in printed.err


@pytest.mark.parametrize("command", COMMANDS)
def test_program_prints_no_traceback(tmp_path: Path, command: str):
    env = {**os.environ, "KUBECONFIG": str(tmp_path / "nothing"), "KUBE_CONTEXT": "lab", **COMMANDS[command]}
    program = [sys.executable, "-m", f"components.commands.{command}"]
    done = subprocess.run(program, cwd=CHECKOUT, env=env, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (1, "")
    assert "Traceback" not in done.stderr and "cannot be used as a kubeconfig" in done.stderr


def test_context_that_is_not_there_is_told(server: str, tmp_path: Path):
    path = write(tmp_path, server)
    with pytest.raises(ClusterError, match=r"has no context home, but lab"):
        connect(path, "home")


def test_error_of_tls_is_found_below_those_that_wrap_it():
    error = httpx.ConnectError("all attempts failed")
    error.__cause__ = ssl.SSLCertVerificationError("unable to get local issuer certificate")
    assert "TLS fails (" in explain(error, "/config", "lab") and "unable to get local issuer" in explain(
        error, "/config", "lab"
    )


def test_whatever_a_command_raises_is_one_message(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("KUBECONFIG", "/config")
    monkeypatch.setenv("KUBE_CONTEXT", "lab")

    def main() -> int:
        raise KeyError("status")

    assert kube.reported(main) == 1
    assert capsys.readouterr().err == (
        f"context lab of /config: cannot be used (KeyError: 'status'); try {CHECK.format(path='/config')}\n"
    )


def test_interrupted_command_is_no_error_of_the_cluster():
    def main() -> int:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        kube.reported(main)


@pytest.mark.parametrize("when", ["at first", "later"])
def test_server_that_takes_a_request_and_says_nothing_is_not_waited_for(
    when: str, server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    answered = threading.Event()
    path = write(tmp_path, server)
    api = connect(path, "lab", 0.3) if when == "later" else None

    def do_get(handler: Handler) -> None:
        answered.wait(20)

    monkeypatch.setattr(Handler, "do_GET", do_get)
    try:
        with pytest.raises((ClusterError, kr8s.APITimeoutError, httpx.TimeoutException)) as caught:
            list(api.get("namespaces")) if api else connect(path, "lab", 0.3)
    finally:
        answered.set()
    message = str(caught.value) if api is None else explain(caught.value, path, "lab")
    assert "the API server does not answer in time; is the cluster up? try `kubectl" in message
