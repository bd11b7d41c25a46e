"""NVIDIA's driver on this machine: where its files lie, how they were found, and what of them a Kind node gets.

Looks only. Guesses no path: the loader's cache first, then the folders that programs and libraries are searched in,
then the roots that NVIDIA and distributions use. What it reads of the system lies below `Machine.root`, and what it
asks goes through `Machine.run`, so that a test can have another machine.
"""

import os
import platform
import re
import subprocess
import tomllib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

# The driver's root in a node; NVIDIA's chart calls it nvidiaDriverRoot.
NODE_DRIVER_ROOT = "/driver"
# That of simulated GPUs: on the node's disk, not below /run, so that it outlives a restart of the node.
SIMULATED_DRIVER_FOLDER = "/var/lib/gpu-sim"
SIMULATED_DRIVER_ROOT = f"{SIMULATED_DRIVER_FOLDER}/driver"
# What NVIDIA's MPS daemon (mode claim) has on its LD_LIBRARY_PATH below a root without a shell; the CDI generator does
# not look there. https://github.com/kubernetes-sigs/dra-driver-nvidia-gpu, templates/mps-control-daemon.tmpl.yaml.
NODE_MPS_LIBRARIES = f"{NODE_DRIVER_ROOT}/lib"
# By platform.machine(): Debian's folder, in which the driver's plugin looks on any distribution, and the loader's word.
ARCHITECTURES = {"x86_64": ("x86_64-linux-gnu", "x86-64"), "aarch64": ("aarch64-linux-gnu", "AArch64")}
ROOTS = ("/", "/usr/local/nvidia", "/opt/nvidia", "/run/nvidia/driver", "/run/opengl-driver", "/usr/local")
BINARY_FOLDERS = ("usr/bin", "bin", "usr/sbin", "sbin", "opt/bin")
LIBRARIES = ("libnvidia-ml.so.1", "libcuda.so.1", "libnvidia-ptxjitcompiler.so.1")
PROGRAMS = ("nvidia-smi", "nvidia-cuda-mps-control", "nvidia-cuda-mps-server")
# Those that the CDI generator gives to containers as well, where they are.
MORE_PROGRAMS = ("nvidia-debugdump", "nvidia-persistenced")
# How names begin in a folder that is NVIDIA's alone: those of the dispatchers that come with the driver as well.
NVIDIAS_PROGRAMS = ("nvidia-",)
NVIDIAS_LIBRARIES = ("libnvidia-", "libEGL", "libGL", "libOpenCL", "libOpenGL", "libvdpau")
VERSION = re.compile(r"\d{3,}\.\d+(?:\.\d+)?")
VERSIONED = re.compile(r"\.so\.(\d{3,}\.\d+(?:\.\d+)?)$")
TOOLKIT_CONFIG = "etc/nvidia-container-runtime/config.toml"
TOOLKIT_KEY = "accept-nvidia-visible-devices-as-volume-mounts"
TOOLKIT_DEVICES = "/var/run/nvidia-container-devices"
SECONDS = 60  # a GPU without persistence takes some to answer

# Exit code, standard output, standard error; 127 where the program cannot be started.
Answer = tuple[int, str, str]


