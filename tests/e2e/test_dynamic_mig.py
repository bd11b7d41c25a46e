"""MIG devices that NVIDIA's driver makes on demand (gate DynamicMIG), on simulated GPUs.

No module uses the gate yet; this shows that the simulated driver bears it. One stack, in the order of the tests.
"""

from collections.abc import Iterator
from typing import Any

import pytest

from checks.live import LiveStack, Playground, wait_for
from tests.e2e.workspace import Workspace
from toolchain.paths import CHECKOUT

STACK = "dynamic-mig"
CONFIG = """\
config:
  dra-workshop:modules: ["00", "01", "02"]
  dra-workshop:driver: {featureGates: {DynamicMIG: true}}
"""
SMI = "/var/lib/gpu-sim/driver/usr/bin/nvidia-smi"
PROFILE = "1g.10gb"
GONE_SECONDS = 30


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveStack]:
    workspace = Workspace.copy(CHECKOUT, tmp_path_factory.mktemp("dynamic-mig"))
    workspace.write_stack(STACK, CONFIG)
    with workspace.up(STACK) as live:
        yield live


@pytest.fixture
def playground(stack: LiveStack) -> Iterator[Playground]:
    with stack.playground() as namespace:
        yield namespace


def attributes(stack: LiveStack) -> list[dict[str, Any]]:
    devices = [device for slice_ in stack.slices() for device in slice_["spec"].get("devices", [])]
    return [{name: next(iter(value.values())) for name, value in each["attributes"].items()} for each in devices]


def node_smi(stack: LiveStack, *words: str) -> list[str]:
    return stack.in_node(stack.settings.gpu_nodes[0].node, SMI, *words).splitlines()


def mig_uuids(lines: list[str]) -> set[str]:
    return {line.rpartition("UUID: ")[2].rstrip(")") for line in lines if "MIG-" in line}


def smi(playground: Playground, pod: str, *words: str) -> list[str]:
    inside = ("exec", "-n", playground.namespace, pod, "-c", "probe", "--", "nvidia-smi", *words)
    return playground.stack.kubectl(*inside).splitlines()


def create(playground: Playground, slices: int = 1) -> dict[str, set[str]]:
    """Two pods with a claim each of so many slices, all of the first GPU; UUIDs of the slices that each sees."""
    parent = min(each["uuid"] for each in attributes(playground.stack) if each["type"] == "gpu")
    own = "device.attributes['gpu.nvidia.com']"
    expression = f"{own}.profile == '{PROFILE}' && {own}.parentUUID == '{parent}'"
    request = (
        f'{{deviceClassName: mig.nvidia.com, count: {slices}, selectors: [{{cel: {{expression: "{expression}"}}}}]}}'
    )
    whole_gpu = "exactly:\n          deviceClassName: gpu.nvidia.com"
    pods = playground.create("exclusive", **{whole_gpu: f"exactly: {request}"})
    for pod in pods:
        playground.wait_running(pod)
    return {pod: mig_uuids(smi(playground, pod, "-L")) for pod in pods}


def delete(playground: Playground, pod: str, left: set[str]) -> None:
    """Deletes the pod; its slices have to go, and no others."""
    playground.delete_pod(pod)
    playground.wait_gone(pod)
    wait_for(
        f"of {pod} no MIG device is left", lambda: mig_uuids(node_smi(playground.stack, "-L")) == left, GONE_SECONDS
    )


def modes(stack: LiveStack) -> list[str]:
    return sorted(node_smi(stack, "--query-gpu=mig.mode.current", "--format=csv,noheader"))


def test_devices_have_the_attributes_of_real_ones(stack: LiveStack) -> None:
    for device in attributes(stack):
        assert (device["addressingMode"], device["resource.kubernetes.io/numaNode"]) == ("None", 0)


@pytest.mark.parametrize("slices", [1, 2])
def test_pods_with_slices_of_one_gpu_come_and_go(stack: LiveStack, playground: Playground, slices: int) -> None:
    assert modes(stack) == ["Disabled", "Disabled"]
    seen = create(playground, slices)
    (first, of_first), (second, of_second) = seen.items()
    assert len(of_first) == len(of_second) == slices and not of_first & of_second
    assert mig_uuids(node_smi(stack, "-L")) == of_first | of_second
    assert len(smi(playground, first, "-L")) == 1 + slices, "a GPU and its slices, and no line besides"
    assert smi(playground, first, "--query-gpu=memory.used", "--format=csv,noheader") == ["[Insufficient Permissions]"]
    # It wedged here: after the first slice the driver asks for MIG mode off, which the second keeps on.
    delete(playground, first, of_second)
    assert modes(stack) == ["Disabled", "Enabled"]
    assert mig_uuids(smi(playground, second, "-L")) == of_second
    delete(playground, second, set())
    wait_for("MIG mode is off", lambda: modes(stack) == ["Disabled", "Disabled"], GONE_SECONDS)


def test_a_slice_that_is_made_anew_has_another_uuid(stack: LiveStack) -> None:
    made = []
    for _ in range(2):
        with stack.playground() as namespace:
            made.append(set().union(*create(namespace).values()))
        wait_for("no MIG device is left", lambda: not mig_uuids(node_smi(stack, "-L")), GONE_SECONDS)
    assert len(made[0]) == len(made[1]) == 2 and not made[0] & made[1]
