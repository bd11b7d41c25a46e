"""A simulated driver, a kubelet, an API server and an MPS daemon for the programs to ask, and the programs."""

import json
import os
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from queue import Empty, Queue
from threading import Event, Thread
from typing import Any

import grpc
import pytest
import yaml
from gpu_agents.pods import CLASSES, LIST

from gpus.models import render_node_config
from tests.unit.gpu_sim.conftest import nvml_include
from tests.unit.gpu_sim.driver_root import LIBRARIES, MODELS, SOURCE, Build, Root, write_root
from toolchain.paths import CHECKOUT

__all__ = ["nvml_include"]

PACKAGES = CHECKOUT / "images" / "gpu-agents"
PATIENCE = 120  # seconds; a bound, not an expectation: other tests keep every core busy


@pytest.fixture(scope="session")
def driver_build(tmp_path_factory: pytest.TempPathFactory, nvml_include: Path) -> Build:
    """The simulated driver, compiled as its image has it."""
    out = tmp_path_factory.mktemp("gpu-sim-plain")
    command = ["make", "-s", "-j2", "-f", SOURCE / "Makefile", f"OUT={out}", f"NVML_INCLUDE={nvml_include}", "all"]
    subprocess.run(command, check=True, env={**os.environ, "PYTHONDONTWRITEBYTECODE": "1"})
    return Build(out, "")


@pytest.fixture
def root(driver_build: Build, tmp_path: Path) -> Root:
    """A driver root with two H100s."""
    return write_root(driver_build, tmp_path / "root", render_node_config("node", MODELS["h100-80gb"], 2), 2)


@dataclass
class Kubelet:
    """A pod-resources server on a socket whose path is short enough for one."""

    socket: Path
    pods: list[dict[str, Any]] = field(default_factory=list)

    def has(self, *pods: dict[str, Any]) -> None:
        self.pods = list(pods)


def pod(name: str, claim: str, *devices: str, driver: str = "gpu.nvidia.com", container: str = "main") -> dict:
    """A pod with one container that has those devices by one claim, as the kubelet tells it."""
    results = [{"driver_name": driver, "pool_name": "node", "device_name": device} for device in devices]
    claims = [{"claim_name": claim, "claim_namespace": "team", "claim_resources": results}]
    return {"name": name, "namespace": "team", "containers": [{"name": container, "dynamic_resources": claims}]}


@pytest.fixture
def kubelet() -> Iterator[Kubelet]:
    with tempfile.TemporaryDirectory(prefix="kubelet", dir="/tmp") as folder:
        kubelet = Kubelet(Path(folder) / "s")

        def answer(request: Any, context: grpc.ServicerContext) -> Any:
            return CLASSES["ListPodResourcesResponse"](pod_resources=kubelet.pods)

        handler = grpc.unary_unary_rpc_method_handler(
            answer,
            request_deserializer=CLASSES["ListPodResourcesRequest"].FromString,
            response_serializer=CLASSES["ListPodResourcesResponse"].SerializeToString,
        )
        service, _, method = LIST.removeprefix("/").partition("/")
        server = grpc.server(ThreadPoolExecutor(2))
        server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(service, {method: handler}),))
        server.add_insecure_port(f"unix://{kubelet.socket}")
        server.start()
        yield kubelet
        server.stop(None)


class ApiServer:
    """Objects by path, and watches that send what is put into `events`. `asked` is what came, in order.

    What is created is in its list from then on, so that its name is taken.
    """

    def __init__(self) -> None:
        self.objects: dict[str, Any] = {"/version": {"gitVersion": "v1.37.2"}}
        self.refused: dict[str, int] = {}
        self.refused_methods: tuple[str, ...] = ("GET", "POST")
        self.asked: list[str] = []
        self.created: Queue[dict[str, Any]] = Queue()
        self.events: Queue[dict[str, Any] | None] = Queue()
        self.pod_events: Queue[dict[str, Any] | None] = Queue()
        self.logs: dict[str, Queue[str | None]] = {}
        """Lines of pods' logs, by their paths; None ends one."""
        self.log_queries: list[str] = []
        self.answers_posts = Event()
        """Unset, it keeps whoever creates an object waiting."""
        self.answers_posts.set()
        api = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                path, _, query = self.path.partition("?")
                path = path.rstrip("/")
                api.asked.append(f"GET {path}")
                if "watch=true" in query:
                    self.watch(api.pod_events if path.endswith("/pods") else api.events)
                elif path in api.logs:
                    api.log_queries.append(query)
                    self.stream(api.logs[path])
                elif path in api.refused and "GET" in api.refused_methods:
                    self.answer(api.refused[path], {"message": f"{path} is refused"})
                elif path in api.objects:
                    self.answer(200, api.objects[path])
                else:
                    self.answer(404, {"message": f"{path} not found"})

            def do_POST(self) -> None:
                api.asked.append(f"POST {self.path}")
                document = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                name = document["metadata"]["name"]
                api.answers_posts.wait(PATIENCE)
                if self.path in api.refused and "POST" in api.refused_methods:
                    self.answer(api.refused[self.path], {"message": "refused"})
                elif name in api.names(self.path):
                    self.answer(409, {"message": f"{name} already exists"})
                else:
                    api.objects[self.path]["items"].append(document)
                    api.created.put(document)
                    self.answer(201, document)

            def answer(self, status: int, document: Any) -> None:
                text = json.dumps(document).encode()
                self.send_response(status)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(text)))
                self.end_headers()
                self.wfile.write(text)

            def watch(self, events: "Queue[dict[str, Any] | None]") -> None:
                self.send_response(200)
                self.end_headers()
                while event := events.get():
                    self.wfile.write(json.dumps(event).encode() + b"\n")
                    self.wfile.flush()

            def stream(self, lines: "Queue[str | None]") -> None:
                self.send_response(200)
                self.end_headers()
                while line := lines.get():
                    self.wfile.write(line.encode() + b"\n")
                    self.wfile.flush()

            def log_message(self, format: str, *args: object) -> None:
                """Nothing: `asked` tells."""

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        Thread(target=self.server.serve_forever, daemon=True).start()

    def names(self, path: str) -> list[str]:
        """The names of the objects in a list."""
        return [item["metadata"]["name"] for item in self.objects[path]["items"]]

    def kubeconfig(self, folder: Path) -> Path:
        cluster = {"name": "c", "cluster": {"server": f"http://127.0.0.1:{self.server.server_port}"}}
        context = {"name": "c", "context": {"cluster": "c", "user": "u"}}
        user = {"name": "u", "user": {"token": "t"}}
        config = {"apiVersion": "v1", "kind": "Config", "current-context": "c"}
        file = folder / "kubeconfig"
        file.write_text(yaml.safe_dump({**config, "clusters": [cluster], "contexts": [context], "users": [user]}))
        return file


