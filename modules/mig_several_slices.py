"""Module 11.3: several MIG devices in one pod."""

from modules.context import Context
from settings import Settings
from settings.catalog import Module


def build(module: Module, settings: Settings, context: Context) -> None:
    """Nothing lasts of it: the checks make the pods with two MIG devices."""
