"""Checks of module 10.6: MIG devices that NVIDIA's driver makes when a claim has them, and destroys afterwards."""

import json
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from checks import dynamic_mig, faults, mig
from checks.dynamic_mig import Gpu, of_gpu, profile_cel, request, run, start
from checks.live import LiveStack, Playground, wait_for
from gpus.mig import smallest_profile
from gpus.mps import context_mib
from gpus.quantity import quantity_mib

# As NVIDIA's own tests ask of MIG devices that are not there yet: those of module 10.1's, and no UUID.
ATTRIBUTES = {
    *("addressingMode", "architecture", "brand", "cudaComputeCapability", "cudaDriverVersion", "driverVersion"),
    *("numaNode", "parentUUID", "pciBusID", "pcieRoot", "productName", "profile", "type"),
}
READY_SECONDS = 10  # as NVIDIA's own tests, which ask for no more
H100 = "h100-80gb"
SMALL, SMALL_SMS, SMALL_MIB = "1g.10gb", 16, 9984
THREE, FOUR = "3g.40gb", "4g.40gb"
# Devices of one H100: its seven profiles at each of their places, and the GPU itself.
PARTITIONS, MEMORY_SLICES, MOST = 25, 8, 7
# Memory of an H100 that its largest profile has; the GPU alone has 81559.
LARGEST_MIB = 81152
ADMIN = {"resource.kubernetes.io/admin-access": "true", "pod-security.kubernetes.io/enforce": "restricted"}
NO_ROOM = "cannot allocate all claims"
# What NVIDIA's driver says where NVML has no room for a GPU instance.
NOT_MADE = "error creating GPU instance"
# A daemon of MPS in a pod runs as root, without any capability.
BASELINE = {"pod-security.kubernetes.io/enforce": "baseline"}
THREE_SMS, OWN_SMS, OWN_MIB = 60, 30, 4096
# Two of these fit into a MIG device of half an H100, and three do not: its memory is the bound.
SHARE = "16Gi"
SHARE_OF_THE_REST = {"multiprocessors": "20", "copyEngines": "1", "decoders": "1", "jpegEngines": "1"}
NO_PARENT = "could not get device handle by UUID"


@pytest.fixture(scope="module")
def tenant_away(stack: LiveStack) -> Iterator[None]:
    """Nothing of the stack's own is on a GPU, until the last check of the file has ended."""
    with mig.all_free(stack, dynamic_mig.NAMESPACE):
        dynamic_mig.wait_nothing_made(stack)
        yield


@pytest.fixture
def playground(stack: LiveStack, tenant_away: None) -> Iterator[Playground]:
    """A namespace of its own; afterwards every MIG device has to go, and MIG mode to be off."""
    with stack.playground() as namespace:
        yield namespace
    dynamic_mig.wait_nothing_made(stack)


@pytest.fixture
def gpus(stack: LiveStack) -> list[Gpu]:
    """Two H100s of the first node."""
    found = dynamic_mig.gpus_of(stack, stack.settings.gpu_nodes[0])
    if len(found) < 2 or found[0].model.key != H100:
        pytest.skip(f"the checks are for two {H100} of the first node, which has {len(found)} {found[0].model.key}")
    return found


def node_slices(stack: LiveStack, node: str) -> list[dict[str, Any]]:
    return [slice_["spec"] for slice_ in stack.slices() if slice_["spec"]["pool"]["name"] == node]


def whole(gpu: Gpu) -> str:
    """Expression for the GPU itself."""
    return f'{dynamic_mig.ATTRIBUTES}.uuid == "{gpu.uuid}"'


