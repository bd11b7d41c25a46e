"""Types of a stack's configuration, block by block. Field names are those of the YAML in snake_case."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal, TypeVar

from pydantic import AfterValidator, BaseModel, ConfigDict, Field
from pydantic.alias_generators import to_camel

from gpus.mig import EMPTY, Layout
from gpus.models import MAX_GPUS_PER_NODE
from gpus.mps import Limits, Percentage
from toolchain.versions import DRA_DRIVER, DRA_DRIVERS

MAX_WORKERS = 8
# The most that was measured.
MAX_FLEET_NODES = 1000
B = TypeVar("B", bound=BaseModel)
# Where folders of this machine are in a Kind node; elsewhere nodes have them at their own paths.
NODE_MODEL, NODE_ENVIRONMENT = "/dra-workshop/vllm/model", "/dra-workshop/vllm/environment"


class Block(BaseModel):
    """Block of a stack's config, or a part of one."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, alias_generator=to_camel)


class Cluster(Block):
    """Cluster of the stack: a Kind cluster of its own, or an existing one."""

    provider: Literal["kind", "existing"] = "kind"
    name: str | None = None
    workers: Annotated[int, Field(ge=0, le=MAX_WORKERS)] = 1
    node_image: str | None = None
    kubeconfig: str | None = None
    context: str | None = None


def _layout(value: Any) -> Layout:
    if value == EMPTY:
        return EMPTY
    if isinstance(value, list) and all(isinstance(entry, str) for entry in value):
        return tuple(value)
    raise ValueError(
        f"is no layout of a GPU; give a list of MIG profiles such as [3g.40gb@4, 4g.40gb@0], [] for MIG off, or {EMPTY}"
    )


Layouts = tuple[Annotated[Any, AfterValidator(_layout)], ...]
"""Layout of each GPU of a node, in order of index."""


class GpuNode(Block):
    """One GPU node where it differs from the others: on Kind the workers in order, else by name."""

    name: str | None = None
    model: str | None = None
    count: Annotated[int, Field(ge=1, le=MAX_GPUS_PER_NODE)] | None = None
    mig: Layouts | None = None


UUID = r"GPU-[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}"


def _device(value: Any) -> Any:
    if (type(value) is int and value >= 0) or (isinstance(value, str) and re.fullmatch(UUID, value)):
        return value
    raise ValueError("names no GPU; use its index (0) or UUID (GPU-...), as `nvidia-smi -L` has them")


class Toleration(Block):
    """Toleration of a taint of GPU nodes, with the fields and defaults of Kubernetes.

    https://kubernetes.io/docs/concepts/scheduling-eviction/taint-and-toleration/
    """

    key: str | None = None
    operator: Literal["Exists", "Equal"] = "Equal"
    value: str | None = None
    effect: Literal["NoSchedule", "PreferNoSchedule", "NoExecute"] | None = None

    @property
    def for_kubernetes(self) -> dict[str, str]:
        """Fields that are set, and the operator."""
        return self.model_dump(exclude_none=True)

    def tolerates(self, taint: Mapping[str, str]) -> bool:
        """Whether pods with it may be on a node with that taint (`key`, `value`, `effect`)."""
        if self.effect not in (None, taint["effect"]) or self.key not in (None, taint["key"]):
            return False
        return self.operator == "Exists" or (self.value or "") == taint.get("value", "")


# What NVIDIA's chart lets its plugin tolerate, and the manifests their pods: clouds have that taint on GPU nodes.
GPU_TOLERATION = Toleration(key="nvidia.com/gpu", operator="Exists", effect="NoSchedule")


class Gpu(Block):
    """GPUs of the stack: simulated ones of a model, or the host's.

    `mig` has the MIG layout of each GPU of a node, in order of index; GPUs beyond it are whole.
    `devices` are those of the host that may be used, all if it is empty. `allow_compute_mode_change` lets NVIDIA's
    driver change the compute mode and time slice of the host's GPUs, `allow_mig_change` their MIG devices and mode.
    `tolerations` are those of every pod of the stack and of NVIDIA's plugin, beside `GPU_TOLERATION`.
    """

    source: Literal["simulated", "host"] = "simulated"
    model: str = "h100-80gb"
    count: Annotated[int, Field(ge=1, le=MAX_GPUS_PER_NODE)] = 2
    mig: Layouts = ()
    nodes: tuple[GpuNode, ...] = ()
    driver_root: str | None = None
    devices: tuple[Annotated[Any, AfterValidator(_device)], ...] = ()
    allow_compute_mode_change: bool = False
    allow_mig_change: bool = False
    tolerations: tuple[Toleration, ...] = ()


