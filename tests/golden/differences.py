"""Changes between two recordings of a stack, as a preview would show them, in a text that a person can review.

Knows what the program itself says of replacement, `replaceOnChanges`, `replaceWith`, `deletedWith`, and of what is no
change, `ignoreChanges`. Fields that only the API server takes for immutable look like an update here, and a changed
Helm release keeps the revision that the recorder gives it, so what waits for a new one is not shown.
"""

from dataclasses import dataclass
from textwrap import indent

from tests.golden.fields import differ, input_differences, other_differences
from tests.golden.recorder import Recording
from tests.golden.text import summarized


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
    before, after = summarized(before), summarized(after)
    by_name: dict[str, Change] = {}
    for name in sorted(before.resources.keys() | after.resources.keys()):
        old, new = before.resources.get(name), after.resources.get(name)
        if old is None and new is not None:
            by_name[name] = Change(name, new.type, "created")
        elif new is None and old is not None:
            by_name[name] = Change(name, old.type, "deleted")
        elif change := _changed(name, before, after):
            by_name[name] = change
    _follow_replacements(by_name, after)
    ordered = [by_name[name] for name in sorted(by_name)]
    if texts := tuple(text for _, text in differ("", before.stack_outputs, after.stack_outputs)):
        ordered.append(Change(after.stack, "the stack", "outputs", texts))
    return ordered


def render(changed: list[Change]) -> str:
    """One block a change: name, type, what happens, and the fields from what they are to what they become."""
    return "".join(
        f"{change.name} ({change.type}): {change.what}\n" + indent("".join(f"{text}\n" for text in change.fields), "  ")
        for change in changed
    )


def _changed(name: str, before: Recording, after: Recording) -> Change | None:
    new = after.resources[name]
    ignored = new.options.get("ignoreChanges", ())
    inputs = [
        (path, text)
        for path, text in input_differences(before.resources[name], new)
        if not any(_covers(rule, path) for rule in ignored)
    ]
    others = list(other_differences(name, before, after))
    if not inputs and not others:
        return None
    paths = frozenset(path for path, _ in inputs)
    what = "updated" if inputs else "state only"
    if any(_covers(rule, path) for rule in new.options.get("replaceOnChanges", ()) for path in paths):
        what = "replaced, the old one goes first" if new.options.get("deleteBeforeReplace") else "replaced"
    return Change(name, new.type, what, (*(text for _, text in inputs), *others), paths)


def _covers(rule: str, path: str) -> bool:
    head = rule.removesuffix("[*]")
    return path == head or path.startswith((f"{head}.", f"{head}["))


def _follow_replacements(by_name: dict[str, Change], after: Recording) -> None:
    def replaced(name: str | None) -> bool:
        return bool(name) and name in by_name and by_name[name].what.startswith("replaced")

    for name, resource in sorted(after.resources.items()):
        causes = [
            cause for cause in (*resource.options.get("replaceWith", ()), resource.deleted_with) if replaced(cause)
        ]
        if causes and not replaced(name):
            fields = by_name[name].fields if name in by_name else ()
            by_name[name] = Change(name, resource.type, f"replaced with {causes[0]}", fields)
