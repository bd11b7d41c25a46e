"""Checks of module 10.1: MIG divides GPUs, and a claim gives a pod one of the parts."""

from collections.abc import Callable, Iterator

import pytest

from checks import mig
from checks.live import LiveStack, Playground, wait_for
from gpus.models import simulated_gpus
from gpus.quantity import quantity_mib
from settings import GPU_MODELS

# Attributes of a MIG device that NVIDIA's own tests ask for, and no others. Source: tests/bats/test_gpu_mig.bats of
# NVIDIA's driver v0.5.0; addressingMode is not published by earlier versions.
ATTRIBUTES = {
    *("addressingMode", "architecture", "brand", "cudaComputeCapability", "cudaDriverVersion", "driverVersion"),
    *("numaNode", "parentUUID", "pciBusID", "pcieRoot", "productName", "profile", "type", "uuid"),
}
CAPACITIES = {"memory", "multiprocessors", "copyEngines", "decoders", "encoders", "jpegEngines", "ofaEngines"}
# What the workshop that this one replaces measured on two A100-PCIE-40GB: SMs and MiB by profile.
MEASURED = {"3g.20gb": (42, 20096), "4g.20gb": (56, 20096), "7g.40gb": (98, 40320)}
READY_SECONDS = 10  # as NVIDIA's own tests, which ask for no more
ADMIN = {"resource.kubernetes.io/admin-access": "true", "pod-security.kubernetes.io/enforce": "restricted"}


@pytest.fixture
def playground(stack: LiveStack, free_mig_devices: None) -> Iterator[Playground]:
    """A namespace of its own, and every MIG device to have in it."""
    with stack.playground() as namespace:
        yield namespace


def test_tenant_has_the_mig_device_of_its_claim(stack: LiveStack, observed: Callable[[str], None]) -> None:
    """Fails if the probe in `tenant` sees another device than the claim has, or a whole GPU."""
    (pod,) = [one["metadata"]["name"] for one in stack.get("pods", "", mig.NAMESPACE, label_selector={"app": "tenant"})]
    tenants = Playground(stack, mig.NAMESPACE)
    (device,) = tenants.allocated(pod)
    report = tenants.report(pod)
    (gpu,) = report["gpus"]
    assert (gpu["uuid"], gpu["mig"]) == (device["uuid"], True)
    observed(f"{pod} has {device['device']}: {gpu['multiprocessors']} SMs, {gpu['memory_mib']} MiB")


def test_exactly_the_layout_is_published(stack: LiveStack, observed: Callable[[str], None]) -> None:
    """Fails if name, parent, profile, SMs, memory, engines or memory slices of a device differ from the layout, or it
    has other attributes than NVIDIA's own tests list.
    """
    published = {device: values for device, values in stack.devices().items() if values["type"] == "mig"}
    nodes = stack.settings.gpu_nodes
    assert published.keys() == {(slice_.node, slice_.device_name) for slice_ in stack.settings.all_mig_slices}
    parents = {node.node: simulated_gpus(node.node, GPU_MODELS[node.model or ""], node.count or 0) for node in nodes}
    for slice_ in stack.settings.all_mig_slices:
        values, profile = published[slice_.node, slice_.device_name], slice_.profile
        slots = {key for key in values if key.startswith("memorySlice")}
        assert slots == {f"memorySlice{number}" for number in slice_.memory_slices}, slice_.device_name
        expected = {
            "parentUUID": parents[slice_.node][slice_.gpu].uuid,
            "productName": mig.product(stack, slice_),
            "profile": profile.name,
            "multiprocessors": str(profile.multiprocessors),
            "copyEngines": str(profile.copy_engines),
            "decoders": str(profile.decoders),
            "encoders": "0",
            "jpegEngines": str(profile.jpeg_engines),
            "ofaEngines": str(profile.ofa_engines),
        }
        assert {key: values[key] for key in expected} == expected, slice_.device_name
        assert quantity_mib(values["memory"]) == profile.memory_mib
        assert values["uuid"].startswith("MIG-")
        assert values.keys() - slots - CAPACITIES == ATTRIBUTES, slice_.device_name
    observed("; ".join(f"{node} {name}: {values['profile']}" for (node, name), values in published.items()))


