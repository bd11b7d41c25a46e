"""The stack: read its settings, build the modules that are on, export what a person wants next."""

import sys
from types import TracebackType

import pulumi

import modules
from components.gpu_config import GpuConfigError
from machine.gpus import HostGpusError
from machine.images import ImagesMissing, images_of
from machine.prerequisites import PrerequisiteError
from modules import changes
from settings import Settings, SettingsError


def main() -> None:
    try:
        before = changes.outputs_before()
        settings = Settings.from_pulumi()
        changes.refuse(before, settings)
        outputs = modules.build(settings, images_of(settings))
    except (
        SettingsError,
        PrerequisiteError,
        HostGpusError,
        ImagesMissing,
        GpuConfigError,
        changes.ChangeError,
    ) as error:
        # The message has all that a person needs; a traceback would bury it.
        raise pulumi.RunError(str(error)) from None
    changes.explain(before, outputs)
    for name, value in outputs.items():
        pulumi.export(name, value)


def _say_nothing_twice(kind: type[BaseException], error: BaseException, traceback: TracebackType | None) -> None:
    """After a resource failed, the engine ends the program, and the SDK would print that end as a traceback."""
    seen: BaseException | None = error
    while seen is not None:
        if isinstance(seen, pulumi.RunError) and "monitor has terminated" in str(seen):
            return
        seen = seen.__cause__ or seen.__context__
    sys.__excepthook__(kind, error, traceback)


sys.excepthook = _say_nothing_twice
main()
