"""Catalog of the workshop's modules: one row each, with every fact that other code needs to know of it.

Data only. Rules, placement on GPUs, feature gates, images and the tables of the docs are loops over these rows. A row's
builder is `build` in modules/<slug>.py, its objects are in manifests/<number>-<slug>/, its checks in
checks/test_<number>_<slug>.py, its page is docs/learn/<number>-<slug>.md.
"""

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from enum import Enum
from typing import Any

from pydantic import BaseModel

from gpus.mps import CAPACITY_CLASS, DEFAULT_CLASS, VLLM_CLASS, Limits
from gpus.shares import RUNNING
from settings.blocks import Blocks, ConsumableCapacity, Fleet, Mps, Observability, Vllm
from toolchain.versions import DCGM_EXPORTER_IMAGE, GRAFANA_IMAGE, PROMETHEUS_IMAGE, VLLM_IMAGE

LIMITED_CLASS = "small"


class GpuUse(Enum):
    """Use that a module makes of a GPU of the first GPU node."""

    NONE = "none"
    OWN = "one of its own, which no other claim may have"
    SHARED = "the one that modules share where the driver lets claims share, else one of its own"
    REQUIRED = "that of a module which it requires"


def always(_blocks: Blocks) -> bool:
    """Condition that holds for every configuration."""
    return True


def nothing(_blocks: Blocks) -> Mapping[str, str]:
    """Mapping without entries, for every configuration."""
    return {}


@dataclass(frozen=True)
class Gate:
    """Feature gate of NVIDIA's DRA driver that a module needs.

    `what` is what the gate switches on, `without` what happens where it is off, both for messages.
    """

    name: str
    needed: Callable[[Blocks], bool] = always
    what: str = "it"
    without: str = "the module does not work"


@dataclass(frozen=True)
class Image:
    """Image that a module's pods run: one that set-up makes, or `upstream`'s.

    `name` is that of set-up's index; in camelCase it is a key of the block `images`. `by_compute_capability` gives the
    references that hold for GPUs of one compute capability only, such as "9.0".
    """

    name: str
    upstream: str | None = None
    used: Callable[[Blocks], bool] = always
    by_compute_capability: Callable[[Blocks], Mapping[str, str]] = nothing


@dataclass(frozen=True)
class ApiFeature:
    """Feature of Kubernetes's API that a module needs: module 00 asks the API server of an existing cluster for it.

    It is there if `resource` is served ("<group>/<version>/<plural>"), if a claim whose request has the fields of
    `request` keeps them, and a ResourceSlice whose device has those of `device`: an API server drops the fields of a
    gate that is off. A Kind cluster cannot be asked before it is made, so its node image has to be of `since`, the
    first version with the gate on.
    """

    gate: str
    """Feature gate of Kubernetes."""
    what: str
    """What it is, for messages."""
    since: str
    resource: str = ""
    request: Mapping[str, Any] = field(default_factory=dict)
    device: Mapping[str, Any] = field(default_factory=dict)
    needed: Callable[[Blocks], bool] = always


@dataclass(frozen=True)
class MpsClass:
    """Class of MPS clients that a module brings; a stack may not have one of its own by that name.

    `limits` None: the memory limit of each client is what its claim requests. `always_reserved`: the name is taken also
    where the module is off.
    """

    name: str
    clients: str
    limits: Callable[[Blocks], Limits] | None = None
    always_reserved: bool = False


