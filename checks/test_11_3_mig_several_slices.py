"""Checks of module 11.3: several MIG devices in one pod, with and without MPS.

How many devices CUDA sees without MPS follows what NVIDIA documents of driver R570 and later; it was not measured. A
client of two daemons cannot choose between their pipes here: NVIDIA's driver mounts that of every claim at one place.
"""

import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from checks import mig
from checks.live import LiveStack, Playground
from checks.mps import Client
from components import gpu_config
from gpus.mps import granted_multiprocessors

FOLDER = "11.3-mig-several-slices"
# SMs of 7g.40gb of an A100-PCIE-40GB by percentage, which the workshop that this one replaces measured: of two MIG
# devices in a pod, CUDA had this one only.
MEASURED = {30: 28, 50: 48}
CLAIMS = ("four", "seven")


@pytest.fixture
def playground(stack: LiveStack, free_mig_devices: None) -> Iterator[Playground]:
    """A namespace of its own, and every MIG device to have in it."""
    mig.of_the_layout(stack)
    with stack.playground() as namespace:
        yield namespace


@pytest.fixture(scope="module")
def shared(stack: LiveStack, free_mig_devices: None) -> Iterator[dict[str, mig.Shared]]:
    """4g.20gb and 7g.40gb of two GPUs, each shared by a claim of its own with half of the SMs, by the claim's name."""
    _, *slices = mig.of_the_layout(stack)
    with stack.playground() as playground:
        playground.create(f"{FOLDER}/claims")
        holders = {name: mig.client(playground, name, *mig.HOLD) for name in CLAIMS}
        for holder in holders.values():
            holder.wait_line("holding")
        yield {
            name: mig.Shared(
                playground, name, slice_, holders[name], mig.ClaimDaemon(stack, playground.namespace, name)
            )
            for name, slice_ in zip(CLAIMS, slices, strict=True)
        }


def contexts(client: Client) -> list[dict[str, Any]]:
    """SMs and memory of each device that CUDA has in a client, once it has ended."""
    return [line for line in client.ended().lines if "sms" in line]


def in_container(playground: Playground, pod: str, container: str) -> list[dict[str, Any]]:
    """The same in a container that runs."""
    lines = mig.in_pod(playground, pod, "gpu-probe", "info", "--context", container=container)
    return [values for line in lines if "sms" in (values := json.loads(line))]


def half(one: mig.Shared) -> int:
    return granted_multiprocessors(one.slice_.part, 50)


def test_two_mig_devices_without_mps_are_two_for_cuda(playground: Playground, observed: Callable[[str], None]) -> None:
    """Fails if CUDA has another number of devices, of one GPU or of two."""
    three, _, seven = mig.of_the_layout(playground.stack)
    (pod,) = playground.create(f"{FOLDER}/both-exclusive")
    playground.wait_running(pod)
    of_one_gpu = [line["sms"] for line in in_container(playground, pod, "probe")]
    playground.delete_pod(pod)
    claims = [mig.claim(playground, name, slice_) for name, slice_ in (("three", three), ("seven", seven))]
    of_two_gpus = [line["sms"] for line in contexts(mig.client(playground, claims, "info", "--context"))]
    assert sorted(of_one_gpu) == [42, 56]
    assert sorted(of_two_gpus) == [42, 98]
    observed(f"of one GPU: SMs {of_one_gpu}; of two GPUs: {of_two_gpus} (documented of R570 and later, simulated)")


def test_claim_of_two_mig_devices_has_one_daemon_for_both(
    playground: Playground, observed: Callable[[str], None]
) -> None:
    """Fails if it has two, or one of another device, or a client is granted other SMs than the rule says."""
    stack, (three, four, _) = playground.stack, mig.of_the_layout(playground.stack)
    config = gpu_config.shared_by_mps(50, "4Gi", {}, mig.REQUEST)
    config["requests"] = ["slice", "beside-0"]
    claim = mig.claim(playground, "two", three, config, beside=[four])
    holder = mig.client(playground, claim, *mig.HOLD)
    holder.wait_line("holding")
    daemon = mig.ClaimDaemon(stack, playground.namespace, claim)
    expected = {stack.devices()[slice_.node, slice_.device_name]["uuid"] for slice_ in (three, four)}
    assert set(daemon.uuids()) == expected and len(daemon.names) == 1
    sms = sorted(line["sms"] for line in contexts(mig.client(playground, claim, "info", "--context")))
    assert sms == [granted_multiprocessors(slice_.part, 50) for slice_ in (three, four)] == [20, 28]
    observed(
        f"{daemon.names[0]} serves {len(expected)} MIG devices; a client has {sms[0]} of 42 and {sms[1]} of 56 SMs"
    )


