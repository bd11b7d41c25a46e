"""Settings of one stack: its configuration, complete and consistent, and what follows from it."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import pulumi
import yaml
from pydantic import TypeAdapter, ValidationError, create_model

from gpus.fleet import node_name
from gpus.mig import Layout, Slice, slices
from gpus.models import GPU_MODELS, GpuModel, simulated_gpus
from settings import catalog, plan, rules
from settings.blocks import (
    Block,
    Blocks,
    Cluster,
    ConsumableCapacity,
    Draft,
    Driver,
    Fleet,
    Gpu,
    GpuNode,
    Mps,
    Observability,
    Timeouts,
    Vllm,
)
from settings.problems import Problem, SettingsError, explain, suggest
from settings.project import PROJECT, default_name
from settings.rules.vllm import dummy_config
from toolchain.paths import CHECKOUT, STATE

FIELD_BY_IMAGE = {name: name.replace("-", "_") for name in catalog.images()}
OPTIONAL_TEXT: Any = (str | None, None)
IMAGES = create_model("Images", __base__=Block, **dict.fromkeys(FIELD_BY_IMAGE.values(), OPTIONAL_TEXT))
# A sequence is a tuple here, and a list in YAML and JSON, which pydantic's strict mode tells apart.
TYPES: dict[str, Any] = {
    "cluster": Cluster,
    "gpu": Gpu,
    "driver": Driver,
    **catalog.blocks(),
    "images": IMAGES,
    "timeouts": Timeouts,
    "modules": tuple[str, ...],
}
ADAPTERS = {key: TypeAdapter(kind) for key, kind in TYPES.items()}


@dataclass(frozen=True)
class NodeGpus:
    """GPUs of one node. `model` and `count` are None where they are the host's.

    `mig` has the MIG layout of each GPU, in order of index; GPUs beyond it are whole.
    """

    node: str
    model: str | None
    count: int | None
    mig: tuple[Layout, ...] = ()

    @property
    def slices(self) -> tuple[Slice, ...]:
        """GPU instances of its layouts."""
        return tuple(slices(self.node, GPU_MODELS[self.model], self.mig)) if self.model else ()

    @property
    def whole_gpus(self) -> tuple[int, ...]:
        """Indices of the simulated GPUs with MIG off."""
        return tuple(
            index for index in range(self.count or 0) if not self.mig[index : index + 1] or not self.mig[index]
        )


@dataclass(frozen=True)
class Settings(Blocks):
    """Configuration of one stack, complete and consistent."""

    stack: str

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
    def of_stack(cls, stack: str, checkout: Path = CHECKOUT) -> "Settings":
        """Read a stack's file as Pulumi would. Raises `SettingsError`; `FileNotFoundError` where there is no file."""
        file = checkout / "stacks" / f"Pulumi.{stack}.yaml"
        config: dict[str, Any] = (yaml.safe_load(file.read_text()) or {}).get("config") or {}
        prefix = f"{PROJECT}:"
        raw = {key.removeprefix(prefix): value for key, value in config.items() if key.startswith(prefix)}
        return cls.parse(raw, stack)

    @classmethod
    def parse(cls, raw: Mapping[str, Any], stack: str) -> "Settings":
        """Check `raw` (key -> plain data). Raises `SettingsError` with every problem found."""
        problems = [
            Problem(key, raw[key], "is not a key of this project", suggest(key, TYPES))
            for key in raw
            if key not in TYPES
        ]
        parsed: dict[str, Any] = {}
        for key, adapter in ADAPTERS.items():
            # Pulumi.yaml declares this default too, where readers of a stack's file look for it.
            default: Any = list(catalog.DEFAULT) if key == "modules" else {}
            try:
                text = json.dumps(raw.get(key, default))
                parsed[key] = adapter.validate_json(text, by_alias=True, by_name=False)
            except ValidationError as error:
                problems += (explain(key, TYPES[key], detail) for detail in error.errors())
        if "images" in parsed:
            references = {name: getattr(parsed["images"], field) for name, field in FIELD_BY_IMAGE.items()}
            parsed["images"] = {name: text for name, text in references.items() if text is not None}
        of_modules = {key: parsed.pop(key) for key in catalog.blocks() if key in parsed}
        problems += rules.problems(Draft(**parsed, of_modules=of_modules), stack)
        if problems:
            raise SettingsError(problems)
        parsed["modules"] = catalog.in_order(parsed["modules"])
        return cls(**parsed, of_modules=of_modules, stack=stack)

    @property
    def mps(self) -> Mps:
        return self.block(Mps)

    @property
    def consumable_capacity(self) -> ConsumableCapacity:
        return self.block(ConsumableCapacity)

    @property
    def observability(self) -> Observability:
        return self.block(Observability)

    @property
    def fleet(self) -> Fleet:
        return self.block(Fleet)

    @property
    def fleet_nodes(self) -> tuple[NodeGpus, ...]:
        """Nodes of the fleet, in order: those of other models than most are the last ones."""
        mix, originals = self.fleet.mix, self.fleet_originals
        most = self.fleet.model or self.fleet_kind(self.gpu_nodes[0])
        kinds = [most] * (self.fleet.nodes - sum(mix.values()))
        kinds += [kind for kind, count in mix.items() for _ in range(count)]
        copies = []
        for number, kind in enumerate(kinds):
            count = self.fleet.gpus_per_node or originals[kind].count
            copies.append(
                replace(originals[kind], node=node_name(number), count=count, mig=originals[kind].mig[:count])
            )
        return tuple(copies)

    @property
    def fleet_originals(self) -> dict[str, NodeGpus]:
        """The stack's first node of each kind, which nodes of a fleet are copies of."""
        return {self.fleet_kind(node): node for node in reversed(self.gpu_nodes)}

    def fleet_kind(self, node: NodeGpus) -> str:
        """Name of a node's kind in the block `fleet`: the model of its GPUs, and whether they are there in parts."""
        dynamic = self.feature_gates.get(plan.DYNAMIC_MIG, False)
        return plan.fleet_kind(node.model or "", node.mig, dynamic=dynamic)

    @property
    def vllm(self) -> Vllm:
        return self.block(Vllm)

    @property
    def rows(self) -> list[catalog.Module]:
        """Rows of the modules that are on, in order."""
        return catalog.rows(self.modules)

    def has(self, module: catalog.Module) -> bool:
        """Whether a module is on."""
        return module.number in self.modules

    @property
    def feature_gates(self) -> dict[str, bool]:
        """Gates of NVIDIA's driver: those that the modules need, and the stack's own choices over them."""
        gates = {gate.name: True for row in self.rows for gate in row.gates if gate.needed(self)}
        if self.consumable_shares != plan.DISABLED:
            gates["ConsumableShares"] = True
        return {**gates, **self.driver.feature_gates}

    @property
    def api_features(self) -> dict[str, tuple[catalog.ApiFeature, list[catalog.Module]]]:
        """Features of Kubernetes that the stack needs, by their gates, each with the modules that need it."""
        needed: dict[str, tuple[catalog.ApiFeature, list[catalog.Module]]] = {}
        for row in self.rows:
            for feature in row.api_features:
                if feature.needed(self):
                    needed.setdefault(feature.gate, (feature, []))[1].append(row)
        return needed

    @property
    def images_used(self) -> dict[str, catalog.Image]:
        """Images that the modules' pods run, by name."""
        return {image.name: image for row in self.rows for image in row.images if image.used(self)}

    @property
    def node_folders(self) -> dict[str, str]:
        """Folders of this machine that modules' pods read on a Kind cluster, by their places in the GPU nodes."""
        return {place: folder for row in self.rows for place, folder in row.node_folders(self).items()}

    @cached_property
    def mps_plan(self) -> plan.MpsPlan:
        """Plan of the limits that MPS gives."""
        return plan.MpsPlan.of(self)

    @property
    def cluster_name(self) -> str:
        """Name of the Kind cluster, or the context of an existing one."""
        return self.cluster.context or self.cluster.name or default_name(self.stack)

    @property
    def kubeconfig(self) -> Path:
        """Kubeconfig file: of the user's cluster, or the one that the Kind cluster's creation writes."""
        if self.cluster.kubeconfig:
            return Path(self.cluster.kubeconfig).expanduser()
        return self.state_folder / "kubeconfig"

    @property
    def context(self) -> str:
        """Context of the kubeconfig to use; never the current one."""
        return self.cluster.context or f"kind-{self.cluster_name}"

    @property
    def log_verbosity(self) -> int:
        """Verbosity of the log of NVIDIA's driver."""
        return plan.log_verbosity(self.driver, self.modules)

    @property
    def consumable_shares(self) -> str:
        """Way in which claims share a GPU: memory, unlimited, disabled or a number of shares."""
        return plan.consumable_shares(self.driver, self.modules)

    @property
    def capacity_enforced(self) -> bool:
        """Whether MPS holds clients of claims that request memory to what they requested."""
        return plan.capacity_enforced(self.consumable_capacity, self.driver, self.mps, self.modules)

    def gpu_index(self, module: catalog.Module) -> int:
        """Index of the GPU of the first node that a module has or shares."""
        return plan.gpu_index_by_module(self.modules, self.consumable_shares)[module.number]

    def mig_slices(self, module: catalog.Module) -> tuple[Slice, ...]:
        """MIG devices of the stack's layouts that a module's own pods have."""
        return plan.slices_by_module(self.modules, self.all_mig_slices)[module.number]

    @property
    def all_mig_slices(self) -> tuple[Slice, ...]:
        """MIG devices of the stack's layouts, node by node."""
        return tuple(slice_ for node in self.gpu_nodes for slice_ in node.slices)

    @property
    def gpus_used(self) -> int:
        """Number of GPUs of the first node that the modules use."""
        return max(plan.gpu_index_by_module(self.modules, self.consumable_shares).values(), default=0) + 1

    @property
    def is_up(self) -> bool:
        """Whether the Kind cluster was made, and not taken down since."""
        return (self.state_folder / "incarnation").exists()

    @property
    def state_folder(self) -> Path:
        """Folder with what the stack's Kind cluster leaves on this machine."""
        return STATE / self.stack

    @property
    def shared_claim_mib(self) -> int | None:
        """MiB that the shared claim requests of its GPU; None where it is to have all of it."""
        return self.mps_plan.claimed_mib

    @property
    def vllm_limit(self) -> str:
        """Memory of its GPU that vLLM may use, as a quantity."""
        return self.vllm.pinned_device_memory_limit or self.mps.effective_memory_limit

    @property
    def vllm_dummy(self) -> dict[str, Any] | None:
        """Content of config.json of a model without weights; None for a real model."""
        return dummy_config(self.vllm.model) if self.vllm.model.is_dummy else None

    @property
    def vllm_model_name(self) -> str:
        """Name that vLLM serves its model under: that of one without weights says so."""
        model = self.vllm.model
        default = f"dummy-{model.dummy}" if model.is_dummy else model.hub or "model"
        return self.vllm.served_model_name or default

    @property
    def gpu_model(self) -> GpuModel | None:
        """Model of the first GPU node's GPUs; None where they are the host's."""
        name = self.gpu_nodes[0].model
        return GPU_MODELS[name] if name else None

    def gpu_uuid(self, number: int) -> str | None:
        """UUID of one GPU of the first GPU node, where it is known before the GPU is there: simulated ones are."""
        first, model = self.gpu_nodes[0], self.gpu_model
        if model is None or first.count is None:
            return None
        return simulated_gpus(first.node, model, first.count)[number].uuid

    @property
    def gpu_nodes(self) -> tuple[NodeGpus, ...]:
        """Nodes that have GPUs, in order."""
        names = [node.name for node in self.gpu.nodes if node.name]
        if self.cluster.provider == "kind":
            names = kind_gpu_nodes(self.cluster_name, self.cluster.workers)
        overrides = self.gpu.nodes or (GpuNode(),) * len(names)
        if self.gpu.source == "host":
            return tuple(NodeGpus(name, None, None) for name in names)
        return tuple(
            NodeGpus(
                name,
                override.model or self.gpu.model,
                override.count or self.gpu.count,
                self.gpu.mig if override.mig is None else override.mig,
            )
            for name, override in zip(names, overrides, strict=True)
        )


def kind_gpu_nodes(cluster: str, workers: int) -> list[str]:
    """Names that kind gives the nodes with GPUs: the workers, or the control plane where there is none."""
    if workers == 0:
        return [f"{cluster}-control-plane"]
    return [f"{cluster}-worker{'' if number == 1 else number}" for number in range(1, workers + 1)]


def _decode(text: str) -> Any:
    """Value of a config text: Pulumi hands plain strings over as they are and everything else as JSON."""
    try:
        return json.loads(text)
    except json.JSONDecodeError:
        return text
