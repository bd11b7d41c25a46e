"""Module 11.2: limits of memory on a MIG device."""

from modules.context import Context
from settings import Settings
from settings.catalog import Module


def build(module: Module, settings: Settings, context: Context) -> None:
    """Nothing lasts of it: the checks make the claims and clients that are limited."""
