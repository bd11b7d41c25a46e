"""The stacks whose registrations are kept as texts: how one is recorded whatever this machine is like, and its text."""

from functools import cache
from pathlib import Path
from typing import Any
from unittest import mock

import yaml

import modules
from machine import gpus as host_gpus
from machine import images, prerequisites
from machine import kind as kind_cluster
from machine.gpus import HostGpu, HostGpus
from machine.nvidia_driver import DriverFile, HostDriver, Mount
from settings import PROJECT, Settings
from tests.golden.derived import by_difference
from tests.golden.recorder import CHECKOUT, Recorder, Recording, export, run
from tests.golden.text import whole

FOLDER = Path(__file__).resolve().parent
FILES = {
    **{file.name.split(".")[1]: file for file in sorted((CHECKOUT / "stacks").glob("Pulumi.*.yaml"))},
    **{file.stem: file for file in sorted((FOLDER / "variants").glob("*.yaml"))},
}
# Stacks whose text is what differs from another's, each with the one that makes it shortest. The others' are whole.
BASES = {
    "cluster-only": "phase1",
    "gpu-claim": "phase1",
    "gpu-exclusive": "phase1",
    "gpu-mps": "phase1",
    "gpu-shared": "phase2",
    "phase1-claim": "phase1",
    "single-node": "phase1",
    "two-workers": "phase1",
    "unlimited": "phase2",
}
# What set-up recorded, whatever it did on this machine.
INDEX = {
    name: f"localhost/dra-workshop/{name}:v1-0123456789ab"
    for name in ("node", "dra-driver", "dra-driver-0.4.1", "gpu-sim", "gpu-probe", "mps-daemon", "gpu-agents", "kwok")
}
IMAGES = images.Images(INDEX["node"], {name: ref for name, ref in INDEX.items() if name != "node"})
NVIDIA, VERSION = Path("/usr/local/nvidia"), "580.159.04"
LIBRARY_FOLDERS = ("/driver/usr/lib/x86_64-linux-gnu", "/driver/lib")
# A machine with two H100s and their driver in a folder of its own, whatever this one has.
HOST_DRIVER = HostDriver(
    version=VERSION,
    version_from="/proc/driver/nvidia/version",
    kernel_version=VERSION,
    architecture="x86_64",
    libraries=tuple(
        DriverFile(
            f"{name}.so.1", NVIDIA / "lib64" / f"{name}.so.1", NVIDIA / "lib64" / f"{name}.so.{VERSION}", "ldconfig -p"
        )
        for name in ("libnvidia-ml", "libcuda", "libnvidia-ptxjitcompiler")
    ),
    programs=(DriverFile("nvidia-smi", NVIDIA / "bin" / "nvidia-smi", NVIDIA / "bin" / "nvidia-smi", "PATH"),),
    toolkit=False,
    mounts=(
        Mount(str(NVIDIA / "bin"), "/driver/usr/bin"),
        *(Mount(str(NVIDIA / "lib64"), folder) for folder in LIBRARY_FOLDERS),
    ),
)
HOST_GPUS = tuple(
    HostGpu(number, uuid, "NVIDIA H100 80GB HBM3", 81559, "Default", "Enabled", "Disabled", number)
    for number, uuid in enumerate(
        ("GPU-00000000-0000-0000-0000-000000000000", "GPU-11111111-1111-1111-1111-111111111111")
    )
)


def host(_driver_root: str | None, devices: tuple[int | str, ...]) -> HostGpus:
    """What discovery finds there."""
    return HostGpus(HOST_DRIVER, HOST_GPUS, devices)


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
        mock.patch.object(host_gpus, "discover", side_effect=host),
        mock.patch.object(images, "read_index", return_value=INDEX),
        # Golden files are the same on a machine that takes upstream's images.
        mock.patch.object(images, "everything_is_built", return_value=False),
    ):
        return run(lambda: export(modules.build(settings, images.images_of(settings))), settings.stack, recorder)


@cache
def recorded(stack: str) -> Recording:
    return record(load(stack))


def text_of(stack: str) -> str:
    """What the stack registers, as its file has it: in full, or what differs from its base."""
    if stack not in BASES:
        return whole(recorded(stack))
    base = BASES[stack]
    title = f"{stack}: what differs from {base} ({base}.txt). Its names are read as this stack's:"
    return by_difference(recorded(stack), recorded(base), title, counterparts(base, stack))


def counterparts(base: str, stack: str) -> dict[str, str]:
    """What a stack has in place of its base's names: cluster, folder, first GPU node and that node's GPUs."""
    # A node with fewer GPUs has no counterpart for the others.
    names = dict(zip(_names(base), _names(stack), strict=False))
    cluster, node = list(names)[:2]
    if node.replace(cluster, names[cluster]) == names[node]:
        del names[node]
    return {name: other for name, other in names.items() if name != other}


def _names(stack: str) -> list[str]:
    settings = load(stack)
    node = settings.gpu_nodes[0]
    if settings.gpu.source == "host":
        uuids = [gpu.uuid for gpu in HOST_GPUS]
    else:
        uuids = [settings.gpu_uuid(number) or "" for number in range(node.count or 0)]
    return [settings.cluster_name, node.node, f".state/{stack}", *uuids]
