"""Checks of module 10.3: what one tenant of a GPU does on its MIG device does not reach the other one.

A simulated GPU runs no kernels, so no check here is on speed.
"""

import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from checks import faults, mig, trace
from checks.live import LABEL, LiveStack, Playground, wait_for
from checks.mps import Client
from components.manifests import load
from gpus.mig import Slice
from gpus.mps import context_mib

SUCCESS, OUT_OF_MEMORY = "CUDA_SUCCESS", "CUDA_ERROR_OUT_OF_MEMORY"
REFUSED_MEMORY = 5  # gpu-probe's exit code
# What the workshop that this one replaces asked of 3g.20gb and 4g.20gb.
LITTLE_MIB, MUCH_MIB = 1024, 25600
SPARE_MIB = 64
# How the neighbour's program is known on the node: nobody else holds that much.
KILLED = "123Mi"
TAINT_SECONDS = 15  # from an XID to the driver's taint
CONTAINED, FELL_OFF = 94, 79  # "Contained memory error", of one GPU instance; "GPU has fallen off the bus"


@pytest.fixture
def playground(stack: LiveStack, free_mig_devices: None) -> Iterator[Playground]:
    """A namespace of its own, and every MIG device to have in it."""
    with stack.playground() as namespace:
        yield namespace


def pair(stack: LiveStack) -> list[Slice]:
    """First two MIG devices of one GPU."""
    return next(group[:2] for group in mig.by_gpu(stack.settings.all_mig_slices).values() if len(group) > 1)


def neighbours(playground: Playground, *args: str) -> tuple[Slice, str, Client]:
    """One MIG device and a claim for it; and a client on another of the same GPU, with a context and some memory."""
    left, right = pair(playground.stack)
    claims = [mig.claim(playground, name, slice_) for name, slice_ in (("left", left), ("right", right))]
    client = mig.client(playground, claims[1], *(args or mig.HOLD))
    client.wait_line("holding")
    return left, claims[0], client


def restarts(client: Client) -> int:
    pod = client.stack.one("pods", client.name, client.namespace)
    return sum(state["restartCount"] for state in pod["status"]["containerStatuses"])


def assert_untouched(client: Client, holding: dict[str, Any]) -> None:
    """Asserts that the client is the process that it was, whose context it looks at every half second."""
    assert "running" in client.state() and restarts(client) == 0
    lines = [line for line in client.lines() if "holding" in line or "error" in line]
    assert lines == [holding]


def test_tenants_have_two_mig_devices_of_one_gpu(playground: Playground, observed: Callable[[str], None]) -> None:
    """Fails if the two pods of `two-tenants.yaml` have one MIG device, or parts of two GPUs, or see another one."""
    mig.of_the_layout(playground.stack)
    pods = playground.create("10.3-mig-isolation/two-tenants")
    devices = []
    for pod in pods:
        (gpu,) = playground.report(pod)["gpus"]
        devices += playground.allocated(pod)
        assert gpu["uuid"] == devices[-1]["uuid"]
    assert len({device["parentUUID"] for device in devices}) == 1
    assert len({device["uuid"] for device in devices}) == 2
    observed(f"{devices[0]['device']} and {devices[1]['device']}")


def test_memory_stops_at_the_mig_device(playground: Playground, observed: Callable[[str], None]) -> None:
    """Fails if 1 GiB is refused or 25 GiB are not; one MiB more than memory less context is not refused, or 64 MiB less
    is.
    """
    slice_ = pair(playground.stack)[0]
    if slice_.profile.memory_mib > MUCH_MIB:
        pytest.skip(f"{slice_.profile.name} has more than the {MUCH_MIB} MiB that a client is to be refused")
    claim = mig.claim(playground, "alone", slice_)
    left = slice_.profile.memory_mib - context_mib(slice_.profile.multiprocessors)
    expected = {LITTLE_MIB: SUCCESS, MUCH_MIB: OUT_OF_MEMORY, left + 1: OUT_OF_MEMORY, left - SPARE_MIB: SUCCESS}
    clients = {size: mig.client(playground, claim, "alloc", f"{size}Mi") for size in expected}
    ends = {size: client.ended() for size, client in clients.items()}
    assert {size: end.lines[0]["result"] for size, end in ends.items()} == expected
    assert {end.code for end in ends.values() if end.lines[0]["result"] == OUT_OF_MEMORY} == {REFUSED_MEMORY}
    seen = ", ".join(f"{size} {result}" for size, result in expected.items())
    observed(f"of {slice_.profile.memory_mib} MiB: {seen}")


