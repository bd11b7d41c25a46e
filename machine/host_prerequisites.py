"""What must be true of the host's GPUs and their driver before a stack is made of them; looks only.

Everything here can be read by any user. What a remedy changes on a GPU is for a person to decide: nothing here does it.
"""

import re
from collections.abc import Iterator
from pathlib import Path

from packaging.version import Version

from machine.findings import Finding
from machine.gpus import HostGpu, HostGpus, names_of
from machine.nvidia_driver import ARCHITECTURES, LIBRARIES, PROGRAMS, THIS_MACHINE, Machine, default_runtime
from machine.releases import is_at_least
from settings import Settings
from settings.catalog import MPS

# NVIDIA's DRA driver: https://docs.nvidia.com/datacenter/cloud-native/gpu-operator/latest/dra-intro-install.html. What
# the modules use of MPS came earlier: limits of pinned memory with 495 (CUDA 11.5).
MINIMUM_DRIVER = Version("565")
DEVICES = ("/dev/nvidiactl", "/dev/nvidia-uvm")
# The kernel keeps 15 characters: the control daemon's and the server's names are the same in them.
MPS_PROCESS = "nvidia-cuda-mps-control"[:15]


def look(settings: Settings, host: HostGpus, machine: Machine = THIS_MACHINE) -> Iterator[Finding]:
    """Everything that the stack needs of the host's GPUs, met or not; what it can do without, but not well, warns."""
    yield from _driver(host)
    yield from _files(settings, host)
    yield from _devices(host, machine)
    yield from _gpus(settings, host)
    for gpu in host.chosen:
        yield from _settings_of(gpu, settings)
    yield _mps(settings, machine)
    yield _runtime(host, machine)


def _driver(host: HostGpus) -> Iterator[Finding]:
    driver = host.driver
    remedy = f"NVIDIA's DRA driver needs driver {MINIMUM_DRIVER} or newer; install one"
    if driver.version is None:
        yield Finding("driver", "no NVIDIA driver", False, remedy)
        return
    enough = is_at_least(driver.version, MINIMUM_DRIVER)
    yield Finding("driver", f"{driver.version} ({driver.version_from})", enough, remedy)
    if driver.architecture not in ARCHITECTURES:
        known = " and ".join(ARCHITECTURES)
        yield Finding("architecture", driver.architecture, False, f"Kind's nodes get the driver of {known} only")
    kernel = driver.kernel_version
    seen = f"{kernel}, libraries {driver.version}" if kernel else "is not loaded"
    remedy = "restart the machine, so that the kernel has the module that belongs to the libraries"
    if kernel is None:
        remedy = "load it (`modprobe nvidia` as root), unless /proc/driver/nvidia is hidden from this machine"
    yield Finding("kernel module", seen, kernel in (driver.version, None), remedy, warning=kernel is None)


def _files(settings: Settings, host: HostGpus) -> Iterator[Finding]:
    remedy = "install NVIDIA's driver, or set gpu.driverRoot to the folder that holds its bin and lib64"
    by_mps = PROGRAMS if settings.has(MPS) else PROGRAMS[:1]
    for name in (*LIBRARIES, *by_mps):
        found = host.driver.file(name)
        where = f"below {settings.gpu.driver_root}" if settings.gpu.driver_root else "by the loader nor in usual roots"
        seen = f"{found.file} ({found.how})" if found else f"not found {where}"
        yield Finding(name.partition(".so")[0], seen, found is not None, remedy)


def _devices(host: HostGpus, machine: Machine) -> Iterator[Finding]:
    wanted = [*DEVICES, *(f"/dev/nvidia{gpu.minor}" for gpu in host.chosen if gpu.minor is not None)]
    if len(wanted) == len(DEVICES):
        wanted.append("/dev/nvidia0")
    missing = [path for path in wanted if not machine.at(path).exists()]
    seen = f"no {', '.join(missing)}" if missing else ", ".join(wanted)
    remedy = "load NVIDIA's kernel modules and let them make their files: `nvidia-modprobe -u -c=0` as root"
    yield Finding("devices", seen, not missing, remedy)


