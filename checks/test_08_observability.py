"""Checks of module 08: access to every GPU, and metrics of the exporter, NVIDIA's driver and the kubelet."""

import json
import time
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import pytest
import yaml

from checks import dashboard, metrics, throughput
from checks import measured as sheets
from checks.capacity import consumed_mib
from checks.live import RESTRICTED, LiveStack, Playground, wait_for
from checks.metrics import (
    ADMIN,
    CLAIMS,
    admin_pod,
    all_exporter_samples,
    allocated_holders,
    claim,
    driver_samples,
    every_gpu,
    exported_holders,
    exporter_samples,
    full_node,
    part_of_a_gpu,
    pod_with_claim,
    request,
    request_beyond_full_node,
    select,
    value,
    value_of_gpu,
)
from checks.mps import Client, Daemon, shared_gpu
from checks.privileges import excess, pod_privileges, reviewed_privileges
from components import admin_access, gpu_exporter, prometheus
from gpus.mps import context_mib
from gpus.quantity import quantity_mib

TENANT = f"--as=system:serviceaccount:{admin_access.TENANT}:{admin_access.TENANT}"
REFUSED = "admin access to devices requires the `resource.kubernetes.io/admin-access: true` label"
FULL = "cannot allocate all claims"
# Before it the scheduler left GPUs without room out of what `allocationMode: All` is all of: allocator_incubating.go in
# k8s.io/dynamic-resource-allocation, validateDeviceRequest.
ALL_MEANS_ALL = (1, 37)
# What a simulated GPU would have to invent.
INVENTED = (
    "DCGM_FI_DEV_SM_CLOCK",
    "DCGM_FI_DEV_MEM_CLOCK",
    "DCGM_FI_DEV_GPU_TEMP",
    "DCGM_FI_DEV_POWER_USAGE",
    "DCGM_FI_DEV_TOTAL_ENERGY_CONSUMPTION",
)
XID = "DCGM_FI_DEV_XID_ERRORS"
ALLOCATED_MIB, ROUNDING_MIB = 512, 3
# What nvidia-smi calls it, and by how much the exporter may be beyond what that says before and after a scrape.
BESIDE_SMI = {
    "DCGM_FI_DEV_FB_TOTAL": ("memory.total", 0),
    "DCGM_FI_DEV_FB_USED": ("memory.used", 2),
    "DCGM_FI_DEV_FB_FREE": ("memory.free", 2),
    "DCGM_FI_DEV_SM_CLOCK": ("clocks.sm", 60),
    "DCGM_FI_DEV_MEM_CLOCK": ("clocks.mem", 0),
    "DCGM_FI_DEV_GPU_TEMP": ("temperature.gpu", 2),
    "DCGM_FI_DEV_POWER_USAGE": ("power.draw", 25),
    "DCGM_FI_DEV_GPU_UTIL": ("utilization.gpu", 10),
}
WATCHED_SCRAPES = 10  # of each exporter, for sources that fail now and then
LOAD = ("flops", "8", "--warmup", "2")
BUSY_PERCENT = 90  # utilization under a kernel that always runs
DURATION = "nvidia_dra_request_duration_seconds"
KUBELET_DURATION = "dra_operations_duration_seconds"
MODULE_NAMESPACES = ("gpu-admin", "gpu-health", "gpu-metrics", "monitoring", "tenant")


@pytest.fixture
def node(stack: LiveStack) -> str:
    """Name of the node that the observer looks at."""
    return stack.settings.gpu_nodes[0].node


@pytest.fixture
def nvml_stack(stack: LiveStack) -> LiveStack:
    """The stack, if its exporter is the workshop's own."""
    if stack.settings.observability.exporter != "nvml":
        pytest.skip("observability.exporter is dcgm, and NVIDIA's exporter does not tell this")
    return stack


@pytest.fixture
def daemon(stack: LiveStack) -> Daemon:
    """The node's MPS daemon, which the exporter asks."""
    if "04" not in stack.settings.modules:
        pytest.skip("module 04 is off: there is no MPS daemon")
    node_daemon = Daemon(stack)
    if node_daemon.by_claim:
        pytest.skip("mps.mode is claim: the exporter does not see the pipes of the driver's daemons")
    return node_daemon