# Values of the chart's consumableShares; an integer is a number of shares.
SHARES = ("memory", "unlimited", "disabled")


def _shares(value: Any) -> Any:
    if value is None or value in SHARES or (type(value) is int and value >= 1):
        return value
    raise ValueError(f"must be {', '.join(SHARES)} or a number of shares, at least 1; give one of them")


def _version(value: str) -> str:
    if value in DRA_DRIVERS:
        return value
    known = " or ".join(map(repr, DRA_DRIVERS))
    raise ValueError(f"must be {known}; set driver.version to that or drop it for the default")


class Driver(Block):
    """NVIDIA's DRA driver: version, feature gates, way in which claims share a GPU, log verbosity (0 to 10).

    `consumable_shares` is the chart's value of that name. None leaves it, or the verbosity, to the modules that are on.
    """

    version: Annotated[str, AfterValidator(_version)] = DRA_DRIVER
    feature_gates: dict[str, bool] = {}
    consumable_shares: Annotated[Any, AfterValidator(_shares)] = None
    log_verbosity: Annotated[int, Field(ge=0, le=10)] | None = None


class Mps(Limits):
    """Way in which pods share a GPU through MPS, the limits of every client, and classes of clients with less.

    `daemon`: one MPS daemon on each GPU node; `claim`: NVIDIA's driver starts one for each claim.
    """

    mode: Literal["daemon", "claim"] = "daemon"
    active_thread_percentage: Percentage = 50
    pinned_device_memory_limit: str = "8Gi"
    per_device_pinned_memory_limit: dict[str, str] = Field(default={})
    classes: dict[str, Limits] = Field(default={"small": Limits()})

    @property
    def per_device(self) -> Mapping[str, str]:
        """Memory limits of single GPUs by index or UUID."""
        return self.per_device_pinned_memory_limit


class CapacityRequests(Block):
    """Memory that each claim of the shared GPU requests, as a quantity; None is a part of what the GPU has."""

    small: str | None = None
    medium: str | None = None
    large: str | None = None
    waiting: str | None = None


class ConsumableCapacity(Block):
    """Independent claims that share a GPU: their requests, and the one who holds them to these.

    `enforcement` None is `mps` where the stack's MPS daemon runs, and `none` elsewhere.
    """

    enforcement: Literal["mps", "none"] | None = None
    requests: CapacityRequests = CapacityRequests()


class Observability(Block):
    """Metrics of GPUs: the exporter, and whether Prometheus comes with it, and Grafana with Prometheus."""

    exporter: Literal["nvml", "dcgm"] = "nvml"
    prometheus: bool = False
    grafana: bool = False


class Fleet(Block):
    """Nodes that are only objects: their number, and the GPUs of each, which are as a node of the stack has them.

    `model` and the keys of `mix` are kinds of nodes: a model, with /mig behind it where NVIDIA's driver publishes parts
    of the GPUs. `gpus_per_node` None is all that the stack's node of that kind has, `model` None the kind of the first
    GPU node. `mix` is how many nodes are of another kind. `existing_cluster` is the context of an existing cluster that
    may have them.
    """

    nodes: Annotated[int, Field(ge=1, le=MAX_FLEET_NODES)] = 100
    gpus_per_node: Annotated[int, Field(ge=1, le=MAX_GPUS_PER_NODE)] | None = None
    model: str | None = None
    mix: dict[str, Annotated[int, Field(ge=1)]] = {}
    existing_cluster: str | None = None


class VllmDimensions(Block):
    """Dimensions of a model that differ from a preset's; the names are those of Hugging Face's config.json."""

    hidden_size: Annotated[int, Field(ge=1)] | None = None
    intermediate_size: Annotated[int, Field(ge=1)] | None = None
    num_hidden_layers: Annotated[int, Field(ge=1)] | None = None
    num_attention_heads: Annotated[int, Field(ge=1)] | None = None
    num_key_value_heads: Annotated[int, Field(ge=1)] | None = None
    vocab_size: Annotated[int, Field(ge=1)] | None = None
    max_position_embeddings: Annotated[int, Field(ge=1)] | None = None


