"""Upgrade of NVIDIA's driver under pods that hold every GPU. One stack, in the order of the tests."""

import json
import os
import re
import signal
import time
from collections.abc import Iterator
from typing import Any

import kr8s
import pytest

from checks.live import LiveStack, Playground, wait_for
from checks.mps import CLIENTS, DRIVER_NAMESPACE, Client, Daemon, deployment_pods
from tests.e2e.workspace import UP_SECONDS, Workspace
from toolchain.paths import CHECKOUT

STACK = "upgrade"
OLD, NEW = "0.4.1", "0.5.0"
GPUS = 3  # one that module 03 holds, one that the clients of MPS share, one for the playground
CONFIG = """\
config:
  dra-workshop:modules: ["00", "01", "02", "03", "04"]
  dra-workshop:gpu: {{model: rtx-4090, count: {count}}}
  dra-workshop:driver: {{version: {version}}}
"""
# Other clusters may be starting on the same machine.
GENEROUS_SECONDS = 180
PLUGIN = {"dra-driver-nvidia-gpu-component": "kubelet-plugin"}
# What the kubelet has registered, by the socket that the driver offers to it.
REGISTERED = re.compile(
    r'^plugin_manager_total_plugins\{socket_path="[^"]*/gpu\.nvidia\.com-reg\.sock",state="actual_state_of_world"\} 1$',
    re.M,
)
CHECKPOINT = "/var/lib/kubelet/plugins/gpu.nvidia.com/checkpoint.json"
NAMESPACES = ("workloads", CLIENTS, "mps-system")


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    copy = Workspace.copy(CHECKOUT, tmp_path_factory.mktemp("upgrade"))
    copy.write_stack(STACK, CONFIG.format(count=GPUS, version=OLD))
    return copy


@pytest.fixture(scope="module")
def stack(workspace: Workspace) -> Iterator[LiveStack]:
    with workspace.up(STACK) as live:
        yield live


@pytest.fixture(scope="module")
def playground(stack: LiveStack) -> Iterator[Playground]:
    """Two pods of one claim on the GPU that is free, from before the upgrade on."""
    with stack.playground() as namespace:
        for pod in namespace.create("shared-claim"):
            namespace.wait_running(pod, GENEROUS_SECONDS)
        yield namespace


def plugin(stack: LiveStack) -> dict[str, Any]:
    """The one plugin that runs."""
    (pod,) = stack.get("pods", namespace=DRIVER_NAMESPACE, label_selector=PLUGIN)
    return pod


def version(stack: LiveStack) -> str:
    """Version that the plugin itself prints."""
    pod = plugin(stack)["metadata"]["name"]
    return stack.kubectl("exec", "-n", DRIVER_NAMESPACE, pod, "-c", "gpus", "--", "gpu-kubelet-plugin", "--version")


def image(stack: LiveStack) -> str:
    (gpus,) = [container for container in plugin(stack)["spec"]["containers"] if container["name"] == "gpus"]
    return gpus["image"]


def registered(stack: LiveStack) -> bool:
    node = stack.settings.gpu_nodes[0].node
    return bool(REGISTERED.search(stack.kubectl("get", "--raw", f"/api/v1/nodes/{node}/proxy/metrics")))


def running(stack: LiveStack, namespaces: tuple[str, ...]) -> dict[str, tuple[str, list[int]]]:
    """Pod -> uid and restarts of its containers, of those that run."""
    pods = [pod for namespace in namespaces for pod in stack.get("pods", namespace=namespace)]
    return {
        f"{pod['metadata']['namespace']}/{pod['metadata']['name']}": (
            pod["metadata"]["uid"],
            [state["restartCount"] for state in pod["status"]["containerStatuses"]],
        )
        for pod in pods
        if pod["status"]["phase"] == "Running"
    }


def claims(stack: LiveStack) -> dict[str, dict[str, Any]]:
    """Claims that pods have, by uid: the allocation and the pods."""
    all_claims = stack.get("resourceclaims.v1.resource.k8s.io", namespace=kr8s.ALL)
    return {
        claim["metadata"]["uid"]: {key: claim["status"][key] for key in ("allocation", "reservedFor")}
        for claim in all_claims
        if claim.get("status", {}).get("reservedFor")
    }


def prepared(stack: LiveStack) -> set[str]:
    """The uids of the claims that the driver on the node has prepared, as it remembers them."""
    checkpoint = json.loads(stack.in_node(stack.settings.gpu_nodes[0].node, "cat", CHECKPOINT))
    known = checkpoint["v2"].get("preparedClaims", {})
    assert {claim["checkpointState"] for claim in known.values()} <= {"PrepareCompleted"}, known
    return set(known)


def visible_gpus(stack: LiveStack, namespace: str, pod: str) -> set[str]:
    """The UUIDs of the GPUs that a process started now in a pod's container sees, by the probe and by nvidia-smi."""
    inside = ("exec", "-n", namespace, pod, "-c", "probe", "--")
    (info, *_) = stack.kubectl(*inside, "gpu-probe", "info").splitlines()
    uuids = {gpu["uuid"] for gpu in json.loads(info)["gpus"]}
    assert set(re.findall(r"UUID: (GPU-[0-9a-f-]+)", stack.kubectl(*inside, "nvidia-smi", "-L"))) == uuids
    return uuids


def changed_resources(preview: str) -> dict[str, str]:
    """Resource -> what a preview with --diff says it would do to it."""
    operations = re.findall(r"^\s+[~+-]+\s?\S+: \((\w+)\)\n(?:.*\n)*?\s+\[urn=\S+::(\S+)\]", preview, re.M)
    return {name: operation for operation, name in operations}