def uuids(stack: LiveStack, node: str | None = None) -> set[str]:
    """UUIDs of the node's GPUs, or of all."""
    return {values["uuid"] for (where, _), values in gpus(stack).items() if node in (None, where)}


def gpus(stack: LiveStack) -> dict[tuple[str, str], dict[str, Any]]:
    """The devices that are whole GPUs; exporters tell of these."""
    return {device: values for device, values in stack.devices().items() if values["type"] == "gpu"}


def observers(stack: LiveStack) -> list[str]:
    """The names of the observer's pods: one, or none while it is made anew."""
    pods = stack.get("pods", namespace=admin_access.NAMESPACE, label_selector={"app": admin_access.OBSERVER})
    return [pod["metadata"]["name"] for pod in pods if "deletionTimestamp" not in pod["metadata"]]


def test_observer_starts_on_a_full_node_and_sees_every_gpu(
    stack: LiveStack, node: str, observed: Callable[[str], None]
) -> None:
    """Fails if with all that was left of the node taken, a new pod with an admin claim does not start, or misses a
    GPU; or another claim still gets one.
    """
    with full_node(stack, node) as playground:
        manifests = pod_with_claim(stack, playground.namespace, "no-room", request_beyond_full_node(stack), node)
        stack.create(*manifests)
        reason = playground.wait_unschedulable("no-room")
        assert FULL in reason
        (old,) = observers(stack)
        stack.kubectl("delete", "pod", "-n", admin_access.NAMESPACE, old)
        (new,) = wait_for("there is another observer", lambda: [name for name in observers(stack) if name != old])
        report = Playground(stack, admin_access.NAMESPACE).report(new)
    assert {gpu["uuid"] for gpu in report["gpus"]} == uuids(stack, node)
    observed(f"with every GPU of {node} taken («{reason}») {new} sees {len(report['gpus'])} of them")


def test_admin_claim_has_to_fit_where_claims_share_gpus(
    stack: LiveStack, node: str, observed: Callable[[str], None]
) -> None:
    """Fails if without a MiB left of a GPU an admin claim for all does not wait, or with one it does. Before Kubernetes
    1.37 it does not wait: fails there if it is given that GPU."""
    if stack.settings.consumable_shares != "memory":
        pytest.skip(f"driver.consumableShares is {stack.settings.consumable_shares}: no memory has to be left")
    with full_node(stack, node) as playground, stack.playground({**RESTRICTED, **ADMIN}) as admin:
        device = next(device for where, device in gpus(stack) if where == node)
        last = request(stack.devices()[node, device]["uuid"], capacity={"requests": {"memory": "1Mi"}})
        stack.create(*pod_with_claim(stack, playground.namespace, "last", last, node))
        playground.wait_running("last")
        manifests = pod_with_claim(stack, admin.namespace, "admin", every_gpu(stack), node)
        stack.create(*manifests)
        if stack.kubernetes < ALL_MEANS_ALL:
            admin.wait_running("admin")
            seen = {result["device"] for result in admin.allocated("admin")}
            every = {name for where, name in gpus(stack) if where == node}
            assert seen == every - {device}
            observed(f"before Kubernetes 1.37 an admin claim for all has {len(seen)} of {len(every)}: {device} is full")
            return
        reason = admin.wait_unschedulable("admin")
        assert FULL in reason
        playground.delete_pod("last")
        admin.wait_running("admin")
    observed(f"without a MiB left of {device} an admin claim waits, though it is not counted; with one it runs")