def test_partitioned_gpu_is_not_offered(stack: LiveStack, observed: Callable[[str], None]) -> None:
    """Fails if a GPU in MIG mode is published, or a whole one is not, or a GPU with one MIG device is more or less than
    one device.
    """
    published = stack.devices()
    for node in stack.settings.gpu_nodes:
        whole = {name for (where, name), values in published.items() if (where, values["type"]) == (node.node, "gpu")}
        assert whole == {f"gpu-{index}" for index in node.whole_gpus}
    parents = {values["parentUUID"] for values in published.values() if values["type"] == "mig"}
    assert not parents & {values["uuid"] for values in published.values()}
    # One MIG device in place of the GPU leaves the number of devices as it was.
    single = [group for group in mig.by_gpu(stack.settings.all_mig_slices).values() if len(group) == 1]
    for (slice_,) in single:
        of_gpu = [name for node, name in published if node == slice_.node and name.split("-")[1] == str(slice_.gpu)]
        assert of_gpu == [slice_.device_name]
    observed(f"{len(parents)} partitioned GPUs are no devices, {len(published)} devices in all; {len(single)} have one")


def test_one_pod_has_any_mig_device(playground: Playground, observed: Callable[[str], None]) -> None:
    """Fails if it takes more than 10 s, or `nvidia-smi -L` lists more than the GPU and that device."""
    (pod,) = playground.create("10.1-mig-devices/any")
    playground.wait_running(pod, READY_SECONDS)
    (device,) = playground.allocated(pod)
    lines = mig.in_pod(playground, pod, "nvidia-smi", "-L")
    # A line of the GPU, and one of its only MIG device here.
    assert len(lines) == 2 and device["parentUUID"] in lines[0] and mig.mig_uuids(lines) == [device["uuid"]]
    observed(f"{device['device']}: {lines[1].strip()}")


def test_claims_choose_by_profile(playground: Playground, observed: Callable[[str], None]) -> None:
    """Fails if CUDA in a pod sees other SMs or memory than the profile has; on an A100-PCIE-40GB other than 42, 56 and
    98 SMs, which were measured on such cards by others.
    """
    seen, slices = [], mig.distinct(playground.stack)
    pods = [mig.create(playground, f"by-profile-{number}", slice_) for number, slice_ in enumerate(slices)]
    for pod, slice_ in zip(pods, slices, strict=True):
        (gpu,) = playground.report(pod)["gpus"]
        (device,) = playground.allocated(pod)
        name, figures = slice_.profile.name, (gpu["multiprocessors"], gpu["memory_mib"])
        assert (device["profile"], device["uuid"], gpu["mig"]) == (name, gpu["uuid"], True)
        # Of the program in the pod, by CUDA, and not only of the ResourceSlice.
        assert figures == (slice_.profile.multiprocessors, slice_.profile.memory_mib)
        if mig.product(playground.stack, slice_) == mig.PRODUCT and name in MEASURED:
            assert figures == MEASURED[name]
        seen.append(f"{name}: {device['device']}, {figures[0]} SMs, {figures[1]} MiB")
    observed("; ".join(seen))


