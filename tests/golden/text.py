"""Text of a recording in full, as a tree that a person can review; and of one value, on a line or as a block.

Injective: two recordings with one text are the same recording, but for what a SHA-256 cannot tell apart.
"""

import hashlib
import json
import textwrap
from collections.abc import Iterator, Mapping
from dataclasses import replace
from functools import cache
from typing import Any

import yaml

from tests.golden.recorder import CHECKOUT, Recording, Resource, Secret

WIDTH, FOLD = 120, 100
CONFIG_MAP = "kubernetes:core/v1:ConfigMap"
# A file of the checkout with more lines is reviewed there, not once more in each stack that mounts it.
LONGEST_COPY = 20
# A mapping or list of scalars takes one line up to here.
LONGEST_FLOW = 90


class File(str):
    """Path, length and digest of a file of the checkout, which stand for its content."""


class _Top(dict):
    """A mapping of which each key has a line, however small it is."""


def summarized(recording: Recording) -> Recording:
    """The recording with a `File` for each content of a ConfigMap that can be read in the checkout, word for word."""
    return replace(recording, resources={name: _summarized(r) for name, r in recording.resources.items()})


def _summarized(resource: Resource) -> Resource:
    data = resource.inputs.get("data")
    if resource.type != CONFIG_MAP or not isinstance(data, dict):
        return resource
    return replace(resource, inputs={**resource.inputs, "data": {key: _file(data[key]) for key in data}})


def _file(content: Any) -> Any:
    if type(content) is not str or content.count("\n") <= LONGEST_COPY or content not in _files():
        return content
    encoded = content.encode()
    length = f"{content.count(chr(10))} lines, {len(encoded)} bytes"
    return File(f"{_files()[content]}, {length}, SHA-256 {hashlib.sha256(encoded).hexdigest()}")


@cache
def _files() -> dict[str, str]:
    """Path by content of what components put into ConfigMaps as it is: programs and dashboards."""
    files = [*(CHECKOUT / "images").rglob("*.py"), *(CHECKOUT / "manifests").rglob("*.json")]
    return {file.read_text(): str(file.relative_to(CHECKOUT)) for file in sorted(files, reverse=True)}


def whole(recording: Recording) -> str:
    """The resources as a tree by parent, each with what the program says of it; ends with the stack's outputs."""
    recording = summarized(recording)
    parents = {resource.parent for resource in recording.resources.values()}
    assert parents <= {None, *recording.resources}, "a resource is below another that is not registered"
    lines = list(_tree(recording, None, 0))
    lines += block({"outputs": recording.stack_outputs}, 0)
    return "\n".join(lines) + "\n"


def _tree(recording: Recording, parent: str | None, depth: int) -> Iterator[str]:
    for resource in recording.children(parent):
        yield from resource_lines(resource, recording.outputs.get(resource.name), depth)
        yield from _tree(recording, resource.name, depth + 1)


def resource_lines(resource: Resource, outputs: Any, depth: int = 0) -> Iterator[str]:
    """Everything about one resource but its parent."""
    yield f"{'  ' * depth}{resource.name} ({resource.type})"
    indent = "  " * (depth + 2)
    # The type says it, but for a component of somebody else's.
    if resource.custom == resource.type.startswith("dra-workshop:"):
        yield f"{indent}custom: {line(resource.custom)}"
    if resource.provider is not None:
        yield f"{indent}provider: {resource.provider}"
    if resource.depends_on:
        yield from wrapped(f"dependsOn: {', '.join(resource.depends_on)}", indent)
    if resource.deleted_with is not None:
        yield f"{indent}deletedWith: {resource.deleted_with}"
    facts = dict(resource.options)
    if resource.inputs:
        facts["inputs"] = resource.inputs
    if outputs is not None:
        facts["outputs"] = outputs
    yield from block(facts, depth + 2)


def wrapped(text: str, indent: str, hanging: int = 2) -> list[str]:
    """A list of names over as many lines as it takes."""
    return textwrap.wrap(
        text,
        WIDTH,
        initial_indent=indent,
        subsequent_indent=indent + " " * hanging,
        break_on_hyphens=False,
        break_long_words=False,
    )


def line(value: Any) -> str:
    """A value as JSON on one line, with secrets and digests marked."""
    match value:
        case Secret():
            return f"!secret {json.dumps(str(value), ensure_ascii=False)}"
        case File():
            return f"!file {json.dumps(str(value), ensure_ascii=False)}"
        case dict():
            return "{" + ", ".join(f"{line(key)}: {line(item)}" for key, item in value.items()) + "}"
        case list():
            return "[" + ", ".join(map(line, value)) + "]"
    return json.dumps(value, ensure_ascii=False)


def block(value: Any, depth: int) -> list[str]:
    """A value as YAML over several lines."""
    if isinstance(value, Mapping):
        if not value:
            return []
        value = _Top(value)
    # PyYAML folds at the first space after the width.
    text = yaml.dump(value, Dumper=_Dumper, sort_keys=False, width=FOLD - 2 * depth)
    return [("  " * depth + content).rstrip() for content in text.splitlines()]


class _Dumper(yaml.SafeDumper):
    """Block style for text of several lines, one line for a small list or mapping, a tag for secrets, no aliases."""

    def ignore_aliases(self, data: Any) -> bool:
        return True

    def represent_sequence(self, tag: str, sequence: Any, flow_style: bool | None = None) -> yaml.SequenceNode:
        node = super().represent_sequence(tag, sequence, flow_style)
        node.flow_style = _fits(node.value)
        return node

    def represent_mapping(self, tag: str, mapping: Any, flow_style: bool | None = None) -> yaml.MappingNode:
        node = super().represent_mapping(tag, mapping, flow_style)
        node.flow_style = _fits([part for pair in node.value for part in pair], alone=2)
        return node


def _fits(nodes: list[yaml.Node], alone: int = 1) -> bool:
    """Whether a list or mapping reads well on one line: scalars only, or nothing but one that does itself."""
    scalars = all(isinstance(node, yaml.ScalarNode) and node.style != "|" for node in nodes)
    nested = len(nodes) == alone and isinstance(nodes[-1], yaml.CollectionNode) and bool(nodes[-1].flow_style)
    return (scalars or nested) and sum(map(_length, nodes)) <= LONGEST_FLOW


def _length(node: yaml.Node) -> int:
    if isinstance(node, yaml.ScalarNode):
        return len(node.value) + 2
    return sum(_length(part) for item in node.value for part in (item if isinstance(item, tuple) else (item,)))


def _represent_text(dumper: yaml.SafeDumper, text: str) -> yaml.Node:
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style="|" if "\n" in text else None)


_Dumper.add_representer(str, _represent_text)


def _represent_top(dumper: yaml.SafeDumper, mapping: _Top) -> yaml.Node:
    node = dumper.represent_dict(mapping)
    node.flow_style = False
    return node


_Dumper.add_representer(_Top, _represent_top)
_Dumper.add_representer(Secret, lambda dumper, text: dumper.represent_scalar("!secret", str(text)))
_Dumper.add_representer(File, lambda dumper, text: dumper.represent_scalar("!file", str(text)))
