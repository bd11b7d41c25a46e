"""Module 00: the prerequisites that the machine has to meet."""

import pulumi

from machine import prerequisites
from modules.context import Context
from settings import Settings
from settings.catalog import Module


def build(module: Module, settings: Settings, context: Context) -> None:
    """Check the prerequisites, and warn of those that could be better met."""
    for finding in prerequisites.require(settings, context.images, keep=not pulumi.runtime.is_dry_run()):
        pulumi.log.warn(f"{finding.name}: {finding.observed}; {finding.remedy}")