@dataclass(frozen=True)
class Module:
    """Row of the catalog: one module of the workshop."""

    number: str
    slug: str
    title: str
    sets_up: str
    proves: str
    minutes: int
    """Estimate of the time to read its lesson and do it: 100 words a minute and 0.4 minutes for each command, in steps
    of five minutes.
    """
    requires: tuple[str, ...] = ()
    excludes: tuple[str, ...] = ()
    gpu: GpuUse = GpuUse.NONE
    looks_at_every_gpu: bool = False
    """It has a claim with adminAccess for every GPU of a node."""
    needs_whole_gpu: bool = False
    """A GPU that is divided by MIG is none for it."""
    mig_slices: int = 0
    """MIG devices of one GPU that its own pods have."""
    mps_by_claim: bool = False
    """Its pods share a MIG device through the MPS daemon that NVIDIA's driver starts for a claim."""
    needs_mig: bool = False
    """It needs layouts of MIG devices in gpu.mig."""
    makes_mig: bool = False
    """It has NVIDIA's driver make MIG devices, of simulated GPUs of a model that has MIG."""
    needs_real_gpu: bool = False
    claims: int = 0
    """Claims of its own that are allocated at once on its GPU where claims can share one."""
    consumable_shares: str | None = None
    """Value of driver.consumableShares that is the default where the module is on."""
    gates: tuple[Gate, ...] = ()
    log_verbosity: int = 0
    """Least verbosity of the log of NVIDIA's driver, where the module reads it."""
    api_features: tuple[ApiFeature, ...] = ()
    """Features of Kubernetes that are off or missing in a version that the workshop runs on, 1.34 and later."""
    images: tuple[Image, ...] = ()
    node_folders: Callable[[Blocks], Mapping[str, str]] = nothing
    """Folders of this machine that its pods read on a Kind cluster, by their places in the GPU nodes."""
    blocks: Mapping[str, type[BaseModel]] = field(default_factory=dict)
    """Blocks of the config that it uses, by their keys."""
    mps_classes: tuple[MpsClass, ...] = ()
    mps_clients: tuple[str, ...] = ()
    """Class of each client that gets its memory from the claim which the MPS module's clients share."""
    mps_pipe_namespaces: tuple[str, ...] = ()
    """Namespaces whose pods mount the node's pipe without being clients."""

    @property
    def name(self) -> str:
        """Name of its folder in manifests/ and of its page."""
        return f"{self.number}-{self.slug}"

    @property
    def check_file(self) -> str:
        """Name of the file of its checks."""
        return f"test_{re.sub('[-.]', '_', self.name)}.py"

    @property
    def builder(self) -> str:
        """Name of the Python module that builds it."""
        return f"modules.{self.slug.replace('-', '_')}"


def _simulated(blocks: Blocks) -> bool:
    return blocks.gpu.source == "simulated"


def _by_daemon(blocks: Blocks) -> bool:
    return blocks.block(Mps).mode == "daemon"


def _settings_may_change(blocks: Blocks) -> bool:
    # Whenever a claim ends, the driver sets compute mode and time slice of its GPUs, whoever set them otherwise.
    return _simulated(blocks) or blocks.gpu.allow_compute_mode_change


def _nvml_exporter(blocks: Blocks) -> bool:
    return blocks.block(Observability).exporter == "nvml"


def _dcgm_exporter(blocks: Blocks) -> bool:
    return not _nvml_exporter(blocks)


def _prometheus(blocks: Blocks) -> bool:
    return blocks.block(Observability).prometheus


def _grafana(blocks: Blocks) -> bool:
    return blocks.block(Observability).grafana


def _limits_of_vllm(blocks: Blocks) -> Limits:
    vllm = blocks.block(Vllm)
    memory = vllm.pinned_device_memory_limit or blocks.block(Mps).effective_memory_limit
    return Limits(active_thread_percentage=vllm.active_thread_percentage, pinned_device_memory_limit=memory)


def _shares_by_choice(blocks: Blocks) -> bool:
    return blocks.driver.consumable_shares not in (None, "disabled")


def _makes_mig_by_choice(blocks: Blocks) -> bool:
    # A module that has the driver do so asks by itself; this is for driver.featureGates, with any modules.
    return blocks.driver.feature_gates.get("DynamicMIG", False)


