"""Module 10.3: isolation of MIG devices."""

from modules.context import Context
from settings import Settings
from settings.catalog import Module


def build(module: Module, settings: Settings, context: Context) -> None:
    """Nothing lasts of it: the checks make the tenants, and the faults."""
