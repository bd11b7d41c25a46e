"""Rules of the block `vllm`: its GPU, its limit, the folders of model and Python."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from gpus import vllm as vllm_memory
from gpus.quantity import quantity_mib
from gpus.vllm import Dimensions
from settings import catalog
from settings.blocks import Cluster, Draft, Mps, Vllm, VllmModel
from settings.problems import Problem, suggest
from settings.rules.quantity import quantity_rules

MODULE, SWEEP_MODULE = catalog.VLLM.number, catalog.VLLM_EXPERIMENT.number
CAPABILITY = re.compile(r"[0-9]{1,2}\.[0-9]")
# What NVIDIA's driver v0.5.0 mounts at /dev/shm for a claim's clients: cmd/gpu-kubelet-plugin/sharing.go (size=65536k).
CLAIM_SHARED_MEMORY_MIB = 64


def vllm_rules(draft: Draft) -> Iterator[Problem]:
    """Problems of the block; looks at other blocks where they are well-formed."""
    vllm, mps = draft.block(Vllm), draft.block(Mps)
    cluster, modules = draft.cluster, draft.modules
    if vllm is None or modules is None or MODULE not in modules:
        return
    if "sweep" in vllm.model_fields_set and SWEEP_MODULE not in modules:
        value = vllm.sweep.model_dump(by_alias=True, exclude_unset=True)
        rule = "is set, but the module that uses it is off"
        yield Problem("vllm.sweep", value, rule, f'add "{SWEEP_MODULE}" to modules or drop vllm.sweep')
    yield from _model_rules(vllm.model, cluster)
    yield from _folder_rules("vllm.pythonEnvironment", vllm.python_environment, cluster, "bin/python")
    yield from quantity_rules("vllm.memory", vllm.memory)
    yield from _shared_memory_rules(vllm.shared_memory, mps)
    for capability in vllm.images:
        if not CAPABILITY.fullmatch(capability):
            rule = "is no compute capability"
            yield Problem("vllm.images", capability, rule, 'write it like "9.0", in quotes')
    if mps:
        yield from _limit_rules(vllm, mps)


def dummy_config(model: VllmModel) -> dict[str, Any]:
    """Content of config.json of a model of given dimensions."""
    return vllm_memory.config_of(model.dummy, model.dimensions.model_dump(exclude_none=True))


def _model_rules(model: VllmModel, cluster: Cluster | None) -> Iterator[Problem]:
    if len(model.sources) > 1:
        yield Problem("vllm.model", model.sources, "names more than one model", "keep one of path, claim and hub")
    for field in sorted({"dummy", "dimensions"} & model.model_fields_set) if model.sources else ():
        value = model.model_dump(by_alias=True, exclude_none=True)[field]
        rule = f"is for a model without weights, and {next(iter(model.sources))} names one that has them"
        yield Problem(f"vllm.model.{field}", value, rule, "drop one of the two")
    if model.hub is not None and not model.revision:
        rule = "is not pinned: a hub's model may change"
        yield Problem("vllm.model.hub", model.hub, rule, "add vllm.model.revision, a commit of its repository")
    if model.revision is not None and model.hub is None:
        yield Problem("vllm.model.revision", model.revision, "is for a hub's model", "drop it or set vllm.model.hub")
    yield from _folder_rules("vllm.model.path", model.path, cluster, "config.json")
    if not model.is_dummy:
        return
    if model.dummy not in vllm_memory.presets():
        known = vllm_memory.presets()
        rule = "is no model whose dimensions are here"
        yield Problem("vllm.model.dummy", model.dummy, rule, suggest(model.dummy, known))
        return
    config = dummy_config(model)
    hidden, heads, keys = (config[key] for key in ("hidden_size", "num_attention_heads", "num_key_value_heads"))
    if hidden % heads:
        rule = f"is no multiple of its {heads} attention heads"
        yield Problem("vllm.model.dimensions.hiddenSize", hidden, rule, "change one of the two")
    if heads % keys:
        rule = f"is no multiple of its {keys} heads of keys and values"
        yield Problem("vllm.model.dimensions.numAttentionHeads", heads, rule, "change one of the two")


def _folder_rules(key: str, text: str | None, cluster: Cluster | None, file: str) -> Iterator[Problem]:
    if text is None:
        return
    if not text.startswith("/"):
        yield Problem(key, text, "must be an absolute path", "write it in full")
    elif cluster and cluster.provider == "kind" and not (Path(text) / file).exists():
        yield Problem(key, text, f"has no {file}", f"name the folder of this machine that has it; {text} is mounted")


def _shared_memory_rules(text: str, mps: Mps | None) -> Iterator[Problem]:
    key = "vllm.sharedMemory"
    if problems := list(quantity_rules(key, text)):
        yield from problems
    elif mps and mps.mode == "claim" and quantity_mib(text) > CLAIM_SHARED_MEMORY_MIB:
        rule = f"is more than the {CLAIM_SHARED_MEMORY_MIB} MiB that NVIDIA's driver mounts at /dev/shm for a claim"
        yield Problem(key, text, rule, "lower it or set mps.mode to daemon")


def _limit_rules(vllm: Vllm, mps: Mps) -> Iterator[Problem]:
    percentage, most = vllm.active_thread_percentage, mps.active_thread_percentage
    if percentage > most:
        rule = f"is above mps.activeThreadPercentage ({most}), which caps every client"
        yield Problem("vllm.activeThreadPercentage", percentage, rule, "lower it or raise that")
    asked, key = vllm.pinned_device_memory_limit, "vllm.pinnedDeviceMemoryLimit"
    if asked is not None and (problems := list(quantity_rules(key, asked))):
        yield from problems
        return
    cap, text = mps.effective_memory_limit, asked or mps.effective_memory_limit
    if list(quantity_rules("", cap)):
        return  # the rules of `mps` say what is wrong with it
    limit = quantity_mib(text)
    if limit > quantity_mib(cap):
        rule = f"is above the memory limit of mps ({cap}), which caps every client"
        yield Problem(key, text, rule, "lower it or raise that")
    if not vllm.model.is_dummy or list(_model_rules(vllm.model, None)):
        return
    dimensions = Dimensions.of(dummy_config(vllm.model))
    if vllm.max_model_len > dimensions.max_position_embeddings:
        rule = f"is more than the {dimensions.max_position_embeddings} positions of the model"
        yield Problem("vllm.maxModelLen", vllm.max_model_len, rule, "lower it")
    least = vllm_memory.least_mib(dimensions, vllm.max_model_len, None)
    if limit < least:
        cache = dimensions.cache_mib(vllm.max_model_len)
        rule = f"is too little: {dimensions.weights_mib} MiB of weights, {cache} of keys and values for one request of "
        rule += f"{vllm.max_model_len} tokens and the context are {least} MiB, and activations come on top"
        where = "vllm.pinnedDeviceMemoryLimit, and mps.pinnedDeviceMemoryLimit if it is below"
        yield Problem(key, text, rule, f"raise {where}, or take a smaller model")
