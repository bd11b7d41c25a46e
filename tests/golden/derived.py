"""Text of what a stack registers, as what differs from a base: another stack, whose text is whole.

Base and text together say all that the stack registers. So the text changes with everything that changes in the stack
alone; what changes in both alike changes the base's text.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

from tests.golden.fields import differ, input_differences, other_differences
from tests.golden.recorder import Recording, Resource
from tests.golden.text import resource_lines, summarized, wrapped


def by_difference(recording: Recording, base: Recording, title: str, names: Mapping[str, str]) -> str:
    """The title, then what is absent, different and new; `names` are the base's, with what the stack has for them."""
    recording, base = summarized(recording), renamed(summarized(base), names)
    absent = base.resources.keys() - recording.resources.keys()
    new = sorted(recording.resources.keys() - base.resources.keys())
    sections = {
        "absent, with the edges to them:": list(_absent(base, absent)),
        "different:": list(_different(without(base, absent), recording)),
        "new:": [text for name in new for text in _new(recording, recording.resources[name])],
    }
    lines = [title, *(f"  {name} -> {other}" for name, other in names.items())]
    for head, section in sections.items():
        lines += ["", head, *section] if section else []
    return "\n".join(lines) + "\n"


def _absent(base: Recording, absent: set[str]) -> Iterator[str]:
    """A line for each resource, with those below it that are absent as well."""
    for name in sorted(absent):
        resource = base.resources[name]
        if resource.parent not in absent:
            below = [child for child in sorted(absent) if _is_below(base, child, name)]
            text = f"{name} ({resource.type})" + (f" with {', '.join(below)}" if below else "")
            yield from wrapped(text, "  ")


def _is_below(recording: Recording, name: str, ancestor: str) -> bool:
    parent = recording.resources[name].parent
    return parent is not None and (parent == ancestor or _is_below(recording, parent, ancestor))


def _different(base: Recording, recording: Recording) -> Iterator[str]:
    """A block for each set of differences, below all the resources that have it."""
    blocks: dict[tuple[str, ...], list[str]] = {}
    for name in sorted(base.resources.keys() & recording.resources.keys()):
        inputs = input_differences(base.resources[name], recording.resources[name])
        texts = (*(text for _, text in inputs), *other_differences(name, base, recording))
        if texts:
            blocks.setdefault((recording.resources[name].type, *texts), []).append(name)
    for (token, *texts), names in blocks.items():
        yield from wrapped(f"{', '.join(names)} ({token})", "  ", hanging=4)
        yield from _indented(texts)
    if texts := [text for _, text in differ("", base.stack_outputs, recording.stack_outputs)]:
        yield "  outputs of the stack"
        yield from _indented(texts)


def _indented(texts: list[str]) -> Iterator[str]:
    for text in texts:
        yield from (f"    {part}" if part else "" for part in text.split("\n"))


def _new(recording: Recording, resource: Resource) -> Iterator[str]:
    head, *lines = resource_lines(resource, recording.outputs.get(resource.name), depth=1)
    yield head if resource.parent is None else f"{head} in {resource.parent}"
    yield from lines


def renamed(recording: Recording, names: Mapping[str, str]) -> Recording:
    """The recording with other names in all its texts, but for those of resources."""
    pattern = re.compile("|".join(re.escape(name) for name in sorted(names, key=len, reverse=True)) or r"(?!)")

    def rename(value: Any) -> Any:
        match value:
            case str():
                return type(value)(pattern.sub(lambda name: names[name[0]], value))
            case dict():
                return {rename(key): rename(item) for key, item in value.items()}
            case list():
                return [rename(item) for item in value]
        return value

    resources = {
        name: replace(resource, options=rename(resource.options), inputs=rename(resource.inputs))
        for name, resource in recording.resources.items()
    }
    return Recording(resources, {name: rename(outputs) for name, outputs in recording.outputs.items()})


def without(recording: Recording, absent: set[str]) -> Recording:
    """The recording without some resources, and without the edges to them."""
    kept = {name: resource for name, resource in recording.resources.items() if name not in absent}
    return Recording(
        {name: _without_edges(resource, absent) for name, resource in kept.items()},
        {name: outputs for name, outputs in recording.outputs.items() if name not in absent},
    )


def _without_edges(resource: Resource, absent: set[str]) -> Resource:
    options = dict(resource.options)
    replace_with = [name for name in options.pop("replaceWith", []) if name not in absent]
    return replace(
        resource,
        parent=None if resource.parent in absent else resource.parent,
        provider=None if resource.provider in absent else resource.provider,
        deleted_with=None if resource.deleted_with in absent else resource.deleted_with,
        depends_on=[name for name in resource.depends_on if name not in absent],
        options={**options, "replaceWith": replace_with} if replace_with else options,
    )
