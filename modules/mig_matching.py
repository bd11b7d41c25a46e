"""Module 10.2: MIG devices by capacity."""

from modules.context import Context
from settings import Settings
from settings.catalog import Module


def build(module: Module, settings: Settings, context: Context) -> None:
    """Nothing lasts of it: the checks make the claims that are matched."""
