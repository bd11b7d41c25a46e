"""Configurations of the host's GPUs that must be refused."""

from typing import Any

from tests.unit.wrong_settings import Wrong
from toolchain.versions import DRA_DRIVERS

UUID, OTHER = (f"GPU-{number}0000000-0000-0000-0000-000000000000" for number in (1, 2))
PASSTHROUGH = {"PassthroughSupport": True}
EXISTING = {"provider": "existing", "kubeconfig": "<tmp>/good", "context": "lab"}


def host(gpu: dict[str, Any] | None = None, **blocks: Any) -> dict[str, Any]:
    return {"modules": ["01", "02", "04"], "gpu": {"source": "host", **(gpu or {})}, **blocks}


def devices(*named: Any, **blocks: Any) -> dict[str, Any]:
    return host({"devices": list(named)}, **blocks)


WRONG = (
    *(
        Wrong(
            f"device {device!r}", devices(device), "gpu.devices[0]", device, "names no GPU", "use its index (0) or UUID"
        )
        for device in (-1, "0", "all", "gpu-0", True, 0.5, None, "GPU-ABCDEF00-0000-0000-0000-000000000000", [0])
    ),
    Wrong("devices that are one", host({"devices": 0}), "gpu.devices", 0, "must be a list", "give a list"),
    Wrong("no device", devices(), "gpu.devices", [], "names no GPU", "name some, or drop it for all"),
    Wrong("device twice", devices(0, 1, 0), "gpu.devices", 0, "is there more than once", "name each GPU once"),
    Wrong(
        "devices of simulated GPUs",
        {"gpu": {"devices": [0]}},
        "gpu.devices",
        [0],
        "is for the host's GPUs",
        "drop it or set gpu.source to host",
    ),
    Wrong(
        "devices of an existing cluster",
        host({"devices": [0], "nodes": [{"name": "a"}]}, cluster=EXISTING),
        "gpu.devices",
        [0],
        "is for the GPUs of this machine",
        "name the nodes to use in gpu.nodes",
    ),
    Wrong(
        "fewer devices than the modules use",
        devices(1, modules=["01", "02", "03", "04"]),
        "gpu.devices",
        [1],
        "are too few: modules 03, 04 use 2 GPUs of the first node",
        "name 2 or more, or switch one of them off",
    ),
    Wrong(
        "limit of a GPU that is not chosen",
        host(
            {"devices": [UUID], "allowComputeModeChange": True},
            mps={"mode": "claim", "perDevicePinnedMemoryLimit": {OTHER: "8Gi"}},
        ),
        "mps.perDevicePinnedMemoryLimit",
        OTHER,
        "is none of gpu.devices",
        "use one of them, or add it there",
    ),
    Wrong(
        "compute mode of simulated GPUs",
        {"gpu": {"allowComputeModeChange": True}},
        "gpu.allowComputeModeChange",
        True,
        "is for the host's GPUs",
        "drop it or set gpu.source to host",
    ),
    Wrong(
        "MPS by claim that nobody allowed",
        host(mps={"mode": "claim"}),
        "mps.mode",
        "claim",
        "lets NVIDIA's driver set the compute mode EXCLUSIVE_PROCESS on a GPU of the host while the claim lives",
        "set gpu.allowComputeModeChange to true if that is meant, or mps.mode to daemon",
    ),
    Wrong(
        "MPS by claim that nobody allowed on an existing cluster",
        host({"nodes": [{"name": "a"}]}, mps={"mode": "claim"}, cluster=EXISTING),
        "mps.mode",
        "claim",
        "lets NVIDIA's driver set the compute mode EXCLUSIVE_PROCESS",
        "mps.mode to daemon",
    ),
    *(
        Wrong(
            f"gate {gate} that nobody allowed",
            host(driver={"featureGates": {gate: True}}),
            f"driver.featureGates.{gate}",
            True,
            f"{what}, here on GPUs of the host",
            "drop it, or set gpu.allowComputeModeChange to true",
        )
        for gate, what in (
            ("MPSSupport", "EXCLUSIVE_PROCESS"),
            ("TimeSlicingSettings", "the time slice to its default whenever a claim ends"),
        )
    ),
    Wrong(
        "MIG layout that nobody allowed to change",
        host(driver={"featureGates": {"DynamicMIG": True}}),
        "driver.featureGates.DynamicMIG",
        True,
        "destroys every MIG device that the driver did not make, and switches MIG mode off, already when the driver",
        "set gpu.allowMigChange to true if nobody else uses these GPUs",
    ),
    Wrong(
        "MIG layout by leave to change the compute mode",
        host({"allowComputeModeChange": True}, driver={"featureGates": {"DynamicMIG": True}}),
        "driver.featureGates.DynamicMIG",
        True,
        "destroys every MIG device",
        "set gpu.allowMigChange to true",
    ),
    Wrong(
        "MIG layout of simulated GPUs",
        {"gpu": {"allowMigChange": True}},
        "gpu.allowMigChange",
        True,
        "is for the host's GPUs",
        "drop it or set gpu.source to host",
    ),
    *(
        Wrong(
            f"simulated GPU for a virtual machine, {what}, driver {version}",
            {"driver": {"version": version, "featureGates": {**PASSTHROUGH, **beside}}},
            "driver.featureGates.PassthroughSupport",
            True,
            "devices of the node's own PCI bus to vfio-pci, and no simulated GPU is on it",
            "drop it; nothing allows it",
        )
        for version in DRA_DRIVERS
        for what, beside in (
            ("alone", {}),
            ("with its metadata", {"DeviceMetadata": True}),
            ("with the health check", {"NVMLDeviceHealthCheck": True}),
            ("with dynamic MIG", {"DynamicMIG": True}),
        )
    ),
    Wrong(
        "GPU of the host for a virtual machine",
        host({"allowMigChange": True, "allowComputeModeChange": True}, driver={"featureGates": PASSTHROUGH}),
        "driver.featureGates.PassthroughSupport",
        True,
        "takes a GPU from NVIDIA's kernel module",
        "drop it; nothing allows it",
    ),
)
