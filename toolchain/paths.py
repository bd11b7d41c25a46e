"""Paths of the checkout and of what set-up and stacks leave in it and in the shared store; no other file names them."""

import os
from pathlib import Path

CHECKOUT = Path(__file__).resolve().parent.parent
IMAGES = CHECKOUT / "images"

# Links to what this checkout uses. Removing it costs a second; the store keeps the content.
TOOLS = CHECKOUT / ".tools"
BIN = TOOLS / "bin"
PULUMI_HOME = TOOLS / "pulumi"
IMAGES_FILE = TOOLS / "images.json"
CHART = TOOLS / "charts" / "dra-driver-nvidia-gpu"
SOURCE_FILE = TOOLS / "source.json"
OPTIONAL_FILE = TOOLS / "optional.json"

# What stacks leave: Pulumi's backend, kubeconfigs, reports. Private, since state holds credentials.
STATE = CHECKOUT / ".state"


def store_root() -> Path:
    """Folder of finished steps, shared by all checkouts of this user: one build serves them all."""
    if chosen := os.environ.get("DRA_WORKSHOP_CACHE"):
        return Path(chosen).expanduser().resolve()
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "dra-workshop"
