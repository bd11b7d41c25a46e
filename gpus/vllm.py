"""GPU memory of vLLM: the least that a model needs, and the share of the GPU that vLLM may use under an MPS limit.

vLLM takes `gpu_memory_utilization` of the GPU's total memory, and refuses to start where less is free
(request_memory() in vllm/v1/worker/utils.py of 0.26.0). Under an MPS limit `cuMemGetInfo` shows as free what the limit
leaves, and as total the whole GPU (measured, docs/reference/modules/05-mps-limits.md).
So the fraction follows from the limit.
"""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from fractions import Fraction
from typing import Any

from gpus.mps import context_mib
from gpus.quantity import MIB
from toolchain.paths import CHECKOUT

MODELS = CHECKOUT / "gpus" / "vllm_models"
# MiB that vLLM takes beyond its share: CUDA graphs, kernels that load later, memory that the allocator cannot use. A
# model of 1.5B parameters took 0.5 GiB for its graphs alone on an H100, and ran out of memory with 512 MiB.
SPARE_MIB = 1536
# SMs assumed for a GPU of an unknown model. The largest known one has 148, so that no context takes more memory.
MOST_MULTIPROCESSORS = 160
BYTES_PER_WEIGHT = 2  # bfloat16
# Decimals of gpu_memory_utilization, which is rounded down.
DECIMALS = 4


@dataclass(frozen=True)
class Dimensions:
    """Dimensions of a model with the architecture of Qwen2, by their names in Hugging Face's config.json."""

    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    num_key_value_heads: int
    vocab_size: int
    max_position_embeddings: int
    tie_word_embeddings: bool = True

    @classmethod
    def of(cls, config: Mapping[str, Any]) -> "Dimensions":
        """Dimensions out of the content of a config.json. Raises `KeyError` where one is missing."""
        return cls(**{field.name: config[field.name] for field in fields(cls)})

    @property
    def parameters(self) -> int:
        """Number of weights: embeddings, and in each layer attention with biases, MLP and two norms."""
        head = self.hidden_size // self.num_attention_heads
        queries, keys = head * self.num_attention_heads, head * self.num_key_value_heads
        attention = 2 * self.hidden_size * (queries + keys) + queries + 2 * keys
        layer = attention + 3 * self.hidden_size * self.intermediate_size + 2 * self.hidden_size
        embeddings = self.vocab_size * self.hidden_size * (1 if self.tie_word_embeddings else 2)
        return embeddings + self.num_hidden_layers * layer + self.hidden_size

    @property
    def weights_mib(self) -> int:
        """Memory of the weights in MiB, rounded up."""
        return math.ceil(Fraction(self.parameters * BYTES_PER_WEIGHT, MIB))

    def cache_mib(self, tokens: int) -> int:
        """Memory of the keys and values of that many tokens in MiB, rounded up."""
        head = self.hidden_size // self.num_attention_heads
        bytes_per_token = 2 * self.num_hidden_layers * self.num_key_value_heads * head * BYTES_PER_WEIGHT
        return math.ceil(Fraction(bytes_per_token * tokens, MIB))


def presets() -> list[str]:
    """Names of the models whose config.json is in gpus/vllm_models."""
    return sorted(file.stem for file in MODELS.glob("*.json"))


def config_of(preset: str, changed: Mapping[str, int]) -> dict[str, Any]:
    """Content of a preset's config.json, with other dimensions where they are given."""
    config = json.loads((MODELS / f"{preset}.json").read_text())
    return {**config, **changed}


def usable_mib(limit_mib: int, multiprocessors: int | None) -> int:
    """MiB that vLLM may use under an MPS limit in MiB. `multiprocessors` is None where the GPU's model is not known."""
    return limit_mib - context_mib(multiprocessors or MOST_MULTIPROCESSORS) - SPARE_MIB


def utilization(limit_mib: int, multiprocessors: int | None, total_mib: int) -> str:
    """Value of gpu_memory_utilization for vLLM under an MPS limit in MiB, on a GPU with `total_mib` for CUDA."""
    share = Fraction(usable_mib(limit_mib, multiprocessors), total_mib)
    return f"{math.floor(share * 10**DECIMALS) / 10**DECIMALS:.{DECIMALS}f}"


def least_mib(dimensions: Dimensions, tokens: int, multiprocessors: int | None) -> int:
    """Smallest MPS limit in MiB with which vLLM can start: context, weights, and one request of that many tokens.

    Activations and CUDA graphs come on top; only vLLM itself can tell their size.
    """
    context = context_mib(multiprocessors or MOST_MULTIPROCESSORS)
    return context + SPARE_MIB + dimensions.weights_mib + dimensions.cache_mib(tokens)
