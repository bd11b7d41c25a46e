"""Prerequisites of a stack that uses this machine's GPUs: driver, device files, GPU modes, MPS, container runtime.

Nothing is changed, and root is not needed. A remedy that changes a GPU is left to a person.
"""

import re
from collections.abc import Iterator
from pathlib import Path

from packaging.version import Version

from machine import host_mig
from machine.findings import Finding
from machine.gpus import HostGpu, HostGpus, names_of
from machine.nvidia_driver import ARCHITECTURES, LIBRARIES, PROGRAMS, THIS_MACHINE, Machine, default_runtime
from machine.releases import is_at_least
from settings import Settings
from settings.catalog import MPS

# NVIDIA's DRA driver: https://docs.nvidia.com/datacenter/cloud-native/gpu-operator/latest/dra-intro-install.html. MPS'
# limits of pinned memory, which the modules use, are older: they came with 495 (CUDA 11.5).
MINIMUM_DRIVER = Version("565")
DEVICES = ("/dev/nvidiactl", "/dev/nvidia-uvm")
# The kernel keeps 15 characters of a process' name (proc_pid_comm(5)), in which control daemon and server are the same.
MPS_PROCESS = "nvidia-cuda-mps-control"[:15]


def look(settings: Settings, host: HostGpus, machine: Machine = THIS_MACHINE) -> Iterator[Finding]:
    """Findings on everything that the stack needs of this machine's GPUs, met or not."""
    yield from _driver(host)
    yield from _driver_files(settings, host)
    yield from _device_files(host, machine)
    yield from _gpus(settings, host)
    for gpu in host.chosen:
        yield from _gpu_modes(gpu, settings)
    yield from host_mig.look(settings.gpu.mig, host, machine)
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
    observed = f"{kernel}, libraries {driver.version}" if kernel else "is not loaded"
    remedy = "restart the machine, so that the kernel has the module that belongs to the libraries"
    if kernel is None:
        remedy = "load it (`modprobe nvidia` as root), unless /proc/driver/nvidia is hidden from this machine"
    yield Finding("kernel module", observed, kernel in (driver.version, None), remedy, warning=kernel is None)


def _driver_files(settings: Settings, host: HostGpus) -> Iterator[Finding]:
    remedy = "install NVIDIA's driver, or set gpu.driverRoot to the folder that holds its bin and lib64"
    programs = PROGRAMS if settings.has(MPS) else PROGRAMS[:1]
    root = settings.gpu.driver_root
    not_found = f"not found below {root}" if root else "not found by the loader nor in usual roots"
    for name in (*LIBRARIES, *programs):
        file = host.driver.file(name)
        observed = f"{file.target} ({file.source})" if file else not_found
        yield Finding(name.partition(".so")[0], observed, file is not None, remedy)


def _device_files(host: HostGpus, machine: Machine) -> Iterator[Finding]:
    paths = [*DEVICES, *(f"/dev/nvidia{gpu.minor}" for gpu in host.chosen if gpu.minor is not None)]
    if len(paths) == len(DEVICES):
        paths.append("/dev/nvidia0")
    missing = [path for path in paths if not machine.at(path).exists()]
    observed = f"no {', '.join(missing)}" if missing else ", ".join(paths)
    remedy = "load NVIDIA's kernel modules and let them make their files: `nvidia-modprobe -u -c=0` as root"
    yield Finding("devices", observed, not missing, remedy)


def _gpus(settings: Settings, host: HostGpus) -> Iterator[Finding]:
    if host.error:
        yield Finding("gpus", host.error, False, "`nvidia-smi` has to list the GPUs; mend that first")
        return
    for device in host.unknown_devices:
        yield Finding("gpus", f"gpu.devices: {device} is no GPU", False, f"use some of {names_of(host.all_gpus)}")
    for gpu in host.excluded:
        if gpu.minor is None:
            remedy = (
                "without it the nodes cannot be kept from it: drop gpu.devices, or make /proc/driver/nvidia readable"
            )
            yield Finding("gpus", f"{gpu} is not to be touched, and its device file is not known", False, remedy)
    # Where no module uses a whole GPU, one that MIG divides will do.
    needed = settings.gpus_used if any(row.needs_whole_gpu for row in settings.rows) else 0
    observed = "; ".join(map(str, host.published)) or "no whole GPU"
    remedy = (
        f"the modules use {needed}: switch some off, or name more in gpu.devices; "
        "docs/reference/gpu.md says what fits on one"
    )
    yield Finding("gpus", observed, len(host.published) >= needed, remedy)
    # A corrupted infoROM is among these warnings: the GPU computes all the same.
    for line in host.warnings:
        remedy = "nvidia-smi warns; a corrupted infoROM does not keep a GPU from computing"
        yield Finding("nvidia-smi", line, True, remedy, warning=True)


