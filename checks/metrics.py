"""Metrics of a stack that is up, scraped through the API server, and the same facts by the API."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import kr8s
import pytest
from prometheus_client.parser import text_string_to_metric_families

from checks import capacity
from checks.live import DRIVER, RESTRICTED, LiveStack, Playground
from components import admin_access, dra_driver, gpu_exporter
from components.pods import on_node
from components.prometheus import PLUGIN_PORT
from gpus.quantity import quantity_mib

ADMIN = {"resource.kubernetes.io/admin-access": "true"}
CLAIMS = "resourceclaims.v1.resource.k8s.io"
LITTLE = "64Mi"
SCRAPES = 4  # of an exporter until each source has answered in one of them


class Sample(NamedTuple):
    """One line of Prometheus' text."""

    name: str
    labels: dict[str, str]
    value: float


class Holder(NamedTuple):
    """A container that has a GPU by a claim."""

    node: str
    device: str
    namespace: str
    pod: str
    container: str
    claim: str


def scrape(stack: LiveStack, path: str) -> list[Sample]:
    """Samples that Prometheus would read at a path of the API server's proxies."""
    text = stack.kubectl("get", "--raw", f"/api/v1/{path}/proxy/metrics")
    written = set(re.findall(r"^[a-zA-Z_:][\w:]*", text, re.M))

    def name(read: str) -> str:
        # The parser ends every counter's name with _total, and NVIDIA's counter of energy has none.
        return read if read in written else read.removesuffix("_total")

    families = text_string_to_metric_families(text)
    return [Sample(name(sample.name), sample.labels, sample.value) for family in families for sample in family.samples]


def pods_by_node(stack: LiveStack, namespace: str, labels: dict[str, str]) -> dict[str, str]:
    """Node -> name of the DaemonSet's pod there."""
    pods = stack.get("pods", namespace=namespace, label_selector=labels)
    alive = [pod for pod in pods if "deletionTimestamp" not in pod["metadata"]]
    return {pod["spec"]["nodeName"]: pod["metadata"]["name"] for pod in alive}


def one_scrape(stack: LiveStack, node: str) -> list[Sample]:
    """Samples of the exporter on a node, whether all of its sources answered it or not."""
    pod = pods_by_node(stack, gpu_exporter.NAMESPACE, gpu_exporter.LABELS)[node]
    return scrape(stack, f"namespaces/{gpu_exporter.NAMESPACE}/pods/{pod}:{gpu_exporter.PORT}")


def exporter_samples(stack: LiveStack, node: str) -> list[Sample]:
    """Samples of the exporter on a node, all of whose sources answered it.

    A source has two seconds, which a busy machine may need for something else, so a scrape in which one failed is
    repeated. An AssertionError names what failed in each of SCRAPES; how often it may fail at all has a check.
    """
    samples = one_scrape(stack, node)
    failed: list[str] = []
    for _ in range(SCRAPES):
        before, samples = failures(samples), one_scrape(stack, node)
        failed = sorted(source for source, count in failures(samples).items() if count > before.get(source, 0))
        if not failed:
            return samples
    raise AssertionError(f"the exporter on {node} had no answer in {SCRAPES} scrapes; in the last of {failed}")


def failures(samples: list[Sample]) -> dict[str, float]:
    """Source of the exporter -> how often it has failed since the exporter's start. NVIDIA's exporter tells of none."""
    return {sample.labels["source"]: sample.value for sample in select(samples, "gpu_exporter_scrape_errors_total")}


def all_exporter_samples(stack: LiveStack) -> list[Sample]:
    """Samples of all exporters."""
    return [sample for node in stack.settings.gpu_nodes for sample in exporter_samples(stack, node.node)]


def driver_samples(stack: LiveStack, node: str) -> list[Sample]:
    """Samples of NVIDIA's kubelet plugin on a node."""
    plugin = {"dra-driver-nvidia-gpu-component": "kubelet-plugin"}
    pod = pods_by_node(stack, dra_driver.NAMESPACE, plugin)[node]
    return scrape(stack, f"namespaces/{dra_driver.NAMESPACE}/pods/{pod}:{PLUGIN_PORT}")


def select(samples: list[Sample], name: str, **labels: str) -> list[Sample]:
    """Samples of a name whose labels have these values."""
    return [sample for sample in samples if sample.name == name and labels.items() <= sample.labels.items()]


def value(samples: list[Sample], name: str, **labels: str) -> float:
    """The value of the only such sample."""
    (sample,) = select(samples, name, **labels)
    return sample.value