class VllmModel(Block):
    """Model that vLLM serves: one of a folder, a claim for a volume, a hub with a revision, or dimensions.

    A model of dimensions has random weights. It is what there is if nothing is named.
    """

    path: str | None = None
    claim: str | None = None
    hub: str | None = None
    revision: str | None = None
    dummy: str = "qwen2.5-1.5b"
    dimensions: VllmDimensions = VllmDimensions()

    @property
    def sources(self) -> dict[str, str]:
        """Sources with weights that are set, by key."""
        sources = {"path": self.path, "claim": self.claim, "hub": self.hub}
        return {name: value for name, value in sources.items() if value is not None}

    @property
    def is_dummy(self) -> bool:
        return not self.sources


class VllmSweep(Block):
    """Sweep over thread percentages; a value that is empty or None is the profile's."""

    profile: Literal["quick", "standard", "full"] = "quick"
    percentages: tuple[Percentage, ...] = ()
    repeats: Annotated[int, Field(ge=1, le=20)] | None = None


class Vllm(Block):
    """vLLM server, and the part of its GPU that it may use.

    `pinned_device_memory_limit` None is that of `mps`. `images` are by compute capability, `images.vllm` for any
    other. `python_environment` is a folder with vLLM installed, for an image that has only Python. `memory` and
    `cpu` are the container's, of the machine. `startup_seconds` includes the time to compile.
    """

    model: VllmModel = VllmModel()
    served_model_name: str | None = None
    active_thread_percentage: Percentage = 50
    pinned_device_memory_limit: str | None = None
    max_model_len: Annotated[int, Field(ge=16)] = 2048
    shared_memory: str = "32Mi"
    memory: str = "24Gi"
    cpu: Annotated[int, Field(ge=1)] = 2
    startup_seconds: Annotated[int, Field(ge=10, le=3600)] = 600
    python_environment: str | None = None
    cache_claim: str | None = None
    images: dict[str, str] = {}
    extra_args: tuple[str, ...] = ()
    sweep: VllmSweep = VllmSweep()

    @property
    def node_folders(self) -> dict[str, str]:
        """Folders of this machine with model and Python environment, by their places in a Kind node."""
        folders = {NODE_MODEL: self.model.path, NODE_ENVIRONMENT: self.python_environment}
        return {place: folder for place, folder in folders.items() if folder}


class Timeouts(Block):
    """Longest waits in seconds: for Kind's cluster, the driver's GPUs, a workload."""

    cluster: Annotated[int, Field(ge=10, le=3600)] = 240
    driver: Annotated[int, Field(ge=10, le=3600)] = 180
    workload: Annotated[int, Field(ge=10, le=3600)] = 180


@dataclass(frozen=True)
class Blocks:
    """Blocks of a complete configuration, each of them well-formed."""

    modules: tuple[str, ...]
    cluster: Cluster
    gpu: Gpu
    driver: Driver
    images: Mapping[str, str]
    """References to use instead of those that set-up made or upstream publishes, by the names of the catalog."""
    timeouts: Timeouts
    of_modules: Mapping[str, BaseModel]
    """Blocks that single modules use, by their keys."""

    def block(self, kind: type[B]) -> B:
        """Block of that type, which a module of the catalog brings."""
        return next(block for block in self.of_modules.values() if isinstance(block, kind))


@dataclass(frozen=True)
class Draft:
    """Blocks of a configuration that is being checked; None for one that is not well-formed, which is reported."""

    modules: tuple[str, ...] | None = None
    cluster: Cluster | None = None
    gpu: Gpu | None = None
    driver: Driver | None = None
    images: Mapping[str, str] | None = None
    timeouts: Timeouts | None = None
    of_modules: Mapping[str, BaseModel] = field(default_factory=dict)

    def block(self, kind: type[B]) -> B | None:
        """Block of that type, which a module of the catalog brings; None for one that is not well-formed."""
        return next((block for block in self.of_modules.values() if isinstance(block, kind)), None)
