"""Checks of module 07: claims share a GPU by the memory that they request; the scheduler counts, MPS enforces."""

import json
import random
import time
from collections.abc import Callable, Iterator

import pytest
import yaml

from checks import capacity, throughput
from checks import measured as sheets
from checks.capacity import (
    NAMES,
    NAMESPACE,
    WAITING,
    claim_manifest,
    consumed_mib,
    mib,
    pod_of,
    results,
    start_client,
    total_mib,
)
from checks.live import LiveStack, Playground, wait_for
from checks.mps import Client
from gpus.mps import context_mib
from gpus.quantity import MIB

BURST, ALIVE_AT_ONCE, BURST_SECONDS = 50, 12, 600
OUT_OF_MEMORY = "CUDA_ERROR_OUT_OF_MEMORY"
ROUNDING_MIB = 3
NEIGHBOURS = ("flops", "1", "--warmup", "3", "--repeats", "10")
HARM = 0.05  # of its speed, that a neighbour may lose


@pytest.fixture
def shared(stack: LiveStack) -> LiveStack:
    """The stack, if its claims share GPUs."""
    if stack.settings.consumable_shares == "disabled":
        pytest.skip("driver.consumableShares is disabled: a claim has a GPU for itself")
    return stack


@pytest.fixture
def space(shared: LiveStack) -> Iterator[Playground]:
    with capacity.namespace(shared) as playground:
        yield playground


def device_of(stack: LiveStack, name: str) -> tuple[str, str]:
    (result,) = results(stack, name)
    return result["pool"], result["device"]


def free_mib(stack: LiveStack) -> int:
    """Memory that no claim has of the GPU that the stack's claims share."""
    device = device_of(stack, "small")
    return int(total_mib(stack)[device] - consumed_mib(stack)[device])


def restarts(stack: LiveStack) -> dict[str, int]:
    return {name: pod_of(stack, name)["status"]["containerStatuses"][0]["restartCount"] for name in NAMES}


def test_slice_says_how_a_gpu_is_shared(stack: LiveStack, observed: Callable[[str], None]) -> None:
    """Fails if `allowMultipleAllocations`, the default or the step of a request, or the shares are not those of the
    mode.
    """
    mode = stack.settings.consumable_shares
    devices = [device for slice_ in stack.slices() for device in slice_["spec"].get("devices", [])]
    gpus = [device for device in devices if device["attributes"]["type"]["string"] == "gpu"]
    assert gpus
    for gpu in gpus:
        assert gpu.get("allowMultipleAllocations", False) == (mode != "disabled")
        policy, whole = gpu["capacity"]["memory"].get("requestPolicy"), gpu["capacity"]["memory"]["value"]
        if mode == "disabled":
            assert policy is None
            continue
        # What a claim takes that requests nothing: everything, or nothing that is counted.
        assert mib(policy["default"]) == (mib(whole) if mode == "memory" else 0)
        assert policy["validRange"]["step"] == "1Mi"
        assert gpu["capacity"].get("shares", {}).get("value") == (mode if mode.isdigit() else None)
    observed(f"{len(gpus)} GPUs, consumableShares {mode}")


def test_independent_claims_have_one_gpu(shared: LiveStack, observed: Callable[[str], None]) -> None:
    """Fails if three pods do not have one device, three `shareID` and `consumedCapacity` as requested, or the sum
    exceeds the GPU.
    """
    wanted, allocations = capacity.requests(shared), {}
    for name in NAMES:
        assert pod_of(shared, name)["status"]["phase"] == "Running"
        (allocations[name],) = results(shared, name)
        assert mib(allocations[name]["consumedCapacity"]["memory"]) == wanted[name]
        assert Playground(shared, NAMESPACE).report(pod_of(shared, name)["metadata"]["name"])
    assert len({(result["pool"], result["device"]) for result in allocations.values()}) == 1
    assert len({result["shareID"] for result in allocations.values()}) == len(NAMES)
    device = device_of(shared, "small")
    total, whole = consumed_mib(shared)[device], total_mib(shared)[device]
    assert total <= whole
    shares = ", ".join(f"{name} {wanted[name]:.0f} MiB" for name in NAMES)
    observed(f"{device[1]} on {device[0]}: {shares}; {total:.0f} of {whole:.0f} MiB requested in all")


def test_one_that_does_not_fit_waits_with_the_schedulers_reason(
    shared: LiveStack, observed: Callable[[str], None]
) -> None:
    """Fails if it has a node, or the scheduler gives no reason."""
    asked, left = capacity.requests(shared)[WAITING], free_mib(shared)
    assert asked > left
    assert not results(shared, WAITING)
    reason = Playground(shared, NAMESPACE).wait_unschedulable(pod_of(shared, WAITING)["metadata"]["name"])
    assert "cannot allocate all claims" in reason
    observed(f"asks for {asked:.0f} MiB, {left} are left: {reason}")


