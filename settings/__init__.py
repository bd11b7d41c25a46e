"""Configuration of a stack, typed and checked; the only reader of Pulumi's config.

Every problem is collected before any is reported, so that one run tells all of them, each with the key, the value,
the rule and the remedy.
"""

from gpus.models import GPU_MODELS
from settings.problems import Problem, SettingsError
from settings.project import PROJECT
from settings.stack import NodeGpus, Settings

__all__ = ["GPU_MODELS", "PROJECT", "NodeGpus", "Problem", "Settings", "SettingsError"]