def test_neighbour_that_is_refused_memory_touches_nobody(
    playground: Playground, observed: Callable[[str], None]
) -> None:
    """Fails if the other client ends, starts again, or is another process."""
    _, claim, client = neighbours(playground)
    holding = client.wait_line("holding")
    end = mig.client(playground, claim, "alloc", f"{MUCH_MIB * 4}Mi").ended()
    assert (end.code, end.lines[0]["result"]) == (REFUSED_MEMORY, OUT_OF_MEMORY)
    assert_untouched(client, holding)
    observed(f"{OUT_OF_MEMORY} on one; on the other still {holding['sms']} SMs in process {holding['pid']}")


def test_neighbour_that_fills_its_memory_takes_none_of_another(
    playground: Playground, observed: Callable[[str], None]
) -> None:
    """Fails if free memory of the other MIG device changes.

    Through MPS, whose servers count the memory of all clients on their device.
    """
    if "10.4" not in playground.stack.settings.modules:
        pytest.skip("without module 10.4 the driver starts no MPS daemon, and memory is each process's own affair")
    left, right = (
        mig.share(playground, name, slice_, mig.mps(100, "1Gi"))
        for name, slice_ in zip(("left", "right"), pair(playground.stack), strict=True)
    )
    before = right.context()
    size = left.context()["free_mib"] - context_mib(left.context()["sms"]) - SPARE_MIB
    filling = left.hold(size)
    filling.wait_line("holding")
    assert left.alloc(2 * SPARE_MIB) == [OUT_OF_MEMORY]
    assert right.context() == before
    names = [one.slice_.device_name for one in (left, right)]
    observed(f"{size} MiB on {names[0]}: {before['free_mib']} MiB free on {names[1]} as before")


def test_killed_neighbour_touches_nobody(playground: Playground, observed: Callable[[str], None]) -> None:
    """Fails if the other client ends, starts again, or is another process, or the MIG device of the killed one cannot
    be used again.
    """
    stack = playground.stack
    if stack.settings.cluster.provider != "kind":
        pytest.skip("cluster.provider is existing: only on a node of Kind can a pod's process be killed from outside")
    left, claim, client = neighbours(playground)
    holding = client.wait_line("holding")
    neighbour = mig.client(playground, claim, *mig.HOLD[:-1], KILLED)
    neighbour.wait_line("holding")
    stack.in_node(left.node, "pkill", "-KILL", "-f", f"gpu-probe hold .*{KILLED}$")
    code = neighbour.wait_end()["exitCode"]
    assert code == 128 + 9
    assert_untouched(client, holding)
    again = mig.client(playground, claim, *mig.HOLD)
    assert again.wait_line("holding")["total_mib"] == left.profile.memory_mib
    observed(f"exit code {code} on one; on the other still process {holding['pid']}")


def gpu_instance(stack: LiveStack, slice_: Slice) -> tuple[int, int]:
    """IDs of a MIG device's GPU and compute instance."""
    (found,) = [
        row.instances for row in trace.rows(stack) if (row.node, row.device) == (slice_.node, slice_.device_name)
    ]
    return found


def skip_unless_simulated(stack: LiveStack) -> None:
    if stack.settings.gpu.source != "simulated":
        pytest.skip("an XID is put into a simulated GPU only: a real one has to break")


def taint(xid: int) -> dict[str, str]:
    """Taint for an XID, of the driver's and of the keeper's rule alike."""
    return {"key": faults.XID_KEY, "value": str(xid), "effect": "NoSchedule"}


def taint_of(rule: dict[str, Any]) -> dict[str, str]:
    """Taint of a rule, without the time that Kubernetes sets."""
    return without_time(rule["spec"]["taint"])


