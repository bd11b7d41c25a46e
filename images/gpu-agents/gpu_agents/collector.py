"""The exporter's metrics, read anew at every scrape."""

from collections.abc import Iterable, Iterator
from threading import Lock

import grpc
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from gpu_agents import mps, pods
from gpu_agents.claims import AdminClaims
from gpu_agents.failures import Failures
from gpu_agents.gpus import READINGS, XID, Gpu, Gpus
from gpu_agents.pods import DRIVER, Holder


class GpuCollector(Collector):
    """One series for each GPU and container that holds it, one with empty labels for a GPU that nobody holds.

    A MIG device is held by name of its own, so its holder is not told beside its parent's figures.
    """

    def __init__(self, *, hostname: str, pod_resources: str, mps_pipe: bool, simulated: bool) -> None:
        self._hostname, self._pod_resources = hostname, pod_resources
        self._mps_pipe, self._simulated = mps_pipe, simulated
        self._failures = Failures()
        self._gpus, self._admin_claims = Gpus(self._failures), AdminClaims(self._failures)
        self._lock = Lock()

    def start(self) -> None:
        """Start NVML, and with it the watch for XIDs, before the first scrape."""
        self._gpus.found()

    def describe(self) -> Iterable[Metric]:
        """Nothing: registering would read everything once for it."""
        return []

    def collect(self) -> Iterator[Metric]:
        with self._lock:
            gpus = self._gpus.found()
            yield from self._gpu_metrics(gpus)
            if self._mps_pipe:
                yield from self._mps_metrics(gpus)
            errors = CounterMetricFamily(
                "gpu_exporter_scrape_errors", "Failures of a source of metrics since the start", labels=["source"]
            )
            for source, count in self._failures.counts.items():
                errors.add_metric([source], count)
            yield errors

    def _gpu_metrics(self, gpus: list[Gpu]) -> Iterator[Metric]:
        families = {reading.name: Metric(reading.name, reading.help, reading.kind) for reading in READINGS}
        families[XID] = Metric(XID, "The last XID since the exporter's start, 0 before any", "gauge")
        holders = self._holders() if gpus else []
        for gpu in gpus:
            series = [self._labels(gpu, holder) for holder in holders if holder.device == gpu.device]
            for name, value in self._gpus.values(gpu):
                for labels in series or [self._labels(gpu, None)]:
                    families[name].add_sample(name, labels, value)
        yield from (family for family in families.values() if family.samples)
        if self._simulated:
            simulated = GaugeMetricFamily("gpu_simulated", "1 for a GPU that is simulated", labels=["UUID"])
            for gpu in gpus:
                simulated.add_metric([gpu.uuid], 1)
            yield simulated

    def _labels(self, gpu: Gpu, holder: Holder | None) -> dict[str, str]:
        return {
            "gpu": str(gpu.index),
            "UUID": gpu.uuid,
            "pci_bus_id": gpu.pci_bus_id,
            "device": f"nvidia{gpu.minor}",
            "modelName": gpu.model,
            "Hostname": self._hostname,
            "DCGM_FI_DRIVER_VERSION": self._gpus.driver_version,
            "namespace": holder.namespace if holder else "",
            "pod": holder.pod if holder else "",
            "container": holder.container if holder else "",
            "dra_claim_namespace": holder.claim_namespace if holder else "",
            "dra_claim_name": holder.claim if holder else "",
            "dra_driver_name": DRIVER if holder else "",
            "dra_pool_name": holder.pool if holder else "",
            "dra_device_name": holder.device if holder else "",
        }

    def _holders(self) -> list[Holder]:
        try:
            found = pods.holders(self._pod_resources)
        except grpc.RpcError as error:
            self._failures.add("pod-resources", _words(error), socket=self._pod_resources)
            return []
        return self._admin_claims.without(found)

    def _mps_metrics(self, gpus: list[Gpu]) -> Iterator[Metric]:
        up = GaugeMetricFamily("mps_up", "1 if the node's MPS daemon answers, else 0", labels=["Hostname"])
        try:
            seen = mps.look()
        except mps.MpsError as error:
            self._failures.add("mps", error)
            up.add_metric([self._hostname], 0)
            yield up
            return
        up.add_metric([self._hostname], 1)
        yield up
        servers = GaugeMetricFamily("mps_servers", "Servers of the node's MPS daemon", labels=["Hostname"])
        servers.add_metric([self._hostname], seen.servers)
        yield servers
        clients = GaugeMetricFamily(
            "mps_clients", "Contexts that the node's MPS daemon serves on the GPU", labels=["UUID", "gpu", "Hostname"]
        )
        indices = {gpu.uuid: str(gpu.index) for gpu in gpus}
        for uuid, contexts in seen.contexts.items():
            clients.add_metric([uuid, indices.get(uuid, ""), self._hostname], contexts)
        yield clients


def _words(error: grpc.RpcError) -> str:
    # A call's error is a grpc.Call too, which its type does not tell.
    return f"{error.code().name}: {error.details()}" if isinstance(error, grpc.Call) else str(error)


def render(collector: Collector) -> bytes:
    """The metrics in Prometheus' text format."""
    registry = CollectorRegistry()
    registry.register(collector)
    text = generate_latest(registry)
    for reading in READINGS:
        if reading.kind == "counter":
            # NVIDIA's counter ends without the _total that prometheus-client gives every counter's heading.
            text = text.replace(f"{reading.name}_total ".encode(), f"{reading.name} ".encode())
    return text