def test_tenant_has_a_mig_device_that_was_made_for_it(stack: LiveStack, observed: Callable[[str], None]) -> None:
    """Fails if it is of another profile, `nvidia-smi` in the node does not list it, or MIG mode is off."""
    namespace, gpu = dynamic_mig.NAMESPACE, dynamic_mig.gpus_of(stack, stack.settings.gpu_nodes[0])[0]
    (pod,) = [one["metadata"]["name"] for one in stack.get("pods", "", namespace, label_selector={"app": "tenant"})]
    tenants = Playground(stack, namespace)
    (device,) = tenants.allocated(pod)
    (seen,) = tenants.report(pod)["gpus"]
    profile = smallest_profile(gpu.model)
    assert device["device"].startswith("gpu-0-mig-") and device["profile"] == profile.name
    assert (seen["mig"], seen["multiprocessors"], seen["memory_mib"]) == (
        *(True, profile.multiprocessors),
        profile.memory_mib,
    )
    assert (gpu.made().get(seen["uuid"]), gpu.mode()) == (profile.name, "Enabled")
    observed(f"{device['device']}: {seen['uuid']}, {seen['multiprocessors']} SMs, {seen['memory_mib']} MiB")


def test_every_partition_is_published_with_what_it_consumes(
    stack: LiveStack, gpus: list[Gpu], observed: Callable[[str], None]
) -> None:
    """Fails if a profile or place is missing, a partition has a UUID or other attributes than NVIDIA's own tests list,
    or a GPU has no counters.
    """
    node, published = gpus[0].node, stack.devices()
    slices = node_slices(stack, node)
    counters = {one["name"]: one["counters"] for spec in slices for one in spec.get("sharedCounters", [])}
    assert len(counters) == len(gpus)
    # A slice has counters or devices, not both; one of devices for each GPU.
    assert sorted(bool(spec.get("devices")) for spec in slices) == [False, *[True] * len(gpus)]
    for gpu in gpus:
        names = {name for where, name in published if where == node and name.split("-")[1] == str(gpu.index)}
        assert names == {f"gpu-{gpu.index}", *dynamic_mig.partitions(gpu.model, gpu.index)}
        assert len(names) == PARTITIONS + 1
    for values in counters.values():
        places = {name for name in values if name.startswith("memory-slice-")}
        assert places == {f"memory-slice-{number}" for number in range(MEMORY_SLICES)}
    for name in dynamic_mig.partitions(gpus[0].model, 0):
        attributes = {key for key, value in published[node, name].items() if key in (*ATTRIBUTES, "uuid")}
        assert attributes == ATTRIBUTES, name
        assert (published[node, name]["addressingMode"], published[node, name]["numaNode"]) == ("None", 0)
    observed(f"{len(gpus)} GPUs, {PARTITIONS + 1} devices each; counters {', '.join(sorted(counters))}")


def test_full_gpu_has_what_its_largest_partition_has(
    stack: LiveStack, gpus: list[Gpu], observed: Callable[[str], None]
) -> None:
    """Fails if its memory is another."""
    for gpu in gpus:
        assert quantity_mib(stack.devices()[gpu.node, f"gpu-{gpu.index}"]["memory"]) == LARGEST_MIB
    observed(f"{LARGEST_MIB} of {gpus[0].model.memory_mib} MiB")


def test_one_pod_has_one_partition_and_mig_mode_is_on_meanwhile(
    playground: Playground, gpus: list[Gpu], observed: Callable[[str], None]
) -> None:
    """Fails if it takes more than 10 s, sees more than its part, or MIG mode is on before or afterwards."""
    first, other = gpus[:2]
    assert [gpu.mode() for gpu in gpus] == ["Disabled"] * len(gpus)
    began = time.monotonic()
    pod = start(playground, "small", request(profile_cel(SMALL), of_gpu(first)))
    playground.wait_running(pod, READY_SECONDS)
    seconds = time.monotonic() - began
    lines = mig.in_pod(playground, pod, "nvidia-smi", "-L")
    (gpu,) = playground.report(pod)["gpus"]
    assert len(lines) == 2 and mig.mig_uuids(lines) == [gpu["uuid"]] == list(first.made())
    assert (gpu["multiprocessors"], gpu["memory_mib"]) == (SMALL_SMS, SMALL_MIB)
    assert (first.mode(), other.mode()) == ("Enabled", "Disabled")
    dynamic_mig.Partition(playground, "small", pod).remove()
    dynamic_mig.wait_nothing_made(playground.stack)
    observed(f"{gpu['uuid']} after {seconds:.1f} s, MIG mode on; gone with its pod, MIG mode off")


