"""One stack's configuration, complete and consistent."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pulumi
from pydantic import ValidationError
from pydantic.alias_generators import to_snake

import modules as module_graph
from gpus.models import GpuModel, simulated_gpus
from settings import capacity as capacity_rules
from settings import rules
from settings import vllm as vllm_rules
from settings.blocks import (
    ADAPTERS,
    BLOCKS,
    Cluster,
    ConsumableCapacity,
    Driver,
    Gpu,
    GpuNode,
    Images,
    Mps,
    Observability,
    Timeouts,
    Vllm,
)
from settings.problems import Problem, SettingsError, explain, suggest
from settings.rules import PROJECT, broken, default_name


@dataclass(frozen=True)
class NodeGpus:
    """The GPUs that one node is to have. `model` and `count` are None where they are the host's."""

    node: str
    model: str | None
    count: int | None


@dataclass(frozen=True)
class Settings:
    """What one stack is to be, complete and consistent."""

    stack: str
    modules: tuple[str, ...]
    cluster: Cluster
    gpu: Gpu
    driver: Driver
    mps: Mps
    consumable_capacity: ConsumableCapacity
    observability: Observability
    images: Images
    timeouts: Timeouts
    vllm: Vllm

    @classmethod
    def from_pulumi(cls) -> "Settings":
        """Read the current stack's config. Raises `SettingsError` with every problem found."""
        prefix = f"{PROJECT}:"
        raw: dict[str, Any] = {}
        for key, text in pulumi.runtime.get_config_env().items():
            if key.startswith(prefix):
                raw[key.removeprefix(prefix)] = _decode(text)
        return cls.parse(raw, pulumi.get_stack())

    @classmethod
    def parse(cls, raw: Mapping[str, Any], stack: str) -> "Settings":
        """Check `raw` (block name -> plain data). Raises `SettingsError` with every problem found."""
        problems = [
            Problem(key, raw[key], "is not a key of this project", suggest(key, BLOCKS))
            for key in raw
            if key not in BLOCKS
        ]
        blocks: dict[str, Any] = {}
        for name, adapter in ADAPTERS.items():
            # Modules have no default in the model: Pulumi.yaml declares theirs, where readers look for it.
            default: Any = list(module_graph.DEFAULT) if name == "modules" else {}
            try:
                blocks[name] = adapter.validate_json(json.dumps(raw.get(name, default)), by_alias=True, by_name=False)
            except ValidationError as error:
                problems += (explain(name, detail) for detail in error.errors())
        problems += broken(blocks, stack)
        if problems:
            raise SettingsError(problems)
        blocks["modules"] = module_graph.in_order(blocks["modules"])
        return cls(stack=stack, **{to_snake(name): block for name, block in blocks.items()})

    @property
    def cluster_name(self) -> str:
        """The Kind cluster's name, or the context of an existing one."""
        return self.cluster.context or self.cluster.name or default_name(self.stack)

    @property
    def kubeconfig(self) -> Path:
        """The kubeconfig file: of the user's cluster, or the one that the Kind cluster's creation writes."""
        if self.cluster.kubeconfig:
            return Path(self.cluster.kubeconfig).expanduser()
        return rules.CHECKOUT / ".state" / self.stack / "kubeconfig"

    @property
    def context(self) -> str:
        """The context of the kubeconfig to use; never the current one."""
        return self.cluster.context or f"kind-{self.cluster_name}"

    @property
    def consumable_shares(self) -> str:
        """How claims share a GPU: memory, unlimited, disabled or a number of shares."""
        return capacity_rules.shares(self.driver, self.modules)

    @property
    def capacity_enforced(self) -> bool:
        """Whether MPS holds module 07's pods to the memory that they requested."""
        return capacity_rules.enforced(self.consumable_capacity, self.driver, self.mps, self.modules)

    def place(self, module: str) -> int:
        """Which GPU of the first node a module uses, counted from 0."""
        return capacity_rules.places(self.modules, self.consumable_shares)[module]

    @property
    def gpus_used(self) -> int:
        """How many GPUs of the first node the modules use."""
        return max(capacity_rules.places(self.modules, self.consumable_shares).values(), default=0) + 1

    @property
    def is_up(self) -> bool:
        """Whether the Kind cluster was made, and not taken down since."""
        return (rules.CHECKOUT / ".state" / self.stack / "incarnation").exists()

    @property
    def shared_claim_mib(self) -> int | None:
        """What module 04's claim requests of its GPU's memory; None where it is to have all of it."""
        if self.consumable_shares == "disabled":
            return None
        return capacity_rules.taken_mib(self.mps, self.modules, self.vllm) or None

    @property
    def vllm_limit(self) -> str:
        """What vLLM may use of its GPU's memory, as a quantity."""
        return self.vllm.pinned_device_memory_limit or self.mps.effective_memory_limit

    @property
    def vllm_dummy(self) -> dict[str, Any] | None:
        """The config.json of vLLM's model where it has no weights; None for a real one."""
        return vllm_rules.dummy_config(self.vllm.model) if self.vllm.model.is_dummy else None

    @property
    def vllm_model_name(self) -> str:
        """The name that vLLM serves its model under: one without weights says so."""
        model = self.vllm.model
        default = f"dummy-{model.dummy}" if model.is_dummy else model.hub or "model"
        return self.vllm.served_model_name or default

    @property
    def gpu_model(self) -> GpuModel | None:
        """The model of the first GPU node's GPUs; None where they are the host's."""
        name = self.gpu_nodes[0].model
        return rules.GPU_MODELS[name] if name else None

    def gpu_uuid(self, number: int) -> str | None:
        """The UUID of one GPU of the first GPU node, where it is known before it is there: simulated ones are."""
        first, model = self.gpu_nodes[0], self.gpu_model
        if model is None or first.count is None:
            return None
        return simulated_gpus(first.node, model, first.count)[number].uuid

    @property
    def gpu_nodes(self) -> tuple[NodeGpus, ...]:
        """The nodes that have GPUs, in order."""
        names = [node.name for node in self.gpu.nodes if node.name]
        if self.cluster.provider == "kind":
            names = kind_gpu_nodes(self.cluster_name, self.cluster.workers)
        overrides = self.gpu.nodes or (GpuNode(),) * len(names)
        if self.gpu.source == "host":
            return tuple(NodeGpus(name, None, None) for name in names)
        return tuple(
            NodeGpus(name, override.model or self.gpu.model, override.count or self.gpu.count)
            for name, override in zip(names, overrides, strict=True)
        )


def kind_gpu_nodes(cluster: str, workers: int) -> list[str]:
    """Kind's names of the nodes that have GPUs: the workers, or the control plane where there is none."""
    if workers == 0:
        return [f"{cluster}-control-plane"]
    return [f"{cluster}-worker{'' if number == 1 else number}" for number in range(1, workers + 1)]


def _decode(text: str) -> Any:
    """Pulumi hands plain strings over as they are and everything else as JSON."""
    try:
        return json.loads(text)
    except json.JSONDecodeError:
        return text
