"""Rules of the key `modules`, and of blocks that only modules use which are off."""

import json
from collections.abc import Iterator

from settings import catalog
from settings.blocks import Draft
from settings.problems import Problem


def module_rules(draft: Draft) -> Iterator[Problem]:
    """Problems of the numbers themselves, of what they require and exclude, and of blocks that nothing uses."""
    if draft.modules is None:
        return
    numbers = draft.modules
    for number in sorted(set(numbers)):
        if numbers.count(number) > 1:
            yield Problem("modules", number, "is there more than once", "name each module once")
        if number not in catalog.MODULES:
            yield Problem("modules", number, "is no module", f"use some of {', '.join(catalog.MODULES)}")
    for row in catalog.rows(numbers):
        for needed in row.requires:
            if needed not in numbers:
                rule = f'needs "{needed}" ({catalog.MODULES[needed].title})'
                yield Problem("modules", row.number, rule, f'add "{needed}" or drop "{row.number}"')
        for other in sorted({*row.excludes} & {*numbers}):
            rule = f'and "{other}" ({catalog.MODULES[other].title}) exclude each other'
            yield Problem("modules", row.number, rule, f'drop "{row.number}" or "{other}"')
    if not numbers:
        smallest = json.dumps([catalog.PREREQUISITES.number, *catalog.WORKLOADS.requires, catalog.WORKLOADS.number])
        yield Problem("modules", [], "switches nothing on", f"name at least one, such as {smallest}")
    yield from _unused_blocks(draft, numbers)


def _unused_blocks(draft: Draft, numbers: tuple[str, ...]) -> Iterator[Problem]:
    for key, block in draft.of_modules.items():
        users = [row.number for row in catalog.MODULES.values() if key in row.blocks]
        if block.model_fields_set and not {*users} & {*numbers}:
            value = block.model_dump(by_alias=True, exclude_unset=True)
            rule = "is set, but the module that uses it is off"
            if len(users) > 1:
                rule = "is set, but no module that uses it is on"
            yield Problem(key, value, rule, f'add "{users[0]}" to modules or drop {key}')