GPU_AGENTS = "gpu-agents"
PROMETHEUS = Image("prometheus", PROMETHEUS_IMAGE, used=_prometheus)
GRAFANA = Image("grafana", GRAFANA_IMAGE, used=_grafana)
# Versions: pkg/features/kube_features.go of Kubernetes 1.37.2, and that of k8s.io/apiserver.
CONSUMABLE_SHARES = ApiFeature(
    "DRAConsumableCapacity",
    "claims that request a part of a GPU",
    "1.36",
    request={"capacity": {"requests": {"memory": "1Gi"}}},
)
ADMIN_ACCESS = ApiFeature("DRAAdminAccess", "claims that only look on", "1.34", request={"adminAccess": True})
# Asked by a slice: without the gate it loses its taints, but on Kubernetes 1.34 a claim keeps its tolerations.
DEVICE_TAINTS = ApiFeature(
    "DRADeviceTaints",
    "taints of GPUs, and claims that tolerate them",
    "1.36",
    device={"taints": [{"key": "dra-workshop/probe", "effect": "NoSchedule"}]},
)
DEVICE_TAINT_RULES = ApiFeature(
    "DRADeviceTaintRules",
    "rules that taint GPUs",
    "1.37",
    resource="resource.k8s.io/v1/devicetaintrules",
)
# Without its counters, as a driver publishes them since 1.35: those are in another slice of the pool.
PARTITIONABLE_DEVICES = ApiFeature(
    "DRAPartitionableDevices",
    "GPUs whose parts share what they are made of",
    "1.36",
    device={"consumesCounters": [{"counterSet": "gpu", "counters": {"memory": {"value": "1Gi"}}}]},
)

