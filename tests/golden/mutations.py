"""Small changes of a recorded resource, one at a time, for tests of what its text tells."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

from tests.golden.recorder import OPTIONS, Resource, Secret

NAME = "mutated"


@dataclass(frozen=True)
class Mutant:
    """A resource and its outputs with one thing changed, and the kind of change."""

    kind: str
    resource: Resource
    outputs: dict[str, Any] | None


def mutants(resource: Resource, outputs: dict[str, Any] | None) -> Iterator[Mutant]:
    """Every leaf of inputs, options and outputs in several ways, every edge, and the type."""
    for kind, inputs in value_mutants(resource.inputs):
        yield Mutant(f"input: {kind}", replace(resource, inputs=inputs), outputs)
    for kind, options in _option_mutants(resource.options):
        yield Mutant(f"option: {kind}", replace(resource, options=options), outputs)
    for kind, changed in (*_edge_mutants(resource), *_dependency_mutants(resource)):
        yield Mutant(kind, changed, outputs)
    yield Mutant("type: another", replace(resource, type=f"{resource.type}Mutated"), outputs)
    yield Mutant("custom: another", replace(resource, custom=not resource.custom), outputs)
    if outputs is not None:
        for kind, others in value_mutants(outputs):
            yield Mutant(f"outputs: {kind}", resource, others)
    yield Mutant("outputs: not registered, or empty", resource, {} if outputs is None else None)


def _option_mutants(options: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    for option in (*OPTIONS, "replaceWith", "aliases"):
        if option in options:
            yield "gone", {key: options[key] for key in options if key != option}
            yield from ((kind, {**options, option: changed}) for kind, changed in value_mutants(options[option]))
        else:
            yield "new", {**options, option: [NAME]}


def _edge_mutants(resource: Resource) -> Iterator[tuple[str, Resource]]:
    yield "provider: another", replace(resource, provider=NAME)
    yield "provider: gone", replace(resource, provider=None)
    yield "parent: another", replace(resource, parent=NAME)
    yield "parent: gone", replace(resource, parent=None)
    yield "deletedWith: another", replace(resource, deleted_with=NAME)
    yield "deletedWith: gone", replace(resource, deleted_with=None)


def _dependency_mutants(resource: Resource) -> Iterator[tuple[str, Resource]]:
    names = resource.depends_on
    for index, name in enumerate(names):
        rest = [*names[:index], *names[index + 1 :]]
        yield "dependsOn: gone", replace(resource, depends_on=rest)
        yield "dependsOn: another", replace(resource, depends_on=sorted([*rest, NAME]))
        yield "dependsOn: twice", replace(resource, depends_on=sorted([*names, name]))
    yield "dependsOn: new", replace(resource, depends_on=sorted([*names, NAME]))


def value_mutants(value: Any) -> Iterator[tuple[str, Any]]:
    """The value with one leaf, key or item changed, in all the ways that its type allows."""
    match value:
        case dict():
            for key, item in value.items():
                yield from ((kind, {**value, key: changed}) for kind, changed in value_mutants(item))
                yield "key gone", {other: value[other] for other in value if other != key}
                yield "key renamed", {(NAME if other == key else other): value[other] for other in value}
            yield "key new", {**value, NAME: "x"}
            yield "keys like a path new", {**value, "a.b": {"c": "x"}, "[0]": 1}
        case list():
            for index, item in enumerate(value):
                before, after = value[:index], value[index + 1 :]
                yield from ((kind, [*before, changed, *after]) for kind, changed in value_mutants(item))
                yield "item gone", [*before, *after]
                yield "item twice", [*before, item, item, *after]
                if after and after[0] != item:
                    yield "items in another order", [*before, after[0], item, *after[1:]]
            yield "last item new", [*value, "x"]
            yield "first item new", [{"name": NAME}, *value]
        case _:
            yield from _leaf_mutants(value)
            yield "leaf in a list", [value]
            yield "leaf null", None


def _leaf_mutants(value: Any) -> Iterator[tuple[str, Any]]:
    match value:
        case Secret():
            yield "leaf another", Secret(f"{value} x")
            yield "leaf no longer secret", str(value)
        case str():
            yield "leaf another", f"{value}x"
            yield "leaf with another start", f"x {value[1:]}"
            yield "leaf with one more line", f"{value}\nx"
            yield "leaf with a space at its end", f"{value} "
            yield "leaf with characters that do not show", f"{value}\t\u2028"
            yield "leaf secret", Secret(value)
        case bool():
            yield "leaf another", not value
            yield "leaf of another type", int(value)
        case int() | float():
            yield "leaf another", value + 1
            yield "leaf of another type", str(value)
