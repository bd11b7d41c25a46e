"""Targets of the Makefile that hand their variables to a program."""

import re
import subprocess

import pytest

from toolchain.paths import CHECKOUT


@pytest.mark.parametrize(
    ("variables", "arguments"),
    [
        ((), "--stack phase1"),
        (("MODULE=05", "CHECK=curve"), "--stack phase1 --module 05 --check curve"),
        (("STACK=phase2", "MODULE=07 08"), "--stack phase2 --module 07 --module 08"),
    ],
)
def test_verify_checks_the_modules_that_it_is_told(
    variables: tuple[str, ...], arguments: str, monkeypatch: pytest.MonkeyPatch
):
    for name in ("STACK", "MODULE", "CHECK"):
        monkeypatch.delenv(name, raising=False)
    command = ["make", "--dry-run", "--no-print-directory", "verify", *variables]
    printed = subprocess.run(command, cwd=CHECKOUT, capture_output=True, text=True, check=True).stdout
    assert printed.splitlines()[-1].split("checks.verify ")[1].split() == arguments.split()


@pytest.mark.parametrize(("target", "command"), [("up", "up --yes --skip-preview"), ("preview", "preview --diff")])
def test_stack_that_is_new_is_made_first(target: str, command: str):
    dry = ["make", "--dry-run", "--no-print-directory", target, "STACK=gates"]
    printed = subprocess.run(dry, cwd=CHECKOUT, capture_output=True, text=True, check=True).stdout
    assert f"{{ pulumi stack select --create gates && pulumi {command} --stack gates; }} ||" in printed


def test_up_writes_the_modules_that_it_is_told_first():
    dry = ["make", "--dry-run", "--no-print-directory", "up", "STACK=steps", "MODULES=01 02"]
    printed = subprocess.run(dry, cwd=CHECKOUT, capture_output=True, text=True, check=True).stdout
    assert "python -m settings.choose --stack steps 01 02 && needed=$(python -m machine.optional " in printed


def test_up_and_preview_make_what_only_the_stack_runs():
    for target in ("up", "preview"):
        dry = ["make", "--dry-run", "--no-print-directory", target, "STACK=fleet"]
        printed = subprocess.run(dry, cwd=CHECKOUT, capture_output=True, text=True, check=True).stdout
        assert re.search(
            r"needed=\$\(python -m machine\.optional --stack fleet\) .* toolchain setup --with \"\$needed\"; }"
            r" && { pulumi stack select --create fleet",
            printed,
        )