def value_of_gpu(samples: list[Sample], name: str, uuid: str) -> float:
    """Value for a GPU, which is the same for all who hold it."""
    (reading,) = {sample.value for sample in select(samples, name, UUID=uuid)}
    return reading


def exported_holders(samples: list[Sample]) -> set[Holder]:
    """Holders of GPUs by the exporters."""
    held = [sample.labels for sample in select(samples, "DCGM_FI_DEV_FB_TOTAL") if sample.labels.get("pod")]
    return {
        Holder(
            node=labels["Hostname"],
            device=labels["dra_device_name"],
            namespace=labels["namespace"],
            pod=labels["pod"],
            container=labels["container"],
            claim=labels["dra_claim_name"],
        )
        for labels in held
    }


def allocated_holders(stack: LiveStack) -> set[Holder]:
    """Holders of GPUs by the claims' status and the pods that they are reserved for; without those who look on."""
    holding, pods = set(), {pod["metadata"]["uid"]: pod for pod in stack.get("pods", namespace=kr8s.ALL)}
    for allocated in stack.get(CLAIMS, namespace=kr8s.ALL):
        metadata, status = allocated["metadata"], allocated.get("status", {})
        results = status.get("allocation", {}).get("devices", {}).get("results", [])
        held = [result for result in results if result["driver"] == DRIVER and not result.get("adminAccess")]
        for user in [pods[user["uid"]] for user in status.get("reservedFor", []) if user["uid"] in pods]:
            for container in containers_of(user, metadata["name"]):
                names = (metadata["namespace"], user["metadata"]["name"], container, metadata["name"])
                holding |= {Holder(result["pool"], result["device"], *names) for result in held}
    return holding


def containers_of(pod: dict[str, Any], claim: str) -> list[str]:
    """The containers that name the claim, or have an extended resource by it."""
    claim_names = {
        entry["name"]: entry.get("resourceClaimName") for entry in pod["status"].get("resourceClaimStatuses", [])
    }
    entries = pod["spec"].get("resourceClaims", [])
    names = {
        entry["name"] for entry in entries if (entry.get("resourceClaimName") or claim_names[entry["name"]]) == claim
    }
    containers = [
        container["name"]
        for container in pod["spec"]["containers"]
        if names & {entry["name"] for entry in container.get("resources", {}).get("claims", [])}
    ]
    extended = pod["status"].get("extendedResourceClaimStatus", {})
    if extended.get("resourceClaimName") == claim:
        containers += [entry["containerName"] for entry in extended["requestMappings"]]
    return containers


def request_beyond_full_node(stack: LiveStack) -> dict[str, Any]:
    """A request for more than `full` leaves of a GPU."""
    mode = stack.settings.consumable_shares
    if mode == "disabled":
        return request()
    return request(capacity={"requests": {"memory": "2Mi"} if mode == "memory" else {"shares": "2"}})


def every_gpu(stack: LiveStack) -> dict[str, Any]:
    """A request for a look at every GPU of a node. Where claims share GPUs it has to fit, though it is not counted."""
    least: dict[str, Any] = (
        {} if stack.settings.consumable_shares == "disabled" else {"capacity": {"requests": {"memory": "1Mi"}}}
    )
    return request(allocationMode="All", adminAccess=True, **least)


def request(uuid: str | None = None, **more: Any) -> dict[str, Any]:
    """A request for GPUs; `more` are further fields of it."""
    exactly: dict[str, Any] = {"deviceClassName": "gpu.nvidia.com", **more}
    if uuid:
        exactly["selectors"] = [{"cel": {"expression": f'device.attributes["gpu.nvidia.com"].uuid == "{uuid}"'}}]
    return exactly


def claim(name: str, namespace: str, exactly: dict[str, Any]) -> dict[str, Any]:
    """A claim's manifest."""
    return {
        "apiVersion": "resource.k8s.io/v1",
        "kind": "ResourceClaim",
        "metadata": {"name": name, "namespace": namespace},
        "spec": {"devices": {"requests": [{"name": "gpu", "exactly": exactly}]}},
    }