def test_two_containers_have_two_partitions_of_one_gpu(playground: Playground, observed: Callable[[str], None]) -> None:
    """Fails if one has 30 SMs or more, the other 50 or fewer, or both are the same."""
    (pod,) = playground.create("10.6-dynamic-mig/two-containers")
    playground.wait_running(pod)
    seen = {container: playground.report(pod, container)["gpus"] for container in ("probe", "second")}
    sms = {container: [gpu["multiprocessors"] for gpu in gpus] for container, gpus in seen.items()}
    assert len(sms["probe"]) == len(sms["second"]) == 1 and sms["probe"][0] < 30 and sms["second"][0] > 50
    assert len({gpu["uuid"] for gpus in seen.values() for gpu in gpus}) == 2
    assert len({device["parentUUID"] for device in playground.allocated(pod)}) == 1
    observed("; ".join(f"{container}: {numbers[0]} SMs" for container, numbers in sms.items()))


def test_four_partitions_of_a_mixture_are_made_for_one_pod(
    playground: Playground, observed: Callable[[str], None]
) -> None:
    """Fails if its four containers do not see four parts of one GPU."""
    (pod,) = playground.create("10.1-mig-devices/four-of-one-gpu")
    playground.wait_running(pod)
    devices = playground.allocated(pod)
    uuids = [
        gpu["uuid"]
        for container in ("probe", "second", "third", "fourth")
        for gpu in playground.report(pod, container)["gpus"]
    ]
    assert len(set(uuids)) == len(uuids) == 4 and len({device["parentUUID"] for device in devices}) == 1
    observed(", ".join(device["device"] for device in devices))


def test_partitions_of_one_gpu_come_and_go(
    playground: Playground, gpus: list[Gpu], observed: Callable[[str], None]
) -> None:
    """Fails if with a pod goes a part of the other one, or MIG mode."""
    gpu = gpus[0]
    pair = [run(playground, name, request(profile_cel(SMALL), of_gpu(gpu), count=2)) for name in ("first", "second")]
    uuids = [partition.uuids for partition in pair]
    assert [len(found) for found in uuids] == [2, 2] and sorted(gpu.made()) == sorted(uuids[0] + uuids[1])
    pair[0].remove()
    wait_for("those of the first are destroyed", lambda: sorted(gpu.made()) == sorted(uuids[1]))
    # The driver asks for MIG mode off after each, and a GPU with MIG devices refuses that.
    assert gpu.mode() == "Enabled" and pair[1].uuids == uuids[1]
    pair[1].remove()
    dynamic_mig.wait_nothing_made(playground.stack)
    observed("two pods with two each; with the first pod its two went, with the second all and MIG mode")


def test_seven_are_all_of_a_gpu(playground: Playground, gpus: list[Gpu], observed: Callable[[str], None]) -> None:
    """Fails if an eighth runs there, or a claim for any GPU of the model does not go to the other one."""
    first, other = gpus[:2]
    seven = run(playground, "seven", request(profile_cel(SMALL), of_gpu(first), count=MOST))
    assert len(set(seven.uuids)) == len(first.made()) == MOST
    eighth = start(playground, "eighth", request(profile_cel(SMALL), of_gpu(first)))
    reason = playground.wait_unschedulable(eighth)
    assert NO_ROOM in reason
    product = f'{dynamic_mig.ATTRIBUTES}.productName == "{first.model.product_name}"'
    elsewhere = run(playground, "elsewhere", request(profile_cel(SMALL), product))
    assert elsewhere.devices[0]["parentUUID"] == other.uuid
    observed(
        f"{MOST} of {first.node} GPU {first.index}; the eighth: {reason}; another of the model: {elsewhere.device}"
    )