def test_admin_claim_takes_nothing(stack: LiveStack, observed: Callable[[str], None]) -> None:
    """Fails if what others have changes, or a claim does not get a free GPU that an admin claim looks at."""
    with part_of_a_gpu(stack) as (free, exactly):
        before = sorted(stack.allocations()), consumed_mib(stack)
        with admin_pod(stack, free[0]) as playground:
            admin = stack.one(CLAIMS, "admin", playground.namespace)
            results = admin["status"]["allocation"]["devices"]["results"]
            assert all(result["adminAccess"] is True for result in results)
            assert {(result["pool"], result["device"]) for result in results} == {
                device for device in stack.devices() if device[0] == free[0]
            }
            assert (sorted(stack.allocations()), consumed_mib(stack)) == before
            stack.create(*pod_with_claim(stack, playground.namespace, "tenant", exactly, free[0]))
            playground.wait_running("tenant")
            (device,) = playground.allocated("tenant")
            assert (device["pool"], device["device"]) == free
    observed(f"an admin claim on {len(results)} GPUs of {free[0]}; another claim still got {free[1]}")


@pytest.mark.parametrize("account", ["administrator", "tenant"])
@pytest.mark.parametrize("kind", ["ResourceClaim", "ResourceClaimTemplate"])
def test_admin_claim_without_the_label_is_refused(
    stack: LiveStack, observed: Callable[[str], None], kind: str, account: str
) -> None:
    """Fails if the API server takes a claim or a template in `tenant`, from the administrator or the tenant, or does
    not say why it does not.
    """
    manifest = claim("every-gpu", admin_access.TENANT, every_gpu(stack))
    if kind == "ResourceClaimTemplate":
        manifest |= {"kind": kind, "spec": {"spec": manifest["spec"]}}
    # An administrator may create claims there, so what refuses is not RBAC.
    words = [TENANT] if account == "tenant" else []
    message = stack.kubectl_fails(*words, "create", "-f", "-", stdin=yaml.safe_dump(manifest))
    assert REFUSED in message
    observed(message.strip())


def test_tenant_cannot_label_its_namespace(stack: LiveStack, observed: Callable[[str], None]) -> None:
    """Fails if it may, or one of the attempts succeeds."""
    name = admin_access.TENANT
    for verb in ("update", "patch", "create"):
        answer = stack.kubectl_fails("auth", "can-i", verb, f"namespaces/{name}", TENANT)
        assert "no" in answer.split()
    message = stack.kubectl_fails("label", "namespace", name, *(f"{k}={v}" for k, v in ADMIN.items()), TENANT)
    assert "forbidden" in message.lower()
    # kubectl reads a namespace before it labels it, so the change itself is tried too.
    labelled = stack.one("namespaces", name)
    labelled["metadata"]["labels"] |= ADMIN
    path = f"/api/v1/namespaces/{name}"
    message = stack.kubectl_fails("replace", "--raw", path, "-f", "-", TENANT, stdin=json.dumps(labelled))
    assert "cannot update resource" in message
    assert not ADMIN.keys() & stack.one("namespaces", name)["metadata"]["labels"].keys()
    observed(message.strip())


def test_tenant_can_use_gpus(stack: LiveStack, observed: Callable[[str], None]) -> None:
    """Fails if as the tenant a claim and a pod cannot be made."""
    name, tenant = "check-tenant", Playground(stack, admin_access.TENANT)
    objects = (f"pod/{name}", f"resourceclaim/{name}")
    with part_of_a_gpu(stack) as (free, exactly):
        manifests = pod_with_claim(stack, tenant.namespace, name, exactly, free[0])
        stack.kubectl("create", "-f", "-", TENANT, stdin=yaml.safe_dump_all(manifests))
        try:
            (gpu,) = tenant.report(name)["gpus"]
            log = stack.kubectl("logs", "-n", tenant.namespace, name, TENANT)
        finally:
            stack.kubectl("delete", "-n", tenant.namespace, *objects, "--wait=false", TENANT)
            wait_for(
                "the tenant's pod and claim are gone", lambda: not any(remaining_objects(stack, name, tenant.namespace))
            )
    assert gpu["uuid"] in log
    observed(f"as {TENANT.removeprefix('--as=')}: a claim, a pod, its log; {gpu['uuid']}")


def remaining_objects(stack: LiveStack, name: str, namespace: str) -> list[list[dict[str, Any]]]:
    """The pod and the claim of that name, as far as they are there."""
    selector = f"metadata.name={name}"
    return [stack.get(kind, namespace=namespace, field_selector=selector) for kind in ("pods", CLAIMS)]


