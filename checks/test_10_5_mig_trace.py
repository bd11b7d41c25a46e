"""Checks of module 10.5: every witness names the same container for a MIG device, and the same device for that one."""

import json
import re
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pytest

from checks import dashboard, faults, metrics, mig, trace
from checks.live import LiveStack, Playground, wait_for
from components.manifests import load
from gpus.quantity import quantity_mib

FOLDER = "10.5-mig-trace"
FB_TOTAL, SMS = "DCGM_FI_DEV_FB_TOTAL", "mig_multiprocessors"
# A folder of the node, which the kubelet's socket is in, is what no stricter level lets a pod mount.
PRIVILEGED = {"pod-security.kubernetes.io/enforce": "privileged"}


@pytest.fixture
def playground(stack: LiveStack, free_mig_devices: None) -> Iterator[Playground]:
    """A namespace of its own, and every MIG device to have in it."""
    with stack.playground() as namespace:
        yield namespace


def kubelet_holders(stack: LiveStack, nodes: Sequence[str]) -> dict[str, list[dict[str, str]]]:
    """Containers with a device of NVIDIA's driver by node, as each node's kubelet tells by its pod-resources API."""
    (pod,) = load(f"{FOLDER}/examples", "holders.yaml")
    spec = pod["spec"]
    spec["tolerations"] = [*spec["tolerations"], *stack.tolerations]
    (container,) = spec["containers"]
    container["image"] = stack.settings.images.get("gpu-agents") or container["image"]
    with stack.playground(PRIVILEGED) as playground:
        pods = []
        for number, node in enumerate(nodes):
            metadata = {"name": f"holders-{number}", "namespace": playground.namespace}
            pods.append({**pod, "metadata": metadata, "spec": {**spec, "nodeName": node}})
        stack.create(*pods)
        return {node: told(playground, pod["metadata"]["name"]) for node, pod in zip(nodes, pods, strict=True)}


def told(playground: Playground, name: str) -> list[dict[str, str]]:
    """Lines of such a pod, once it has ended well."""

    def ended() -> dict[str, Any] | None:
        states = playground.pod(name)["status"].get("containerStatuses", [])
        return states[0]["state"].get("terminated") if states else None

    end = wait_for(f"{name} has ended", ended)
    lines = playground.stack.log(playground.namespace, name).splitlines()
    assert end["exitCode"] == 0, lines
    return [json.loads(line) for line in lines]


def of_the_stack(stack: LiveStack) -> list[trace.MigRow]:
    """Rows of the MIG devices that pods of the stack's own namespace have."""
    return [row for row in trace.rows(stack) if row.holder and row.holder.pod.startswith(f"{mig.NAMESPACE}/")]


def capability_minors(stack: LiveStack, row: trace.MigRow) -> list[int]:
    """Minor numbers that NVIDIA's kernel module tells of a MIG device's GPU instance and compute instance."""
    gpu, instance, compute = row.gpu, *row.instances
    folder = f"{trace.capabilities_folder(stack)}/gpu{gpu}/mig/gi{instance}"
    minors = []
    for file in (f"{folder}/access", f"{folder}/ci{compute}/access"):
        text = stack.in_node(row.node, "cat", file)
        minors += re.findall(r"DeviceFileMinor: (\d+)", text)
    return [int(minor) for minor in minors]


def capability_files(stack: LiveStack, row: trace.MigRow) -> list[str]:
    """Capability files that are in a container, looked at from the node."""
    assert row.holder
    namespace, _, name = row.holder.pod.partition("/")
    uid = stack.one("pods", name, namespace)["metadata"]["uid"]
    (container,) = faults.running_containers(stack, row.node, uid)
    script = 'ls "/proc/$(crictl inspect --output go-template --template "{{.info.pid}}" "$1")/root/dev/nvidia-caps"'
    return stack.in_node(row.node, "sh", "-c", script, "sh", container).split()


def test_every_witness_names_the_same(stack: LiveStack, observed: Callable[[str], None]) -> None:
    """Fails if for a pod of the stack, kubelet and claim name another device, NVML in the container another UUID, or
    the container has other capability files than the CDI file and the kernel module's numbers say.
    """
    rows = of_the_stack(stack)
    assert rows
    holders = kubelet_holders(stack, sorted({row.node for row in rows}))
    for row in rows:
        holder = row.holder
        assert holder is not None
        namespace, _, pod = holder.pod.partition("/")
        # The kubelet, which told the runtime what to add to the container.
        (one,) = [
            one
            for one in holders[row.node]
            if (one["namespace"], one["pod"], one["container"]) == (namespace, pod, holder.container)
        ]
        assert (one["device"], f"{one['claim_namespace']}/{one['claim']}") == (row.device, holder.claim)
        # The container: by NVML, and by the files that it may open.
        pods = Playground(stack, namespace)
        lines = mig.in_pod(pods, pod, "nvidia-smi", "-L", container=holder.container)
        assert mig.mig_uuids(lines) == [row.uuid]
        assert sorted(capability_minors(stack, row)) == sorted(row.capabilities)
        # A node of somebody else is looked at from the driver's plugin, which has no crictl.
        if stack.settings.cluster.provider == "kind":
            expected = [f"nvidia-cap{minor}" for minor in row.capabilities]
            assert sorted(capability_files(stack, row)) == sorted(expected)
    observed(f"{len(rows)} rows; {rows[0].device}: {rows[0].uuid}, {rows[0].holder.pod if rows[0].holder else ''}")


