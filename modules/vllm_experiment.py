"""Module 06.5: vLLM's speed by thread percentage."""

from images.loadgen.plan import PROFILES
from modules.context import Context
from settings import Settings
from settings.catalog import Module


def build(module: Module, settings: Settings, context: Context) -> None:
    """Nothing lasts of it: the checks make the Job that measures."""
    sweep = settings.vllm.sweep
    plan = PROFILES[sweep.profile]
    context.outputs["vllmExperiment"] = {
        "profile": sweep.profile,
        "percentages": list(sweep.percentages or plan.alone),
        "repeats": sweep.repeats or plan.repeats,
    }
