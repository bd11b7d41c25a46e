"""Mutations of what a stack registers: each of them changes the text of the stack, so no text leaves anything out."""

from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import Any

import pytest
import yaml

from tests.golden.derived import by_difference, renamed
from tests.golden.mutations import NAME, Mutant, mutants, value_mutants
from tests.golden.recorder import Recording, Secret
from tests.golden.stacks import BASES, FILES, counterparts, recorded
from tests.golden.text import File, block, line, summarized, whole

WHOLE = [stack for stack in FILES if stack not in BASES]
# One without some resources of its base, and one that has others as well.
DERIVED = ("phase1-claim", "unlimited")
# Kinds of mutation that must be among those tried; there are more.
FACTS = ("input", "option", "outputs")
KINDS = {
    *(f"{fact}: {kind}" for fact in FACTS for kind in ("leaf another", "leaf null", "leaf secret")),
    *(f"{fact}: {kind}" for fact in FACTS for kind in ("item gone", "item twice", "last item new")),
    *(f"{fact}: key {kind}" for fact in ("input", "outputs") for kind in ("gone", "renamed", "new")),
    *("option: gone", "option: new", "input: items in another order", "input: leaf of another type"),
    *(f"dependsOn: {kind}" for kind in ("gone", "new", "another", "twice")),
    *(f"{edge}: {kind}" for edge in ("provider", "parent", "deletedWith") for kind in ("gone", "another")),
    *("type: another", "custom: another", "outputs: not registered, or empty"),
}


def base_of(stack: str) -> Recording:
    return renamed(recorded(BASES[stack]), counterparts(BASES[stack], stack))


def only(recording: Recording, name: str) -> Recording:
    """The recording of one resource, or of none."""
    resource = {name: recording.resources[name]} if name in recording.resources else {}
    return Recording(resource, {name: recording.outputs[name]} if name in recording.outputs else {})


def recording_of(mutant: Mutant) -> Recording:
    name = mutant.resource.name
    return Recording({name: mutant.resource}, {} if mutant.outputs is None else {name: mutant.outputs})


def content(recording: Recording) -> str:
    return line([{name: vars(r) for name, r in recording.resources.items()}, recording.outputs])


def assert_each_has_its_text(texts: Iterable[tuple[str, Recording]]) -> None:
    """No two recordings that differ have the same text."""
    by_text: dict[str, Recording] = {}
    for text, recording in texts:
        other = by_text.setdefault(text, recording)
        assert other is recording or content(other) == content(recording), text


def sampled(recording: Recording, base: Recording) -> set[str]:
    """The smallest resource of each type, of those that the base lacks, has otherwise, and has alike."""
    sample: dict[tuple[str, str], str] = {}
    for name in sorted(recording.resources, key=lambda name: len(content(only(recording, name))), reverse=True):
        alike = content(only(base, name)) == content(only(recording, name))
        sample[recording.resources[name].type, "new" if name not in base.resources else "alike" * alike] = name
    return set(sample.values())


@pytest.mark.parametrize("stack", DERIVED)
def test_every_mutation_of_a_resource_changes_the_text_by_difference(stack: str):
    recording, base = recorded(stack), base_of(stack)
    kinds = set()
    for name in sampled(recording, base):
        mutations = list(mutants(recording.resources[name], recording.outputs.get(name)))
        kinds |= {mutation.kind for mutation in mutations}
        recordings = [only(recording, name), *map(recording_of, mutations)]
        assert_each_has_its_text((by_difference(each, only(base, name), "", {}), each) for each in recordings)
    assert not KINDS - kinds


