"""Stack phase3-dynamic under another name: MIG devices that NVIDIA's driver makes on demand, on two nodes.

One stack, in the order of the tests: it comes up with an older version of the driver, which is upgraded under a MIG
device in use, and ends with claims that share MIG devices.
"""

import json
from collections.abc import Iterator

import pytest
import yaml

from checks import dynamic_mig, faults
from checks.dynamic_mig import NAMESPACE
from checks.live import LiveStack, Playground, wait_for
from settings import PROJECT
from tests.e2e import lessons
from tests.e2e.lessons import Lesson, Shell
from tests.e2e.workspace import Workspace
from toolchain.paths import CHECKOUT

STACK = "dynamic-mig"
CONFIG = yaml.safe_load((CHECKOUT / "stacks" / "Pulumi.phase3-dynamic.yaml").read_text())["config"]
OLD, NEW = "0.4.1", "0.5.0"
# Other clusters may be starting on the same machine.
GENEROUS_SECONDS = 180


def write_stack(workspace: Workspace, **driver: str) -> None:
    """The stack's file with that block `driver`."""
    block = {f"{PROJECT}:driver": driver} if driver else {}
    workspace.write_stack(STACK, json.dumps({"config": {**CONFIG, **block}}, indent=2))


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    copy = Workspace.copy(CHECKOUT, tmp_path_factory.mktemp("dynamic-mig"))
    write_stack(copy, version=OLD)
    return copy


@pytest.fixture(scope="module")
def stack(workspace: Workspace) -> Iterator[LiveStack]:
    with workspace.up(STACK) as live:
        yield live


def tenant(stack: LiveStack) -> str:
    (pod,) = stack.get("pods", namespace=NAMESPACE, label_selector={"app": "tenant"})
    return pod["metadata"]["name"]


def plugin_version(stack: LiveStack) -> str:
    """Version that the plugin on the first node prints."""
    plugin = faults.plugin_on(stack, stack.settings.gpu_nodes[0].node)
    assert plugin
    pod = plugin["metadata"]
    inside = ("exec", "-n", pod["namespace"], pod["name"], "-c", "gpus", "--", "gpu-kubelet-plugin", "--version")
    return stack.kubectl(*inside).split()[-1]


def test_upgraded_driver_lets_go_of_a_partition_that_the_older_one_made(workspace: Workspace, stack: LiveStack) -> None:
    gpu = dynamic_mig.gpus_of(stack, stack.settings.gpu_nodes[0])[0]
    tenants, pod = Playground(stack, NAMESPACE), tenant(stack)
    life, uuids = tenants.life(pod), tenants.sees(pod)
    assert plugin_version(stack) == f"v{OLD}"
    assert list(gpu.made()) == uuids and gpu.mode() == "Enabled"

    write_stack(workspace)
    workspace.pulumi("up", "--yes", "--skip-preview", "--stack", STACK)
    live = LiveStack.find(workspace.root, STACK)
    assert plugin_version(live) == f"v{NEW}"
    assert (tenant(live), tenants.life(pod), tenants.sees(pod)) == (pod, life, uuids)
    assert list(gpu.made()) == uuids and gpu.mode() == "Enabled"

    # Without force: the new driver has to know what the old one prepared.
    live.kubectl("scale", "-n", NAMESPACE, "deployment/tenant", "--replicas=0")
    wait_for("the pod is gone", lambda: not live.get("pods", namespace=NAMESPACE), GENEROUS_SECONDS)
    dynamic_mig.wait_nothing_made(live, GENEROUS_SECONDS)
    live.kubectl("scale", "-n", NAMESPACE, "deployment/tenant", "--replicas=1")
    live.wait_deployed(NAMESPACE, "tenant")
    assert gpu.made() and list(gpu.made()) == tenants.sees(tenant(live)) != uuids


def test_every_check_passes(workspace: Workspace, stack: LiveStack) -> None:
    status, printed = workspace.verify(STACK)
    print(printed)
    assert status == 0, printed
    results = json.loads((workspace.root / "results" / STACK / "verify.json").read_text())
    assert {check["module"] for check in results["checks"]} == set(stack.settings.modules)


@pytest.mark.parametrize("lesson", lessons.of_stack("phase3-dynamic"), ids=lambda lesson: lesson.page.stem)
def test_steps_of_the_page_show_what_the_page_says(workspace: Workspace, stack: LiveStack, lesson: Lesson) -> None:
    lessons.run(lesson, Shell(workspace, STACK, "dra-workshop-phase3-dynamic", stack.settings.cluster_name))


def test_claims_share_partitions_where_the_stack_lets_them(workspace: Workspace, stack: LiveStack) -> None:
    write_stack(workspace, consumableShares="memory")
    workspace.pulumi("up", "--yes", "--skip-preview", "--stack", STACK)
    status, printed = workspace.verify(STACK, "10.6", checks=["share_a_partition"])
    assert status == 0, printed
    (check,) = json.loads((workspace.root / "results" / STACK / "verify.json").read_text())["checks"]
    assert check["result"] == "passed", check