def run(argv: tuple[str, ...], env: Mapping[str, str]) -> Answer:
    """Run a program with more environment."""
    try:
        done = subprocess.run(
            argv, env={**os.environ, **env}, capture_output=True, text=True, timeout=SECONDS, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return 127, "", str(error)
    return done.returncode, done.stdout, done.stderr


@dataclass(frozen=True)
class Machine:
    """What is looked at: a file system and the programs on it."""

    root: Path = Path("/")
    architecture: str = platform.machine()
    run: Callable[[tuple[str, ...], Mapping[str, str]], Answer] = run
    path: str = field(default_factory=lambda: os.environ.get("PATH", ""))
    library_path: str = field(default_factory=lambda: os.environ.get("LD_LIBRARY_PATH", ""))

    def at(self, path: str) -> Path:
        """A path of the system."""
        return self.root / path.lstrip("/")

    def text(self, path: str) -> str:
        """A file's text; empty where it is not to be read."""
        try:
            return self.at(path).read_text(errors="replace")
        except OSError:
            return ""


THIS_MACHINE = Machine()


@dataclass(frozen=True)
class Found:
    """A file of the driver: where it is named, the file itself with all links resolved, and what led there."""

    name: str
    place: Path
    file: Path
    how: str


@dataclass(frozen=True)
class Mount:
    """What of the host is put where in a node; always read-only."""

    host: str
    node: str

    @property
    def for_kind(self) -> dict[str, object]:
        """As an entry of kind's `extraMounts`."""
        return {"hostPath": self.host, "containerPath": self.node, "readOnly": True}

    def __str__(self) -> str:
        return f"{self.host} -> {self.node}"


@dataclass(frozen=True)
class HostDriver:
    """What was found of the driver. Empty where there is none; nobody but the prerequisites minds."""

    version: str | None
    version_from: str
    kernel_version: str | None
    """Of the kernel module; None where it is not loaded."""
    architecture: str
    libraries: tuple[Found, ...]
    programs: tuple[Found, ...]
    toolkit: bool
    """Whether nvidia-container-toolkit gives a container the GPUs that it names by volumes."""
    mounts: tuple[Mount, ...]
    """What a node gets of all this."""

    def file(self, name: str) -> Found | None:
        """A library or program by its name."""
        return next((found for found in (*self.libraries, *self.programs) if found.name == name), None)

    @property
    def missing(self) -> tuple[str, ...]:
        """What no stack can do without, and was not found."""
        return tuple(name for name in (*LIBRARIES, "nvidia-smi") if self.file(name) is None)

    @property
    def library_folders(self) -> tuple[Path, ...]:
        """Where the libraries are named, each once."""
        return tuple(dict.fromkeys(found.place.parent for found in self.libraries))

    @property
    def node_root(self) -> str:
        """Where a Kind node has the driver: of its own by the toolkit, below one folder by mounts."""
        return "/" if self.toolkit else NODE_DRIVER_ROOT


def _node_mounts(
    libraries: tuple[Found, ...], programs: tuple[Found, ...], version: str | None, machine: Machine
) -> Iterator[Mount]:
    """The driver's files for a node; the same ones for every stack, so that no change of one makes a new node."""
    folder = f"{NODE_DRIVER_ROOT}/usr/lib/{ARCHITECTURES.get(machine.architecture, ('', ''))[0]}"
    files = _library_files(libraries, version)
    yield from _mounts({one.name: one.place for one in programs}, NVIDIAS_PROGRAMS, "*", f"{NODE_DRIVER_ROOT}/usr/bin")
    loaded = list(_mounts(files, NVIDIAS_LIBRARIES, "lib*.so*", folder))
    yield from loaded
    # Of single files no more than what NVIDIA's MPS daemon loads.
    for mount in loaded:
        name = mount.node.removeprefix(folder)
        if name.lstrip("/") in ("", *LIBRARIES):
            yield Mount(mount.host, f"{NODE_MPS_LIBRARIES}{name}")


def _library_files(libraries: tuple[Found, ...], version: str | None) -> dict[str, Path]:
    """The driver's libraries, also by the names by which programs load them: `.so` and `.so.1`."""
    files: dict[str, Path] = {}
    for folder in dict.fromkeys(one.place.parent for one in libraries):
        for place in sorted(folder.glob("lib*.so*")):
            own = place.name in LIBRARIES or place.resolve().name.endswith(f".so.{version}")
            if own and place.is_file():
                files.setdefault(place.name, place)
                # The CDI generator knows a library by the driver's version in its name.
                files.setdefault(place.resolve().name, place)
    return files


def _mounts(files: Mapping[str, Path], nvidias: tuple[str, ...], pattern: str, node: str) -> Iterator[Mount]:
    """A folder of the driver's own as it is; the driver's files one by one out of a folder that others use too.

    So are links that lead out of their folder: in the node there would be nothing behind them. `nvidias` is how names
    of NVIDIA's begin.
    """
    folders = {place.parent for place in files.values()}
    if len(folders) == 1:
        (folder,) = folders
        inside = all(place.resolve().is_relative_to(folder.resolve()) for place in files.values())
        present = {place.name for place in folder.glob(pattern) if place.is_file()}
        if inside and all(name in files or name.startswith(nvidias) for name in present):
            yield Mount(str(folder.resolve()), node)
            return
    for name, place in sorted(files.items()):
        yield Mount(str(place.resolve()), f"{node}/{name}")


def find(driver_root: str | None, machine: Machine) -> HostDriver:
    """Look for the driver. `driver_root` is the only folder to look below, where it is given."""
    kernel = VERSION.search(machine.text("proc/driver/nvidia/version").partition("\n")[0])
    libraries = tuple(_first(name, _library_places(name, driver_root, machine), kernel) for name in LIBRARIES)
    programs = tuple(
        _first(name, _program_places(name, driver_root, machine), None) for name in (*PROGRAMS, *MORE_PROGRAMS)
    )
    present = tuple(found for found in libraries if found)
    there = tuple(found for found in programs if found)
    version, source = _version(present)
    toolkit = driver_root is None and _toolkit(machine)
    mounts = _node_mounts(present, there, version, machine)
    return HostDriver(
        version=version or (kernel[0] if kernel else None),
        version_from=source if version else "/proc/driver/nvidia/version",
        kernel_version=kernel[0] if kernel else None,
        architecture=machine.architecture,
        libraries=present,
        programs=there,
        toolkit=toolkit,
        mounts=(Mount("/dev/null", f"{TOOLKIT_DEVICES}/all"),) if toolkit else tuple(mounts),
    )


def _version(libraries: tuple[Found, ...]) -> tuple[str | None, str]:
    """The version that the libraries' own names say, or that of one beside them."""
    for found in libraries:
        if named := _version_of(found):
            return named, f"{found.name} is {found.file}"
    return None, ""


def _version_of(found: Found) -> str | None:
    stem = found.name.removesuffix(".1")
    names = [found.file.name, *(path.name for path in sorted(found.place.parent.glob(f"{stem}.*")))]
    return next((match[1] for name in names if (match := VERSIONED.search(name))), None)


def _first(name: str, places: Iterator[tuple[Path, str]], kernel: re.Match[str] | None) -> Found | None:
    """The first of the places that has the file; the first of the kernel module's version if there is one."""
    found = [Found(name, place, place.resolve(), how) for place, how in places if _is_file(place)]
    fitting = [one for one in found if kernel and _version_of(one) == kernel[0]]
    return next(iter(fitting or found), None)


def _is_file(path: Path) -> bool:
    """A folder that this user may not read is no error, as it is none for a shell."""
    try:
        return path.is_file()
    except OSError:
        return False


def _library_places(name: str, driver_root: str | None, machine: Machine) -> Iterator[tuple[Path, str]]:
    if driver_root is not None:
        yield from _below(Path(driver_root), name, _library_folders(machine), "gpu.driverRoot")
        return
    _, cache, _ = machine.run(("ldconfig", "-p"), {"PATH": f"{machine.path}:/usr/sbin:/sbin"})
    word = ARCHITECTURES.get(machine.architecture, ("", "no such word"))[1]
    for line in cache.splitlines():
        entry, _, place = line.strip().partition(" => ")
        if entry.startswith(f"{name} ") and word in entry:
            yield Path(place), "ldconfig -p"
    for folder in filter(None, machine.library_path.split(":")):
        yield Path(folder) / name, "LD_LIBRARY_PATH"
    for root, how in _roots(machine):
        yield from _below(root, name, _library_folders(machine), how)


def _program_places(name: str, driver_root: str | None, machine: Machine) -> Iterator[tuple[Path, str]]:
    if driver_root is not None:
        yield from _below(Path(driver_root), name, BINARY_FOLDERS, "gpu.driverRoot")
        return
    for folder in filter(None, machine.path.split(":")):
        yield Path(folder) / name, "PATH"
    for root, how in _roots(machine):
        yield from _below(root, name, BINARY_FOLDERS, how)


def _roots(machine: Machine) -> Iterator[tuple[Path, str]]:
    """Where drivers are put, then the root of an nvidia-smi on PATH: its libraries may lie beside it only."""
    for root in ROOTS:
        yield machine.at(root), "a usual root"
    for folder in filter(None, machine.path.split(":")):
        if _is_file(program := Path(folder) / "nvidia-smi"):
            yield program.resolve().parent.parent, "beside nvidia-smi on PATH"


def _below(root: Path, name: str, folders: tuple[str, ...], how: str) -> Iterator[tuple[Path, str]]:
    yield from ((root / folder / name, how) for folder in folders)


def _library_folders(machine: Machine) -> tuple[str, ...]:
    multiarch = ARCHITECTURES.get(machine.architecture, ("lib", ""))[0]
    return (f"usr/lib/{multiarch}", "usr/lib64", "lib64", f"lib/{multiarch}", "usr/lib", "lib")


def _toolkit(machine: Machine) -> bool:
    """Whether a container that has a volume below TOOLKIT_DEVICES gets GPUs, which takes two settings of root's.

    https://github.com/NVIDIA/nvidia-container-toolkit, internal/config/image/cuda_image.go.
    """
    try:
        config = tomllib.loads(machine.text(TOOLKIT_CONFIG))
    except tomllib.TOMLDecodeError:
        return False
    if config.get(TOOLKIT_KEY) is not True:
        return False
    return default_runtime(machine) == "nvidia"


def default_runtime(machine: Machine) -> str:
    """Docker's runtime for containers that name none; empty where no engine answers."""
    code, text, _ = machine.run(("docker", "info", "--format", "{{.DefaultRuntime}}"), {})
    return text.strip() if code == 0 else ""
