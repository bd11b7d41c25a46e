"""Checks of module 03: a claim gives a pod one GPU for itself, and the next one waits for it."""

import statistics
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from checks import measured as sheets
from checks.capacity import claim_manifest
from checks.live import DRIVER, LiveStack, Playground, wait_for
from checks.throughput import skip_unless_real
from checks.timeline import CLAIM_TEMPLATE, Api, Timeline, follow, pod_manifest
from gpus.quantity import quantity_mib
from machine.images import images_of

CYCLES = 10
STARTS = 10
START_SECONDS = 5  # of the median pod, from created to running


@pytest.fixture(scope="module")
def one_free_gpu(stack: LiveStack) -> Iterator[None]:
    with stack.free_gpu():
        yield


@pytest.fixture
def playground(stack: LiveStack, one_free_gpu: None) -> Iterator[Playground]:
    """A namespace of its own, and at least one GPU to have in it."""
    with stack.playground() as namespace:
        yield namespace


def free(stack: LiveStack) -> int:
    return len(stack.devices()) - len(stack.allocations())


def test_stacks_first_workload_has_the_gpu_that_its_claim_names(
    stack: LiveStack, observed: Callable[[str], None]
) -> None:
    """Fails if the probe in `holder` sees another UUID than the claim's device has, or not exactly one GPU."""
    workloads = Playground(stack, "workloads")
    (pod,) = [name for name in pods(stack, "workloads") if name.startswith("holder-")]
    (device,) = workloads.allocated(pod)
    (gpu,) = workloads.report(pod)["gpus"]
    assert gpu["uuid"] == device["uuid"]
    observed(f"{pod} has {gpu['uuid']} ({gpu['name']})")


def test_stacks_second_workload_waits_with_the_schedulers_reason(
    stack: LiveStack, observed: Callable[[str], None]
) -> None:
    """Fails if `waiter` is not Pending, or the reason is not `cannot allocate all claims`."""
    (pod,) = [name for name in pods(stack, "workloads") if name.startswith("waiter-")]
    reason = Playground(stack, "workloads").wait_unschedulable(pod)
    assert "cannot allocate all claims" in reason
    observed(reason)


def test_stacks_second_workload_runs_when_the_first_goes(stack: LiveStack, observed: Callable[[str], None]) -> None:
    """Fails if with `holder` scaled to zero `waiter` does not run, or has another GPU."""
    workloads = Playground(stack, "workloads")
    (waiter,) = [name for name in pods(stack, "workloads") if name.startswith("waiter-")]
    (holder,) = [name for name in pods(stack, "workloads") if name.startswith("holder-")]
    (device,) = workloads.allocated(holder)
    stack.scale("holder", 0)
    try:
        (gpu,) = workloads.report(waiter)["gpus"]
    finally:
        # The holder can have its GPU only once the waiter is gone, and waits for that by itself.
        stack.scale("waiter", 0)
        stack.scale("holder", 1)
        stack.scale("waiter", 1)
    assert gpu["uuid"] == device["uuid"]
    observed(f"{waiter} got {gpu['uuid']} once {holder} had gone")


def pods(stack: LiveStack, namespace: str) -> list[str]:
    return [pod["metadata"]["name"] for pod in stack.get("pods", namespace=namespace)]


def test_pod_sees_exactly_the_gpu_of_its_claim(playground: Playground, observed: Callable[[str], None]) -> None:
    """Fails if UUID, model or memory in the pod differs from the slice, or there is not exactly one numbered device
    node.
    """
    first, _ = playground.create("exclusive")
    report = playground.report(first)
    (device,) = playground.allocated(first)
    (gpu,) = report["gpus"]
    assert gpu["uuid"] == device["uuid"]
    assert gpu["name"] == device["productName"]
    assert gpu["memory_mib"] == quantity_mib(device["memory"])
    numbered = [node for node in report["device_nodes"] if node.removeprefix("/dev/nvidia").isdigit()]
    assert len(numbered) == 1
    observed(f"{gpu['uuid']}, {gpu['multiprocessors']} SMs, {numbered[0]}")


