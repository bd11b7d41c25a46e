"""`make up MODULES="..."`: writes which modules are on into a stack's file, so that a stack grows step by step.

What they require is added. The file keeps all else, comments too; `make verify` and `pulumi up` read it as before.
"""

import argparse
import re
import sys
from collections.abc import Iterable
from pathlib import Path

from settings import catalog
from settings.problems import SettingsError
from settings.project import PROJECT
from settings.stack import Settings
from toolchain.paths import CHECKOUT

# The key with its value on the same line, or with a list below it.
WRITTEN = re.compile(rf"^(?P<indent> *){PROJECT}:modules:.*\n(?:(?P=indent) *- .*\n)*", re.MULTILINE)
CONFIG = re.compile(r"^config:.*\n", re.MULTILINE)


class ChooseError(Exception):
    """Error: the modules cannot be written. The message has the remedy."""


def with_required(numbers: Iterable[str]) -> tuple[str, ...]:
    """Modules with all that they require, in the order in which they are built. Raises `ChooseError` for no module."""
    wanted = list(numbers)
    for number in wanted:
        if number not in catalog.MODULES:
            raise ChooseError(f'MODULES: "{number}" is no module; use some of {", ".join(catalog.MODULES)}')
        wanted += [required for required in catalog.MODULES[number].requires if required not in wanted]
    return catalog.in_order(wanted)


def written(text: str, modules: Iterable[str], name: str) -> str:
    """Text of a stack's file with these modules. Raises `ChooseError` where there is no config to write them into."""
    quoted = ", ".join(f'"{number}"' for number in modules)  # an unquoted 08 is a number to Pulumi
    line = f"{PROJECT}:modules: [{quoted}]\n"
    text = text if text.endswith("\n") else f"{text}\n"
    if WRITTEN.search(text):
        return WRITTEN.sub(lambda found: found["indent"] + line, text, count=1)
    if not CONFIG.search(text):
        raise ChooseError(f"{name}: has no `config:`; write one, or leave MODULES out")
    return CONFIG.sub(lambda found: f"config:\n  {line}", text, count=1)


def choose(file: Path, stack: str, numbers: Iterable[str]) -> tuple[str, ...]:
    """Write modules into a stack's file; returns them. Raises `ChooseError`, and writes nothing that is no config."""
    modules = with_required(numbers)
    try:
        before = file.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise ChooseError(f"{file}: there is no such file; write one, or name another STACK") from None
    file.write_text(written(before, modules, file.name), encoding="utf-8")
    try:
        Settings.of_stack(stack, file.parent.parent)
    except SettingsError as error:
        file.write_text(before, encoding="utf-8")
        raise ChooseError(f"with the modules {', '.join(modules)}: {error}") from None
    return modules


def main() -> int:
    """Write the modules of the command line; returns the exit status."""
    parser = argparse.ArgumentParser(prog='make up MODULES="..."', description=__doc__)
    parser.add_argument("--stack", required=True, help="the stack whose file is written")
    parser.add_argument("modules", nargs="+", metavar="NUMBER", help="a module's number, such as 03")
    chosen = parser.parse_args()
    try:
        modules = choose(CHECKOUT / "stacks" / f"Pulumi.{chosen.stack}.yaml", chosen.stack, chosen.modules)
    except ChooseError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(f"modules of stack {chosen.stack}: {', '.join(modules)}, written to stacks/Pulumi.{chosen.stack}.yaml")
    return 0


if __name__ == "__main__":
    sys.exit(main())