def test_request_beyond_the_whole_gpu_waits_whatever_is_free(
    shared: LiveStack, space: Playground, observed: Callable[[str], None]
) -> None:
    """Fails if it would be allocated on an empty GPU."""
    device = device_of(shared, "small")
    whole = int(total_mib(shared)[device])
    uuid = shared.devices()[device]["uuid"]
    start_client(shared, space.namespace, "too-large", whole + 1, ["hold"], uuid)
    reason = space.wait_unschedulable("too-large")
    assert "cannot allocate all claims" in reason
    # The scheduler has one sentence for both, so the difference is shown: on an empty GPU it would wait as well.
    others = [other for other in total_mib(shared) if other != device and other not in consumed_mib(shared)]
    start_client(shared, space.namespace, "too-large-for-any", int(max(total_mib(shared).values())) + 1, ["hold"])
    assert "cannot allocate all claims" in space.wait_unschedulable("too-large-for-any")
    assert not results(shared, "too-large-for-any", space.namespace)
    observed(f"{whole + 1} of {whole} MiB: {reason}; with {len(others)} GPUs that nobody has, still so")


def test_freed_memory_goes_to_the_one_that_waits(shared: LiveStack, observed: Callable[[str], None]) -> None:
    """Fails if `waiting` does not run once `large` has gone, or `large` does not wait then."""
    device = device_of(shared, "small")
    try:
        scale(shared, "large", 0)
        began = time.monotonic()
        wait_for("the waiting claim is allocated", lambda: results(shared, WAITING))
        assert device_of(shared, WAITING) == device
        Playground(shared, NAMESPACE).wait_running(pod_of(shared, WAITING)["metadata"]["name"])
        seconds = time.monotonic() - began
        assert consumed_mib(shared)[device] <= total_mib(shared)[device]
        # Now there is no room for the large one.
        scale(shared, "large", 1)
        Playground(shared, NAMESPACE).wait_unschedulable(pod_of(shared, "large")["metadata"]["name"])
    finally:
        scale(shared, WAITING, 0)
        scale(shared, "large", 1)
        wait_for("the large claim is allocated again", lambda: results(shared, "large"))
        scale(shared, WAITING, 1)
    Playground(shared, NAMESPACE).wait_running(pod_of(shared, "large")["metadata"]["name"])
    observed(f"runs {seconds:.1f} s after large was told to go")


def scale(stack: LiveStack, name: str, replicas: int) -> None:
    stack.kubectl("scale", "-n", NAMESPACE, f"deployment/{name}", f"--replicas={replicas}")
    selector = {"app": name}
    wait_for(
        f"{name} has {replicas} pods",
        lambda: len(stack.get("pods", namespace=NAMESPACE, label_selector=selector)) == replicas,
    )