def test_exporter_tells_every_gpu_once_for_each_holder(stack: LiveStack, observed: Callable[[str], None]) -> None:
    """Fails if a GPU is missing, a series is there twice, or two holders of a GPU read different figures."""
    samples = all_exporter_samples(stack)
    assert {sample.labels["UUID"] for sample in select(samples, "DCGM_FI_DEV_FB_TOTAL")} == uuids(stack)
    # Those of the exporter itself are the same on every node.
    of_gpus = [sample for sample in samples if {"UUID", "Hostname"} & sample.labels.keys()]
    series = [(sample.name, tuple(sorted(sample.labels.items()))) for sample in of_gpus]
    assert len(series) == len(set(series))
    for metric in ("DCGM_FI_DEV_FB_TOTAL", "DCGM_FI_DEV_FB_USED", "DCGM_FI_DEV_FB_FREE"):
        of_metric = select(samples, metric)
        for uuid in uuids(stack):
            mine = [sample for sample in of_metric if sample.labels["UUID"] == uuid]
            unheld = [sample for sample in mine if not sample.labels.get("pod")]
            # Held or not, and one figure for the GPU whoever holds it.
            assert mine and (not unheld or len(mine) == 1), metric
            assert len({sample.value for sample in mine}) == 1, metric
    observed(f"{len(samples)} samples of {len(uuids(stack))} GPUs on {len(stack.settings.gpu_nodes)} nodes")


def test_exporters_labels_and_memory_are_those_of_the_slices(stack: LiveStack, observed: Callable[[str], None]) -> None:
    """Fails if name, node, UUID, PCI address, driver version or memory differ from the ResourceSlice."""
    samples, models = all_exporter_samples(stack), set()
    for (node, device), values in gpus(stack).items():
        for sample in select(samples, "DCGM_FI_DEV_FB_TOTAL", UUID=values["uuid"]):
            labels = sample.labels
            assert labels["Hostname"] == node
            assert f"gpu-{labels['device'].removeprefix('nvidia')}" == device
            assert labels["modelName"] == values["productName"]
            # NVML writes eight digits of the PCI domain, the slice four.
            assert labels["pci_bus_id"].lower().endswith(values["pciBusID"].lower())
            assert metrics.version(labels["DCGM_FI_DRIVER_VERSION"]) == metrics.version(values["driverVersion"])
            assert sample.value == quantity_mib(values["memory"])
            models.add(f"{labels['modelName']}: {sample.value:.0f} MiB")
    observed("; ".join(sorted(models)))


def test_exporter_attributes_gpus_to_those_who_hold_them(stack: LiveStack, observed: Callable[[str], None]) -> None:
    """Fails if holders differ from those of the claims' status, with a new pod and without it again."""

    def same() -> bool:
        by_exporter, by_api = exported_holders(all_exporter_samples(stack)), allocated_holders(stack)
        if stack.settings.observability.exporter == "dcgm":
            by_exporter &= by_api  # it tells those who look on as well
        if by_exporter != by_api:
            print("only the exporter:", sorted(by_exporter - by_api), "only the API:", sorted(by_api - by_exporter))
        return by_exporter == by_api

    with part_of_a_gpu(stack) as ((node, device), exactly), stack.playground() as playground:
        stack.create(*pod_with_claim(stack, playground.namespace, "holder", exactly, node))
        playground.wait_running("holder")
        wait_for("exporters and API name the same holders", same, 30)
        reported = exported_holders(all_exporter_samples(stack))
        assert (node, device, playground.namespace, "holder") in {holder[:4] for holder in reported}
    # Without it again: nobody is told to hold what has been let go.
    wait_for("exporters and API name the same holders", same, 30)
    assert not {
        holder for holder in exported_holders(all_exporter_samples(stack)) if holder.namespace == playground.namespace
    }
    observed("; ".join(f"{h.node} {h.device}: {h.namespace}/{h.pod} by {h.claim}" for h in sorted(reported)))