def test_of_two_claims_with_mps_one_has_the_container(
    shared: dict[str, mig.Shared], observed: Callable[[str], None]
) -> None:
    """Fails if CUDA has two devices, or one with other SMs or memory than those of one of the two claims.

    Which one is chance: `GetResources` in pkg/kubelet/cm/dra of Kubernetes 1.37 goes through a map of the container's
    claims, and the pipe folder that is mounted last is the one that is there.
    """
    playground = shared["four"].playground
    expected = {(half(one), one.slice_.profile.memory_mib): name for name, one in shared.items()}
    found = {}
    for order in (CLAIMS, CLAIMS[::-1]):
        (line,) = contexts(mig.client(playground, order, "info", "--context"))
        seen = (line["sms"], line["total_mib"])
        assert seen in expected
        found[" then ".join(order)] = f"{expected[seen]}, {line['sms']} SMs"
    assert half(shared["seven"]) == MEASURED[50]
    observed("; ".join(f"{order}: {seen}" for order, seen in found.items()))


def test_nvidia_smi_sees_both(shared: dict[str, mig.Shared], observed: Callable[[str], None]) -> None:
    """Fails if `nvidia-smi -L` lists one only."""
    playground = shared["four"].playground
    (pod,) = playground.create(f"{FOLDER}/one-container")
    playground.wait_running(pod)
    uuids = mig.mig_uuids(mig.in_pod(playground, pod, "nvidia-smi", "-L"))
    contexts = in_container(playground, pod, "probe")
    playground.delete_pod(pod)
    assert sorted(uuids) == sorted(uuid for one in shared.values() for uuid in one.daemon.uuids())
    assert len(contexts) == 1
    observed(f"nvidia-smi -L: {' and '.join(uuids)}; CUDA: {len(contexts)} device of {contexts[0]['sms']} SMs")


def test_mig_device_without_mps_is_none_for_a_client_of_another(
    shared: dict[str, mig.Shared], observed: Callable[[str], None]
) -> None:
    """Fails if CUDA has it, or the other one with other than 28 SMs."""
    seven = shared["seven"]
    playground, (three, _, _) = seven.playground, mig.of_the_layout(seven.playground.stack)
    exclusive = mig.claim(playground, "exclusive", three)
    found = []
    try:
        seven.daemon.apply(30, "0")
        for order in ((exclusive, "seven"), ("seven", exclusive)):
            (line,) = contexts(mig.client(playground, order, "info", "--context"))
            found.append((line["sms"], line["total_mib"]))
    finally:
        seven.daemon.apply(50, "0")
    assert found == [(MEASURED[30], seven.slice_.profile.memory_mib)] * 2
    observed(f"3g.20gb without MPS and 7g.40gb at 30 %: one device of {found[0][0]} of 98 SMs, in either order")


def test_each_container_has_the_mig_device_of_its_claim(
    shared: dict[str, mig.Shared], observed: Callable[[str], None]
) -> None:
    """Fails if one of two containers, or of two pods, has another device or other SMs.

    What helps: a claim for each container, or for each pod.
    """
    playground = shared["four"].playground
    (pod,) = playground.create(f"{FOLDER}/two-containers")
    playground.wait_running(pod)
    seen = []
    for container, one in zip(("probe", "second"), shared.values(), strict=True):
        (line,) = in_container(playground, pod, container)
        # Of a pod with this claim alone.
        (own,) = contexts(mig.client(playground, one.claim, "info", "--context"))
        assert line["sms"] == own["sms"] == half(one)
        assert line["total_mib"] == own["total_mib"] == one.slice_.profile.memory_mib
        seen.append(f"{one.slice_.profile.name}: {line['sms']} of {one.slice_.profile.multiprocessors} SMs")
    playground.delete_pod(pod)
    observed("; ".join(seen))