def test_every_resource_that_a_stack_lacks_or_has_besides_changes_its_text():
    recording, base = recorded("phase1-claim"), base_of("phase1-claim")

    def changed() -> Iterator[Recording]:
        yield recording
        for name, resource in recording.resources.items():
            others = {other: recording.resources[other] for other in recording.resources if other != name}
            yield replace(recording, resources=others)
            yield replace(recording, resources={**recording.resources, NAME: replace(resource, name=NAME)})
            mutated = replace(resource, inputs={**resource.inputs, NAME: "x"})
            # As in all others: blocks that read alike stand together.
            yield replace(recording, resources={**recording.resources, name: mutated})

    assert_each_has_its_text((by_difference(each, base, "", {}), each) for each in changed())


@pytest.mark.parametrize("stack", DERIVED)
def test_every_mutation_of_what_a_stack_exports_changes_its_text(stack: str):
    name = recorded(stack).stack
    exported = Recording({}, {name: recorded(stack).stack_outputs})
    base = Recording({}, {name: base_of(stack).stack_outputs})
    recordings = [exported, *(Recording({}, {name: outputs}) for _, outputs in value_mutants(exported.stack_outputs))]
    assert_each_has_its_text((by_difference(each, base, "", {}), each) for each in recordings)
    assert_each_has_its_text((whole(each), each) for each in recordings)


def test_names_that_a_base_has_otherwise_are_in_the_text():
    recording, base = recorded("phase1-claim"), recorded("phase1")
    texts = [by_difference(recording, base, "", names) for names in ({}, {"phase1": "x"}, {"phase1": "y"})]
    assert len(set(texts)) == len(texts)


class Loader(yaml.SafeLoader):
    """Reads what whole texts are made of, with secrets and files as such."""


Loader.add_constructor("!secret", lambda _, node: Secret(node.value))
Loader.add_constructor("!file", lambda _, node: File(node.value))


@pytest.mark.parametrize("stack", WHOLE)
def test_whole_texts_say_every_input_option_and_output(stack: str):
    recording = summarized(recorded(stack))
    facts = [
        {**resource.options, "inputs": resource.inputs, "outputs": recording.outputs.get(name)}
        for name, resource in recording.resources.items()
    ]
    for fact in (*facts, recording.stack_outputs):
        assert line(yaml.load("\n".join(block(fact, 1)), Loader)) == line(fact)


@pytest.mark.parametrize(
    "value", [value for _, value in value_mutants({"a": ["x", 1, True, Secret("s"), {"name": "y"}]})]
)
def test_whole_texts_say_every_value(value: Any):
    assert line(yaml.load("\n".join(block([value], 1)), Loader)) == line([value])


@pytest.mark.parametrize("stack", WHOLE)
def test_every_mutation_of_an_edge_changes_the_whole_text(stack: str):
    recording = recorded(stack)
    components = [replace(r, inputs={}) for r in recording.resources.values() if not r.custom]
    others = {resource.name: resource for resource in (*components, replace(components[0], name=NAME))}
    # Inputs are looked at above.
    resources = {r.type: replace(r, inputs={}) for r in recording.resources.values()}
    for resource in resources.values():
        mutations = [mutation.resource for mutation in mutants(resource, None)]
        each = [Recording({**others, mutated.name: mutated}, {}) for mutated in (resource, *mutations)]
        assert_each_has_its_text((whole(recording), recording) for recording in each)


def test_a_resource_below_nothing_is_no_text():
    (resource, *_) = recorded("phase1").resources.values()
    with pytest.raises(AssertionError, match="is not registered"):
        whole(Recording({resource.name: replace(resource, parent=NAME)}, {}))


def test_a_file_of_the_checkout_stands_for_its_content_only_word_for_word():
    name, key = "vllm-load", "client.py"
    load = recorded("vllm").resources[name]
    source = load.inputs["data"][key]
    changed = replace(load, inputs={**load.inputs, "data": {**load.inputs["data"], key: f"{source}\n"}})
    texts = [whole(Recording({name: replace(each, parent=None)}, {})) for each in (load, changed)]
    assert "client.py: !file 'images/loadgen/client.py, " in texts[0] and "def prompt(" not in texts[0]
    assert "!file 'images/loadgen/client.py, " not in texts[1] and "def prompt(" in texts[1]