@pytest.fixture
def api_server() -> Iterator[ApiServer]:
    api = ApiServer()
    yield api
    api.answers_posts.set()
    for queue in (api.events, api.pod_events, *api.logs.values()):
        queue.put(None)
    api.server.shutdown()
    api.server.server_close()


@dataclass
class Program:
    """A running program; its lines on standard error come as dicts."""

    process: subprocess.Popen[str]
    lines: "Queue[dict[str, Any]]"
    port: int = 0

    def line(self, message: str) -> dict[str, Any]:
        """The next line with this message; those before it are dropped."""
        while True:
            try:
                line = self.lines.get(timeout=PATIENCE)
            except Empty:
                pytest.fail(f"{message!r} was not logged within {PATIENCE} s")
            if line["message"] == message:
                return line

    def logged(self) -> list[dict[str, Any]]:
        """What it has logged and nobody has looked at yet."""
        return [self.lines.get_nowait() for _ in range(self.lines.qsize())]

    def get(self, path: str) -> tuple[int, str]:
        """(status, text)"""
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.port}{path}", timeout=PATIENCE) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            return error.code, error.read().decode()

    def wait_ready(self) -> None:
        """Until /readyz says ok. A program tells in its log what makes it ready, and is so a moment later."""
        deadline = time.monotonic() + PATIENCE
        while (answer := self.get("/readyz")) != (200, "ok\n"):
            assert time.monotonic() < deadline, f"/readyz answers {answer}"
            time.sleep(0.02)  # between two looks at a condition that is bounded above

    def end(self) -> None:
        self.process.terminate()
        assert self.process.wait(PATIENCE) == 0


@pytest.fixture
def run(root: Root, tmp_path: Path) -> Iterator[Callable[..., Program]]:
    """Starts `python -m gpu_agents.<module>` with the simulated driver and waits until it serves."""
    programs: list[Program] = []

    def start(module: str, *arguments: str, **environment: str) -> Program:
        env = {
            "PATH": os.environ["PATH"],
            "HOME": str(tmp_path),
            "PYTHONPATH": str(PACKAGES),
            "PYTHONDONTWRITEBYTECODE": "1",
            "GRPC_VERBOSITY": "NONE",
            "LD_LIBRARY_PATH": str(root.path / LIBRARIES),
            "NODE_NAME": "node",
            **environment,
        }
        command = [sys.executable, "-m", f"gpu_agents.{module}", "--port", "0", *arguments]
        process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=env)
        program = Program(process, Queue())
        programs.append(program)
        assert process.stderr
        Thread(target=_read, args=(process.stderr, program.lines), daemon=True).start()
        program.port = program.line("serving")["port"]
        return program

    yield start
    for program in programs:
        if program.process.poll() is None:
            program.end()


def _read(stream: Any, lines: "Queue[dict[str, Any]]") -> None:
    for line in stream:
        lines.put(json.loads(line))


@pytest.fixture
def fake_control(tmp_path: Path) -> Callable[[str], str]:
    """A folder for PATH with an nvidia-cuda-mps-control that runs a shell script on the commands in $commands."""

    def make(script: str) -> str:
        folder = tmp_path / "control"
        folder.mkdir(exist_ok=True)
        program = folder / "nvidia-cuda-mps-control"
        program.write_text(f"#!/bin/sh\ncommands=$(cat)\n{script}\n")
        program.chmod(0o755)
        return f"{folder}:{os.environ['PATH']}"

    return make
