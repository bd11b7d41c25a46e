"""Stack phase3-dynamic under another name: MIG devices that NVIDIA's driver makes on demand, on two nodes.

One stack, in the order of the tests: it comes up with an older version of the driver, which is upgraded under a MIG
device in use, and ends with claims that share MIG devices, and with a fleet of copies of both nodes.
"""

import json
from collections.abc import Iterator, Mapping
from typing import Any

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
# The fleet's nodes are of both kinds, and no rack of them is whole.
FLEET = {"nodes": 12, "mix": {"a100-80gb/mig": 4}}
FLEET_CHECKS = {
    "test_every_node_has_the_gpus_that_a_simulated_node_publishes",
    "test_only_nodes_that_fit_are_used",
    "test_partitions_are_found_on_nodes_of_their_kind_only",
    "test_full_gpu_and_its_parts_exclude_each_other_while_pods_come_and_go",
}
# Other clusters may be starting on the same machine.
GENEROUS_SECONDS = 180


def write_stack(workspace: Workspace, **driver: str) -> None:
    """The stack's file with that block `driver`."""
    write_config(workspace, {f"{PROJECT}:driver": driver} if driver else {})


def write_config(workspace: Workspace, changed: Mapping[str, Any]) -> None:
    workspace.write_stack(STACK, json.dumps({"config": {**CONFIG, **changed}}, indent=2))


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
    # The next test's fleet comes with the same update.
    changed = {
        "driver": {"consumableShares": "memory"},
        "fleet": FLEET,
        "modules": [*CONFIG[f"{PROJECT}:modules"], "12"],
    }
    write_config(workspace, {f"{PROJECT}:{key}": value for key, value in changed.items()})
    workspace.pulumi("up", "--yes", "--skip-preview", "--stack", STACK)
    status, printed = workspace.verify(STACK, "10.6", checks=["share_a_partition"])
    assert status == 0, printed
    (check,) = json.loads((workspace.root / "results" / STACK / "verify.json").read_text())["checks"]
    assert check["result"] == "passed", check


def test_fleet_has_copies_of_gpus_in_parts(workspace: Workspace, stack: LiveStack) -> None:
    status, printed = workspace.verify(STACK, "12", checks=sorted(FLEET_CHECKS))
    print(printed)
    assert status == 0, printed
    checks = json.loads((workspace.root / "results" / STACK / "verify.json").read_text())["checks"]
    assert {check["name"]: check["result"] for check in checks} == dict.fromkeys(FLEET_CHECKS, "passed")
