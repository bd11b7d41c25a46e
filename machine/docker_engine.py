"""Docker Engine that a Kind cluster is in: another shell may talk to another one, and would take it for gone."""

import os
import subprocess
from pathlib import Path

from machine.findings import Finding

PLATFORM = "linux/amd64"
"""The platform of every image, whatever DOCKER_DEFAULT_PLATFORM says."""
ENGINE_FILE = "engine"
"""Beside a Kind cluster's other files: the ID of the Docker Engine that it is in."""


def engine_id() -> str:
    """ID of the Docker Engine that this shell's `docker` talks to; empty where none answers or it has none."""
    command = ["docker", "info", "--format", "{{.ID}}"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=20, check=False)
    except (FileNotFoundError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""


def image_label(reference: str, label: str) -> str | None:
    """Value of an image's label, empty without one; None where the engine has no such image."""
    command = ["docker", "image", "inspect", "--format", f'{{{{index .Config.Labels "{label}"}}}}', reference]
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    return done.stdout.strip() if done.returncode == 0 else None


def engine_problem(folder: Path) -> Finding | None:
    """Finding where this shell's engine is not the one that the Kind cluster of that folder was made in.

    The cluster would be forgotten, and run on there. None where nothing is known, or no engine answers: that is found
    out by whoever needs one.
    """
    file = folder / ENGINE_FILE
    made_in = file.read_text().strip() if file.exists() else ""
    if not made_in or engine_id() in ("", made_in):
        return None
    host = os.environ.get("DOCKER_HOST")
    where = f"DOCKER_HOST is {host}" if host else "as `docker context ls` shows"
    seen = f"this shell's Docker Engine ({where}) is not the one that the stack's cluster is in"
    return Finding("docker", seen, False, f"talk to that one; if it is gone for good, `rm {file}` and try again")
