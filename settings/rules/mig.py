"""Rules of MIG layouts: what a GPU can be divided into, what NVIDIA's driver makes of it, and what modules need."""

import re
from collections.abc import Iterator
from dataclasses import dataclass

from gpus.mig import AMPERE, EMPTY, Slice, mig_line, slices
from gpus.models import GPU_MODELS, ModelError
from settings import catalog, plan
from settings.blocks import Cluster, Draft, Gpu, GpuNode, Layouts
from settings.problems import Problem

GATE = plan.DYNAMIC_MIG
# Devices of one ResourceSlice that may have taints; NVIDIA's driver puts all of a node into one then.
# Source: ResourceSliceMaxDevicesWithAdvancedFeatures of k8s.io/api/resource/v1, and driver.go of v0.5.0.
TAINTED_DEVICES = 64
HEALTH_GATE = "NVMLDeviceHealthCheck"
# Form of one GPU instance of a layout. Which profiles and places there are depends on a model, which module 00 sees.
ENTRY = re.compile(r"[1-9]\d*g\.\d+gb(\+[a-z0-9.]+)?(@\d{1,2})?")


@dataclass(frozen=True)
class _Node:
    """GPUs of one entry of gpu.nodes, or of the block where there is none, and the key of their layouts."""

    key: str
    model: str
    count: int
    layouts: Layouts

    @property
    def slices(self) -> list[Slice]:
        """GPU instances; none of a node whose layouts cannot be."""
        try:
            return list(slices(self.key, GPU_MODELS[self.model], self.layouts)) if self.model in GPU_MODELS else []
        except ModelError:
            return []

    @property
    def whole_gpus(self) -> int:
        return self.count - sum(bool(layout) for layout in self.layouts)


def mig_rules(draft: Draft) -> Iterator[Problem]:
    """Problems of the layouts by themselves, and with the driver's gates and the modules."""
    if draft.gpu is None:
        return
    if draft.gpu.source == "host":
        yield from _host_rules(draft.gpu, draft.cluster, draft.modules or ())
        return
    nodes = _nodes(draft.gpu)
    for node in nodes:
        yield from _layout_rules(node)
    if draft.driver is not None:
        yield from _gate_rules(nodes, plan.certain_gates(draft.driver, draft.modules or ()))
    yield from _module_rules(nodes, draft.modules or ())


def mig_slices(gpu: Gpu) -> list[Slice]:
    """MIG devices of the layouts, node by node; none of a node whose layouts cannot be, and none of the host's."""
    return [slice_ for node in _nodes(gpu) for slice_ in node.slices] if gpu.source == "simulated" else []


def _nodes(gpu: Gpu) -> list[_Node]:
    return [_node(gpu, index, node) for index, node in enumerate(gpu.nodes)] or [_node(gpu, None, GpuNode())]


def _node(gpu: Gpu, index: int | None, node: GpuNode) -> _Node:
    own = node.mig is not None
    key = f"gpu.nodes[{index}].mig" if own else "gpu.mig"
    return _Node(key, node.model or gpu.model, node.count or gpu.count, node.mig if node.mig is not None else gpu.mig)


def _host_rules(gpu: Gpu, cluster: Cluster | None, modules: tuple[str, ...]) -> Iterator[Problem]:
    """Problems with the host's GPUs, whose layouts are demanded and never made: module 00 compares them."""
    if gpu.mig and cluster and cluster.provider == "existing":
        rule = "is compared with the GPUs of this machine, and on an existing cluster they are elsewhere"
        yield Problem("gpu.mig", gpu.mig, rule, "drop it")
    for index, node in enumerate(gpu.nodes):
        if node.mig:
            rule = "is for simulated GPUs: the host's are those of one node"
            yield Problem(f"gpu.nodes[{index}].mig", node.mig, rule, "drop it, and set gpu.mig")
    for index, layout in enumerate(gpu.mig):
        for entry in () if layout == EMPTY else layout:
            if not ENTRY.fullmatch(entry):
                rule = "has an entry that is no GPU instance"
                yield Problem(f"gpu.mig[{index}]", layout, rule, f"write {entry!r} as PROFILE or PROFILE@START")
    for row in catalog.rows(modules):
        if row.needs_mig or row.makes_mig:
            rule = "needs a driver that may switch MIG mode and destroy MIG devices: simulated GPUs only"
            if row.needs_mig:
                rule = "needs simulated GPUs: which MIG devices it gets follows from a layout that the stack makes"
            yield Problem("modules", row.number, rule, f'set gpu.source to simulated or drop "{row.number}"')


