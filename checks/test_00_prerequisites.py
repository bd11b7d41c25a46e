"""Checks of module 00: this machine offers what the stack needs."""

from collections.abc import Callable

from checks.live import LiveStack
from machine import prerequisites
from machine.images import images_of


def test_every_prerequisite_is_met_while_the_stack_is_up(stack: LiveStack, observed: Callable[[str], None]) -> None:
    """Fails if any finding above is not met, for example a node container was stopped or an image was removed from the
    engine.
    """
    images = images_of(stack.settings)
    findings = list(prerequisites.look(stack.settings, images))
    failed = [finding for finding in findings if not finding.ok]
    assert not failed
    assert findings
    observed("; ".join(f"{finding.name}: {finding.observed}" for finding in findings if finding.name != "image"))


def test_simulated_gpus_ask_for_no_driver(stack: LiveStack, observed: Callable[[str], None]) -> None:
    """Fails if a stack with simulated GPUs looks for a driver, or one with the host's GPUs on Kind does not."""
    images = images_of(stack.settings)
    names = {finding.name for finding in prerequisites.look(stack.settings, images)}
    asks = names & {"nvidia-smi", "libnvidia-ml", "devices"}
    assert bool(asks) == (stack.settings.gpu.source == "host" and stack.settings.cluster.provider == "kind")
    observed(f"GPUs are {stack.settings.gpu.source}; looked for {', '.join(sorted(asks)) or 'no driver'}")
