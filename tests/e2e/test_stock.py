"""The stock way on a machine without the internet: tools by a mirror, images by a registry, filled by source built.

`make` runs as a person would run it, in a copy of the checkout with tools and a store of its own. What upstream serves
is shaped as upstream's: `upstream_images.py` says how far.
"""

import json
import os
import re
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from checks.live import LiveStack, wait_for
from machine import kind
from tests.e2e import upstream_images
from tests.e2e.newer_engine import newer_engine
from tests.e2e.workspace import TRACEBACKS, Workspace
from toolchain import golang, plan, source, versions
from toolchain.paths import CHECKOUT, store_root
from toolchain.steps import Store

STACK = "stock"
CLUSTER = f"dra-workshop-{STACK}"
MAKE_SECONDS = 900
RESTART_SECONDS = 180
MODULES_OF_PHASE1 = '  dra-workshop:modules: ["00", "01", "02", "03", "04", "05"]'
# The stack phase1 but for its worker: other tests' clusters are up meanwhile, and all share the machine's memory,
# processors and inotify instances. Modules 04 and 05 take four minutes more, which the slow tests do.
ONE_NODE = "  dra-workshop:cluster: {workers: 0}"
FIRST_MODULES = "00 01 02 03"
ALL_MODULES = "00 01 02 03 04 05"
# What both ways make alike is not made again: the test is about what comes from upstream.
OURS = ("gpu-sim", "gpu-probe", "mps-daemon", "dra-driver-chart", "c-compiler")


@dataclass(frozen=True)
class Site:
    """A checkout whose shell names a mirror and a registry, and no way to anything else of upstream's."""

    workspace: Workspace
    served: upstream_images.Served
    shell: dict[str, str]
    modules: str
    """Those whose checks are run."""

    def make(self, *words: str, fails: bool = False) -> str:
        """Run `make` as a person would; returns what it printed, without colours."""
        done = subprocess.run(
            ["make", "--no-print-directory", *words, f"STACK={STACK}"],
            cwd=self.workspace.root,
            env={**os.environ, **self.shell},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=MAKE_SECONDS,
            check=False,
        )
        assert (done.returncode != 0) == fails, f"make {' '.join(words)} ended with {done.returncode}:\n{done.stdout}"
        assert not [words for words in TRACEBACKS if words in done.stdout], done.stdout
        return done.stdout

    @property
    def images(self) -> dict[str, str]:
        return json.loads((self.workspace.root / ".tools" / "images.json").read_text())


# The second has containerd's image store, as a new Docker Engine and Docker Desktop have, and all modules.
ENGINES = ("this machine's", pytest.param("containerd's image store", marks=pytest.mark.slow))


