"""GPUs of this machine as nvidia-smi reports them, and which of them a stack may use."""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache

from gpus.models import GpuModel, model_of
from machine import nvidia_driver
from machine.nvidia_driver import THIS_MACHINE, HostDriver, Machine, Mount
from settings import Settings
from settings.catalog import Module

# Exit code of nvidia-smi for "infoROM is corrupted" (its manual page, RETURN VALUE); it answers the query all the same.
INFO_ROM_EXIT = 14
# Folder of the device files that let a program use a MIG device.
CAPABILITY_DEVICES = "/dev/nvidia-caps"
# Lines of `nvidia-smi -L`, and of `nvidia-smi mig -lgi`: GPU, profile, its ID, the instance's ID, START:SIZE.
GPU_LINE, MIG_LINE = re.compile(r"^GPU (\d+): "), re.compile(r"^\s+MIG (\S+)\s+Device\s+\d+: ")
INSTANCE_LINE = re.compile(r"^\|\s+(\d+)\s+MIG (\S+)\s+\d+\s+\d+\s+(\d+):\d+\s+\|$")
# Fields of `nvidia-smi --query-gpu`; `nvidia-smi --help-query-gpu` describes them.
FIELDS = (
    *("index", "uuid", "name", "memory.total"),
    *("compute_mode", "persistence_mode", "mig.mode.current", "pci.bus_id"),
)


class HostGpusError(Exception):
    """Error of a stack that uses this machine's GPUs where the driver or a GPU is missing; the text has the remedy."""


@dataclass(frozen=True)
class HostGpu:
    """GPU of this machine as nvidia-smi reports it; memory in MiB, 0 where it is not reported.

    The modes are nvidia-smi's words, such as Default, Enabled and Disabled. `minor` is the number in the name of the
    GPU's device file, None where it is not known.
    """

    index: int
    uuid: str
    name: str
    memory_mib: int
    compute_mode: str
    persistence_mode: str
    mig_mode: str
    minor: int | None
    mig_instances: tuple[str, ...] = ()
    """GPU instances, PROFILE@START, or PROFILE where nobody may list their places."""

    @property
    def has_mig(self) -> bool:
        """True for a GPU in MIG mode: NVIDIA's DRA driver publishes its MIG devices then, and not the whole GPU."""
        return self.mig_mode == "Enabled"

    def is_named_by(self, device: int | str) -> bool:
        """Comparison with an entry of gpu.devices, which is an index or a UUID."""
        return device in (self.index, self.uuid)

    def __str__(self) -> str:
        return f"GPU {self.index}: {self.name}, {self.memory_mib}Mi, {self.uuid}"


