"""Rules of image references: well-formed and pinned."""

import re
from collections.abc import Iterator

from pydantic.alias_generators import to_camel

from settings.blocks import Draft, Vllm
from settings.problems import Problem


def images_rules(draft: Draft) -> Iterator[Problem]:
    """Problems of every reference that a configuration holds, but for the node's image."""
    if vllm := draft.block(Vllm):
        for capability, reference in vllm.images.items():
            yield from image_rules(f"vllm.images.{capability}", reference)
    for name, reference in (draft.images or {}).items():
        yield from image_rules(f"images.{to_camel(name.replace('-', '_'))}", reference)


def image_rules(key: str, ref: str) -> Iterator[Problem]:
    """Problems of one reference; `key` is where the configuration has it."""
    name, _, tag = ref.partition("@")[0].rpartition("/")[2].partition(":")
    if not re.fullmatch(r"[a-z0-9]+([._-]+[a-z0-9]+)*", name) or not re.fullmatch(r"[a-z0-9./:@_-]+", ref, re.I):
        yield Problem(key, ref, "is no image reference", "write registry/repository:tag")
    elif "@sha256:" not in ref and tag in ("", "latest"):
        yield Problem(key, ref, "is not pinned", "add a tag other than latest, or a digest")
