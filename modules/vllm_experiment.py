"""Module 06.5: vLLM's speed by thread percentage."""

from images.loadgen.plan import PROFILES
from modules.module import Built, Module
from settings import Settings


def build(module: Module, settings: Settings, built: Built) -> None:
    """Nothing lasts of it: the checks make the Job that measures."""
    assert built.outputs["vllm"], "module 06.5 requires 06"
    sweep = settings.vllm.sweep
    plan = PROFILES[sweep.profile]
    built.outputs["vllmExperiment"] = {
        "profile": sweep.profile,
        "percentages": list(sweep.percentages or plan.alone),
        "repeats": sweep.repeats or plan.repeats,
    }
