"""Rules of a configuration that no single value can break: how its parts fit together, and the machine's names."""

from collections.abc import Iterator

from settings.blocks import Draft
from settings.problems import Problem
from settings.rules.capacity import capacity_rules
from settings.rules.cluster import cluster_rules
from settings.rules.driver import driver_rules
from settings.rules.fleet import fleet_rules
from settings.rules.gpu import gpu_rules
from settings.rules.host import host_rules
from settings.rules.images import images_rules
from settings.rules.mig import mig_rules
from settings.rules.modules import module_rules
from settings.rules.mps import mps_rules
from settings.rules.observability import observability_rules
from settings.rules.vllm import vllm_rules


def problems(draft: Draft, stack: str) -> Iterator[Problem]:
    """Problems of the stack's configuration; each rule looks at the blocks that are well-formed."""
    yield from module_rules(draft)
    yield from cluster_rules(draft, stack)
    yield from gpu_rules(draft)
    yield from mig_rules(draft)
    yield from driver_rules(draft)
    yield from host_rules(draft)
    yield from mps_rules(draft)
    yield from capacity_rules(draft)
    yield from observability_rules(draft)
    yield from fleet_rules(draft)
    yield from vllm_rules(draft)
    yield from images_rules(draft)
