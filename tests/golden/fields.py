"""Differences of two values or two resources, field by field, in a text that a person can review.

Complete: the old value and the text of its differences give the new value, down to the types of scalars, the order of
lists and what is secret. Of what is gone the text may leave out the value, which stands where the old one does.
"""

import difflib
import json
import re
from collections import Counter
from collections.abc import Iterator
from typing import Any

from tests.golden.recorder import OPTIONS, Recording, Resource
from tests.golden.text import WIDTH, block, line

MISSING: Any = object()
# A longer value goes below its path, and a longer list of scalars is told item by item.
SHORT = 90
FACTS = {"type", "parent", "custom", "provider", "deletedWith", "dependsOn", "replaceWith", "aliases", *OPTIONS}
FACTS |= {"inputs", "outputs"}


def input_differences(old: Resource, new: Resource) -> Iterator[tuple[str, str]]:
    """Path and text of each input that differs."""
    for key in sorted(old.inputs.keys() | new.inputs.keys()):
        # An input with the name of another fact of a resource, such as a Secret's type, says that it is an input.
        prefix = "inputs." if key in FACTS else ""
        for path, text in differ(_join(prefix, key), old.inputs.get(key, MISSING), new.inputs.get(key, MISSING)):
            yield path.removeprefix(prefix), text


def other_differences(name: str, before: Recording, after: Recording) -> Iterator[str]:
    """Texts of what else differs in a resource of both: type, edges, options, and the outputs of a component."""
    old, new = before.resources[name], after.resources[name]
    yield from (text for _, text in differ("", _facts(old, before), _facts(new, after)))
    edges, later = Counter(old.depends_on), Counter(new.depends_on)
    for what, names in (("gone", edges - later), ("new", later - edges)):
        if names:
            yield f"dependsOn: {what}: {', '.join(sorted(names.elements()))}"


def _facts(resource: Resource, recording: Recording) -> dict[str, Any]:
    facts = {
        "type": resource.type,
        "parent": resource.parent,
        "custom": resource.custom,
        "provider": resource.provider,
        "deletedWith": resource.deleted_with,
        "outputs": recording.outputs.get(resource.name),
    }
    return {key: value for key, value in facts.items() if value is not None} | resource.options


def differ(path: str, old: Any, new: Any) -> Iterator[tuple[str, str]]:
    """Path and text of each difference; items of a list go by name where they have one, by place elsewhere."""
    if isinstance(old, dict) and isinstance(new, dict):
        for key in sorted(old.keys() | new.keys()):
            yield from differ(_join(path, key), old.get(key, MISSING), new.get(key, MISSING))
    elif isinstance(old, list) and isinstance(new, list):
        yield from _differ_in_list(path, old, new)
    elif old is MISSING:
        yield path, _below(f"{path}: new:", new)
    elif new is MISSING:
        yield path, f"{path}: gone" + (f": {line(old)}" if len(line(old)) <= SHORT else "")
    elif line(old) != line(new):
        yield path, _changed_value(path, old, new)


def _join(path: str, key: str) -> str:
    # As Pulumi writes a key with a dot, so that no other path reads the same.
    if not re.fullmatch(r"[\w/$-]+", key):
        return f"{path}[{line(key)}]"
    return f"{path}{'' if path.endswith('.') or not path else '.'}{key}"


def _differ_in_list(path: str, old: list[Any], new: list[Any]) -> Iterator[tuple[str, str]]:
    before, after = _by_name(old), _by_name(new)
    if before is not None and after is not None:
        for name in [*before, *(name for name in after if name not in before)]:
            yield from differ(f"{path}[{name}]", before.get(name, MISSING), after.get(name, MISSING))
        expected = [name for name in before if name in after] + [name for name in after if name not in before]
        if [*after] != expected:
            yield path, f"{path}: in the order {line([*after])}"
    elif not (_is_short(old) and _is_short(new)):
        yield from _differ_by_place(path, old, new)
    elif line(old) != line(new):
        yield path, f"{path}: {line(old)} -> {line(new)}"


def _by_name(items: list[Any]) -> dict[str, Any] | None:
    """Items by their names, if each has its own and no name reads as a place in the list."""
    by_name = {}
    for item in items:
        name = item.get("name") if isinstance(item, dict) else None
        if type(name) is not str or name in by_name or not re.fullmatch(r"[A-Za-z_][\w./-]*", name):
            return None
        by_name[name] = item
    return by_name


def _is_short(items: list[Any]) -> bool:
    return len(line(items)) <= SHORT and not any(isinstance(item, dict | list) for item in items)


def _differ_by_place(path: str, old: list[Any], new: list[Any]) -> Iterator[tuple[str, str]]:
    """Items that differ or are gone by their places in the old list, new ones by theirs in the new list."""
    for start, end, first, last in _edits(list(map(line, old)), list(map(line, new))):
        both = min(end - start, last - first)
        for index in range(both):
            yield from differ(f"{path}[{start + index}]", old[start + index], new[first + index])
        for index in range(start + both, end):
            yield from differ(f"{path}[{index}]", old[index], MISSING)
        for index in range(first + both, last):
            yield from differ(f"{path}[{index}]", MISSING, new[index])


def _edits(old: list[str], new: list[str]) -> list[tuple[int, int, int, int]]:
    matcher = difflib.SequenceMatcher(None, old, new, autojunk=False)
    return [
        (start, end, first, last)
        for operation, start, end, first, last in matcher.get_opcodes()
        if operation != "equal"
    ]


def _changed_value(path: str, old: Any, new: Any) -> str:
    """A scalar before and after; of a long text only the lines or words that differ, by their place in the old one."""
    short = f"{path}: {line(old)} -> {line(new)}"
    if type(old) is not str or type(new) is not str or ("\n" not in old + new and len(short) <= 2 * WIDTH):
        return short
    unit, separator = ("line", "\n") if "\n" in old + new else ("word", " ")
    before, after = old.split(separator), new.split(separator)
    texts = [f"{path}:"]
    for start, end, first, last in _edits(before, after):
        texts.append(f"  {unit} {start + 1}:" if end - start < 2 else f"  {unit}s {start + 1} to {end}:")
        for sign, parts in (("-", before[start:end]), ("+", after[first:last])):
            joined = parts if unit == "line" else [" ".join(parts)][: len(parts)]
            texts += [f"    {sign} {_visible(part)}" for part in joined]
    edits = "\n".join(texts)
    return edits if len(edits) < len(short) else short


def _visible(text: str) -> str:
    """A line as it is, or as JSON where it would not show or could be taken for JSON."""
    plain = text and text.isprintable() and not text.endswith(" ") and not text.startswith('"')
    return text if plain or re.fullmatch(r'"[!#-\[\]-~]+"', text) else json.dumps(text)


def _below(head: str, value: Any) -> str:
    """A value behind its head, or below it where it is long."""
    if len(line(value)) <= SHORT or (isinstance(value, str) and "\n" not in value):
        return f"{head} {line(value)}"
    lines = block(value, 2)
    return "\n".join([f"{head} {lines[0].strip()}", *lines[1:]] if isinstance(value, str) else [head, *lines])