def test_stack_comes_up_with_the_older_driver(stack: LiveStack) -> None:
    assert version(stack) == f"gpu-kubelet-plugin version v{OLD}\n"
    assert f":v{OLD}-" in image(stack)
    assert len(stack.devices()) == GPUS
    wait_for("the kubelet has registered the plugin", lambda: registered(stack), GENEROUS_SECONDS)


def test_every_gpu_is_held_before_the_upgrade(stack: LiveStack, playground: Playground) -> None:
    wait_for("a pod has every GPU", lambda: set(stack.allocations()) == stack.devices().keys(), GENEROUS_SECONDS)
    assert prepared(stack) == claims(stack).keys()
    assert len(claims(stack)) == GPUS + 1  # the MPS daemon looks on all of them


def test_upgrade_shows_in_the_preview_as_what_depends_on_it(workspace: Workspace, playground: Playground) -> None:
    workspace.write_stack(STACK, CONFIG.format(count=GPUS, version=NEW))
    output = workspace.pulumi("preview", "--diff", "--stack", STACK)
    assert changed_resources(output) == dict.fromkeys(
        ("cluster-images", "dra-driver-release", "dra-driver-gpus"), "update"
    )
    assert f'"{OLD}" => "{NEW}"' in output


def test_upgrade_leaves_what_runs_alone(workspace: Workspace, stack: LiveStack, playground: Playground) -> None:
    namespaces = (*NAMESPACES, playground.namespace)
    before, held, old = running(stack, namespaces), claims(stack), plugin(stack)["metadata"]["uid"]
    uuids_by_pod = {pod: visible_gpus(stack, *pod.split("/")) for pod in before if not pod.startswith("mps-system/")}
    clients = Daemon(stack).clients()
    assert clients == len(deployment_pods(stack, "clients")) > 1

    started = time.monotonic()
    process = workspace.start("up", "--yes", "--skip-preview", "--stack", STACK)

    def when(there: bool) -> float | None:
        assert process.poll() in (None, 0), process.communicate()[0]
        return time.monotonic() if registered(stack) == there else None

    try:
        gone = wait_for("the kubelet has lost the old plugin", lambda: when(False), UP_SECONDS)
        back = wait_for("the kubelet has the new plugin", lambda: when(True), UP_SECONDS)
        output, _ = process.communicate(timeout=UP_SECONDS)
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGINT)  # so that it lets go of the stack, which is destroyed next
            process.communicate(timeout=GENEROUS_SECONDS)
    assert process.returncode == 0, output
    # To a second or so: that often the kubelet looks for plugins.
    print(f"no plugin for {back - gone:.1f} s, pulumi up {time.monotonic() - started:.1f} s")

    assert plugin(stack)["metadata"]["uid"] != old
    assert version(stack) == f"gpu-kubelet-plugin version v{NEW}\n"
    assert f":v{NEW}-" in image(stack)
    assert running(stack, namespaces) == before
    assert claims(stack) == held
    assert prepared(stack) == held.keys()
    assert {pod: visible_gpus(stack, *pod.split("/")) for pod in uuids_by_pod} == uuids_by_pod
    assert Daemon(stack).clients() == clients
    assert len(stack.devices()) == GPUS


def test_nothing_is_left_to_upgrade(workspace: Workspace, playground: Playground) -> None:
    assert changed_resources(workspace.pulumi("preview", "--diff", "--stack", STACK)) == {}


def test_new_driver_lets_go_of_what_the_old_one_prepared(stack: LiveStack, playground: Playground) -> None:
    held = claims(stack)
    pods = [pod["metadata"]["name"] for pod in stack.get("pods", namespace=playground.namespace)]
    for pod in pods:
        playground.delete_pod(pod)
    for pod in pods:
        playground.wait_gone(pod)
    wait_for("the GPU of the playground is free", lambda: len(stack.allocations()) == GPUS - 1, GENEROUS_SECONDS)
    assert prepared(stack) == claims(stack).keys() and len(claims(stack)) == len(held) - 1

    (fresh,) = playground.create("extended-resource")
    playground.wait_running(fresh, GENEROUS_SECONDS)
    (device,) = playground.allocated(fresh)
    assert visible_gpus(stack, playground.namespace, fresh) == {device["uuid"]}


def test_stacks_own_pods_start_again_under_the_new_driver(stack: LiveStack, playground: Playground) -> None:
    before = claims(stack)
    # It wants the GPU of the holder, and would have it first.
    stack.scale("waiter", 0)
    # The daemon first, which has its claim of every GPU from the old driver as well: new clients wait for it.
    for namespace, kind, name in (
        ("mps-system", "daemonset", "mps-daemon"),
        (CLIENTS, "deployment", "clients"),
        ("workloads", "deployment", "holder"),
    ):
        stack.kubectl("delete", "pods", "-n", namespace, "-l", f"app={name}")
        stack.kubectl("rollout", "status", "-n", namespace, f"{kind}/{name}", f"--timeout={GENEROUS_SECONDS}s")
    stack.scale("waiter", 1)
    pods = deployment_pods(stack, "clients")
    for pod in pods:
        assert Client(stack, pod["metadata"]["name"]).wait_line("holding")["sms"] > 0
    wait_for("the daemon has its clients", lambda: Daemon(stack).clients() == len(pods), GENEROUS_SECONDS)
    wait_for("no more is prepared than is used", lambda: prepared(stack) == claims(stack).keys(), GENEROUS_SECONDS)
    # Of a template each pod has its own.
    assert len(claims(stack)) == len(before) and claims(stack).keys() != before.keys()


def test_checks_of_the_driver_pass_after_the_upgrade(
    workspace: Workspace, stack: LiveStack, playground: Playground
) -> None:
    status, printed = workspace.verify(STACK, "02")
    assert status == 0, printed
