"""The stock way on another Docker Engine, with containerd's image store, as a new one and Docker Desktop have it.

The life of a stack on this machine's engine, by the same way, is test_lifecycle.py's.
"""

import json
import re
import subprocess
from collections.abc import Iterator

import pytest

from checks.live import LiveStack, wait_for
from machine import kind
from tests.e2e import stock
from tests.e2e.newer_engine import newer_engine
from tests.e2e.stock import Site
from toolchain.paths import CHECKOUT

pytestmark = pytest.mark.slow
STACK = "stock"
CLUSTER = f"dra-workshop-{STACK}"
RESTART_SECONDS = 180
MODULES_OF_PHASE1 = '  dra-workshop:modules: ["00", "01", "02", "03", "04", "05"]'
# Between two nodes the rules of this machine's engine let nothing through.
ONE_NODE = "  dra-workshop:cluster: {workers: 0}"


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    phase1 = (CHECKOUT / "stacks" / "Pulumi.phase1.yaml").read_text()
    assert phase1.count(f"\n{MODULES_OF_PHASE1}\n") == 1, phase1
    config = phase1.replace(MODULES_OF_PHASE1, f"{MODULES_OF_PHASE1}\n{ONE_NODE}")
    with newer_engine(tmp_path_factory.mktemp("engine")) as address, pytest.MonkeyPatch.context() as shell:
        shell.setenv("DOCKER_HOST", address)
        with stock.site(tmp_path_factory.mktemp(STACK), STACK, config) as made:
            yield made


def test_set_up_takes_everything_from_the_mirror_and_the_registry(site: Site) -> None:
    stock.set_up(site)


def test_stack_comes_up_and_passes_its_checks(site: Site) -> None:
    print(site.make("up"))
    print(site.make("verify"))
    checks = json.loads((site.workspace.root / "results" / STACK / "verify.json").read_text())["checks"]
    assert {check["module"] for check in checks} == {"00", "01", "02", "03", "04", "05"}
    assert {check["result"] for check in checks} <= {"passed", "skipped"}


def test_nodes_are_kinds_own_and_the_driver_has_no_shell_but_bash(site: Site) -> None:
    stock.assert_shaped_as_upstream(LiveStack.find(site.workspace.root, STACK))


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
