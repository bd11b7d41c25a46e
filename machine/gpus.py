"""The host's GPUs, by NVIDIA's own nvidia-smi, and those of them that a stack may use."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache

from gpus.models import GpuModel, model_of
from machine import nvidia_driver as host_driver
from machine.nvidia_driver import THIS_MACHINE, HostDriver, Machine, Mount
from settings import Settings
from settings.catalog import Module

# nvidia-smi: "infoROM is corrupted"; what it was asked is answered all the same.
INFO_ROM_EXIT = 14
ABOUT_IT = ("index", "uuid", "name", "memory.total")
FIELDS = (*ABOUT_IT, "compute_mode", "persistence_mode", "mig.mode.current", "pci.bus_id")


class HostGpusError(Exception):
    """The stack is to use the host's GPUs, and there is no driver or no such GPU; the text has the remedy."""


@dataclass(frozen=True)
class HostGpu:
    """One GPU as nvidia-smi tells of it; memory in MiB. `minor` is the number of its device file, None if unknown."""

    index: int
    uuid: str
    name: str
    memory_mib: int
    compute_mode: str
    persistence: str
    mig: str
    minor: int | None

    @property
    def has_mig(self) -> bool:
        """Whether it is divided: NVIDIA's driver does not publish it as a GPU then."""
        return self.mig == "Enabled"

    def is_named_by(self, device: int | str) -> bool:
        """Whether an entry of gpu.devices means this one."""
        return device in (self.index, self.uuid)

    def __str__(self) -> str:
        return f"GPU {self.index}: {self.name}, {self.memory_mib}Mi, {self.uuid}"


@dataclass(frozen=True)
class HostGpus:
    """The driver, all GPUs of the machine, and which of them are `chosen`; the others are never touched."""

    driver: HostDriver
    every: tuple[HostGpu, ...]
    devices: tuple[int | str, ...]
    """The config's gpu.devices; empty for all."""
    warnings: tuple[str, ...] = ()
    error: str = ""
    """Why nvidia-smi told of no GPU."""

    @property
    def chosen(self) -> tuple[HostGpu, ...]:
        """Those that the stack may use."""
        return tuple(gpu for gpu in self.every if not self.devices or any(map(gpu.is_named_by, self.devices)))

    @property
    def unknown(self) -> tuple[int | str, ...]:
        """Entries of gpu.devices that mean no GPU of the machine."""
        return tuple(device for device in self.devices if not any(gpu.is_named_by(device) for gpu in self.every))

    @property
    def published(self) -> tuple[HostGpu, ...]:
        """Those that NVIDIA's driver will publish as whole GPUs."""
        return tuple(gpu for gpu in self.chosen if not gpu.has_mig)

    @property
    def others(self) -> tuple[HostGpu, ...]:
        """Those that the stack leaves alone."""
        return tuple(gpu for gpu in self.every if gpu not in self.chosen)

    @property
    def hidden_devices(self) -> tuple[str, ...]:
        """The device files that a Kind node must not have."""
        return tuple(f"/dev/nvidia{gpu.minor}" for gpu in self.others)

    @property
    def mounts(self) -> tuple[Mount, ...]:
        """What a Kind node gets of the host."""
        if self.driver.toolkit and self.devices:
            return tuple(Mount("/dev/null", f"{host_driver.TOOLKIT_DEVICES}/{gpu.uuid}") for gpu in self.chosen)
        return self.driver.mounts

    def require(self) -> None:
        """Raise `HostGpusError` unless a node can be given the driver and exactly the chosen GPUs."""
        if lacking := list(self._lacking()):
            raise HostGpusError("gpu.source is host:\n" + "\n".join(f"  {line}" for line in lacking))

    def _lacking(self) -> Iterator[str]:
        if self.driver.missing:
            names = ", ".join(self.driver.missing)
            yield f"{names} not found; install NVIDIA's driver, or set gpu.driverRoot to the folder that holds it"
        for device in self.unknown:
            yield f"gpu.devices: {device} is no GPU of this machine; use some of {names_of(self.every)}"
        for gpu in self.others:
            if gpu.minor is None:
                rule = f"{gpu} is not to be touched, and its device file is not known"
                yield f"gpu.devices: {rule} (/proc/driver/nvidia/gpus); drop gpu.devices or load NVIDIA's kernel module"

    @property
    def outputs(self) -> dict[str, object]:
        """For people: what was found and what a node gets, in the preview too."""
        driver = self.driver
        found = (*driver.libraries, *driver.programs)
        return {
            "driver": f"{driver.version} ({driver.version_from}), {driver.architecture}",
            "found": {one.name: f"{one.place} ({one.how})" for one in found},
            "gpus": [str(gpu) for gpu in self.chosen],
            "notTouched": [str(gpu) for gpu in self.others],
            "mounts": [str(mount) for mount in self.mounts],
        }