PREREQUISITES = Module(
    number="00",
    slug="prerequisites",
    title="Prerequisites",
    sets_up="nothing",
    proves="the machine offers what the stack needs; every finding at once, with its remedy",
    minutes=10,
)
CLUSTER = Module(
    number="01",
    slug="cluster",
    title="Cluster and GPUs",
    sets_up="a Kind cluster, or labels on an existing one; the simulated driver root",
    proves="DRA is served, nodes are ready, `nvidia-smi` in the node lists the GPUs",
    minutes=10,
    # Loaded with the cluster, so that a module that is switched on later has them in the nodes.
    images=(Image("dra-driver"), Image("gpu-sim", used=_simulated), Image("gpu-probe")),
)
DRA_DRIVER = Module(
    number="02",
    slug="dra-driver",
    title="NVIDIA's DRA driver",
    sets_up="the Helm release and the wait for its GPUs",
    proves="exactly the configured GPUs are published, attribute by attribute",
    minutes=10,
    requires=("01",),
    api_features=(
        replace(CONSUMABLE_SHARES, needed=_shares_by_choice),
        replace(PARTITIONABLE_DEVICES, needed=_makes_mig_by_choice),
    ),
)
WORKLOADS = Module(
    number="03",
    slug="workloads",
    title="Exclusive GPUs by claim",
    sets_up="a workload with a GPU, and one that waits for it",
    proves="one pod one GPU; waiting, sharing, CEL, prioritized list, extended resource; no leaks",
    minutes=30,
    requires=("01", "02"),
    gpu=GpuUse.OWN,
    needs_whole_gpu=True,
)
MPS = Module(
    number="04",
    slug="mps",
    title="Two pods on one GPU by MPS",
    sets_up="an MPS daemon without privilege on each GPU node, or by claim; two clients",
    proves="both are clients on one GPU; what happens without the pipe, with a second daemon, after a killed one; "
    "time-slicing",
    minutes=15,
    requires=("01", "02"),
    gpu=GpuUse.SHARED,
    looks_at_every_gpu=True,
    needs_whole_gpu=True,
    claims=1,
    # MPS by claim keeps the driver from dynamic MIG and consumable shares, so the gate is on only where it is used.
    gates=(
        Gate("MPSSupport", lambda blocks: not _by_daemon(blocks)),
        Gate("TimeSlicingSettings", _settings_may_change),
    ),
    api_features=(replace(ADMIN_ACCESS, needed=_by_daemon),),
    images=(Image("mps-daemon", used=_by_daemon),),
    blocks={"mps": Mps},
    # The limited client belongs to the next module: counted here, so that switching it on replaces no claim.
    mps_clients=(DEFAULT_CLASS, DEFAULT_CLASS, LIMITED_CLASS),
    mps_pipe_namespaces=("mps-system",),
)
MPS_LIMITS = Module(
    number="05",
    slug="mps-limits",
    title="Limits of MPS, and who wins",
    sets_up="a client with less, classes, an admission policy",
    proves="granted SMs to the number, memory refused beyond the limit, live changes, what lifts a limit and who may "
    "ask for more",
    minutes=25,
    requires=("01", "02", "04"),
    gpu=GpuUse.REQUIRED,
    needs_whole_gpu=True,
    blocks={"mps": Mps},
)
VLLM = Module(
    number="06",
    slug="vllm",
    title="vLLM under a limit",
    sets_up="a vLLM server with half of a GPU, and its Service; real GPU only",
    proves="a completion through the Service; what it was granted; why it cannot start",
    minutes=15,
    requires=("01", "02", "04"),
    gpu=GpuUse.REQUIRED,
    needs_whole_gpu=True,
    needs_real_gpu=True,
    images=(Image("vllm", VLLM_IMAGE, by_compute_capability=lambda blocks: blocks.block(Vllm).images),),
    node_folders=lambda blocks: blocks.block(Vllm).node_folders,
    blocks={"vllm": Vllm},
    mps_classes=(MpsClass(VLLM_CLASS, "server, which the block vllm has the limits of", _limits_of_vllm),),
    mps_clients=(VLLM_CLASS,),
)
VLLM_EXPERIMENT = Module(
    number="06.5",
    slug="vllm-experiment",
    title="vLLM by thread percentage",
    sets_up="nothing that lasts; real GPU only",
    proves="throughput and latency by percentage, closed and open loop; a busy neighbour; CSV, JSON, plots",
    minutes=15,
    requires=("01", "02", "04", "06"),
    gpu=GpuUse.REQUIRED,
    needs_whole_gpu=True,
)
CONSUMABLE_CAPACITY = Module(
    number="07",
    slug="consumable-capacity",
    title="One GPU for many claims",
    sets_up="claims that request memory, each with a pod under that MPS limit, and one that has to wait",
    proves="sums never exceed the GPU, 50 pods at random; what is counted and what is enforced; all ways to share, "
    "and none",
    minutes=15,
    requires=("01", "02"),
    gpu=GpuUse.SHARED,
    needs_whole_gpu=True,
    claims=len(RUNNING),
    consumable_shares="memory",
    api_features=(CONSUMABLE_SHARES,),
    blocks={"consumableCapacity": ConsumableCapacity},
    mps_classes=(MpsClass(CAPACITY_CLASS, "pods", always_reserved=True),),
)
OBSERVABILITY = Module(
    number="08",
    slug="observability",
    title="Admin access and metrics",
    sets_up="an observer of every GPU, a tenant, a Prometheus exporter with DCGM's names; Prometheus and Grafana on "
    "request",
    proves="who may look on and who not; metrics, holders and MPS clients against what the API and the daemon say",
    minutes=15,
    requires=("01", "02"),
    looks_at_every_gpu=True,
    needs_whole_gpu=True,
    api_features=(ADMIN_ACCESS,),
    images=(
        Image(GPU_AGENTS, used=_nvml_exporter),
        Image("dcgm-exporter", DCGM_EXPORTER_IMAGE, used=_dcgm_exporter),
        PROMETHEUS,
        GRAFANA,
    ),
    blocks={"observability": Observability},
    mps_pipe_namespaces=("gpu-metrics",),
)
RESILIENCE = Module(
    number="09",
    slug="resilience",
    title="Faults and what survives them",
    sets_up="a keeper of taints",
    proves="kills of plugin, MPS daemon, kubelet, node, API server; damaged checkpoints; a GPU that fails; a drain: "
    "what breaks, seconds to recover",
    minutes=20,
    requires=("01", "02"),
    needs_whole_gpu=True,
    gates=(
        Gate(
            "NVMLDeviceHealthCheck",
            what="the health check",
            without="the driver does not see that a GPU fails",
        ),
    ),
    api_features=(DEVICE_TAINTS, DEVICE_TAINT_RULES),
    images=(Image(GPU_AGENTS),),
)

