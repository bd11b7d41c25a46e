"""What changes between two recordings of a stack, as a preview would show it, in a text that a person can review.

Knows of replacement what the program itself says: `replaceOnChanges`, `replaceWith`, `deletedWith`. Fields that only
the API server takes for immutable look like an update here, and a changed Helm release keeps the revision that the
recorder gives it, so what waits for a new one is not shown.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from tests.golden.recorder import Recording, Resource

MISSING: Any = object()


@dataclass(frozen=True)
class Change:
    """One resource, or the stack, and which of its fields differ."""

    name: str
    type: str
    what: str
    fields: tuple[str, ...] = ()
    paths: frozenset[str] = frozenset()


def changes(before: Recording, after: Recording) -> list[Change]:
    """Every resource that a preview would not call the same, then the outputs of the stack."""
    found: dict[str, Change] = {}
    for name in sorted(before.resources.keys() | after.resources.keys()):
        old, new = before.resources.get(name), after.resources.get(name)
        if old is None and new is not None:
            found[name] = Change(name, new.type, "created")
        elif new is None and old is not None:
            found[name] = Change(name, old.type, "deleted")
        elif old and new and (change := _changed(old, new, before.outputs.get(name), after.outputs.get(name))):
            found[name] = change
    _follow_replacements(found, after)
    ordered = [found[name] for name in sorted(found)]
    for name in after.outputs.keys() - after.resources.keys():
        if lines := list(_differ("", before.outputs[name], after.outputs[name])):
            ordered.append(Change(name, "the stack", "outputs", tuple(text for _, text in lines)))
    return ordered


def render(found: list[Change]) -> str:
    """One block a change: name, type, what happens, and the fields from what they are to what they become."""
    return "".join(
        f"{change.name} ({change.type}): {change.what}\n" + "".join(f"  {line}\n" for line in change.fields)
        for change in found
    )


def _changed(old: Resource, new: Resource, old_outputs: Any, new_outputs: Any) -> Change | None:
    inputs = list(_differ("", old.inputs, new.inputs))
    rest = list(_differ("", _rest(old, old_outputs), _rest(new, new_outputs)))
    if not inputs and not rest:
        return None
    paths = frozenset(path for path, _ in inputs)
    what = "updated" if inputs else "state only"
    if any(_covers(rule, path) for rule in new.options.get("replaceOnChanges", ()) for path in paths):
        what = "replaced, the old one goes first" if new.options.get("deleteBeforeReplace") else "replaced"
    return Change(new.name, new.type, what, tuple(text for _, text in [*inputs, *rest]), paths)


def _rest(resource: Resource, outputs: Any) -> dict[str, Any]:
    facts = {"provider": resource.provider, "deletedWith": resource.deleted_with, "outputs": outputs or {}}
    return {**facts, **resource.options, "dependsOn": dict.fromkeys(resource.depends_on, "yes")}


def _covers(rule: str, path: str) -> bool:
    head = rule.removesuffix("[*]")
    return path == head or path.startswith((f"{head}.", f"{head}["))


def _follow_replacements(found: dict[str, Change], after: Recording) -> None:
    def replaced(name: str | None) -> bool:
        return bool(name) and name in found and found[name].what.startswith("replaced")

    for name, resource in sorted(after.resources.items()):
        causes = [
            cause for cause in (*resource.options.get("replaceWith", ()), resource.deleted_with) if replaced(cause)
        ]
        if causes and not replaced(name):
            own = found.get(name)
            found[name] = Change(name, resource.type, f"replaced with {causes[0]}", own.fields if own else ())


def _differ(path: str, old: Any, new: Any) -> Iterator[tuple[str, str]]:
    """Path and line of each difference; items of a list go by their names where they have some."""
    if type(old) is type(new) and isinstance(old, dict):
        for key in sorted(old.keys() | new.keys()):
            yield from _differ(f"{path}.{key}" if path else key, old.get(key, MISSING), new.get(key, MISSING))
    elif type(old) is type(new) and isinstance(old, list):
        pairs, others = _by_name(old), _by_name(new)
        for key in [*pairs, *(key for key in others if key not in pairs)]:
            yield from _differ(f"{path}[{key}]", pairs.get(key, MISSING), others.get(key, MISSING))
    elif old is MISSING:
        yield path, f"{path}: new: {_text(new)}"
    elif new is MISSING:
        yield path, f"{path}: gone: {_text(old)}"
    elif old != new:
        yield path, f"{path}: {_text(old)} -> {_text(new)}"


def _by_name(items: list[Any]) -> dict[Any, Any]:
    names = [item.get("name") if isinstance(item, dict) else None for item in items]
    return dict(zip(names if None not in names else range(len(items)), items, strict=True))


def _text(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)
