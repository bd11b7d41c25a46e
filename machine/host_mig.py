"""MIG of this machine's GPUs: what they are divided into, what a stack demands, and the commands that would make it so.

Nothing here changes a GPU: the commands are for its administrator. It was not run on a real GPU that is divided.
"""

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from gpus.mig import EMPTY, Layout, mig_line
from gpus.models import ModelError, model_of
from machine.findings import Finding
from machine.gpus import CAPABILITY_DEVICES, HostGpu, HostGpus
from machine.nvidia_driver import Machine

CAPABILITIES = "/proc/driver/nvidia/capabilities"
# NVIDIA's MIG User Guide, "/dev Based nvidia-capabilities".
DEVICE_MINOR = re.compile(r"^DeviceFileMinor:\s*(\d+)$", re.M)
# A GPU of which the mode changes with a reset only. Source: NVIDIA's MIG User Guide.
RESET_ARCHITECTURE = "Ampere"


@dataclass(frozen=True)
class Division:
    """What one GPU is divided into: MIG mode, and its GPU instances as a layout has them."""

    has_mig: bool
    instances: tuple[str, ...]
    """PROFILE@START, or PROFILE where `nvidia-smi mig -lgi` did not say where it is."""

    @classmethod
    def of(cls, gpu: HostGpu) -> "Division":
        return cls(gpu.has_mig, gpu.mig_instances)

    def is_as(self, layout: Layout) -> bool:
        """Comparison with a layout. Places are compared where both name them."""
        wanted = () if layout == EMPTY else tuple(layout)
        if self.has_mig != bool(layout) or len(self.instances) != len(wanted):
            return False
        left = Counter(self.instances)
        for entry in sorted(wanted, key=lambda entry: "@" not in entry):  # those that name their place choose first
            matching = [instance for instance in left if left[instance] and _matches(entry, instance)]
            if not matching:
                return False
            left[matching[0]] -= 1
        return True

    def __str__(self) -> str:
        if not self.has_mig:
            return "MIG off"
        return ", ".join(self.instances) or "MIG on without instances"


def _matches(entry: str, instance: str) -> bool:
    (name, at, start), (found, known, place) = entry.partition("@"), instance.partition("@")
    return name == found and (not at or not known or start == place)


def commands(gpu: HostGpu, layout: Layout) -> list[str]:
    """Commands of nvidia-smi, in order, that give a GPU a layout. They end whatever runs on it."""
    index, division = gpu.index, Division.of(gpu)
    lines = []
    if division.instances:
        lines += [f"nvidia-smi mig -i {index} -dci", f"nvidia-smi mig -i {index} -dgi"]
    if division.has_mig != bool(layout):
        lines.append(f"nvidia-smi -i {index} -mig {int(bool(layout))}")
        model = model_of(gpu.name)
        if model is None or model.architecture == RESET_ARCHITECTURE:
            lines.append(f"nvidia-smi -i {index} --gpu-reset")
    if layout and layout != EMPTY:
        lines.append(f"nvidia-smi mig -i {index} -cgi {','.join(entry.replace('@', ':') for entry in layout)} -C")
    return lines


def look(layouts: Sequence[Layout], host: HostGpus, machine: Machine) -> Iterator[Finding]:
    """Findings on the layouts that the stack demands, and on the capabilities of what is there.

    Layouts are those of the chosen GPUs in order of index; GPUs beyond them are not compared.
    """
    if host.error:
        return  # told by others, and there is nothing to compare
    if len(layouts) > len(host.chosen):
        remedy = "remove some from gpu.mig, or name more GPUs in gpu.devices"
        yield Finding("MIG layouts", f"{len(layouts)} in gpu.mig, {len(host.chosen)} GPUs", False, remedy)
    for gpu, layout in zip(host.chosen, layouts, strict=False):
        yield _compared(gpu, layout)
    for gpu in host.chosen:
        if gpu.has_mig and gpu.mig_instances:
            yield _capabilities(gpu, machine)


def _compared(gpu: HostGpu, layout: Layout) -> Finding:
    name, division = f"MIG layout of GPU {gpu.index}", Division.of(gpu)
    if (model := model_of(gpu.name)) is not None:
        try:
            mig_line(model, layout)
        except ModelError as error:
            rule, _, remedy = str(error).partition("; ")
            return Finding(name, f"{gpu.name}: {rule}", False, f"{remedy} in gpu.mig")
    wanted = Division(bool(layout), () if layout == EMPTY else tuple(layout))
    if division.is_as(layout):
        return Finding(name, str(division), True)
    steps = "; ".join(f"`{line}`" for line in commands(gpu, layout))
    remedy = f"gpu.mig demands {wanted}: {steps}, as root, which ends what runs on the GPU. Nothing here does it"
    return Finding(name, str(division), False, remedy)


def _capabilities(gpu: HostGpu, machine: Machine) -> Finding:
    """Finding on the files by which containers may use MIG devices: each capability has a device file of its number."""
    name = f"MIG capabilities of GPU {gpu.index}"
    if gpu.minor is None:
        remedy = "make /proc/driver/nvidia readable: without it nobody knows which capabilities are this GPU's"
        return Finding(name, "the GPU's device file is not known", False, remedy)
    folder = machine.at(f"{CAPABILITIES}/gpu{gpu.minor}/mig")
    files = sorted([*folder.glob("gi*/access"), *folder.glob("gi*/ci*/access")])
    if not files:
        remedy = f"let this machine see {CAPABILITIES} of NVIDIA's kernel module: a container's /proc may hide it"
        return Finding(name, f"none in {CAPABILITIES}/gpu{gpu.minor}/mig", False, remedy)
    missing, devices = [], []
    for file in files:
        path = f"/{file.relative_to(machine.root)}"
        found = DEVICE_MINOR.search(machine.text(path))
        device = f"{CAPABILITY_DEVICES}/nvidia-cap{found[1]}" if found else ""
        (devices if found and machine.at(device).exists() else missing).append(device or path)
    if not missing:
        return Finding(name, f"{len(files)} with their device files, {devices[0]} to {devices[-1]}", True)
    options = " ".join(f"-f /{file.relative_to(machine.root)}" for file in files)
    return Finding(name, f"no {', '.join(missing)}", False, f"`nvidia-modprobe {options}` as root makes them")
