"""The exporter's metrics, read anew at every scrape."""

from collections.abc import Iterable, Iterator
from pathlib import Path
from threading import Lock

import grpc
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from gpu_agents import mps, pods
from gpu_agents.claims import AdminClaims
from gpu_agents.failures import SOURCES, Failures
from gpu_agents.gpus import READINGS, XID, Gpu, Gpus
from gpu_agents.pods import DRIVER, Holder
from gpu_agents.slices import Device, GpuInstances, Slices

FB_TOTAL = next(reading for reading in READINGS if reading.name == "DCGM_FI_DEV_FB_TOTAL")
SIMULATED = "1 for a GPU that is simulated"


class NodeCollector(Collector):
    """One series for each device of the node and container that holds it, one with empty labels for a device that
    nobody holds.
    """

    sources: tuple[str, ...] = SOURCES

    def __init__(self, *, hostname: str, pod_resources: str, simulated: bool) -> None:
        self._hostname, self._pod_resources, self._simulated = hostname, pod_resources, simulated
        self._failures = Failures(self.sources)
        self._admin_claims = AdminClaims(self._failures)
        self._lock = Lock()

    def start(self) -> None:
        """Do what has to be done before the first scrape."""

    def describe(self) -> Iterable[Metric]:
        """Nothing: registering would read everything once for it."""
        return []

    def collect(self) -> Iterator[Metric]:
        with self._lock:
            yield from self._metrics()
            errors = CounterMetricFamily(
                "gpu_exporter_scrape_errors", "Failures of a source of metrics since the start", labels=["source"]
            )
            for source, count in self._failures.counts.items():
                errors.add_metric([source], count)
            yield errors

    def _metrics(self) -> Iterator[Metric]:
        raise NotImplementedError

    def _simulated_metric(self, uuids: Iterable[str]) -> Metric:
        simulated = GaugeMetricFamily("gpu_simulated", SIMULATED, labels=["UUID"])
        for uuid in uuids:
            simulated.add_metric([uuid], 1)
        return simulated

    def _holders(self) -> list[Holder]:
        try:
            found = pods.holders(self._pod_resources)
        except grpc.RpcError as error:
            self._failures.add("pod-resources", _words(error), socket=self._pod_resources)
            return []
        return self._admin_claims.without(found)


def _holder_labels(holder: Holder | None) -> dict[str, str]:
    return {
        "namespace": holder.namespace if holder else "",
        "pod": holder.pod if holder else "",
        "container": holder.container if holder else "",
        "dra_claim_namespace": holder.claim_namespace if holder else "",
        "dra_claim_name": holder.claim if holder else "",
        "dra_driver_name": DRIVER if holder else "",
        "dra_pool_name": holder.pool if holder else "",
        "dra_device_name": holder.device if holder else "",
    }


class SliceCollector(NodeCollector):
    """What ResourceSlices say of each GPU and MIG device of the node: memory, SMs of a MIG device, and who holds it.

    It needs no GPU. What changes while a device is used, such as used memory, no slice says. MIG devices have the
    labels of NVIDIA's exporter: UUID is the GPU's, GPU_I_ID the GPU instance's and empty where nobody has the device. A
    partition that NVIDIA's driver has not made is no device, and is told of only while a claim has it.
    """

    sources = ("api", "pod-resources", "cdi")

    def __init__(
        self, *, hostname: str, pod_resources: str, simulated: bool, cdi_folder: str, capabilities_folder: str
    ) -> None:
        super().__init__(hostname=hostname, pod_resources=pod_resources, simulated=simulated)
        self._slices = Slices(hostname, self._failures)
        self._instances = GpuInstances(Path(cdi_folder), Path(capabilities_folder), self._failures)

    def _metrics(self) -> Iterator[Metric]:
        memory = Metric(FB_TOTAL.name, FB_TOTAL.help, FB_TOTAL.kind)
        multiprocessors = Metric("mig_multiprocessors", "SMs of a MIG device", "gauge")
        published = self._slices.devices()
        holders = self._holders() if published else []
        uuids = set()
        for device in published:
            held_by = [holder for holder in holders if (holder.pool, holder.device) == (device.pool, device.name)]
            if device.mig and not device.mig_uuid and not held_by:
                continue
            uuids.add(device.uuid)
            instance = self._instances.of(device) if device.mig and held_by else ""
            for holder in held_by or [None]:
                labels = self._labels(device, holder, instance)
                memory.add_sample(memory.name, labels, device.memory_mib)
                if device.mig and device.multiprocessors is not None:
                    multiprocessors.add_sample(multiprocessors.name, labels, device.multiprocessors)
        yield from (family for family in (memory, multiprocessors) if family.samples)
        if self._simulated:
            yield self._simulated_metric(sorted(uuids))

    def _labels(self, device: Device, holder: Holder | None, instance: str) -> dict[str, str]:
        return {
            # NVML's index, which no slice has, is the minor number wherever no GPU of the node is hidden.
            "gpu": str(device.minor),
            "UUID": device.uuid,
            "pci_bus_id": device.pci_bus_id,
            "device": f"nvidia{device.minor}",
            "modelName": device.model,
            "GPU_I_PROFILE": device.profile,
            "GPU_I_ID": instance,
            "Hostname": self._hostname,
            "DCGM_FI_DRIVER_VERSION": device.driver_version,
            **_holder_labels(holder),
            "dra_mig_profile": device.profile,
            "dra_mig_device_uuid": device.mig_uuid,
        }


class GpuCollector(NodeCollector):
    """What NVML says of each GPU, and what the node's MPS daemon says of its clients.

    A MIG device is held by name of its own, so its holder is not told beside its parent's figures.
    """

    def __init__(self, *, hostname: str, pod_resources: str, mps_pipe: bool, simulated: bool) -> None:
        super().__init__(hostname=hostname, pod_resources=pod_resources, simulated=simulated)
        self._mps_pipe = mps_pipe
        self._gpus = Gpus(self._failures)

    def start(self) -> None:
        """Start NVML, and with it the watch for XIDs, before the first scrape."""
        self._gpus.found()

    def _metrics(self) -> Iterator[Metric]:
        gpus = self._gpus.found()
        yield from self._gpu_metrics(gpus)
        if self._mps_pipe:
            yield from self._mps_metrics(gpus)

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
            yield self._simulated_metric(gpu.uuid for gpu in gpus)

    def _labels(self, gpu: Gpu, holder: Holder | None) -> dict[str, str]:
        return {
            "gpu": str(gpu.index),
            "UUID": gpu.uuid,
            "pci_bus_id": gpu.pci_bus_id,
            "device": f"nvidia{gpu.minor}",
            "modelName": gpu.model,
            "Hostname": self._hostname,
            "DCGM_FI_DRIVER_VERSION": self._gpus.driver_version,
            **_holder_labels(holder),
        }

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