MIG_DEVICES = Module(
    number="10.1",
    slug="mig-devices",
    title="MIG devices by claim",
    sets_up="GPUs that MIG divides, and a tenant of one MIG device",
    proves="exactly the layout is published, a partitioned GPU is not; a pod sees its own part only; four of one GPU, "
    "an extended resource, and who waits",
    minutes=15,
    requires=("01", "02"),
    mig_slices=1,
    needs_mig=True,
)

MIG_MATCHING = Module(
    number="10.2",
    slug="mig-matching",
    title="MIG devices by capacity",
    sets_up="nothing that lasts",
    proves="claims match by SMs and memory, alone and together; first fit; what waits, and what cannot be evaluated",
    minutes=20,
    requires=("01", "02", "10.1"),
    needs_mig=True,
)

MIG_ISOLATION = Module(
    number="10.3",
    slug="mig-isolation",
    title="Isolation of MIG devices",
    sets_up="the keeper of taints, which closes a gap of the driver",
    proves="memory stops at the MIG device; a neighbour that is refused memory, fills its own or is killed touches "
    "nobody; a fault of one taints that one; a fault of the whole GPU, for which the driver taints none, all of them",
    minutes=25,
    requires=("01", "02", "10.1"),
    needs_mig=True,
    gates=RESILIENCE.gates,
    # From 6 on the driver says of which GPU an event was that it ignores. Source: device_health.go of v0.5.0.
    log_verbosity=6,
    api_features=RESILIENCE.api_features,
    images=(Image(GPU_AGENTS),),
)

MIG_MPS = Module(
    number="10.4",
    slug="mig-mps",
    title="MPS on a MIG device",
    sets_up="two pods that share a MIG device through MPS",
    proves="a daemon for each claim, which has that MIG device only; SMs granted of its own; what a configuration of "
    "the wrong kind does; what a killed daemon takes along",
    minutes=15,
    requires=("01", "02", "10.1"),
    mig_slices=1,
    needs_mig=True,
    mps_by_claim=True,
    gates=(Gate("MPSSupport", what="MPS by claim", without="the driver refuses the claim"),),
    blocks={"mps": Mps},
)

MIG_TRACE = Module(
    number="10.5",
    slug="mig-trace",
    title="From a MIG device to its container",
    sets_up="an exporter of MIG devices with DCGM's labels, Prometheus and Grafana on request; `make trace` prints a "
    "table",
    proves="slice, claim, CDI file, capability files, kubelet, `nvidia-smi` and exporter name one device; what is "
    "idle, shared, or started again",
    minutes=20,
    requires=("01", "02", "10.1"),
    needs_mig=True,
    images=(Image(GPU_AGENTS), PROMETHEUS, GRAFANA),
    blocks={"observability": Observability},
)

DYNAMIC_MIG = Module(
    number="10.6",
    slug="dynamic-mig",
    title="MIG devices made on demand",
    sets_up="a tenant of one MIG device, which NVIDIA's driver makes for it",
    proves="every partition is published and none is there until a claim has it; a full GPU and its parts exclude each "
    "other; fragmentation; what a restarted plugin keeps and destroys; what a refused claim leaves",
    minutes=25,
    requires=("01", "02"),
    # Their checks take every device that is published for one that is there.
    excludes=("03", "04", "05", "06", "06.5", "07", "08", "09"),
    makes_mig=True,
    gates=(
        Gate("DynamicMIG", what="MIG devices on demand", without="the driver publishes those only that are there"),
        Gate("TimeSlicingSettings", _simulated),
    ),
    api_features=(PARTITIONABLE_DEVICES,),
    # For the pod that brings its own MPS, which is all that a MIG device made on demand can have.
    images=(Image("mps-daemon"),),
)

