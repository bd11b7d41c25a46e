"""Python packages by uv, from the index that pip is set up for: uv reads neither pip's files nor its variables."""

import os
import re
import subprocess
import sys
from collections.abc import Mapping
from functools import cache
from pathlib import Path

from toolchain.steps import Work

# Variable of uv -> variables that say the same, and the key of pip's configuration; as in toolchain/bootstrap.
FROM_PIP = {
    "UV_DEFAULT_INDEX": (("UV_INDEX_URL", "PIP_INDEX_URL"), "index-url"),
    "SSL_CERT_FILE": (("PIP_CERT",), "cert"),
}


def install(work: Work, *words: str | Path) -> None:
    """Run `uv pip install` with these words."""
    work.run(Path(sys.executable).with_name("uv"), "pip", "install", *words, env=uv_env())


def uv_env() -> Mapping[str, str]:
    """Variables for uv that say what pip is set up for; those that are set already stay."""
    env = {}
    for name, (others, key) in FROM_PIP.items():
        value = next(filter(None, map(os.environ.get, (name, *others))), None) or _pip_says(key)
        if value:
            env[name] = value
    return env


@cache
def _pip_says(key: str) -> str:
    """Value of pip's configuration, empty where it has none."""
    # `pip config get` overlooks the file that PIP_CONFIG_FILE names; its list does not.
    command = [sys.executable, "-m", "pip", "config", "list"]
    listed = subprocess.run(command, capture_output=True, text=True, check=False).stdout
    found = re.search(rf"^global\.{key}='(.*)'$", listed, re.MULTILINE)
    return found[1] if found else ""