def _gpus(settings: Settings, host: HostGpus) -> Iterator[Finding]:
    if host.error:
        yield Finding("gpus", host.error, False, "`nvidia-smi` has to list the GPUs; mend that first")
        return
    for device in host.unknown:
        yield Finding("gpus", f"gpu.devices: {device} is no GPU", False, f"use some of {names_of(host.every)}")
    for gpu in host.others:
        if gpu.minor is None:
            remedy = (
                "without it the nodes cannot be kept from it: drop gpu.devices, or make /proc/driver/nvidia readable"
            )
            yield Finding("gpus", f"{gpu} is not to be touched, and its device file is not known", False, remedy)
    needed = settings.gpus_used
    seen = "; ".join(map(str, host.published)) or "no whole GPU"
    rule = (
        f"the modules use {needed}: switch some off, or name more in gpu.devices; "
        "docs/reference/gpu.md says what fits on one"
    )
    yield Finding("gpus", seen, len(host.published) >= needed, rule)
    # nvidia-smi's exit 14 is one: the GPU computes all the same.
    for line in host.warnings:
        remedy = "nvidia-smi warns; a corrupted infoROM does not keep a GPU from computing"
        yield Finding("nvidia-smi", line, True, remedy, warning=True)


def _settings_of(gpu: HostGpu, settings: Settings) -> Iterator[Finding]:
    name, default = f"GPU {gpu.index}", gpu.compute_mode == "Default"
    reset = f"`nvidia-smi -i {gpu.index} -c DEFAULT` as root"
    ours = settings.mps.mode == "claim" and settings.gpu.allow_compute_mode_change and settings.is_up
    remedy = (
        f"whoever set it may need it, such as an MPS daemon of the host; {reset} puts it back, and nothing here does"
    )
    if ours and gpu.compute_mode == "Exclusive_Process":
        remedy = f"this stack's claim sets it; if the stack's clients do not run, {reset} puts it back"
    yield Finding(f"compute mode of {name}", gpu.compute_mode, default or ours, remedy, warning=ours and not default)
    remedy = (
        f"the driver is loaded anew for each program, which takes seconds: `nvidia-smi -i {gpu.index} -pm 1` as root"
    )
    off = gpu.persistence == "Disabled"
    yield Finding(f"persistence of {name}", gpu.persistence, True, remedy, warning=off)
    needed = [row.number for row in settings.rows if row.needs_whole_gpu]
    remedy = f"modules {', '.join(needed)} use whole GPUs: name others in gpu.devices, or "
    remedy += f"`nvidia-smi -i {gpu.index} -mig 0` as root, which ends what runs on it"
    seen = f"{gpu.mig}: NVIDIA's driver publishes its parts only" if gpu.has_mig else gpu.mig
    yield Finding(f"MIG of {name}", seen, not (gpu.has_mig and needed), remedy)


def _mps(settings: Settings, machine: Machine) -> Finding:
    """MPS of the host's own. Processes of a Kind node are in another PID namespace, and are not meant."""
    found = [process for process in machine.at("/proc").glob("[0-9]*") if _is_hosts_mps(process, machine)]
    pids = ", ".join(sorted((process.name for process in found), key=int))
    used = settings.has(MPS)
    remedy = f"module {MPS.number} brings a daemon of its own: "
    remedy += "`echo quit | nvidia-cuda-mps-control` as its user ends this one"
    if not used:
        remedy = "its clients share the GPUs with the stack's pods"
    warning = bool(found) and not used
    return Finding("MPS of the host", f"process {pids}" if found else "none", not (found and used), remedy, warning)


def _is_hosts_mps(process: Path, machine: Machine) -> bool:
    if machine.text(f"/proc/{process.name}/comm").strip() != MPS_PROCESS:
        return False
    spaces = re.search(r"^NSpid:(.*)$", machine.text(f"/proc/{process.name}/status"), re.M)
    return spaces is not None and len(spaces[1].split()) == 1


def _runtime(host: HostGpus, machine: Machine) -> Finding:
    cgroup = 2 if machine.at("/sys/fs/cgroup/cgroup.controllers").exists() else 1
    way = (
        "volume-mounted devices of nvidia-container-toolkit" if host.driver.toolkit else "mounts of the driver's files"
    )
    runtime = default_runtime(machine) or "unknown"
    return Finding(
        "runtime",
        f"cgroup v{cgroup}, Docker's default runtime {runtime}; GPUs by {way}",
        runtime != "unknown",
        "no Docker Engine answers; run `make setup`, which starts or explains it",
    )