def test_full_gpu_and_its_partitions_exclude_each_other(
    playground: Playground, gpus: list[Gpu], observed: Callable[[str], None]
) -> None:
    """Fails if a claim for the full GPU gets one whose part is in use, or a part of a full one in use is given out."""
    first, other = gpus[:2]
    run(playground, "part", request(profile_cel(SMALL), of_gpu(first)))
    either = f"({whole(first)} || {whole(other)})"
    full = run(playground, "full", request(either, gpu=True))
    assert full.uuids == [other.uuid] and other.mode() == "Disabled"
    second = start(playground, "second-full", request(either, gpu=True))
    reasons = [playground.wait_unschedulable(second)]
    beside = start(playground, "beside-full", request(profile_cel(SMALL), of_gpu(other)))
    reasons.append(playground.wait_unschedulable(beside))
    assert all(NO_ROOM in reason for reason in reasons)
    observed(f"a partition of GPU {first.index}: the full one is GPU {other.index}; then for both {reasons[0]}")


def test_free_places_that_lie_apart_are_of_no_use_for_a_large_profile(
    playground: Playground, gpus: list[Gpu], observed: Callable[[str], None]
) -> None:
    """Fails if a profile of half a GPU runs beside small ones in both halves.

    Small ones in both halves of a GPU. What blocks one half meanwhile has the next one go to the other half.
    """
    gpu = gpus[0]
    blocking = run(playground, "blocking", request(profile_cel(THREE), of_gpu(gpu)))
    one = run(playground, "one", request(profile_cel(SMALL), of_gpu(gpu)))
    # The other half has three places for a 1g where it is the second one, as seven compute slices allow.
    rest = 3 if blocking.place else 2
    filling = run(playground, "filling", request(profile_cel(SMALL), of_gpu(gpu), count=rest))
    blocking.remove()
    two = run(playground, "two", request(profile_cel(SMALL), of_gpu(gpu)))
    filling.remove()
    places = sorted((one.place, two.place))
    assert places[0] < 4 <= places[1]
    waiting = [
        start(playground, f"large-{profile[0]}", request(profile_cel(profile), of_gpu(gpu)))
        for profile in (THREE, FOUR)
    ]
    reasons = [playground.wait_unschedulable(pod) for pod in waiting]
    assert all(NO_ROOM in reason for reason in reasons)
    assert len(gpu.made()) == 2
    observed(f"{SMALL} at places {places[0]} and {places[1]}: 6 of 8 memory slices are free; {THREE} and {FOUR} wait")


def test_place_is_used_again_for_another_profile(
    playground: Playground, gpus: list[Gpu], observed: Callable[[str], None]
) -> None:
    """Fails if a part is left over, or has the UUID of the one before."""
    gpu, made = gpus[0], []
    for number, profile in enumerate((FOUR, FOUR, "7g.80gb")):
        partition = run(playground, f"turn-{number}", request(profile_cel(profile), of_gpu(gpu)))
        assert list(gpu.made().values()) == [profile] and list(gpu.made()) == partition.uuids
        made.append((partition.place, partition.uuids[0]))
        partition.remove()
        wait_for("it is destroyed", lambda: not gpu.made(), dynamic_mig.GONE_SECONDS)
    assert {place for place, _ in made} == {0}
    assert len({uuid for _, uuid in made}) == len(made), "a MIG device that is made anew has another UUID"
    observed(f"{FOUR}, {FOUR} and 7g.80gb at place 0, one after the other: three UUIDs")


def test_restarted_plugin_keeps_what_is_used_and_destroys_what_is_not(
    playground: Playground, gpus: list[Gpu], observed: Callable[[str], None]
) -> None:
    """Fails if a pod that runs loses its part, or one that was made by hand stays."""
    stack, (first, other) = playground.stack, gpus[:2]
    used = run(playground, "used", request(profile_cel(SMALL), of_gpu(first)))
    uuids, life = used.uuids, playground.life(used.pod)
    other.make(THREE)
    stale = other.made()
    assert list(stale.values()) == [THREE]
    faults.renew_plugin(stack, first.node)
    wait_for("what nobody has is destroyed", lambda: not other.made(), dynamic_mig.GONE_SECONDS)
    wait_for("MIG mode is off there", lambda: other.mode() == "Disabled", dynamic_mig.GONE_SECONDS)
    assert list(first.made()) == uuids == used.uuids
    assert playground.life(used.pod) == life
    used.remove()
    observed(f"{uuids[0]} of a running pod is kept, {next(iter(stale))} that was made by hand is destroyed")