def test_pod_sees_its_own_mig_device_only(playground: Playground, observed: Callable[[str], None]) -> None:
    """Fails if two pods on one GPU share a device or a capability file, or one may read the GPU's memory."""
    group = max(mig.by_gpu(playground.stack.settings.all_mig_slices).values(), key=len)
    if len(group) < 2:
        pytest.skip("no GPU of the layouts has two MIG devices")
    first, second = (mig.create(playground, f"neighbour-{number}", slice_) for number, slice_ in enumerate(group[:2]))
    uuids = [gpu["uuid"] for pod in (first, second) for gpu in playground.report(pod)["gpus"]]
    assert len(uuids) == len(set(uuids)) == 2
    files = []
    for pod in (first, second):
        nodes = [node["path"] for node in mig.cdi_devices(playground, pod)]
        files.append([node for node in nodes if node.startswith("/dev/nvidia-caps/")])
    # The GPU instance's and the compute instance's.
    assert [len(names) for names in files] == [2, 2] and not {*files[0]} & {*files[1]}
    used = mig.in_pod(playground, first, "nvidia-smi", "--query-gpu=memory.used", "--format=csv,noheader")
    assert used == ["[Insufficient Permissions]"], "the GPU is not the pod's, only a part of it"
    observed(f"{uuids[0]} by {' and '.join(files[0])}; the GPU's memory: {used[0]}")


def test_uuid_of_a_neighbour_names_no_device(playground: Playground, observed: Callable[[str], None]) -> None:
    """Fails if CUDA gives a pod the device of a neighbour that it names."""
    stack, group = playground.stack, max(mig.by_gpu(playground.stack.settings.all_mig_slices).values(), key=len)
    if len(group) < 2:
        pytest.skip("no GPU of the layouts has two MIG devices")
    uuids = [stack.devices()[slice_.node, slice_.device_name]["uuid"] for slice_ in group[:2]]
    claim = mig.claim(playground, "own", group[0])
    clients = [mig.client(playground, claim, "info", "--context", env={"CUDA_VISIBLE_DEVICES": uuid}) for uuid in uuids]
    own, foreign = ([line["sms"] for line in client.ended().lines if "sms" in line] for client in clients)
    assert (own, foreign) == ([group[0].profile.multiprocessors], [])
    observed(f"CUDA_VISIBLE_DEVICES={uuids[0]}: {own[0]} SMs; {uuids[1]}: no device")


def test_profile_that_no_such_gpu_has_waits(playground: Playground, observed: Callable[[str], None]) -> None:
    """Fails if the pod is not Pending, or has another reason."""
    (pod,) = playground.create("10.1-mig-devices/nothing-matches")
    reason = playground.wait_unschedulable(pod)
    assert "cannot allocate all claims" in reason
    observed(reason)


def test_claim_for_a_whole_gpu_gets_no_mig_device(playground: Playground, observed: Callable[[str], None]) -> None:
    """Fails if the pod is not Pending, or has another reason."""
    stack = playground.stack
    divided = [node for node in stack.settings.gpu_nodes if not node.whole_gpus]
    if not divided:
        pytest.skip("every node has a whole GPU")
    product = GPU_MODELS[divided[0].model or ""].product_name
    (pod,) = playground.create("10.1-mig-devices/whole-gpu", **{mig.PRODUCT: product})
    reason = playground.wait_unschedulable(pod)
    assert "cannot allocate all claims" in reason
    observed(f"{product}: {reason}")


def test_mig_profile_is_an_extended_resource(playground: Playground, observed: Callable[[str], None]) -> None:
    """Fails if a pod with `nvidia.com/mig-1g.10gb: 1` has no claim made for it, or another device."""
    stack = playground.stack
    stack.skip_without_extended_resources()
    profile = stack.settings.all_mig_slices[-1].profile.name
    try:
        (pod,) = playground.create("10.1-mig-devices/extended-resource", **{"1g.10gb": profile})
        (gpu,) = playground.report(pod)["gpus"]
        (device,) = playground.allocated(pod)
        assert (gpu["uuid"], device["profile"]) == (device["uuid"], profile)
        name = playground.pod(pod)["status"]["extendedResourceClaimStatus"]["resourceClaimName"]
        claim = stack.one("resourceclaims.v1.resource.k8s.io", name, playground.namespace)
        assert claim["metadata"]["annotations"]["resource.kubernetes.io/extended-resource-claim"] == "true"
    finally:
        stack.kubectl("delete", "deviceclass", f"mig-{profile}", "--ignore-not-found")
    observed(f"nvidia.com/mig-{profile}: 1 became claim {name} with {device['device']}")