def test_sum_never_exceeds_the_gpu_in_a_burst(
    shared: LiveStack, space: Playground, plot: Callable[..., None], observed: Callable[[str], None]
) -> None:
    """Fails if after any step of 50 pods of random size that come and go a device has given more than it has, or not
    all is given back at the end. The seed is printed.
    """
    seed = random.SystemRandom().randrange(2**32)
    print(f"seed: {seed}")  # before anything can fail
    dice = random.Random(seed)
    device = device_of(shared, "small")
    uuid, whole, base = shared.devices()[device]["uuid"], total_mib(shared)[device], consumed_mib(shared)[device]
    left = int(whole - base)
    names = [f"burst-{number}" for number in range(BURST)]
    alive: list[str] = []
    began, samples, ran = time.monotonic(), [], set()

    def look() -> None:
        for gpu, total in consumed_mib(shared).items():
            assert total <= total_mib(shared)[gpu], f"seed {seed}: {total} of {total_mib(shared)[gpu]} MiB on {gpu}"
        samples.append((round(time.monotonic() - began, 1), consumed_mib(shared)[device]))
        pods = shared.get("pods", namespace=space.namespace)
        ran.update(pod["metadata"]["name"] for pod in pods if pod["status"]["phase"] == "Running")

    for name in names:
        # About as much as fits four times, so that many of them have to wait for others.
        start_client(shared, space.namespace, name, dice.randrange(1, max(2, left // 3)), ["hold"], uuid)
        alive.append(name)
        look()
        while len(alive) >= ALIVE_AT_ONCE or (alive and dice.random() < 0.3):
            remove(shared, space, alive.pop(dice.randrange(len(alive))))
            look()
        assert time.monotonic() - began < BURST_SECONDS, f"seed {seed}: the burst takes too long"
    for name in alive:
        remove(shared, space, name)
        look()

    def given_back() -> bool:
        look()
        return consumed_mib(shared)[device] == base

    wait_for(f"seed {seed}: everything is given back", given_back, 120)
    assert ran, f"seed {seed}: none of them ran"
    plot(
        "Memory requested of one GPU in a burst of 50 pods",
        "seconds",
        "MiB",
        {"requested": samples, "the GPU has": [(samples[0][0], whole), (samples[-1][0], whole)]},
    )
    most = max(total for _, total in samples)
    observed(
        f"seed {seed}: {BURST} pods, {len(ran)} seen running, {len(samples)} looks, at most {most:.0f} of {whole:.0f}"
    )


def remove(stack: LiveStack, space: Playground, name: str) -> None:
    words = ("delete", f"pod/{name}", f"resourceclaim/{name}", "-n", space.namespace, "--wait=false")
    stack.kubectl(*words)


def test_each_pod_has_the_limit_that_its_claim_requests(shared: LiveStack, observed: Callable[[str], None]) -> None:
    """Fails if memory left in the running pod is not request less context less allocation, to 3 MiB."""
    if not shared.settings.capacity_enforced:
        pytest.skip("consumableCapacity.enforcement is none: nothing limits the pods")
    wanted, free_by_name = capacity.requests(shared), {}
    for name in NAMES:
        client = Client(shared, pod_of(shared, name)["metadata"]["name"], NAMESPACE)
        holding = client.wait_line("holding")
        expected = wanted[name] - context_mib(holding["sms"]) - holding["allocated_bytes"] // MIB
        assert holding["free_mib"] == pytest.approx(expected, abs=ROUNDING_MIB)
        free_by_name[name] = holding["free_mib"]
    observed(
        "left for each: "
        + ", ".join(f"{name} {free:.0f} of {wanted[name]:.0f} MiB" for name, free in free_by_name.items())
    )


def test_pod_that_allocates_beyond_its_request_is_held_to_it_by_mps_alone(
    shared: LiveStack, space: Playground, observed: Callable[[str], None]
) -> None:
    """Fails if with MPS it does not get `CUDA_ERROR_OUT_OF_MEMORY` or a neighbour notices; without MPS it does not
    succeed.
    """
    asked = min(1024, free_mib(shared))
    beyond = asked + 512
    before = restarts(shared)
    uuid = shared.devices()[device_of(shared, "small")]["uuid"]
    ended = start_client(shared, space.namespace, "greedy", asked, ["alloc", "64Mi", f"{beyond}Mi"], uuid).ended()
    outcomes = [line["result"] for line in ended.lines if "result" in line]
    # Nobody else feels it, whichever way it goes.
    assert restarts(shared) == before
    if shared.settings.capacity_enforced:
        assert outcomes == ["CUDA_SUCCESS", OUT_OF_MEMORY]
        observed(f"requested {asked} MiB: 64Mi {outcomes[0]}, {beyond}Mi {outcomes[1]}; small, medium and large run on")
    else:
        assert outcomes == ["CUDA_SUCCESS", "CUDA_SUCCESS"]
        observed(
            f"requested {asked} MiB and got {beyond}: the scheduler only counts, and nothing else holds the pod to it"
        )


@pytest.mark.gpu
def test_pod_that_is_held_to_its_request_slows_no_neighbour(
    shared: LiveStack, space: Playground, table: Callable[..., None], observed: Callable[[str], None]
) -> None:
    """Fails if on a real GPU one of two neighbours loses 5 % of its speed."""
    throughput.skip_unless_real(shared)
    if not shared.settings.capacity_enforced:
        pytest.skip("consumableCapacity.enforcement is none: nothing limits the pods")
    uuid, asked = shared.devices()[device_of(shared, "small")]["uuid"], min(1024, free_mib(shared) // 3)
    names = ("first", "second")
    neighbours = [start_client(shared, space.namespace, name, asked, NEIGHBOURS, uuid) for name in names]
    for neighbour in neighbours:
        neighbour.wait_line("tflops")
    beyond = asked + 512
    greedy = start_client(shared, space.namespace, "greedy", asked, ["alloc", "64Mi", f"{beyond}Mi"], uuid).ended()
    burning = [throughput.wait_repeats(neighbour) for neighbour in neighbours]
    rows, least = [], []
    for name, repeats in zip(names, burning, strict=True):
        before = [burn.tflops for burn in repeats if burn.end <= greedy.began]
        later = [burn.tflops for burn in repeats if burn.end > greedy.began]
        assert before and later, f"{name} did not run before and after another one began at {greedy.began}"
        rows.append((name, asked, repeats[0].sms, min(before), min(later)))
        least.append(min(later) / min(before))
    table(*sheets.CAPACITY, rows)
    assert [line["result"] for line in greedy.lines if "result" in line] == ["CUDA_SUCCESS", OUT_OF_MEMORY]
    assert min(least) >= 1 - HARM
    speeds = " and ".join(f"{later:.2f} after {before:.2f}" for *_, before, later in rows)
    observed(f"{beyond} MiB under {asked} were refused; two neighbours: {speeds} TFLOPS")


def test_claim_without_a_memory_request_or_with_a_configuration_is_refused(
    stack: LiveStack, observed: Callable[[str], None]
) -> None:
    """Fails if the API server takes either, also in a template."""
    with capacity.namespace(stack) as space:
        bare = claim_manifest("bare", space.namespace, None, None)
        refused = stack.kubectl_fails("create", "-f", "-", stdin=yaml.safe_dump(bare))
        assert "every request for a GPU must have capacity.requests.memory" in refused
        template = {
            **bare,
            "kind": "ResourceClaimTemplate",
            "spec": {"spec": bare["spec"]},
        }
        refused = stack.kubectl_fails("create", "-f", "-", stdin=yaml.safe_dump(template))
        assert "every request for a GPU must have capacity.requests.memory" in refused
        configured = claim_manifest("configured", space.namespace, "1Gi", None)
        parameters = {"apiVersion": "resource.nvidia.com/v1beta1", "kind": "GpuConfig"}
        opaque = {"driver": "gpu.nvidia.com", "parameters": parameters}
        configured["spec"]["devices"]["config"] = [{"requests": ["gpu"], "opaque": opaque}]
        refused = stack.kubectl_fails("create", "-f", "-", stdin=yaml.safe_dump(configured))
        assert "config for gpu.nvidia.com is refused" in refused
        stack.create(claim_manifest("fine", space.namespace, "1Gi", None))
    observed("no capacity.requests.memory: refused, also in a template; config: refused; 1Gi: allowed")


def test_claim_without_a_request_takes_what_the_mode_says(shared: LiveStack, observed: Callable[[str], None]) -> None:
    # Outside the namespaces whose policy asks for a request.
    """Fails if elsewhere such a claim takes something else than the mode says: the whole GPU, nothing, or a share."""
    mode, device = shared.settings.consumable_shares, device_of(shared, "small")
    uuid = shared.devices()[device]["uuid"]
    with shared.playground() as plain:
        objects = [claim_manifest("bare", plain.namespace, None, uuid), bare_pod(shared, plain.namespace)]
        shared.create(*objects)
        if mode == "memory":
            reason = plain.wait_unschedulable("bare")
            assert "cannot allocate all claims" in reason
            observed(f"asks for the whole GPU without saying so, and waits: {reason}")
            return
        plain.wait_running("bare")
        (result,) = results(shared, "bare", plain.namespace)
        assert mib(result["consumedCapacity"]["memory"]) == 0
        assert result["consumedCapacity"].get("shares") == ("1" if mode.isdigit() else None)
        observed(f"runs on the full GPU and counts as {result['consumedCapacity']}")


def bare_pod(stack: LiveStack, namespace: str) -> dict:
    template = json.loads(json.dumps(stack.one("deployments.apps", "small", NAMESPACE)["spec"]["template"]["spec"]))
    container = {key: template["containers"][0][key] for key in ("name", "image", "securityContext", "resources")}
    spec = {
        "containers": [{**container, "args": ["hold"]}],
        "securityContext": template["securityContext"],
        "terminationGracePeriodSeconds": 1,
        "resourceClaims": [{"name": "gpu", "resourceClaimName": "bare"}],
        "affinity": template["affinity"],
    }
    return {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "bare", "namespace": namespace}, "spec": spec}


def test_without_consumable_shares_a_claim_has_the_whole_gpu(stack: LiveStack, observed: Callable[[str], None]) -> None:
    """Fails if with `driver.consumableShares: disabled` the claims beside `small` do not wait, or `small` has a share
    only.
    """
    if stack.settings.consumable_shares != "disabled":
        pytest.skip("driver.consumableShares is on; set it to disabled to see the limitation")
    assert pod_of(stack, "small")["status"]["phase"] == "Running"
    (result,) = results(stack, "small")
    assert "consumedCapacity" not in result and "shareID" not in result
    reasons = {}
    for name in ("medium", "large", WAITING):
        pod = pod_of(stack, name)["metadata"]["name"]
        reasons[name] = Playground(stack, NAMESPACE).wait_unschedulable(pod)
        assert not results(stack, name)
    share = capacity.requests(stack)["small"] / total_mib(stack)[device_of(stack, "small")]
    observed(f"small asks for {share:.0%} of {result['device']} and has it alone; the others: {reasons['medium']}")