def test_those_who_look_on_are_not_told_as_holders(
    nvml_stack: LiveStack, node: str, observed: Callable[[str], None]
) -> None:
    """Fails if a pod with an admin claim is named."""
    with admin_pod(nvml_stack, node) as playground:
        reported = exported_holders(exporter_samples(nvml_stack, node))
        lookers = {gpu_exporter.NAMESPACE, admin_access.NAMESPACE, "mps-system", playground.namespace}
        assert not {holder for holder in reported if holder.namespace in lookers}
    others = ", ".join(sorted(lookers - {playground.namespace}))
    observed(f"{len(reported)} holders on {node}; none of {others} or a new one")


def test_exporter_counts_the_clients_that_the_daemon_has(
    nvml_stack: LiveStack, daemon: Daemon, observed: Callable[[str], None]
) -> None:
    """Fails if contexts, servers or GPUs in use differ from what the daemon says."""

    def clients() -> dict[str, int]:
        samples = select(exporter_samples(nvml_stack, daemon.node), "mps_clients", Hostname=daemon.node)
        return {sample.labels["UUID"]: int(sample.value) for sample in samples}

    wait_for("exporter and daemon count the same", lambda: sum(clients().values()) == daemon.clients(), 30)
    counts = clients()
    busy = {uuid for uuid, count in counts.items() if count}
    assert counts.keys() == uuids(nvml_stack, daemon.node)
    assert len(busy) == len(daemon.gpus_in_use()) and shared_gpu(nvml_stack) in busy
    assert all(any(uuid.startswith(gpu) for uuid in busy) for gpu in daemon.gpus_in_use())
    samples = all_exporter_samples(nvml_stack)
    assert {sample.labels["Hostname"]: sample.value for sample in select(samples, "mps_up")} == {
        node.node: 1 for node in nvml_stack.settings.gpu_nodes
    }
    assert value(samples, "mps_servers", Hostname=daemon.node) == len(daemon.servers())
    observed(", ".join(f"{count} on {uuid}" for uuid, count in sorted(counts.items())))


def test_used_memory_follows_an_allocation(
    nvml_stack: LiveStack, daemon: Daemon, plot: Callable[..., None], observed: Callable[[str], None]
) -> None:
    """Fails if 512 MiB and the context of a new client do not come and go to the MiB (simulated; on real GPUs at least
    the 512 MiB).
    """
    uuid, began, points = shared_gpu(nvml_stack), time.monotonic(), []

    def used() -> float:
        mib = value_of_gpu(exporter_samples(nvml_stack, daemon.node), "DCGM_FI_DEV_FB_USED", uuid)
        points.append((round(time.monotonic() - began, 1), mib))
        return mib

    before = used()
    client = Client.start(nvml_stack, "hold", "0", "--alloc", f"{ALLOCATED_MIB}Mi")
    try:
        holding = client.wait_line("holding")
        # Known for the H100 that was measured, and true of simulated GPUs.
        context = context_mib(holding["sms"]) if nvml_stack.settings.gpu.source == "simulated" else 0
        expected = before + ALLOCATED_MIB + context - ROUNDING_MIB
        wait_for(f"{expected} MiB or more are used", lambda: used() >= expected, 30)
        most = used()
        if nvml_stack.settings.gpu.source == "simulated":
            assert most == pytest.approx(before + ALLOCATED_MIB + context, abs=ROUNDING_MIB)
    finally:
        client.remove()
    # A real server of MPS may keep something of its own after it had more clients than before.
    kept = ROUNDING_MIB if nvml_stack.settings.gpu.source == "simulated" else ALLOCATED_MIB // 8
    wait_for(f"{before} MiB are used again, but for {kept}", lambda: used() <= before + kept, 30)
    total = value_of_gpu(exporter_samples(nvml_stack, daemon.node), "DCGM_FI_DEV_FB_TOTAL", uuid)
    assert most < total
    title = f"Memory in use on the shared GPU while a pod allocates {ALLOCATED_MIB} MiB"
    plot(title, "seconds", "MiB", {"DCGM_FI_DEV_FB_USED": points})
    observed(f"{before:.0f} -> {most:.0f} -> {points[-1][1]:.0f} of {total:.0f} MiB in {len(points)} scrapes")