def pod_with_claim(
    stack: LiveStack, namespace: str, name: str, exactly: dict[str, Any], node: str
) -> list[dict[str, Any]]:
    """Manifests of a claim and of a pod that holds it on that node, as the stack's observer does."""
    spec = stack.one("deployments.apps", admin_access.OBSERVER, admin_access.NAMESPACE)["spec"]["template"]["spec"]
    (container,) = spec["containers"]
    container = {key: container[key] for key in ("name", "image", "imagePullPolicy", "args", "securityContext")}
    memory = {"requests": {"cpu": "1m", "memory": "8Mi"}, "limits": {"memory": "64Mi"}}
    container["resources"] = {**memory, "claims": [{"name": "gpu"}]}
    pod = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "namespace": namespace},
        "spec": {
            "automountServiceAccountToken": False,
            "terminationGracePeriodSeconds": 1,
            "securityContext": spec["securityContext"],
            "affinity": on_node(node),
            "tolerations": spec["tolerations"],
            "containers": [container],
            "resourceClaims": [{"name": "gpu", "resourceClaimName": name}],
        },
    }
    return [claim(name, namespace, exactly), pod]


@contextmanager
def admin_pod(stack: LiveStack, node: str) -> Iterator[Playground]:
    """A namespace with the label and a pod `admin` in it that sees every GPU of the node."""
    with stack.playground({**RESTRICTED, **ADMIN}) as playground:
        manifests = pod_with_claim(stack, playground.namespace, "admin", every_gpu(stack), node)
        stack.create(*manifests)
        playground.wait_running("admin")
        yield playground


@contextmanager
def full_node(stack: LiveStack, node: str) -> Iterator[Playground]:
    """A namespace whose pods hold all that was left of the node's GPUs, but for what an admin claim has to fit into."""
    left = free_capacity(stack, node)
    with stack.playground() as playground:
        for device, capacities in left.items():
            uuid = stack.devices()[node, device]["uuid"]
            exactly = request(uuid, **({"capacity": {"requests": capacities}} if capacities else {}))
            name = f"takes-{device}"
            stack.create(*pod_with_claim(stack, playground.namespace, name, exactly, node))
            playground.wait_running(name)
        yield playground


@contextmanager
def part_of_a_gpu(stack: LiveStack) -> Iterator[tuple[tuple[str, str], dict[str, Any]]]:
    """A device that a pod can have, and a request for it: for all of a free one, else for little of one that is shared.

    Skips where every GPU is taken and none is shared by memory.
    """
    everything_taken = not stack.devices().keys() - set(stack.allocations())
    if everything_taken and stack.settings.consumable_shares == "memory":
        with_room = [
            (node.node, device)
            for node in stack.settings.gpu_nodes
            for device, capacities in free_capacity(stack, node.node).items()
            if quantity_mib(capacities["memory"]) >= quantity_mib(LITTLE)
        ]
        device = next(iter(with_room), None)
        if device is None:
            pytest.skip("every GPU is full: lower consumableCapacity.requests")
        yield device, request(stack.devices()[device]["uuid"], capacity={"requests": {"memory": LITTLE}})
        return
    with stack.free_gpu():
        taken = stack.allocations()
        device = next(device for device in stack.devices() if device not in taken)
        yield device, request(stack.devices()[device]["uuid"])


def free_capacity(stack: LiveStack, node: str) -> dict[str, dict[str, str]]:
    """Device -> the capacity that is left of it, nothing for a whole device; full ones are left out.

    Of a GPU that claims share the least is left out, 1 MiB or one share: an admin claim has to fit.
    """
    mode = stack.settings.consumable_shares
    if mode == "unlimited":
        pytest.skip("driver.consumableShares is unlimited: a node is never full")
    mine = [device for where, device in stack.devices() if where == node]
    if mode == "disabled":
        taken = {device for where, device in stack.allocations() if where == node}
        return {device: {} for device in mine if device not in taken}
    if mode == "memory":
        sizes, consumed = capacity.total_mib(stack), capacity.consumed_mib(stack)
        left = {device: int(sizes[node, device] - consumed.get((node, device), 0)) - 1 for device in mine}
        return {device: {"memory": f"{mib}Mi"} for device, mib in left.items() if mib > 0}
    used = stack.allocations()  # each has one share unless it asks for more, which no workload of the stack does
    free = {device: int(mode) - used.count((node, device)) - 1 for device in mine}
    return {device: {"shares": str(shares)} for device, shares in free.items() if shares > 0}


def bounds(samples: list[Sample], name: str, quantiles: tuple[float, ...], **labels: str) -> list[str]:
    """Bounds of the buckets that the quantiles of a histogram are in, in its unit."""
    buckets = sorted(
        (float(sample.labels["le"]), sample.value) for sample in select(samples, f"{name}_bucket", **labels)
    )
    total = buckets[-1][1]
    return [f"<= {next(bound for bound, count in buckets if count >= quantile * total):g}" for quantile in quantiles]


def version(text: str) -> list[int]:
    """A driver's version without its leading zeros, which a slice does not have."""
    return [int(number) for number in re.findall(r"\d+", text)]