def test_mig_device_that_two_pods_share_has_two_rows(stack: LiveStack, observed: Callable[[str], None]) -> None:
    """Fails if the claim of module 10.4 has not two rows with one UUID."""
    if "10.4" not in stack.settings.modules:
        pytest.skip("without module 10.4 no MIG device of the stack is shared")
    shared = [row for row in of_the_stack(stack) if row.holder and row.holder.claim == f"{mig.NAMESPACE}/shared-slice"]
    assert len(shared) == 2 and len({row.holder.pod for row in shared if row.holder}) == 2
    assert len({(row.uuid, row.instances, row.capabilities) for row in shared}) == 1
    observed(f"{shared[0].device}: {' and '.join(row.holder.pod for row in shared if row.holder)}")


def test_table_has_every_mig_device_and_nothing_is_cut(stack: LiveStack, observed: Callable[[str], None]) -> None:
    """Fails if a MIG device of the layouts is missing, or a cell is cut."""
    rows = trace.rows(stack)
    head, *lines = trace.table(rows).splitlines()
    assert head.split() == list(trace.COLUMNS)
    assert [tuple(line.split()) for line in lines] == [row.cells for row in rows]
    devices = {(slice_.node, slice_.device_name) for slice_ in stack.settings.all_mig_slices}
    assert {(row.node, row.device) for row in rows} == devices
    observed(f"{len(lines)} rows of {len(devices)} MIG devices")


def test_row_follows_a_pod_that_starts_again(stack: LiveStack, observed: Callable[[str], None]) -> None:
    """Fails if the row keeps the old pod or claim, or the MIG device's UUID changes."""
    (before,) = [row for row in of_the_stack(stack) if row.holder and row.holder.pod.startswith("mig/tenant-")]
    assert before.holder
    stack.kubectl("delete", "pod", "-n", mig.NAMESPACE, before.holder.pod.partition("/")[2])

    def follower() -> trace.MigRow | None:
        found = [row for row in of_the_stack(stack) if row.holder and row.holder.pod.startswith("mig/tenant-")]
        return next((row for row in found if row.holder != before.holder and row.capabilities), None)

    stack.wait_deployed(mig.NAMESPACE, "tenant")
    after = wait_for("the row names the next pod", follower)
    assert after.holder and after.holder.claim_uid != before.holder.claim_uid
    assert (after.device, after.uuid, after.capabilities) == (before.device, before.uuid, before.capabilities)
    observed(f"{before.holder.pod}, then {after.holder.pod}: {after.device}, {after.uuid}")


def series(stack: LiveStack, node: str, device_uuid: str, name: str = FB_TOTAL) -> list[metrics.Sample]:
    """Series of a MIG device that the exporter of its node tells."""
    return metrics.select(metrics.exporter_samples(stack, node), name, dra_mig_device_uuid=device_uuid)


def expected_labels(row: trace.MigRow) -> dict[str, str]:
    """Labels of a series by what the other witnesses say of the device and its container."""
    namespace, _, pod = row.holder.pod.partition("/") if row.holder else ("", "", "")
    claim_namespace, _, claim = row.holder.claim.partition("/") if row.holder else ("", "", "")
    return {
        "gpu": str(row.gpu),
        "UUID": row.values["parentUUID"],
        "device": f"nvidia{row.gpu}",
        "modelName": row.values["productName"],
        "GPU_I_PROFILE": row.values["profile"],
        # Of a device that nobody has no file tells the exporter which instance it is.
        "GPU_I_ID": str(row.instances[0]) if row.holder else "",
        "Hostname": row.node,
        "namespace": namespace,
        "pod": pod,
        "container": row.holder.container if row.holder else "",
        "dra_claim_namespace": claim_namespace,
        "dra_claim_name": claim,
        "dra_device_name": row.device if row.holder else "",
        "dra_mig_profile": row.values["profile"],
        "dra_mig_device_uuid": row.uuid,
    }


def different_rows(stack: LiveStack, rows: list[trace.MigRow]) -> list[trace.MigRow]:
    """Rows of which the exporter of their node has not exactly one series with these labels and figures."""
    told = {node: metrics.exporter_samples(stack, node) for node in {row.node for row in rows}}
    different = []
    for row in rows:
        for name, number in ((FB_TOTAL, quantity_mib(row.values["memory"])), (SMS, int(row.values["multiprocessors"]))):
            if [one.value for one in metrics.select(told[row.node], name, **expected_labels(row))] != [number]:
                different.append(row)
    return different