@pytest.mark.gpu
def test_exporter_says_what_nvidia_smi_says(
    nvml_stack: LiveStack, daemon: Daemon, table: Callable[..., None], observed: Callable[[str], None]
) -> None:
    """Fails if on a real GPU memory, clocks, temperature, power or utilization are beyond what nvidia-smi says before
    and after a scrape, at rest or under load.
    """
    throughput.skip_unless_real(nvml_stack)
    uuid, rows = shared_gpu(nvml_stack), []
    fields = [field for field, _ in BESIDE_SMI.values()]

    def look(load: str) -> list[str]:
        """Compares once, records what was seen, and returns what differs."""
        first = throughput.query(nvml_stack, daemon.node, uuid, *fields)
        samples = exporter_samples(nvml_stack, daemon.node)
        last = throughput.query(nvml_stack, daemon.node, uuid, *fields)
        comparisons, differs = [], []
        for (metric, (_, tolerance)), *texts in zip(BESIDE_SMI.items(), first, last, strict=True):
            before, after = map(float, texts)
            exporter = value_of_gpu(samples, metric, uuid)
            comparisons.append((metric, load, before, exporter, after, tolerance))
            if not min(before, after) - tolerance <= exporter <= max(before, after) + tolerance:
                differs.append(f"{metric} {load}: {exporter:g}, and nvidia-smi {before:g} and {after:g}")
        rows[:] = [row for row in rows if row[1] != load] + comparisons
        return differs

    wrong: list[str] = []

    def agree(load: str) -> bool:
        wrong[:] = look(load)
        return not wrong

    # Clocks and power follow a load within a second or two, so that one look may fall between.
    try:
        wait_for("both say the same at rest", lambda: agree("at rest"), 20)
        client = Client.start(nvml_stack, *LOAD)
        wait_for("the GPU is busy", lambda: busy(nvml_stack, daemon.node, uuid), 20)
        wait_for("both say the same under load", lambda: agree("under load"), 6)
        throughput.wait_repeats(client)
    except AssertionError as error:
        raise AssertionError(f"{error}: {'; '.join(wrong)}") from None
    finally:
        if rows:
            table(*sheets.BESIDE_SMI, rows)
    power = {row[1]: row[3] for row in rows if row[0] == "DCGM_FI_DEV_POWER_USAGE"}
    observed(
        f"{len(BESIDE_SMI)} metrics at rest and under load; {power['at rest']:.0f} and {power['under load']:.0f} W"
    )


def busy(stack: LiveStack, node: str, uuid: str) -> bool:
    (percent,) = throughput.query(stack, node, uuid, "utilization.gpu")
    return int(percent) >= BUSY_PERCENT


def test_simulated_gpus_say_so_and_invent_nothing(nvml_stack: LiveStack, observed: Callable[[str], None]) -> None:
    """Fails if `gpu_simulated` is missing, or there is a temperature, power, energy or clock."""
    samples = all_exporter_samples(nvml_stack)
    simulated = {sample.labels["UUID"]: sample.value for sample in select(samples, "gpu_simulated")}
    if nvml_stack.settings.gpu.source == "host":
        assert not simulated
        for metric in INVENTED:
            assert {sample.labels["UUID"] for sample in select(samples, metric)} <= uuids(nvml_stack)
        assert select(samples, "DCGM_FI_DEV_GPU_TEMP")
        assert {sample.labels["UUID"] for sample in select(samples, "DCGM_FI_DEV_XID_ERRORS")} == uuids(nvml_stack)
        observed("real GPUs: no gpu_simulated, and a temperature")
        return
    assert simulated == dict.fromkeys(uuids(nvml_stack), 1)
    assert not [sample.name for sample in samples if sample.name in (*INVENTED, "DCGM_FI_DEV_XID_ERRORS")]
    assert {sample.value for sample in select(samples, "DCGM_FI_DEV_GPU_UTIL")} == {0}
    observed(f"gpu_simulated 1 for {len(simulated)} GPUs; no {', '.join(INVENTED)}")