def _layout_rules(node: _Node) -> Iterator[Problem]:
    if len(node.layouts) > node.count:
        rule = f"has layouts of {len(node.layouts)} GPUs, and the node has {node.count}"
        yield Problem(node.key, node.layouts, rule, "remove some, or raise count")
    if node.model not in GPU_MODELS:
        return
    for index, layout in enumerate(node.layouts):
        try:
            mig_line(GPU_MODELS[node.model], layout)
        except ModelError as error:
            rule, _, remedy = str(error).partition("; ")
            yield Problem(f"{node.key}[{index}]", layout, f"cannot be: {rule}", remedy)


def _gate_rules(nodes: list[_Node], gates: dict[str, bool]) -> Iterator[Problem]:
    dynamic = gates.get(GATE)
    for node in nodes:
        for index, layout in enumerate(node.layouts):
            key = f"{node.key}[{index}]"
            if layout == EMPTY and not dynamic:
                rule = "is a GPU with MIG on and no instance, of which NVIDIA's driver publishes nothing"
                yield Problem(key, layout, rule, f"give it instances, [] for MIG off, or set the gate {GATE}")
            elif layout and layout != EMPTY and dynamic:
                rule = f"has instances, which NVIDIA's driver destroys when it starts with the gate {GATE}"
                yield Problem(key, layout, rule, f"use {EMPTY} or [], or switch that gate off")
        devices = len(node.slices) + node.whole_gpus
        if gates.get(HEALTH_GATE) and devices > TAINTED_DEVICES:
            rule = f"makes {devices} devices of the node, and with the gate {HEALTH_GATE} it can have {TAINTED_DEVICES}"
            yield Problem(node.key, node.layouts, rule, "use fewer instances, or switch that gate off")


def _module_rules(nodes: list[_Node], modules: tuple[str, ...]) -> Iterator[Problem]:
    divided = [node for node in nodes if any(node.layouts)]
    found = [slice_ for node in nodes for slice_ in node.slices]
    given = plan.slices_by_module(modules, found)
    for row in catalog.rows(modules):
        if row.needs_whole_gpu and divided:
            keys = " and ".join(dict.fromkeys(node.key for node in divided))
            rule = f"is for whole GPUs, and {keys} divides some"
            yield Problem("modules", row.number, rule, f'drop {keys}, or drop "{row.number}" from modules')
        if row.needs_mig and not found:
            rule = "needs MIG devices, and no GPU has some"
            yield Problem("modules", row.number, rule, "lay some out in gpu.mig, as stacks/Pulumi.phase3.yaml does")
        elif row.mig_slices and not given[row.number]:
            rule = f"needs a MIG device of its own, and the layouts have {len(found)} for all modules"
            yield Problem("modules", row.number, rule, "add an instance to gpu.mig or drop a module")
        if row.makes_mig:
            yield from _making_rules(nodes[0], row.number)


def _making_rules(first: _Node, number: str) -> Iterator[Problem]:
    """Problems of a module whose own pod has a MIG device of the first node's first GPU, that the driver makes."""
    if first.model not in GPU_MODELS:
        return
    model = GPU_MODELS[first.model]
    if not model.mig_profiles:
        rule = f"has NVIDIA's driver make MIG devices, and {first.model}, the first node's model, has no MIG"
        yield Problem("modules", number, rule, f'choose another gpu.model, or drop "{number}" from modules')
    elif model.architecture == AMPERE and first.layouts[:1] != (EMPTY,):
        rule = f"needs MIG mode on the first node's first GPU, and of {AMPERE} NVIDIA's driver does not switch it"
        yield Problem(first.key, first.layouts, rule, f"begin the list with {EMPTY}, or choose a newer model")
