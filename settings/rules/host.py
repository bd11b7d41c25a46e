"""Rules of the host's GPUs: their choice, and the settings of theirs that NVIDIA's driver may change."""

from collections.abc import Iterator

from settings import catalog
from settings.blocks import Cluster, Draft, Driver, Gpu, Mps
from settings.problems import Problem

ALLOW = "gpu.allowComputeModeChange"
# Change of a GPU's settings that each gate lets NVIDIA's driver make. Source: cmd/gpu-kubelet-plugin of v0.5.0,
# device_state.go and sharing.go.
GATES = {
    "MPSSupport": "lets any claim set the compute mode EXCLUSIVE_PROCESS",
    "TimeSlicingSettings": "sets the compute mode to DEFAULT and the time slice to its default whenever a claim ends",
}
# Those that change more than a setting. Source: driver.go, nvlib.go and vfio-device.go there.
ALLOW_MIG = "gpu.allowMigChange"
DYNAMIC_MIG = (
    "destroys every MIG device that the driver did not make, and switches MIG mode off, already when the driver starts"
)
PASSTHROUGH_GATE = "driver.featureGates.PassthroughSupport"
PASSTHROUGH = "takes a GPU from NVIDIA's kernel module when a claim asks, so that nothing on the host can use it"


# With that gate the chart mounts the node's whole root, and the plugin ends where the node's kernel has no IOMMU.
PASSTHROUGH_SIMULATED = (
    "lets NVIDIA's driver bind devices of the node's own PCI bus to vfio-pci, and no simulated GPU is on it"
)


def host_rules(draft: Draft) -> Iterator[Problem]:
    """Problems of the use of the host's GPUs; looks at other blocks where they are well-formed."""
    gpu, mps = draft.gpu, draft.block(Mps)
    if gpu is None:
        return
    if gpu.source == "simulated":
        yield from _simulated_rules(gpu, draft.driver)
        return
    yield from _device_rules(gpu, draft.cluster, mps)
    yield from _hardware_rules(gpu, draft.driver)
    if not gpu.allow_compute_mode_change:
        yield from _setting_rules(draft.driver, mps, draft.modules or ())


def _simulated_rules(gpu: Gpu, driver: Driver | None) -> Iterator[Problem]:
    if driver and driver.feature_gates.get("PassthroughSupport"):
        yield Problem(PASSTHROUGH_GATE, True, PASSTHROUGH_SIMULATED, "drop it; nothing allows it")
    remedy = "drop it or set gpu.source to host"
    if gpu.devices:
        yield Problem("gpu.devices", list(gpu.devices), "is for the host's GPUs; gpu.count says how many", remedy)
    if gpu.allow_compute_mode_change:
        yield Problem(ALLOW, True, "is for the host's GPUs; simulated ones are the stack's own", remedy)
    if gpu.allow_mig_change:
        yield Problem(ALLOW_MIG, True, "is for the host's GPUs; simulated ones are the stack's own", remedy)


def _device_rules(gpu: Gpu, cluster: Cluster | None, mps: Mps | None) -> Iterator[Problem]:
    devices = list(gpu.devices)
    if "devices" in gpu.model_fields_set and not devices:
        yield Problem("gpu.devices", [], "names no GPU", "name some, or drop it for all")
    for device in dict.fromkeys(device for device in devices if devices.count(device) > 1):
        yield Problem("gpu.devices", device, "is there more than once", "name each GPU once")
    if devices and cluster and cluster.provider == "existing":
        rule = "is for the GPUs of this machine; on an existing cluster its nodes show NVIDIA's driver theirs"
        yield Problem("gpu.devices", devices, rule, "drop it, and name the nodes to use in gpu.nodes")
    if mps is None or not devices or any(isinstance(device, int) for device in devices):
        return
    for key in mps.per_device_pinned_memory_limit:
        if key.startswith("GPU-") and key not in devices:
            rule = "is none of gpu.devices, which are all that the stack may use"
            yield Problem("mps.perDevicePinnedMemoryLimit", key, rule, "use one of them, or add it there")


def _hardware_rules(gpu: Gpu, driver: Driver | None) -> Iterator[Problem]:
    gates = driver.feature_gates if driver else {}
    if gates.get("DynamicMIG") and not gpu.allow_mig_change:
        remedy = f"drop it, or set {ALLOW_MIG} to true if nobody else uses these GPUs"
        yield Problem("driver.featureGates.DynamicMIG", True, f"{DYNAMIC_MIG}, here on GPUs of the host", remedy)
    if gates.get("PassthroughSupport"):
        rule = f"{PASSTHROUGH}, and no module does"
        yield Problem(PASSTHROUGH_GATE, True, rule, "drop it; nothing allows it")


def _setting_rules(driver: Driver | None, mps: Mps | None, modules: tuple[str, ...]) -> Iterator[Problem]:
    if mps and mps.mode == "claim" and catalog.MPS.number in modules:
        rule = "lets NVIDIA's driver set the compute mode EXCLUSIVE_PROCESS on a GPU of the host while the claim lives"
        rule += ", and DEFAULT when it goes"
        yield Problem("mps.mode", "claim", rule, f"set {ALLOW} to true if that is meant, or mps.mode to daemon")
    for gate, what in GATES.items():
        if driver and driver.feature_gates.get(gate):
            rule = f"{what}, here on GPUs of the host"
            yield Problem(f"driver.featureGates.{gate}", True, rule, f"drop it, or set {ALLOW} to true")
