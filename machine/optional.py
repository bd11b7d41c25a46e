"""Program that prints the images that only a stack like this one runs, and that set-up has not made yet.

    python -m machine.optional --stack fleet

`make up` hands them to set-up. Prints nothing where none is missing, and where the stack's configuration cannot be used
or set-up has not run: `pulumi` says that.
"""

import argparse
from collections.abc import Sequence

from machine.images import ImagesMissing, images_of
from settings import Settings, SettingsError


def main(words: Sequence[str] | None = None) -> None:
    """Print the names in one line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--stack", required=True, help="the stack whose images are looked for")
    try:
        images_of(Settings.of_stack(parser.parse_args(words).stack))
    except ImagesMissing as missing:
        print(*sorted(missing.optional))
    except (SettingsError, FileNotFoundError):
        return


if __name__ == "__main__":
    main()