@dataclass(frozen=True)
class HostGpus:
    """Driver and all GPUs of this machine, divided into GPUs that the stack may use and GPUs that it never touches."""

    driver: HostDriver
    all_gpus: tuple[HostGpu, ...]
    devices: tuple[int | str, ...]
    """Value of gpu.devices; empty for all GPUs."""
    warnings: tuple[str, ...] = ()
    error: str = ""
    """Reason why nvidia-smi reported no GPU; empty where it did."""
    has_capability_devices: bool = False
    """Whether the machine has the folder of the device files of MIG devices."""

    @property
    def chosen(self) -> tuple[HostGpu, ...]:
        """GPUs that the stack may use."""
        return tuple(gpu for gpu in self.all_gpus if not self.devices or any(map(gpu.is_named_by, self.devices)))

    @property
    def unknown_devices(self) -> tuple[int | str, ...]:
        """Entries of gpu.devices that name no GPU of this machine."""
        return tuple(device for device in self.devices if not any(gpu.is_named_by(device) for gpu in self.all_gpus))

    @property
    def published(self) -> tuple[HostGpu, ...]:
        """GPUs that NVIDIA's DRA driver publishes as whole GPUs."""
        return tuple(gpu for gpu in self.chosen if not gpu.has_mig)

    @property
    def excluded(self) -> tuple[HostGpu, ...]:
        """GPUs that the stack never touches."""
        return tuple(gpu for gpu in self.all_gpus if gpu not in self.chosen)

    @property
    def hidden_devices(self) -> tuple[str, ...]:
        """Device files that a Kind node must not have."""
        return tuple(f"/dev/nvidia{gpu.minor}" for gpu in self.excluded)

    @property
    def mounts(self) -> tuple[Mount, ...]:
        """Mounts that give a Kind node the driver and the chosen GPUs."""
        mounts = self.driver.mounts
        if self.driver.toolkit and self.devices:
            mounts = tuple(Mount("/dev/null", f"{nvidia_driver.TOOLKIT_DEVICES}/{gpu.uuid}") for gpu in self.chosen)
        return (*mounts, *self.capability_mounts)

    @property
    def capability_mounts(self) -> tuple[Mount, ...]:
        """Mount of the folder of device files of MIG devices, if a chosen GPU is divided.

        Docker copies the files that are there when the node is made; a mount shows those as well that come later. What
        belongs to them in /proc/driver/nvidia is the same for every container, and runc would mount nothing there.
        """
        divided = self.has_capability_devices and any(gpu.has_mig for gpu in self.chosen)
        return (Mount(CAPABILITY_DEVICES, CAPABILITY_DEVICES),) if divided else ()

    def require(self) -> None:
        """Check before nodes are created, which get the driver and the chosen GPUs only.

        Raises `HostGpusError` with every problem, each with its remedy.
        """
        if problems := list(self._problems()):
            raise HostGpusError("gpu.source is host:\n" + "\n".join(f"  {line}" for line in problems))

    def _problems(self) -> Iterator[str]:
        if self.driver.missing:
            names = ", ".join(self.driver.missing)
            yield f"{names} not found; install NVIDIA's driver, or set gpu.driverRoot to the folder that holds it"
        for device in self.unknown_devices:
            yield f"gpu.devices: {device} is no GPU of this machine; use some of {names_of(self.all_gpus)}"
        for gpu in self.excluded:
            if gpu.minor is None:
                rule = f"{gpu} is not to be touched, and its device file is not known"
                yield f"gpu.devices: {rule} (/proc/driver/nvidia/gpus); drop gpu.devices or load NVIDIA's kernel module"

    @property
    def outputs(self) -> dict[str, object]:
        """Outputs of the stack for people: driver, GPUs and mounts, which a preview shows as well."""
        driver = self.driver
        files = (*driver.libraries, *driver.programs)
        return {
            "driver": f"{driver.version} ({driver.version_from}), {driver.architecture}",
            "found": {file.name: f"{file.path} ({file.source})" for file in files},
            "gpus": [str(gpu) for gpu in self.chosen],
            "notTouched": [str(gpu) for gpu in self.excluded],
            "mounts": [str(mount) for mount in self.mounts],
        }


def names_of(gpus: Sequence[HostGpu]) -> str:
    """List of GPUs by index and UUID, as gpu.devices may name them."""
    return ", ".join(f"{gpu.index} ({gpu.uuid})" for gpu in gpus) or "none: nvidia-smi told of no GPU"


@cache
def discover(
    driver_root: str | None = None, devices: tuple[int | str, ...] = (), machine: Machine = THIS_MACHINE
) -> HostGpus:
    """Driver and GPUs of a machine, looked up once in a run of the program. Raises nothing: see `HostGpus.error`."""
    driver = nvidia_driver.find(driver_root, machine)
    program = driver.file("nvidia-smi")
    if program is None:
        return HostGpus(driver, (), devices, error="nvidia-smi was not found")
    query = (str(program.path), f"--query-gpu={','.join(FIELDS)}", "--format=csv,noheader,nounits")
    folders = ":".join([*map(str, driver.library_folders), *filter(None, [machine.library_path])])
    env = {"LD_LIBRARY_PATH": folders} if folders else {}
    code, out, err = machine.run(query, env)
    rows = [[cell.strip() for cell in line.split(", ")] for line in out.splitlines()]
    gpus = tuple(_gpu(row, machine) for row in rows if len(row) == len(FIELDS) and row[0].isdigit())
    messages = [
        line for line in (*out.splitlines(), *err.splitlines()) if line.strip() and line.count(", ") < len(FIELDS) - 1
    ]
    if code not in (0, INFO_ROM_EXIT) or (code == 0 and not gpus):
        return HostGpus(driver, (), devices, error=f"exit {code}: {' '.join(messages) or 'no GPU'}")
    if code == INFO_ROM_EXIT and not messages:
        messages = ["infoROM is corrupted"]
    if any(gpu.has_mig for gpu in gpus):
        listed, placed = (machine.run((str(program.path), *words), env)[1] for words in (("-L",), ("mig", "-lgi")))
        found = mig_instances(listed, placed)
        gpus = tuple(replace(gpu, mig_instances=found.get(gpu.index, ())) for gpu in gpus)
    has_devices = machine.at(CAPABILITY_DEVICES).is_dir()
    return HostGpus(driver, gpus, devices, tuple(messages), has_capability_devices=has_devices)


