"""The stack: read its settings, build the modules that are on, export what a person wants next."""

import pulumi

import modules
from components.gpu_config import GpuConfigError
from machine import shell
from machine.gpus import HostGpusError
from machine.images import ImagesMissing, images_of
from machine.prerequisites import PrerequisiteError
from modules import changes, ending
from settings import Settings, SettingsError


def main() -> None:
    try:
        before = changes.outputs_before()
        settings = Settings.from_pulumi()
        # Whatever modules are on: in another backend or engine a cluster would be lost.
        if problems := list(shell.look(settings)):
            raise PrerequisiteError(problems)
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


ending.say_nothing_twice()
main()