def without_time(published: dict[str, str]) -> dict[str, str]:
    return {key: value for key, value in published.items() if key != "timeAdded"}


def tainted(stack: LiveStack, node: str) -> set[str]:
    """Devices of a node that the driver has tainted."""
    return {device for where, device in stack.devices() if where == node and faults.taints(stack, node, device)}


def test_fault_of_one_gpu_instance_taints_that_mig_device_only(
    playground: Playground, observed: Callable[[str], None]
) -> None:
    """Fails if an XID 94 of a GPU instance taints nothing or more than its MIG device, a new claim for it does not
    wait, or one for the other does.
    """
    stack = playground.stack
    skip_unless_simulated(stack)
    left, right = pair(stack)
    instance, compute = gpu_instance(stack, left)
    with faults.mended_with_rules(stack, left.node, [slice_.device_name for slice_ in pair(stack)]):
        began = time.monotonic()
        faults.report_xids(stack, left.node, [f"{left.gpu} {CONTAINED} {instance} {compute}"])
        wait_for("the driver taints a MIG device", lambda: tainted(stack, left.node), TAINT_SECONDS)
        seconds = time.monotonic() - began
        assert tainted(stack, left.node) == {left.device_name}
        (published,) = faults.taints(stack, left.node, left.device_name)
        assert without_time(published) == taint(CONTAINED)
        waiting = mig.client(playground, mig.claim(playground, "left", left), *mig.HOLD)
        reason = playground.wait_unschedulable(waiting.name)
        assert "cannot allocate all claims" in reason
        running = mig.client(playground, mig.claim(playground, "right", right), *mig.HOLD)
        running.wait_line("holding")
        assert taint_of(faults.wait_rule(stack, left.node, left.device_name)) == taint(CONTAINED)
        assert not faults.rules_of(stack, right.node, right.device_name)
    waiting.wait_line("holding")
    observed(f"XID {CONTAINED} of GPU instance {instance}: {left.device_name} tainted after {seconds:.1f} s; {reason}")


def test_fault_of_a_partitioned_gpu_taints_nothing(stack: LiveStack, observed: Callable[[str], None]) -> None:
    """Fails if XID 79 of a divided GPU taints a MIG device, or that of a whole GPU does not taint it.

    A defect of NVIDIA's driver v0.5.0: it looks for the GPU among its devices, where only MIG devices are.

    Its plugin handles XIDs in their order, so once it has tainted for a second one, it is done with the first.
    """
    skip_unless_simulated(stack)
    slices = pair(stack)
    left = slices[0]
    instance, compute = gpu_instance(stack, left)
    whole = [(node.node, f"gpu-{index}") for node in stack.settings.gpu_nodes for index in node.whole_gpus]
    with faults.mended_with_rules(stack, left.node, [slice_.device_name for slice_ in slices]):
        lines = [f"{left.gpu} {FELL_OFF}", f"{left.gpu} {CONTAINED} {instance} {compute}"]
        faults.report_xids(stack, left.node, lines)
        wait_for("the driver taints for the second XID", lambda: tainted(stack, left.node), TAINT_SECONDS)
        assert tainted(stack, left.node) == {left.device_name}
        (published,) = faults.taints(stack, left.node, left.device_name)
        assert published["value"] == str(CONTAINED)
        for slice_ in slices:
            faults.wait_rule(stack, slice_.node, slice_.device_name)
    seen = f"XID {FELL_OFF} of GPU {left.gpu}, which MIG divides: no taint"
    if whole:
        node, device = whole[0]
        with faults.mended_with_rules(stack, node, [device]):
            faults.report_xids(stack, node, [f"{device.removeprefix('gpu-')} {FELL_OFF}"])
            wait_for("the driver taints a whole GPU", lambda: tainted(stack, node), TAINT_SECONDS)
            assert tainted(stack, node) == {device}
            faults.wait_rule(stack, node, device)
        seen += f"; of {node} {device}, which is whole: tainted"
    observed(seen)