def test_four_mig_devices_of_one_gpu(playground: Playground, observed: Callable[[str], None]) -> None:
    """Fails if the four containers do not see four devices of one parent, or a second such pod does not wait."""
    groups = mig.by_gpu(playground.stack.settings.all_mig_slices).values()
    wanted = ["1g.10gb", "1g.10gb", "2g.20gb", "3g.40gb"]
    if [1 for group in groups if sorted(one.profile.name for one in group) == wanted] != [1]:
        pytest.skip("not exactly one GPU of the layouts has the four MIG devices of the example")
    (pod,) = playground.create("10.1-mig-devices/four-of-one-gpu")
    playground.wait_running(pod)
    allocated = {device["request"]: device for device in playground.allocated(pod)}
    assert len({device["parentUUID"] for device in allocated.values()}) == 1
    seen = {}
    for container, request in {"probe": "first", "second": "second", "third": "third", "fourth": "fourth"}.items():
        (gpu,) = playground.report(pod, container)["gpus"]
        assert gpu["uuid"] == allocated[request]["uuid"]
        seen[request] = gpu["uuid"]
    assert len(set(seen.values())) == len(wanted)
    (other,) = playground.create("10.1-mig-devices/four-of-one-gpu", quartet="second-quartet")
    assert "cannot allocate all claims" in playground.wait_unschedulable(other)
    observed("; ".join(f"{request}: {device['device']}" for request, device in allocated.items()))


def test_two_pods_of_one_claim_have_the_same_mig_device(
    playground: Playground, observed: Callable[[str], None]
) -> None:
    """Fails if they see different ones."""
    pods = playground.create("10.1-mig-devices/shared-claim")
    uuids = [[gpu["uuid"] for gpu in playground.report(pod)["gpus"]] for pod in pods]
    assert uuids[0] == uuids[1] and len(uuids[0]) == 1
    observed(uuids[0][0])


def test_admin_access_to_a_mig_device_is_refused(
    stack: LiveStack, free_mig_devices: None, observed: Callable[[str], None]
) -> None:
    """Fails if the driver serves it, or refuses it for another reason."""
    with stack.playground(ADMIN) as playground:
        (pod,) = playground.create("10.1-mig-devices/admin")
        refusal = mig.wait_event(playground, pod, "requests admin access on a non-full-GPU device")
    observed(refusal[refusal.rindex("requests admin access") :])


def test_nothing_is_left_of_a_mig_device_that_was_used(playground: Playground, observed: Callable[[str], None]) -> None:
    """Fails if after three pods a claim or CDI file is left, or the device's UUID has changed."""
    stack, slice_ = playground.stack, playground.stack.settings.all_mig_slices[0]
    before = cdi_files(stack, slice_.node)
    uuids, meanwhile = [], set()
    for number in range(3):
        pod = mig.create(playground, f"cycle-{number}", slice_)
        uuids.append(playground.report(pod)["gpus"][0]["uuid"])
        meanwhile |= {*cdi_files(stack, slice_.node)} - {*before}
        playground.delete_pod(pod)
        playground.wait_gone(pod)
    wait_for("every claim is gone", lambda: not stack.allocations(playground.namespace))
    wait_for("the CDI files are gone", lambda: cdi_files(stack, slice_.node) == before)
    # It is a part that stays, which the driver hands out and does not make.
    assert (len(set(uuids)), len(meanwhile)) == (1, 3)
    observed(f"3 pods, one after the other, had {uuids[0]}; {len(meanwhile)} CDI files came and went")


def cdi_files(stack: LiveStack, node: str) -> list[str]:
    return sorted(stack.in_node(node, "ls", "/var/run/cdi").split())