def test_exporter_has_a_series_for_every_row(stack: LiveStack, observed: Callable[[str], None]) -> None:
    """Fails if a MIG device or a container that has one is missing, or labels, memory or SMs are not those of the table
    and the slice, or there is a figure that no slice says.
    """
    # A pod that has just started or gone is in the API before or after it is in the kubelet's list.
    wait_for("table and exporters say the same", lambda: not different_rows(stack, trace.rows(stack)), 30)
    rows = trace.rows(stack)
    held = [row for row in rows if row.holder]
    assert held
    samples = metrics.all_exporter_samples(stack)
    for name in (FB_TOTAL, SMS):
        of_mig = [one for one in metrics.select(samples, name) if one.labels["GPU_I_PROFILE"]]
        assert len(of_mig) == len(rows), name
    assert {sample.name for sample in samples if sample.name.startswith("DCGM_")} == {FB_TOTAL}
    simulated = stack.settings.gpu.source == "simulated"
    marked = {sample.labels["UUID"] for sample in metrics.select(samples, "gpu_simulated")}
    assert {row.values["parentUUID"] for row in rows} <= marked if simulated else not marked
    observed(f"{len(rows)} series, {len(held)} of containers; {held[0].device}: GPU_I_ID {held[0].instances[0]}")


def test_idle_mig_device_has_a_row_without_a_pod(playground: Playground, observed: Callable[[str], None]) -> None:
    """Fails if it has a pod, or keeps one that has gone."""
    stack, slice_ = playground.stack, playground.stack.settings.all_mig_slices[0]

    def row() -> trace.MigRow:
        (found,) = [row for row in trace.rows(stack) if (row.node, row.device) == (slice_.node, slice_.device_name)]
        return found

    idle = row()
    assert idle.holder is None and idle.capabilities == ()
    pod = mig.create(playground, "for-a-while", slice_)
    playground.wait_running(pod)
    held = row()
    assert held.holder and held.holder.pod == f"{playground.namespace}/{pod}"
    assert (held.uuid, held.instances) == (idle.uuid, idle.instances)
    playground.delete_pod(pod)
    playground.wait_gone(pod)
    wait_for("the row has no pod", lambda: row() == idle)
    observed(f"{idle.device}: no pod, {pod}, no pod; GPU instance {idle.instances[0]}, {idle.uuid}")


def test_series_of_the_exporter_follow_a_pod(playground: Playground, observed: Callable[[str], None]) -> None:
    """Fails if a MIG device that nobody has lacks a series or names a pod, or one that a pod has does not name it."""
    stack, slice_ = playground.stack, playground.stack.settings.all_mig_slices[0]
    uuid = stack.devices()[slice_.node, slice_.device_name]["uuid"]

    def pods() -> list[str]:
        return [one.labels["pod"] for one in series(stack, slice_.node, uuid)]

    wait_for("the series has no pod", lambda: pods() == [""])
    pod = mig.create(playground, "for-a-while", slice_)
    playground.wait_running(pod)
    wait_for("the series names the pod", lambda: pods() == [pod])
    (row,) = [row for row in trace.rows(stack) if row.uuid == uuid]
    (held,) = series(stack, slice_.node, uuid)
    assert expected_labels(row).items() <= held.labels.items() and held.value == slice_.profile.memory_mib
    playground.delete_pod(pod)
    playground.wait_gone(pod)
    wait_for("the series has no pod again", lambda: pods() == [""])
    instance = held.labels["GPU_I_ID"]
    observed(f"{slice_.device_name}: no pod, {pod} with GPU_I_ID {instance}, no pod; {held.value:.0f} MiB")


def test_every_query_of_the_dashboard_has_its_answer(playground: Playground, observed: Callable[[str], None]) -> None:
    """Fails if a query has no data or other labels than the panel groups by, or one for what no slice says has some; or
    memory, SMs and holders are not those of slices and claims; only with `observability.prometheus`.
    """
    stack = playground.stack
    if not stack.settings.observability.prometheus:
        pytest.skip("observability.prometheus is off; set it to true where the nodes have or can pull its image")
    dashboard.wait_for_targets(stack)
    asked = frozenset(metric for query in dashboard.queries() for metric in query.metrics)
    absent = {metric for metric in asked if metric.startswith(("DCGM_", "mps_"))} - {FB_TOTAL}
    slice_ = stack.settings.all_mig_slices[0]
    playground.wait_running(mig.create(playground, "holder", slice_))
    answers = dashboard.wait_for_answers(stack, frozenset(absent))
    devices = stack.devices().values()
    assert dashboard.memory_mib(answers) == sum(quantity_mib(values["memory"]) for values in devices)
    (table,) = [found for query, found in answers.items() if query.panel == "MIG devices"]
    sms = {one.labels["dra_mig_device_uuid"]: one.value for one in table}
    assert sms == {one["uuid"]: int(one["multiprocessors"]) for one in devices if one["type"] == "mig"}

    def same() -> bool:
        expected = metrics.allocated_holders(stack)
        assert playground.namespace in {holder.namespace for holder in expected}
        return dashboard.holders(stack) == expected

    wait_for("Prometheus and the API name the same holders", same)
    empty = sorted({query.panel for query, found in answers.items() if not found})
    observed(f"{len(answers)} queries; without data: {', '.join(empty)}; {len(sms)} MIG devices")