@pytest.fixture(scope="module", params=ENGINES)
def engine(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Address of the engine that docker and kind talk to, in the tests' own calls too; empty for this machine's."""
    if request.param == ENGINES[0]:
        yield ""
        return
    with newer_engine(tmp_path_factory.mktemp("engine")) as address, pytest.MonkeyPatch.context() as shell:
        shell.setenv("DOCKER_HOST", address)
        yield address


@pytest.fixture(scope="module")
def site(engine: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    folder = tmp_path_factory.mktemp(STACK)
    with upstream_images.served(folder) as served:
        workspace = Workspace.copy(CHECKOUT, folder / "checkout")
        (workspace.root / ".tools").unlink()
        phase1 = (CHECKOUT / "stacks" / "Pulumi.phase1.yaml").read_text()
        assert phase1.count(f"\n{MODULES_OF_PHASE1}\n") == 1, phase1
        workspace.write_stack(STACK, phase1.replace(MODULES_OF_PHASE1, f"{MODULES_OF_PHASE1}\n{ONE_NODE}"))
        own, store = folder / "store", Store(store_root())
        own.mkdir()
        steps = plan.stock(golang.find(store)).steps
        for step in {*steps, *(needed for each in steps for needed in each.needs)}:
            if step.name.startswith(OURS) and store.has(step):
                (own / store.path(step).name).symlink_to(store.path(step))
        # Without this checkout's tools.
        path = [entry for entry in os.environ["PATH"].split(os.pathsep) if not Path(entry).is_relative_to(CHECKOUT)]
        shell = {**served.shell, "DRA_WORKSHOP_CACHE": str(own), "PATH": os.pathsep.join(path)}
        made = Site(workspace, served, shell, ALL_MODULES if engine else FIRST_MODULES)
        try:
            yield made
        finally:
            if (workspace.root / ".state" / ".pulumi").exists():
                workspace.take_down(STACK)
            served.remove(made.images["gpu-agents"])


def test_set_up_takes_everything_from_the_mirror_and_the_registry(site: Site) -> None:
    printed = site.make("setup", "WITH=all")
    print(printed)
    assert "source: stock, because SOURCE=stock asks for it" in printed
    plugins = [f"pulumi-resource-{name}-v" for name, _ in source.PLUGINS]
    for name in ("pulumi-v", "kind-linux-amd64", "kubectl", *plugins):
        assert re.search(rf"^ *{name}\S*: [\d.]+ MB, ", printed, re.M), name
    named = dict(site.served.references)
    del named["python"]  # which is below the image of the agents
    assert {name: site.images[name] for name in named} == named
    assert site.images["gpu-agents"].startswith("localhost/dra-workshop/gpu-agents:v1-")
    asked = list(site.served.upstream.asked)
    assert "setup: everything is there" in site.make("setup")
    assert site.served.upstream.asked == asked


def test_stack_comes_up_and_passes_its_checks(site: Site) -> None:
    print(site.make("up"))
    printed = site.make("verify", f"MODULE={site.modules}")
    print(printed)
    checks = json.loads((site.workspace.root / "results" / STACK / "verify.json").read_text())["checks"]
    assert {check["module"] for check in checks} == set(site.modules.split())
    assert {check["result"] for check in checks} <= {"passed", "skipped"}


def test_nodes_are_kinds_own_and_the_driver_has_no_shell_but_bash(site: Site) -> None:
    live = LiveStack.find(site.workspace.root, STACK)
    for node in kind.node_containers(CLUSTER):
        assert live.in_node(node, "cat", "/usr/local/bin/entrypoint").count("KIND_EXPERIMENTAL_CONTAINERD_SNAPSHOTTER")
        assert live.in_node(node, "cat", "/kind/version") == f"v{versions.KUBERNETES}"
    plugin = (
        "exec",
        "-n",
        "dra-driver-nvidia-gpu",
        "daemonset/dra-driver-nvidia-gpu-kubelet-plugin",
        "-c",
        "gpus",
        "--",
    )
    assert "GNU bash" in live.kubectl(*plugin, "bash", "--version")
    assert '"/bin/sh": ' in live.kubectl_fails(*plugin, "/bin/sh", "-c", "true")


def test_second_up_changes_nothing(site: Site) -> None:
    assert "unchanged" in (printed := site.make("up"))
    assert not re.search(r"(created|updated|replaced|deleted)$", printed, re.M), printed


def test_pods_with_claims_survive_a_restart_of_a_node(site: Site) -> None:
    live = LiveStack.find(site.workspace.root, STACK)
    with live.free_gpu(), live.playground() as playground:
        pods = playground.create("shared-claim")
        uuids = {pod: playground.report(pod)["gpus"][0]["uuid"] for pod in pods}
        subprocess.run(
            ["docker", "restart", f"{CLUSTER}-control-plane"],
            capture_output=True,
            check=True,
        )
        ready = ("get", "--raw", "/readyz")
        wait_for("the API answers", lambda: live.kubectl(*ready, check=False) == "ok", RESTART_SECONDS)
        for pod in pods:
            wait_for(f"{pod} was started again", lambda pod=pod: playground.life(pod)[1], RESTART_SECONDS)
            playground.wait_running(pod, RESTART_SECONDS)
            assert playground.report(pod)["gpus"][0]["uuid"] == uuids[pod]


def test_down_leaves_no_container_and_no_network(site: Site) -> None:
    site.make("down")
    listed = ["docker", "network", "ls", "--format", "{{.Name}}"]
    networks = subprocess.run(listed, capture_output=True, text=True, check=True).stdout.split()
    assert kind.node_containers(CLUSTER) == [] and f"kind-{CLUSTER}" not in networks