def test_mps_is_refused_and_its_pod_has_to_be_deleted_by_force(
    playground: Playground, gpus: list[Gpu], observed: Callable[[str], None]
) -> None:
    """Fails if it is not refused, a part is made for it, the pod goes by itself, or nobody can have such a part
    afterwards.

    A defect of NVIDIA's driver v0.5.0: it cannot take back a claim that it refused to prepare.

    It looks for the parent GPU by a bus ID that it has not, as the name of a device does not tell it.
    """
    stack, gpu = playground.stack, gpus[0]
    if stack.settings.cluster.provider != "kind":
        pytest.skip("cluster.provider is existing: only the log of a kubelet on Kind says why a pod stays")
    pod = start(playground, "with-mps", request(profile_cel(SMALL), of_gpu(gpu)), mig.mps(50, "4Gi"))
    refusal = mig.wait_event(playground, pod, '"MPSSupport" feature gate is not enabled')
    assert not gpu.made() and gpu.mode() == "Disabled"
    uid = playground.pod(pod)["metadata"]["uid"]
    playground.delete_pod(pod)
    log = ("sh", "-c", 'journalctl -u kubelet --no-pager | grep "$1" | grep "$2" || [ $? = 1 ]', "sh", uid, NO_PARENT)
    wait_for("the kubelet says why the pod stays", lambda: stack.in_node(gpu.node, *log), dynamic_mig.GONE_SECONDS)
    assert "deletionTimestamp" in playground.pod(pod)["metadata"]
    let_go_by_force(playground, pod)
    again = run(playground, "again", request(profile_cel(SMALL), of_gpu(gpu)))
    assert list(gpu.made()) == again.uuids
    words = refusal[refusal.rindex('"MPS"') :]
    observed(f"{words}; the kubelet: {NO_PARENT}; with the pod deleted by force, another one has such a part")


def test_partition_that_could_not_be_made_is_not_made_later_for_that_pod(
    playground: Playground, gpus: list[Gpu], observed: Callable[[str], None]
) -> None:
    """Fails if the pod runs although somebody has its place, does not say why not, or runs once the place is free: then
    the driver is mended; or if another one does not run there.

    The same defect of NVIDIA's driver v0.5.0: it cannot take back what it has begun, and so does not begin again.
    """
    gpu = gpus[0]
    gpu.make(FOUR)  # as an administrator does, of whom the scheduler knows nothing
    (foreign,) = gpu.made()
    pod = start(playground, "waits", request(profile_cel(FOUR), of_gpu(gpu)))
    refusal = mig.wait_event(playground, pod, NOT_MADE)
    assert list(gpu.made()) == [foreign]
    gpu.unmake()
    before = refusals(playground, pod)
    wait_for("the kubelet has asked twice again", lambda: refusals(playground, pod) > before + 1)
    assert playground.pod(pod)["status"]["phase"] == "Pending" and not gpu.made()
    let_go_by_force(playground, pod)
    again = run(playground, "again", request(profile_cel(FOUR), of_gpu(gpu)))
    assert list(gpu.made().values()) == [FOUR] and list(gpu.made()) == again.uuids != [foreign]
    observed(
        f"{refusal[refusal.rindex(NOT_MADE) :]}; with its place free: {NO_PARENT}; "
        f"with the pod deleted by force, another one has {again.device}"
    )


def refusals(playground: Playground, pod: str) -> int:
    """Number of times that the kubelet told of a claim which NVIDIA's driver could not take back."""
    field = f"involvedObject.name={pod}"
    found = playground.stack.get("events", namespace=playground.namespace, field_selector=field)
    return sum(event.get("count") or 1 for event in found if NO_PARENT in (event.get("message") or ""))