def mig_instances(listed: str, placed: str) -> dict[int, tuple[str, ...]]:
    """GPU instances by the index of their GPU, from what `nvidia-smi -L` and `nvidia-smi mig -lgi` print.

    The latter, which needs root on some machines, has places and also instances without a compute instance.
    """
    instances: dict[int, list[str]] = {}
    for line in placed.splitlines():
        if row := INSTANCE_LINE.match(line):
            instances.setdefault(int(row[1]), []).append(f"{row[2]}@{row[3]}")
    names: dict[int, list[str]] = {}
    index = -1
    for line in listed.splitlines():
        if gpu := GPU_LINE.match(line):
            index = int(gpu[1])
        elif device := MIG_LINE.match(line):
            names.setdefault(index, []).append(device[1])
    for gpu_index, profiles in names.items():
        # Several compute instances of one GPU instance are as many lines here, and one there.
        if gpu_index not in instances:
            instances[gpu_index] = [profile.partition("c.")[2] or profile for profile in profiles]
    return {gpu_index: tuple(sorted(found)) for gpu_index, found in instances.items()}


def _gpu(row: Sequence[str], machine: Machine) -> HostGpu:
    index, uuid, name, memory, compute_mode, persistence_mode, mig_mode, bus_id = row
    memory_mib = int(memory) if memory.isdigit() else 0
    return HostGpu(
        int(index), uuid, name, memory_mib, compute_mode, persistence_mode, mig_mode, _minor(bus_id, machine)
    )


def _minor(bus_id: str, machine: Machine) -> int | None:
    """Number of a GPU's device file. /proc writes four digits of the PCI domain where nvidia-smi writes eight."""
    folder = bus_id.lower()[-len("0000:00:00.0") :]
    for line in machine.text(f"proc/driver/nvidia/gpus/{folder}/information").splitlines():
        key, _, value = line.partition(":")
        if key.strip() == "Device Minor" and value.strip().isdigit():
            return int(value)
    return None


def discover_host(settings: Settings) -> HostGpus | None:
    """Driver and GPUs of this machine for a stack that uses them; None for simulated GPUs and existing clusters."""
    if settings.gpu.source != "host" or settings.cluster.provider != "kind":
        return None
    return discover(settings.gpu.driver_root, settings.gpu.devices)


def host_gpu(settings: Settings, module: Module) -> HostGpu | None:
    """GPU of this machine that a module has or shares; None where only the published GPUs tell which one it is."""
    host = discover_host(settings)
    # In the order of the names that NVIDIA's driver gives them.
    gpus = sorted(host.published, key=lambda gpu: f"gpu-{gpu.minor}") if host else []
    index = settings.gpu_index(module)
    return gpus[index] if index < len(gpus) else None


def gpu_model(settings: Settings) -> GpuModel | None:
    """Model of the first GPU node's GPUs; None where this machine's or another cluster's GPUs are of no known model."""
    host = discover_host(settings)
    if host is None or not host.published:
        return settings.gpu_model
    return model_of(host.published[0].name)


def driver_root(settings: Settings) -> str:
    """Folder of a node that holds NVIDIA's driver, as the chart's nvidiaDriverRoot takes it."""
    if settings.gpu.source == "simulated":
        return nvidia_driver.SIMULATED_DRIVER_ROOT
    if host := discover_host(settings):
        return host.driver.node_root
    return settings.gpu.driver_root or "/"
