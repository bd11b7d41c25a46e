"""Configuration of a stack, typed and checked; the only reader of Pulumi's config.

Every problem is collected before any is reported, so that one run tells all of them, each with the key, the value,
the rule and the remedy.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from gpus.models import GPU_MODELS
    from settings.problems import Problem, SettingsError
    from settings.project import PROJECT
    from settings.stack import NodeGpus, Settings

__all__ = ["GPU_MODELS", "PROJECT", "NodeGpus", "Problem", "Settings", "SettingsError"]

# Imported when first asked for: a command that only reads a kubeconfig would spend half of its start on Pulumi's SDK.
_FILES = {
    "GPU_MODELS": "gpus.models",
    "PROJECT": "settings.project",
    "NodeGpus": "settings.stack",
    "Problem": "settings.problems",
    "Settings": "settings.stack",
    "SettingsError": "settings.problems",
}


def __getattr__(name: str) -> Any:
    """Name of one of the files. Raises `AttributeError` for another."""
    if name not in _FILES:
        raise AttributeError(f"module {__name__} has no attribute {name}")
    return getattr(importlib.import_module(_FILES[name]), name)
