"""Headless Chromium for tests that look at pages."""

import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import pytest

PROGRAMS = ("chromium", "chromium-browser", "google-chrome", "/usr/bin/chromium")
SECONDS = 120  # for a browser that starts on a busy machine


@dataclass(frozen=True)
class Chromium:
    """A headless Chromium with a folder of its own for each start."""

    program: str
    folder: Path

    @classmethod
    def find(cls, folder: Path) -> Self:
        """The browser of this machine, which may write to `folder`; without one the test is skipped with the remedy."""
        program = next(filter(None, map(shutil.which, PROGRAMS)), None)
        if program is None:
            # A machine of a person need not have a browser; continuous integration installs one.
            pytest.skip(f"none of {', '.join(PROGRAMS)} is there; on Debian: apt-get install chromium")
        return cls(program, folder)

    def run(self, page: Path, *options: str) -> str:
        profile = self.folder / f"profile-{len(list(self.folder.iterdir()))}"
        command = [
            *(self.program, "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
            *("--disable-background-networking", "--disable-component-update", "--disable-sync", "--hide-scrollbars"),
            *(f"--user-data-dir={profile}", *options, page.as_uri()),
        ]
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=SECONDS)
        assert done.returncode == 0, f"{' '.join(command)} ended with {done.returncode}:\n{done.stderr}"
        return done.stdout
