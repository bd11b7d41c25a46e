"""Module 00: the prerequisites that the machine has to meet."""

import pulumi

from machine import prerequisites
from modules.module import Built, Module
from settings import Settings


def build(module: Module, settings: Settings, built: Built) -> None:
    """Check the prerequisites, and warn of those that could be better met."""
    for finding in prerequisites.require(settings, built.images):
        pulumi.log.warn(f"{finding.name}: {finding.observed}; {finding.remedy}")