def _gpu_modes(gpu: HostGpu, settings: Settings) -> Iterator[Finding]:
    name, default = f"GPU {gpu.index}", gpu.compute_mode == "Default"
    reset = f"`nvidia-smi -i {gpu.index} -c DEFAULT` as root"
    stack_sets_mode = settings.mps.mode == "claim" and settings.gpu.allow_compute_mode_change and settings.is_up
    remedy = (
        f"whoever set it may need it, such as an MPS daemon of the host; {reset} puts it back, and nothing here does"
    )
    if stack_sets_mode and gpu.compute_mode == "Exclusive_Process":
        remedy = f"this stack's claim sets it; if the stack's clients do not run, {reset} puts it back"
    yield Finding(
        f"compute mode of {name}",
        gpu.compute_mode,
        default or stack_sets_mode,
        remedy,
        warning=stack_sets_mode and not default,
    )
    remedy = (
        f"the driver is loaded anew for each program, which takes seconds: `nvidia-smi -i {gpu.index} -pm 1` as root"
    )
    off = gpu.persistence_mode == "Disabled"
    yield Finding(f"persistence of {name}", gpu.persistence_mode, True, remedy, warning=off)
    numbers = [row.number for row in settings.rows if row.needs_whole_gpu]
    remedy = f"modules {', '.join(numbers)} use whole GPUs: name others in gpu.devices, or "
    remedy += f"`nvidia-smi -i {gpu.index} -mig 0` as root, which ends what runs on it"
    observed = f"{gpu.mig_mode}: NVIDIA's driver publishes its parts only" if gpu.has_mig else gpu.mig_mode
    yield Finding(f"MIG of {name}", observed, not (gpu.has_mig and numbers), remedy)


def _mps(settings: Settings, machine: Machine) -> Finding:
    """Finding on an MPS daemon that runs on this machine, outside of Kind's nodes."""
    processes = [process for process in machine.at("/proc").glob("[0-9]*") if _is_mps_of_host(process, machine)]
    pids = ", ".join(sorted((process.name for process in processes), key=int))
    used = settings.has(MPS)
    remedy = f"module {MPS.number} brings a daemon of its own: "
    remedy += "`echo quit | nvidia-cuda-mps-control` as its user ends this one"
    if not used:
        remedy = "its clients share the GPUs with the stack's pods"
    observed, warning = f"process {pids}" if processes else "none", bool(processes) and not used
    return Finding("MPS of the host", observed, not (processes and used), remedy, warning)


def _is_mps_of_host(process: Path, machine: Machine) -> bool:
    if machine.text(f"/proc/{process.name}/comm").strip() != MPS_PROCESS:
        return False
    # One number for each PID namespace that the process is in (proc_pid_status(5)); those of a Kind node have more.
    namespace_pids = re.search(r"^NSpid:(.*)$", machine.text(f"/proc/{process.name}/status"), re.M)
    return namespace_pids is not None and len(namespace_pids[1].split()) == 1


def _runtime(host: HostGpus, machine: Machine) -> Finding:
    cgroup = 2 if machine.at("/sys/fs/cgroup/cgroup.controllers").exists() else 1
    source = "mounts of the driver's files"
    if host.driver.toolkit:
        source = "volume-mounted devices of nvidia-container-toolkit"
    runtime = default_runtime(machine) or "unknown"
    return Finding(
        "runtime",
        f"cgroup v{cgroup}, Docker's default runtime {runtime}; GPUs by {source}",
        runtime != "unknown",
        "no Docker Engine answers; run `make setup`, which starts or explains it",
    )
