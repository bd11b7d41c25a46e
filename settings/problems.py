"""What can be wrong with a configuration, and how it is said."""

import difflib
import json
from dataclasses import dataclass
from typing import Any

from gpus.models import MAX_GPUS_PER_NODE
from gpus.mps import Limits
from settings.blocks import (
    BLOCKS,
    MAX_WORKERS,
    CapacityRequests,
    GpuNode,
    VllmDimensions,
    VllmModel,
    VllmSweep,
)


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong with the configuration."""

    key: str
    value: Any
    rule: str
    remedy: str

    def __str__(self) -> str:
        return f"{self.key}: {json.dumps(self.value, default=str)} {self.rule}; {self.remedy}"


class SettingsError(Exception):
    """The configuration cannot be used; `problems` has all that is wrong with it."""

    def __init__(self, problems: list[Problem]) -> None:
        self.problems = problems
        count = "1 problem" if len(problems) == 1 else f"{len(problems)} problems"
        super().__init__(f"{count} in the stack's config:\n" + "\n".join(f"  {problem}" for problem in problems))


def suggest(word: str, known: Any) -> str:
    """The remedy for a word that is not one of `known`."""
    close = difflib.get_close_matches(word, list(known), n=1)
    return f'did you mean "{close[0]}"?' if close else f"use one of {', '.join(known)}"


def explain(block: str, detail: Any) -> Problem:
    """Turn one of pydantic's findings into ours."""
    path, kind, context = detail["loc"], detail["type"], detail.get("ctx", {})
    key, value = block, detail["input"]
    for part in path:
        key += f"[{part}]" if isinstance(part, int) else f".{part}"
    if kind == "extra_forbidden":
        where = key.removesuffix(f".{path[-1]}")
        return Problem(key, value, f"is not a key of {where}", suggest(str(path[-1]), _keys(block, path[:-1])))
    if kind == "value_error":
        rule, _, remedy = str(context["error"]).partition("; ")
        return Problem(key, value, rule, remedy)
    if kind == "literal_error":
        return Problem(key, value, f"must be {context['expected']}", f"set {key} to that or drop it for the default")
    if kind in ("greater_than_equal", "less_than_equal"):
        bound = f"at least {context['ge']}" if "ge" in context else f"at most {context['le']}"
        return Problem(key, value, f"must be {bound}", _range_remedy(key))
    names = {"int": "a whole number", "string": "a text", "bool": "true or false", "dict": "a mapping of keys"}
    names |= {"tuple": "a list", "model": "a mapping of keys"}
    wanted = names.get(kind.partition("_")[0], detail["msg"])
    remedy = f"give {wanted}"
    if wanted == "a text" and isinstance(value, bool | int | float):
        remedy = f"quote it, since YAML reads it as {'true or false' if isinstance(value, bool) else 'a number'}"
    if wanted == "a whole number" and isinstance(value, str):
        remedy = "write it without quotes and without a unit"
    return Problem(key, value, f"must be {wanted}", remedy)


def _range_remedy(key: str) -> str:
    if key.startswith("timeouts"):
        return "give seconds between 10 and 3600"
    if key.endswith("count"):
        return f"give each node 1 to {MAX_GPUS_PER_NODE} GPUs and use more workers for more"
    if key.endswith("Percentage"):
        return "give a percentage of a GPU's multiprocessors, 1 to 100"
    if key.endswith("workers"):
        return f"use 0 (GPUs on the control plane) to {MAX_WORKERS}"
    return "use a value in that range"


def _keys(block: str, path: tuple[Any, ...]) -> list[str]:
    model = BLOCKS[block]
    if "nodes" in path:
        model = GpuNode
    elif "classes" in path:
        model = Limits
    elif "requests" in path:
        model = CapacityRequests
    elif "dimensions" in path:
        model = VllmDimensions
    elif block == "vllm" and path:
        model = {"model": VllmModel, "sweep": VllmSweep}[str(path[0])]
    return [field.alias or name for name, field in model.model_fields.items()]
