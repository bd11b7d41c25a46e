"""Module 10.5: from a MIG device to the container that has it."""

from modules.context import Context
from settings import Settings
from settings.catalog import Module


def build(module: Module, settings: Settings, context: Context) -> None:
    """Nothing lasts of it: what is traced are the tenants of the other modules."""