def let_go_by_force(playground: Playground, pod: str) -> None:
    """Delete a pod whose claim NVIDIA's driver cannot let go of; returns once the API has."""
    playground.stack.kubectl("delete", "pod", "-n", playground.namespace, pod, "--force", "--grace-period=0")
    wait_for("the claim is let go of", lambda: not playground.stack.allocations(playground.namespace))


def test_pod_brings_its_own_mps_to_a_partition(
    stack: LiveStack, tenant_away: None, gpus: list[Gpu], observed: Callable[[str], None]
) -> None:
    """Fails if its clients have other SMs than half of their MIG device, more memory than the limit, or no client shows
    in the daemon.
    """
    with stack.playground(BASELINE) as playground:
        image = "localhost/dra-workshop/mps-daemon:v1"
        (pod,) = playground.create(
            "10.6-dynamic-mig/own-mps", **{image: stack.settings.images.get("mps-daemon") or image}
        )
        playground.wait_running(pod)
        (device,) = playground.allocated(pod)
        assert (device["profile"], device["multiprocessors"]) == (THREE, str(THREE_SMS))
        inside = ("gpu-probe", "info", "--context")
        for container in ("probe", "second"):
            lines = [json.loads(line) for line in mig.in_pod(playground, pod, *inside, container=container)]
            (context,) = [line for line in lines if "sms" in line]
            assert context["sms"] == OWN_SMS
            assert context["free_mib"] == OWN_MIB - context_mib(OWN_SMS)
        status = json.loads("".join(mig.in_pod(playground, pod, "mps-daemon", "status", container="mps-daemon")))
        (server,) = status["servers"]
        assert server["clients"]
    dynamic_mig.wait_nothing_made(stack)
    of_all = f"{OWN_SMS} of {THREE_SMS} SMs, {context['free_mib']} of {device['memory']} free"
    observed(f"{device['device']}: two clients, each with {of_all}")


def test_claims_share_a_partition_until_the_last_one_has_gone(
    playground: Playground, gpus: list[Gpu], observed: Callable[[str], None]
) -> None:
    """Fails if two claims that fit have two parts, a third that does not fit has the same, or the part goes before its
    last claim; or if claims that request memory alone share one: then the driver is mended.

    NVIDIA's driver v0.5.0 has a policy for requests of memory only. Of every other capacity a claim that requests none
    consumes all there is, so nobody has the part beside it.
    """
    stack, gpu = playground.stack, gpus[0]
    if stack.settings.consumable_shares != "memory":
        pytest.skip("driver.consumableShares is not memory, so each claim has a part of its own")
    alone, beside = (run(playground, name, share(gpu, SHARE)) for name in ("alone", "beside"))
    assert alone.device != beside.device
    alone.remove()
    beside.remove()
    dynamic_mig.wait_nothing_made(stack)
    wanted = share(gpu, SHARE, **SHARE_OF_THE_REST)
    first, second, third = (run(playground, name, wanted) for name in ("first", "second", "third"))
    assert first.device == second.device != third.device
    assert first.uuids == second.uuids != third.uuids
    shared, last, devices = first.uuids, third.uuids, (first.device, third.device)
    assert sorted(gpu.made()) == sorted(shared + last)
    first.remove()
    assert second.uuids == shared and sorted(gpu.made()) == sorted(shared + last)
    second.remove()
    wait_for("it is destroyed", lambda: list(gpu.made()) == last, dynamic_mig.GONE_SECONDS)
    observed(
        f"two claims of {SHARE} and a part of all else on {devices[0]}, a third on {devices[1]}; the part is destroyed "
        "after its last claim. Claims of memory alone have one each"
    )


def share(gpu: Gpu, memory: str, **more: str) -> dict[str, Any]:
    """Request for a part of a MIG device of half a GPU."""
    wanted = request(profile_cel(THREE), of_gpu(gpu))
    wanted["exactly"]["capacity"] = {"requests": {"memory": memory, **more}}
    return wanted