def test_pod_without_a_gpu_left_waits_until_one_goes(playground: Playground, observed: Callable[[str], None]) -> None:
    """Fails if with all GPUs taken a pod is not Pending, or it does not get the very GPU that is freed."""
    stack = playground.stack
    stack.skip_without_extended_resources()
    holders = []
    while free(stack):
        (name,) = playground.create("extended-resource", extended=f"holder-{len(holders)}")
        playground.wait_running(name)
        holders.append(name)
    (waiter,) = playground.create("extended-resource", extended="waiter")
    reason = playground.wait_unschedulable(waiter)
    assert "cannot allocate all claims" in reason
    (device,) = playground.allocated(holders[0])
    playground.delete_pod(holders[0])
    playground.wait_running(waiter)
    (taken,) = playground.allocated(waiter)
    assert taken["uuid"] == device["uuid"]
    observed(f"waited with «{reason}», then got {taken['uuid']}")


def test_two_containers_of_one_claim_see_the_same_gpu(playground: Playground, observed: Callable[[str], None]) -> None:
    """Fails if they see different GPUs, or not exactly one."""
    (pod,) = playground.create("two-containers")
    uuids = [[gpu["uuid"] for gpu in playground.report(pod, name)["gpus"]] for name in ("probe", "second")]
    assert uuids[0] == uuids[1]
    assert len(uuids[0]) == 1
    observed(uuids[0][0])


def test_two_claims_of_one_pod_are_two_gpus(playground: Playground, observed: Callable[[str], None]) -> None:
    """Fails if the pod does not see exactly the two GPUs of its claims."""
    stack = playground.stack
    if free(stack) + len(stack.allocations("workloads")) < 2:
        pytest.skip("the stack has not two GPUs beside those of other modules; raise gpu.count")
    # The waiter first: it would have the holder's GPU.
    stack.scale("waiter", 0)
    stack.scale("holder", 0)
    try:
        wait_for("two GPUs are free", lambda: free(stack) > 1)
        (pod,) = playground.create("two-claims")
        seen = sorted(gpu["uuid"] for gpu in playground.report(pod)["gpus"])
        assert seen == sorted(device["uuid"] for device in playground.allocated(pod))
        assert len(set(seen)) == len(seen) == 2
        playground.delete_pod(pod)
        playground.wait_gone(pod)
    finally:
        stack.scale("holder", 1)
        stack.scale("waiter", 1)
    observed(" and ".join(seen))


def test_two_pods_of_one_claim_see_the_same_gpu(playground: Playground, observed: Callable[[str], None]) -> None:
    """Fails if they see different GPUs, not exactly one, or `reservedFor` does not name both pods."""
    names = playground.create("shared-claim")
    uuids = [[gpu["uuid"] for gpu in playground.report(pod)["gpus"]] for pod in names]
    assert uuids[0] == uuids[1]
    assert len(uuids[0]) == 1
    claim = playground.stack.one("resourceclaims.v1.resource.k8s.io", "shared-gpu", playground.namespace)
    assert sorted(user["name"] for user in claim["status"]["reservedFor"]) == sorted(names)
    observed(f"{uuids[0][0]}, reserved for {' and '.join(names)}")


def test_cel_selects_by_attribute_and_capacity(playground: Playground, observed: Callable[[str], None]) -> None:
    """Fails if the pod does not run, or its GPU has another architecture than asked for."""
    taken = set(playground.stack.allocations())
    wanted = next(values for device, values in playground.stack.devices().items() if device not in taken)
    (pod,) = playground.create("select-by-cel", Hopper=wanted["architecture"], **{"40Gi": wanted["memory"]})
    playground.wait_running(pod)
    (device,) = playground.allocated(pod)
    assert device["architecture"] == wanted["architecture"]
    observed(f"asked for {wanted['architecture']} with {wanted['memory']}, got {device['productName']}")


def test_selector_that_nothing_matches_stays_pending(playground: Playground, observed: Callable[[str], None]) -> None:
    """Fails if the pod is not Pending, or has another reason."""
    (pod,) = playground.create("nothing-matches")
    reason = playground.wait_unschedulable(pod)
    assert "cannot allocate all claims" in reason
    observed(reason)


