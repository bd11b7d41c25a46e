"""The stack: read its settings, build the modules that are on, export what a person wants next."""

import pulumi

import modules
from components.images import Images
from prerequisites import PrerequisiteError
from settings import Settings, SettingsError


def main() -> None:
    try:
        settings = Settings.from_pulumi()
        outputs = modules.build(settings, Images.made_by_setup(settings.images.model_dump(exclude_none=True)))
    except (SettingsError, PrerequisiteError) as error:
        # The message has all that a person needs; a traceback would bury it.
        raise pulumi.RunError(str(error)) from None
    for name, value in outputs.items():
        pulumi.export(name, value)


main()