def test_no_source_of_the_exporter_fails(nvml_stack: LiveStack, observed: Callable[[str], None]) -> None:
    """Fails if in more than one of ten scrapes a source fails: one may be the machine's, two are the source's."""
    failed: list[str] = []
    for node in nvml_stack.settings.gpu_nodes:
        # Not from 0: a daemon or a plugin may have been away before.
        counts = [metrics.failures(metrics.one_scrape(nvml_stack, node.node)) for _ in range(WATCHED_SCRAPES + 1)]
        assert counts[0].keys() == {"nvml", "pod-resources", "mps", "api"}
        failed += [
            f"{source} on {node.node}"
            for before, after in pairwise(counts)
            for source in after
            if after[source] > before[source]
        ]
    assert len(failed) <= 1, f"in {WATCHED_SCRAPES} scrapes of each exporter no answer of {', '.join(failed)}"
    observed(
        f"{WATCHED_SCRAPES} scrapes of each exporter: {len(failed)} failures of NVML, pod-resources, MPS or the API"
    )


def test_exporter_may_read_claims_and_nothing_else(nvml_stack: LiveStack, observed: Callable[[str], None]) -> None:
    """Fails if it may list or change claims, or get pods or secrets."""
    account = f"--as=system:serviceaccount:{gpu_exporter.NAMESPACE}:{gpu_exporter.NAME}"
    assert nvml_stack.kubectl("auth", "can-i", "get", "resourceclaims", "-A", account).strip() == "yes"
    for verb, kind in (("list", "resourceclaims"), ("update", "resourceclaims"), ("get", "secrets"), ("get", "pods")):
        assert "no" in nvml_stack.kubectl_fails("auth", "can-i", verb, kind, "-A", account).split()
    observed("get resourceclaims: yes; list or update them, get secrets, get pods: no")


def test_drivers_own_metrics_count_what_it_prepares(
    stack: LiveStack, node: str, table: Callable[..., None], observed: Callable[[str], None]
) -> None:
    """Fails if prepared or unprepared claims, or prepared devices, do not rise by a pod."""

    def count(operation: str) -> float:
        return value(driver_samples(stack, node), f"{DURATION}_count", operation=operation)

    prepared, unprepared = count("prepare"), count("unprepare")
    with admin_pod(stack, node):
        assert count("prepare") > prepared
        devices = value(driver_samples(stack, node), "nvidia_dra_prepared_devices", node=node, device_type="gpu")
        # A device counts once for each claim that has it; the observer and the exporter have every GPU.
        assert devices >= 2 * len(uuids(stack, node))
    wait_for("the driver has let go of the claim", lambda: count("unprepare") > unprepared, 30)
    rows = [row for each in stack.settings.gpu_nodes for row in durations(stack, each.node)]
    table(
        "Time that claims take, as NVIDIA's driver and the kubelet count it",
        ("node", "who", "operation", "requests", "mean s", "p50 s", "p99 s"),
        rows,
    )
    errors = [s for s in driver_samples(stack, node) if s.name.startswith("nvidia_dra_node_") and s.value]
    observed(
        f"{prepared:.0f} claims prepared before, {count('prepare'):.0f} now; errors since the start: {len(errors)}"
    )


def durations(stack: LiveStack, node: str) -> list[tuple[str | float, ...]]:
    """Rows of the table, by who measures and what was done."""
    rows: list[tuple[str | float, ...]] = []
    kubelet = metrics.scrape(stack, f"nodes/{node}")
    for who, samples, name, key, operations in (
        ("driver", driver_samples(stack, node), DURATION, "operation", ("prepare", "unprepare")),
        ("kubelet", kubelet, KUBELET_DURATION, "operation_name", ("PrepareResources", "UnprepareResources")),
    ):
        for operation in operations:
            labels = {key: operation, **({"is_error": "false"} if who == "kubelet" else {})}
            requests = sum(sample.value for sample in select(samples, f"{name}_count", **labels))
            if requests:
                seconds = sum(sample.value for sample in select(samples, f"{name}_sum", **labels))
                bounds = metrics.bounds(samples, name, (0.5, 0.99), **labels)
                rows.append((node, who, operation, requests, round(seconds / requests, 3), *bounds))
    return rows