def test_keeper_taints_every_mig_device_of_a_gpu_that_failed(
    playground: Playground, observed: Callable[[str], None]
) -> None:
    """Fails if XID 79 of a divided GPU has no rule of the keeper for one of its MIG devices, or one for another device;
    a new claim gets one of them, a pod on one ends, or a rule goes with the plugin and not with the person's command.
    """
    stack = playground.stack
    skip_unless_simulated(stack)
    slices = pair(stack)
    left, right = slices
    of_gpu = [one for one in stack.settings.all_mig_slices if (one.node, one.gpu) == (left.node, left.gpu)]
    names = [slice_.device_name for slice_ in of_gpu]
    ready = mig.client(playground, mig.claim(playground, "ready", right), *mig.HOLD)
    holding = ready.wait_line("holding")
    with faults.mended_with_rules(stack, left.node, names):
        began = time.monotonic()
        faults.report_xids(stack, left.node, [f"{left.gpu} {FELL_OFF}"])
        rules = {name: faults.wait_rule(stack, left.node, name) for name in names}
        seconds = time.monotonic() - began
        assert not tainted(stack, left.node), "the driver taints by itself: its defect is mended"
        assert {name: rule["metadata"]["name"] for name, rule in rules.items()} == {
            name: f"xid-{left.node}-{name}" for name in names
        }
        assert [taint_of(rule) for rule in rules.values()] == [taint(FELL_OFF)] * len(names)
        assert {rule["metadata"]["name"] for rule in stack.get(faults.RULES)} == {
            rule["metadata"]["name"] for rule in rules.values()
        }
        assert_untouched(ready, holding)
        waiting = mig.client(playground, mig.claim(playground, "left", left), *mig.HOLD)
        reason = playground.wait_unschedulable(waiting.name)
        assert "cannot allocate all claims" in reason
        # Only the rule keeps it off: one that tolerates it gets the MIG device.
        tolerating = mig.request(left)
        tolerating["exactly"]["tolerations"] = [{"key": faults.XID_KEY, "operator": "Exists", "effect": "NoSchedule"}]
        mig.create_claim(playground, "tolerates", [tolerating])
        looking = mig.client(playground, "tolerates", *mig.HOLD)
        assert looking.wait_line("holding")["total_mib"] == left.profile.memory_mib
        looking.remove()
        faults.renew_plugin(stack, left.node)
        assert all(faults.rules_of(stack, left.node, name) for name in names)
        playground.wait_unschedulable(waiting.name)
    waiting.wait_line("holding")
    assert_untouched(ready, holding)
    observed(
        f"XID {FELL_OFF} of GPU {left.gpu}: the driver taints none, the keeper {len(names)} after {seconds:.1f} s: "
        f"{', '.join(rule['metadata']['name'] for rule in rules.values())}; {reason}"
    )


def test_rules_of_a_person_keep_claims_from_a_partitioned_gpu(
    playground: Playground, observed: Callable[[str], None]
) -> None:
    """Fails if a claim gets one of its MIG devices with the rules, or none without them.

    What helps after a fault of the whole GPU: a DeviceTaintRule for each of its MIG devices.
    """
    stack, slices = playground.stack, pair(playground.stack)
    rules = load("10.3-mig-isolation/examples", "taint-rules.yaml")
    for rule, slice_ in zip(rules, slices, strict=True):
        rule["metadata"]["labels"] = {LABEL: ""}
        rule["spec"]["deviceSelector"] |= {"pool": slice_.node, "device": slice_.device_name}
    names = [rule["metadata"]["name"] for rule in rules]
    stack.create(*rules)
    try:
        clients = [
            mig.client(playground, mig.claim(playground, f"wants-{number}", slice_), *mig.HOLD)
            for number, slice_ in enumerate(slices)
        ]
        reasons = [playground.wait_unschedulable(client.name) for client in clients]
        assert all("cannot allocate all claims" in reason for reason in reasons)
    finally:
        stack.kubectl("delete", faults.RULES, *names)
    for client in clients:
        client.wait_line("holding")
    observed(f"with the rules: {reasons[0]}; without them both run")