def test_time_slicing_is_accepted_and_changes_nothing(
    playground: Playground, gpus: list[Gpu], observed: Callable[[str], None]
) -> None:
    """Fails if the pod does not run, or with other SMs."""
    parameters = {"apiVersion": "resource.nvidia.com/v1beta1", "kind": "MigDeviceConfig"}
    sharing = {"sharing": {"strategy": "TimeSlicing"}}
    opaque = {"driver": "gpu.nvidia.com", "parameters": {**parameters, **sharing}}
    config = {"requests": ["slice"], "opaque": opaque}
    pod = start(playground, "time-sliced", request(profile_cel(SMALL), of_gpu(gpus[0])), config)
    (gpu,) = playground.report(pod)["gpus"]
    assert gpu["multiprocessors"] == SMALL_SMS
    observed(f"{gpu['uuid']}: {gpu['multiprocessors']} SMs")


def test_admin_claim_for_a_gpu_whose_parts_are_used(
    stack: LiveStack, tenant_away: None, gpus: list[Gpu], observed: Callable[[str], None]
) -> None:
    """Fails if it is allocated: Kubernetes 1.37 counts it as any other."""
    with stack.playground(ADMIN) as playground:
        run(playground, "part", request(profile_cel(SMALL), of_gpu(gpus[0])))
        wanted = request(whole(gpus[0]), gpu=True)
        wanted["exactly"]["adminAccess"] = True
        pod = start(playground, "looks-on", wanted)
        reason = playground.wait_unschedulable(pod)
        assert NO_ROOM in reason
    dynamic_mig.wait_nothing_made(stack)
    observed(f"counters hold for it too: {reason}")


def test_gpu_of_an_older_architecture_keeps_its_mode(playground: Playground, observed: Callable[[str], None]) -> None:
    """Fails if an A100's MIG mode is switched, or it publishes GPU and parts.

    NVIDIA's driver does not switch MIG mode of an Ampere GPU: it publishes either its partitions or the GPU.
    """
    stack = playground.stack
    nodes = [node for node in stack.settings.gpu_nodes if "empty" in node.mig and node.whole_gpus]
    if not nodes:
        pytest.skip("no node has a GPU with MIG on and without instances beside one with MIG off")
    found = dynamic_mig.gpus_of(stack, nodes[0])
    published = stack.devices()
    for gpu in found:
        names = {name for where, name in published if where == gpu.node and name.split("-")[1] == str(gpu.index)}
        divided = nodes[0].mig[gpu.index : gpu.index + 1] == ("empty",)
        assert gpu.mode() == ("Enabled" if divided else "Disabled")
        assert names == (dynamic_mig.partitions(gpu.model, gpu.index) if divided else {f"gpu-{gpu.index}"})
    used = run(playground, "part", request(of_gpu(found[0])))
    assert list(found[0].made()) == used.uuids
    used.remove()
    wait_for("it is destroyed", lambda: not found[0].made(), dynamic_mig.GONE_SECONDS)
    assert found[0].mode() == "Enabled"
    observed(f"{found[0].model.product_name}: {len(dynamic_mig.partitions(found[0].model, 0))} partitions or the GPU")


def test_profile_without_a_product_is_of_any_model(
    playground: Playground, gpus: list[Gpu], observed: Callable[[str], None]
) -> None:
    """Fails if a claim that names the product gets another model."""
    stack, product = playground.stack, f"{dynamic_mig.ATTRIBUTES}.productName"
    models = {values["productName"] for values in stack.devices().values() if values.get("profile") == SMALL}
    if len(models) < 2:
        pytest.skip(f"only one model of the stack has the profile {SMALL}")
    ours = gpus[0].model.product_name
    partitions = {
        "any": run(playground, "any", request(profile_cel(SMALL))),
        "ours": run(playground, "ours", request(profile_cel(SMALL), f'{product} == "{ours}"')),
        "others": run(playground, "others", request(profile_cel(SMALL), f'{product} != "{ours}"')),
    }
    found = {name: partition.devices[0]["productName"] for name, partition in partitions.items()}
    assert found["any"] in models and found["ours"] == ours and found["others"] != ours
    observed(f"{SMALL}: {'; '.join(f'{name}: {model}' for name, model in found.items())}")