MIG_SM_LIMITS = Module(
    number="11.1",
    slug="mig-sm-limits",
    title="SM limits on a MIG device",
    sets_up="nothing that lasts",
    proves="granted SMs to the number on each profile, by claim and by client; sums beyond the whole; who wins",
    minutes=10,
    requires=("01", "02", "10.1", "10.4"),
    needs_mig=True,
    blocks={"mps": Mps},
)

MIG_MEMORY_LIMITS = Module(
    number="11.2",
    slug="mig-memory-limits",
    title="Memory limits on a MIG device",
    sets_up="nothing that lasts",
    proves="a claim's limit is stored and not held, one by ordinal and a client's own are; what is left without one; "
    "the MIG device is the last word",
    minutes=15,
    requires=("01", "02", "10.1", "10.4"),
    needs_mig=True,
    blocks={"mps": Mps},
)

MIG_SEVERAL_SLICES = Module(
    number="11.3",
    slug="mig-several-slices",
    title="Several MIG devices in one pod",
    sets_up="nothing that lasts",
    proves="two claims with MPS leave a container one device, either; a claim for each container gives each its own; "
    "two without MPS, and one claim of two",
    minutes=20,
    requires=("01", "02", "10.1", "10.4"),
    needs_mig=True,
    blocks={"mps": Mps},
)

FLEET = Module(
    number="12",
    slug="fleet",
    title="A fleet of nodes",
    sets_up="nodes that are only objects, kept ready by KWOK, each with the GPUs that a node of the stack publishes",
    proves="the one node that fits is found, GPUs that belong together, packed shares, a second choice, a rack that is "
    "drained, models and MIG profiles on their nodes only; nothing is allocated twice while hundreds come and go",
    minutes=25,
    requires=("01", "02"),
    consumable_shares="memory",
    api_features=(CONSUMABLE_SHARES, DEVICE_TAINTS, DEVICE_TAINT_RULES),
    images=(Image("kwok"),),
    blocks={"fleet": Fleet},
)

MODULES = {
    module.number: module
    for module in (
        PREREQUISITES,
        CLUSTER,
        DRA_DRIVER,
        WORKLOADS,
        MPS,
        MPS_LIMITS,
        VLLM,
        VLLM_EXPERIMENT,
        CONSUMABLE_CAPACITY,
        OBSERVABILITY,
        RESILIENCE,
        MIG_DEVICES,
        MIG_MATCHING,
        MIG_ISOLATION,
        MIG_MPS,
        MIG_TRACE,
        DYNAMIC_MIG,
        MIG_SM_LIMITS,
        MIG_MEMORY_LIMITS,
        MIG_SEVERAL_SLICES,
        FLEET,
    )
}
DEFAULT = tuple(module.number for module in (PREREQUISITES, CLUSTER, DRA_DRIVER, WORKLOADS, MPS, MPS_LIMITS))


def rows(numbers: Iterable[str]) -> list[Module]:
    """Rows of the modules with these numbers, in the order in which they are built; a number of none is left out."""
    wanted = set(numbers)
    return [module for number, module in MODULES.items() if number in wanted]


def in_order(numbers: Iterable[str]) -> tuple[str, ...]:
    """Numbers in the order in which their modules are built."""
    return tuple(module.number for module in rows(numbers))


def images() -> dict[str, Image]:
    """Images that modules' pods run, by name."""
    return {image.name: image for module in MODULES.values() for image in module.images}


def blocks() -> dict[str, type[BaseModel]]:
    """Types of the config's blocks that single modules use, by their keys."""
    return {key: kind for module in MODULES.values() for key, kind in module.blocks.items()}