def names_of(gpus: Sequence[HostGpu]) -> str:
    """The GPUs as gpu.devices may name them."""
    return ", ".join(f"{gpu.index} ({gpu.uuid})" for gpu in gpus) or "none: nvidia-smi told of no GPU"


@cache
def discover(
    driver_root: str | None = None, devices: tuple[int | str, ...] = (), machine: Machine = THIS_MACHINE
) -> HostGpus:
    """Look at the machine, once in a run of the program. Raises nothing: what is missing is missing in the result."""
    driver = host_driver.find(driver_root, machine)
    program = driver.file("nvidia-smi")
    if program is None:
        return HostGpus(driver, (), devices, error="nvidia-smi was not found")
    query = (str(program.place), f"--query-gpu={','.join(FIELDS)}", "--format=csv,noheader,nounits")
    folders = ":".join([*map(str, driver.library_folders), *filter(None, [machine.library_path])])
    code, out, err = machine.run(query, {"LD_LIBRARY_PATH": folders} if folders else {})
    rows = [[cell.strip() for cell in line.split(", ")] for line in out.splitlines()]
    gpus = tuple(_gpu(row, machine) for row in rows if len(row) == len(FIELDS) and row[0].isdigit())
    said = [
        line for line in (*out.splitlines(), *err.splitlines()) if line.strip() and line.count(", ") < len(FIELDS) - 1
    ]
    if code == INFO_ROM_EXIT:
        return HostGpus(driver, gpus, devices, tuple(said) or ("infoROM is corrupted",))
    if code or not gpus:
        return HostGpus(driver, (), devices, error=f"exit {code}: {' '.join(said) or 'no GPU'}")
    return HostGpus(driver, gpus, devices, tuple(said))


def _gpu(row: Sequence[str], machine: Machine) -> HostGpu:
    index, uuid, name, memory, compute_mode, persistence, mig, bus = row
    size = int(memory) if memory.isdigit() else 0
    return HostGpu(int(index), uuid, name, size, compute_mode, persistence, mig, _minor(bus, machine))


def _minor(bus: str, machine: Machine) -> int | None:
    """The number of a GPU's device file. /proc writes four digits of the domain where nvidia-smi writes eight."""
    folder = bus.lower()[-len("0000:00:00.0") :]
    for line in machine.text(f"proc/driver/nvidia/gpus/{folder}/information").splitlines():
        key, _, value = line.partition(":")
        if key.strip() == "Device Minor" and value.strip().isdigit():
            return int(value)
    return None


def discover_host(settings: Settings) -> HostGpus | None:
    """Driver and GPUs of this machine, where a stack uses them; None where GPUs are simulated or of other machines."""
    if settings.gpu.source != "host" or settings.cluster.provider != "kind":
        return None
    return discover(settings.gpu.driver_root, settings.gpu.devices)


def host_gpu(settings: Settings, module: Module) -> HostGpu | None:
    """GPU of this machine that a module has or shares; None where it is not known before it is published."""
    host = discover_host(settings)
    # By the names that NVIDIA's driver gives them.
    gpus = sorted(host.published, key=lambda gpu: f"gpu-{gpu.minor}") if host else []
    index = settings.gpu_index(module)
    return gpus[index] if index < len(gpus) else None


def gpu_model(settings: Settings) -> GpuModel | None:
    """Model of the first GPU node's GPUs, also of this machine's where it is a known one."""
    host = discover_host(settings)
    if host is None or not host.published:
        return settings.gpu_model
    return model_of(host.published[0].name)


def driver_root(settings: Settings) -> str:
    """Folder of a node below which NVIDIA's driver is."""
    if settings.gpu.source == "simulated":
        return host_driver.SIMULATED_DRIVER_ROOT
    if host := discover_host(settings):
        return host.driver.node_root
    return settings.gpu.driver_root or "/"
