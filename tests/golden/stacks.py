"""The stacks whose registrations are kept as texts, and how one is recorded whatever this machine is like."""

from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest import mock

import yaml

import modules
import prerequisites
from components.commands import kind_cluster
from components.images import Images
from settings import PROJECT, Settings
from tests.golden.recorder import CHECKOUT, Recorder, Recording, export, run

FOLDER = Path(__file__).resolve().parent
FILES = {
    **{file.name.split(".")[1]: file for file in sorted((CHECKOUT / "stacks").glob("Pulumi.*.yaml"))},
    **{file.stem: file for file in sorted((FOLDER / "variants").glob("*.yaml"))},
}
IMAGES = Images(
    node="localhost/dra-workshop/node:v1-0123456789ab",
    dra_driver="localhost/dra-workshop/dra-driver:v1-0123456789ab",
    gpu_sim="localhost/dra-workshop/gpu-sim:v1-0123456789ab",
    gpu_probe="localhost/dra-workshop/gpu-probe:v1-0123456789ab",
    mps_daemon="localhost/dra-workshop/mps-daemon:v1-0123456789ab",
    gpu_agents="localhost/dra-workshop/gpu-agents:v1-0123456789ab",
)


def load(stack: str, **changed: Any) -> Settings:
    """The settings of one of FILES, but for the blocks that are given."""
    config: dict[str, Any] = yaml.safe_load(FILES[stack].read_text().replace("<checkout>", str(CHECKOUT)))["config"]
    blocks = {key.removeprefix(f"{PROJECT}:"): value for key, value in config.items()}
    return Settings.parse({**blocks, **changed}, stack)


def record(settings: Settings, recorder: Recorder | None = None) -> Recording:
    """What the modules register; asks neither the machine nor the Docker Engine."""
    with (
        mock.patch.object(kind_cluster, "incarnation", return_value="1"),
        mock.patch.object(prerequisites, "require"),
        mock.patch.object(Images, "made_by_setup", side_effect=lambda chosen, _version: replace(IMAGES, **chosen)),
    ):
        images = modules.images_of(settings)
        return run(lambda: export(modules.build(settings, images)), settings.stack, recorder)