def test_privileges_of_the_modules_pods_are_the_reviewed_ones(
    stack: LiveStack, observed: Callable[[str], None]
) -> None:
    """Fails if any may do more than privileges.yaml says."""
    privileges = {
        name: what for name, what in pod_privileges(stack).items() if name.partition("/")[0] in MODULE_NAMESPACES
    }
    assert {"gpu-admin/observer", "gpu-metrics/gpu-exporter"} <= privileges.keys()
    allowed = reviewed_privileges()
    assert not privileges.keys() - allowed.keys()
    more = {name: extra for name, what in privileges.items() if (extra := excess(what, allowed[name]))}
    assert not more, f"more than checks/privileges.yaml allows:\n{yaml.safe_dump(more)}"
    observed("; ".join(f"{name}: {what or 'nothing'}" for name, what in sorted(privileges.items())))


@pytest.fixture
def monitored(stack: LiveStack) -> LiveStack:
    """The stack, if it brings Prometheus."""
    if not stack.settings.observability.prometheus:
        pytest.skip("observability.prometheus is off; set it to true where the nodes have or can pull its image")
    return stack


def test_prometheus_scrapes_everybody(monitored: LiveStack, observed: Callable[[str], None]) -> None:
    """Fails if a target is down, or an exporter or plugin is not among them; only with `observability.prometheus`."""
    counts = dashboard.wait_for_targets(monitored)
    assert counts["gpu-exporter"] == counts["dra-driver"] == len(monitored.settings.gpu_nodes)
    observed(", ".join(f"{job}: {count}" for job, count in counts.items()))


def test_every_query_of_the_dashboard_has_its_answer(monitored: LiveStack, observed: Callable[[str], None]) -> None:
    """Fails if a query has no data, or other labels than the panel groups by, or one for what a simulated GPU does not
    answer has some; or memory and holders are not those of slices and claims; only with `observability.prometheus`.
    """
    absent = {"mig_multiprocessors"}
    if monitored.settings.gpu.source == "simulated":
        absent |= {*INVENTED, XID}
    if "04" not in monitored.settings.modules or Daemon(monitored).by_claim:
        absent |= {"mps_clients", "mps_up"}
    with part_of_a_gpu(monitored) as ((node, _), exactly), monitored.playground() as playground:
        manifests = pod_with_claim(monitored, playground.namespace, "holder", exactly, node)
        monitored.create(*manifests)
        playground.wait_running("holder")
        answers = dashboard.wait_for_answers(monitored, frozenset(absent))
        memory = dashboard.memory_mib(answers)
        assert memory == sum(quantity_mib(values["memory"]) for values in gpus(monitored).values())

        def same() -> bool:
            told, expected = dashboard.holders(monitored), allocated_holders(monitored)
            assert playground.namespace in {holder.namespace for holder in expected}
            # NVIDIA's exporter tells of those who look on as well.
            return told == expected or (monitored.settings.observability.exporter == "dcgm" and told > expected)

        wait_for("Prometheus and the API name the same holders", same)
    empty = sorted({query.panel for query, series in answers.items() if not series})
    observed(f"{len(answers)} queries; without data: {', '.join(empty) or 'none'}; {memory:.0f} MiB")


def test_grafana_has_the_dashboard(monitored: LiveStack, observed: Callable[[str], None]) -> None:
    """Fails if the dashboard is not there, or somebody is let in as more than a viewer; only with
    `observability.grafana`.
    """
    if not monitored.settings.observability.grafana:
        pytest.skip("observability.grafana is off; set it to true where the nodes can pull its image")
    entries = dashboard.ask(monitored, prometheus.GRAFANA, prometheus.GRAFANA_PORT, "api/search?type=dash-db")
    (found,) = [entry for entry in entries if entry["uid"] == "dra-workshop-gpus"]
    # Nobody is let in as more than a viewer.
    where = f"services/{prometheus.GRAFANA}:{prometheus.GRAFANA_PORT}/proxy/api/org/users"
    message = monitored.kubectl_fails("get", "--raw", f"/api/v1/namespaces/{prometheus.NAMESPACE}/{where}")
    assert "forbidden" in message.lower()
    observed(found["title"])
