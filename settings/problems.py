"""Problems of a configuration, and the words for them."""

import difflib
import json
from dataclasses import dataclass
from typing import Any, get_args

from pydantic import BaseModel

from gpus.models import MAX_GPUS_PER_NODE
from settings.blocks import MAX_WORKERS


@dataclass(frozen=True)
class Problem:
    """Problem of a configuration: the key, its value, the rule that it breaks, and the remedy."""

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
    """Remedy for a word that is not one of `known`."""
    close = difflib.get_close_matches(word, list(known), n=1)
    return f'did you mean "{close[0]}"?' if close else f"use one of {', '.join(known)}"


def explain(block: str, kind: Any, detail: Any) -> Problem:
    """Problem that one of pydantic's findings in a block of that type means."""
    path, error, context = detail["loc"], detail["type"], detail.get("ctx", {})
    key, value = block, detail["input"]
    for part in path:
        key += f"[{part}]" if isinstance(part, int) else f".{part}"
    if error == "extra_forbidden":
        where = key.removesuffix(f".{path[-1]}")
        return Problem(key, value, f"is not a key of {where}", suggest(str(path[-1]), _keys(path[:-1], kind)))
    if error == "value_error":
        rule, _, remedy = str(context["error"]).partition("; ")
        return Problem(key, value, rule, remedy)
    if error == "literal_error":
        return Problem(key, value, f"must be {context['expected']}", f"set {key} to that or drop it for the default")
    if error in ("greater_than_equal", "less_than_equal"):
        bound = f"at least {context['ge']}" if "ge" in context else f"at most {context['le']}"
        return Problem(key, value, f"must be {bound}", _range_remedy(key))
    names = {"int": "a whole number", "string": "a text", "bool": "true or false", "dict": "a mapping of keys"}
    names |= {"tuple": "a list", "model": "a mapping of keys"}
    wanted = names.get(error.partition("_")[0], detail["msg"])
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


def _keys(path: tuple[Any, ...], kind: type[BaseModel]) -> list[str]:
    """Keys that the YAML may have at a path of a block."""
    model = kind
    for part in path:
        fields = {field.alias or name: field for name, field in model.model_fields.items()}
        # A part that is no field is the key or index of a collection, whose items were found with its field.
        if part in fields:
            model = _model_in(fields[part].annotation) or model
    return [field.alias or name for name, field in model.model_fields.items()]


def _model_in(annotation: Any) -> type[BaseModel] | None:
    """Model that an annotation is or holds, such as that of a tuple's items or a mapping's values."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next((model for inner in get_args(annotation) if (model := _model_in(inner))), None)