def test_first_available_falls_back_to_the_second_choice(
    playground: Playground, observed: Callable[[str], None]
) -> None:
    """Fails if the allocation is not by `gpu/any`."""
    (pod,) = playground.create("first-available")
    playground.wait_running(pod)
    (device,) = playground.allocated(pod)
    assert device["request"] == "gpu/any"
    observed(f"request {device['request']}: {device['uuid']}")


def test_extended_resource_is_served_by_a_claim(playground: Playground, observed: Callable[[str], None]) -> None:
    """Fails if no claim was made for the pod, or is not marked as such a one, or the pod sees another GPU than it
    names.
    """
    playground.stack.skip_without_extended_resources()
    (pod,) = playground.create("extended-resource")
    (gpu,) = playground.report(pod)["gpus"]
    (device,) = playground.allocated(pod)
    assert gpu["uuid"] == device["uuid"]
    claim = playground.pod(pod)["status"]["extendedResourceClaimStatus"]["resourceClaimName"]
    metadata = playground.stack.one("resourceclaims.v1.resource.k8s.io", claim, playground.namespace)["metadata"]
    assert metadata["annotations"]["resource.kubernetes.io/extended-resource-claim"] == "true"
    assert device["driver"] == DRIVER
    observed(f"nvidia.com/gpu: 1 became claim {claim} with {gpu['uuid']}")


def test_ten_cycles_leak_nothing(playground: Playground, observed: Callable[[str], None]) -> None:
    """Fails if after ten pods came and went a claim, an allocation or a CDI file on the first GPU node is left over."""
    stack = playground.stack
    stack.skip_without_extended_resources()
    node = stack.settings.gpu_nodes[0].node
    before, cdi = sorted(stack.allocations()), cdi_files(stack, node)
    for cycle in range(CYCLES):
        (pod,) = playground.create("extended-resource", extended=f"cycle-{cycle}")
        playground.wait_running(pod)
        playground.delete_pod(pod)
        playground.wait_gone(pod)
    wait_for("every claim is gone", lambda: not stack.allocations(playground.namespace))
    assert sorted(stack.allocations()) == before
    wait_for("the CDI files of the cycles are gone", lambda: cdi_files(stack, node) == cdi)
    observed(f"{CYCLES} cycles; {len(before)} allocations and {len(cdi)} CDI files before and after")


@pytest.mark.gpu
def test_pod_with_a_claim_starts_soon(
    stack: LiveStack, playground: Playground, table: Callable[..., None], observed: Callable[[str], None]
) -> None:
    """Fails if on a real GPU the median of ten pods, one after the other, takes over 5 s from created to running."""
    skip_unless_real(stack)
    if stack.settings.cluster.provider != "kind":
        pytest.skip("cluster.provider is existing: its kubeconfig need not have the certificates that the watch uses")
    namespace, rows = playground.namespace, []
    claim = claim_manifest(CLAIM_TEMPLATE, namespace, None, None)
    template = {**claim, "kind": "ResourceClaimTemplate", "spec": {"spec": claim["spec"]}}
    stack.create(template)
    api, image = Api(Path(stack.kubeconfig), stack.settings.context), images_of(stack.settings)["gpu-probe"]
    # One after the other, each with the whole GPU to itself.
    for number in range(1, STARTS + 1):
        name = f"start-{number}"
        timeline = Timeline([name])
        with api.pod_events(namespace) as events:
            api.create_pods([pod_manifest(name, namespace, image, claim=True)], timeline)
            follow(timeline, events, [])
        at = timeline.moments[name]
        rows.append((number, *at.stages, at.total))
        playground.delete_pod(name)
        playground.wait_gone(name)
    table(*sheets.START, rows)
    middle, slowest = statistics.median(row[-1] for row in rows), max(row[-1] for row in rows)
    assert middle <= START_SECONDS
    observed(f"{STARTS} pods: median {middle:.2f} s from created to running, at most {slowest:.2f} s")


def cdi_files(stack: LiveStack, node: str) -> list[str]:
    return sorted(stack.in_node(node, "ls", "/var/run/cdi").split())
