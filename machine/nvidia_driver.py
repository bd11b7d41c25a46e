"""Search for NVIDIA's driver on this machine, and the mounts that give its files to a Kind node.

Order of the search: the loader's cache, the folders of LD_LIBRARY_PATH and PATH, the roots that NVIDIA and
distributions use. Files are read below `Machine.root` and programs run by `Machine.run`, so that a test can have
another machine.
"""

import os
import platform
import re
import subprocess
import tomllib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

# Root of the driver in a node, the chart's nvidiaDriverRoot.
NODE_DRIVER_ROOT = "/driver"
# Root of the simulated driver: on the node's disk, not below /run, so that it outlives a restart of the node.
SIMULATED_DRIVER_FOLDER = "/var/lib/gpu-sim"
SIMULATED_DRIVER_ROOT = f"{SIMULATED_DRIVER_FOLDER}/driver"
# Folder of a node in which NVIDIA's kernel module shows the capability files of its GPUs, and the simulated one's.
CAPABILITIES = "/proc/driver/nvidia/capabilities"
SIMULATED_CAPABILITIES = f"{SIMULATED_DRIVER_ROOT}/sim/proc-driver/nvidia/capabilities"
# Folder on the LD_LIBRARY_PATH of NVIDIA's MPS daemon (mode claim) below a root without a shell; the CDI generator does
# not look there. https://github.com/kubernetes-sigs/dra-driver-nvidia-gpu, templates/mps-control-daemon.tmpl.yaml.
NODE_MPS_LIBRARIES = f"{NODE_DRIVER_ROOT}/lib"
# By platform.machine(): Debian's library folder, in which the driver's plugin looks on any distribution, and the word
# for the architecture in `ldconfig -p`.
ARCHITECTURES = {"x86_64": ("x86_64-linux-gnu", "x86-64"), "aarch64": ("aarch64-linux-gnu", "AArch64")}
ROOTS = ("/", "/usr/local/nvidia", "/opt/nvidia", "/run/nvidia/driver", "/run/opengl-driver", "/usr/local")
BINARY_FOLDERS = ("usr/bin", "bin", "usr/sbin", "sbin", "opt/bin")
LIBRARIES = ("libnvidia-ml.so.1", "libcuda.so.1", "libnvidia-ptxjitcompiler.so.1")
PROGRAMS = ("nvidia-smi", "nvidia-cuda-mps-control", "nvidia-cuda-mps-server")
# Programs that the CDI generator gives to containers as well if they are installed.
OPTIONAL_PROGRAMS = ("nvidia-debugdump", "nvidia-persistenced")
# Starts of file names in a folder that holds NVIDIA's driver only; the dispatchers that it brings are among them.
NVIDIA_PROGRAM_PREFIXES = ("nvidia-",)
NVIDIA_LIBRARY_PREFIXES = ("libnvidia-", "libEGL", "libGL", "libOpenCL", "libOpenGL", "libvdpau")
VERSION = re.compile(r"\d{3,}\.\d+(?:\.\d+)?")
VERSIONED = re.compile(r"\.so\.(\d{3,}\.\d+(?:\.\d+)?)$")
TOOLKIT_CONFIG = "etc/nvidia-container-runtime/config.toml"
TOOLKIT_KEY = "accept-nvidia-visible-devices-as-volume-mounts"
TOOLKIT_DEVICES = "/var/run/nvidia-container-devices"
TIMEOUT_SECONDS = 60  # a GPU without persistence takes several to answer

# Exit code, standard output, standard error; 127 where the program cannot be started.
Answer = tuple[int, str, str]
# Path where a file of the driver may be, and the step of the search that it comes from.
Candidate = tuple[Path, str]


def run(argv: tuple[str, ...], env: Mapping[str, str]) -> Answer:
    """Answer of a program that runs with `env` over this process' environment, for at most TIMEOUT_SECONDS."""
    try:
        done = subprocess.run(
            argv, env={**os.environ, **env}, capture_output=True, text=True, timeout=TIMEOUT_SECONDS, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return 127, "", str(error)
    return done.returncode, done.stdout, done.stderr


def capabilities_folder(simulated: bool) -> str:
    """Folder of a node with the capability files of its GPUs."""
    return SIMULATED_CAPABILITIES if simulated else CAPABILITIES


@dataclass(frozen=True)
class Machine:
    """File system and programs of a machine: this one's, or a test's."""

    root: Path = Path("/")
    architecture: str = platform.machine()
    run: Callable[[tuple[str, ...], Mapping[str, str]], Answer] = run
    path: str = field(default_factory=lambda: os.environ.get("PATH", ""))
    library_path: str = field(default_factory=lambda: os.environ.get("LD_LIBRARY_PATH", ""))

    def at(self, path: str) -> Path:
        """Path of a file of the machine."""
        return self.root / path.lstrip("/")

    def text(self, path: str) -> str:
        """Content of a file; empty where it cannot be read."""
        try:
            return self.at(path).read_text(errors="replace")
        except OSError:
            return ""


THIS_MACHINE = Machine()


@dataclass(frozen=True)
class DriverFile:
    """File of NVIDIA's driver: name by which programs load it, path with that name, and target behind all links.

    `source` is the step of the search that came to the path, such as PATH or `ldconfig -p`.
    """

    name: str
    path: Path
    target: Path
    source: str


@dataclass(frozen=True)
class Mount:
    """Read-only bind mount of a host's file or folder into a Kind node."""

    host: str
    node: str

    @property
    def for_kind(self) -> dict[str, object]:
        """Entry of `extraMounts` in kind's configuration, https://kind.sigs.k8s.io/docs/user/configuration/."""
        return {"hostPath": self.host, "containerPath": self.node, "readOnly": True}

    def __str__(self) -> str:
        return f"{self.host} -> {self.node}"


@dataclass(frozen=True)
class HostDriver:
    """NVIDIA's driver on a machine: versions, files, and the mounts that give it to a node. Empty where there is none.

    That is no error here: the prerequisites and `HostGpus.require` report it.
    """

    version: str | None
    version_from: str
    kernel_version: str | None
    """Version of the kernel module; None where it is not loaded."""
    architecture: str
    libraries: tuple[DriverFile, ...]
    programs: tuple[DriverFile, ...]
    toolkit: bool
    """True if nvidia-container-toolkit gives a container the GPUs that it names by volumes."""
    mounts: tuple[Mount, ...]
    """Mounts that give a node the driver."""

    def file(self, name: str) -> DriverFile | None:
        """Library or program of that name; None where it is missing."""
        return next((file for file in (*self.libraries, *self.programs) if file.name == name), None)

    @property
    def missing(self) -> tuple[str, ...]:
        """Names of files that every stack needs, and that are missing."""
        return tuple(name for name in (*LIBRARIES, "nvidia-smi") if self.file(name) is None)

    @property
    def library_folders(self) -> tuple[Path, ...]:
        """Folders with the libraries, each once."""
        return tuple(dict.fromkeys(file.path.parent for file in self.libraries))

    @property
    def node_root(self) -> str:
        """Root of the driver in a Kind node: the node's own if the toolkit puts it there, else that of the mounts."""
        return "/" if self.toolkit else NODE_DRIVER_ROOT


def _node_mounts(
    libraries: tuple[DriverFile, ...], programs: tuple[DriverFile, ...], version: str | None, machine: Machine
) -> Iterator[Mount]:
    """Mounts of the driver's files; the same for every stack, so that a changed stack needs no new node."""
    folder = f"{NODE_DRIVER_ROOT}/usr/lib/{ARCHITECTURES.get(machine.architecture, ('', ''))[0]}"
    program_paths = {file.name: file.path for file in programs}
    yield from _mounts(program_paths, NVIDIA_PROGRAM_PREFIXES, "*", f"{NODE_DRIVER_ROOT}/usr/bin")
    library_mounts = list(_mounts(_library_paths(libraries, version), NVIDIA_LIBRARY_PREFIXES, "lib*.so*", folder))
    yield from library_mounts
    # Of files that are mounted one by one, only those that NVIDIA's MPS daemon loads.
    for mount in library_mounts:
        name = mount.node.removeprefix(folder)
        if name.lstrip("/") in ("", *LIBRARIES):
            yield Mount(mount.host, f"{NODE_MPS_LIBRARIES}{name}")


def _library_paths(libraries: tuple[DriverFile, ...], version: str | None) -> dict[str, Path]:
    """Paths of the driver's libraries by name, also by the names that programs load: `.so` and `.so.1`."""
    paths: dict[str, Path] = {}
    for folder in dict.fromkeys(file.path.parent for file in libraries):
        for path in sorted(folder.glob("lib*.so*")):
            of_driver = path.name in LIBRARIES or path.resolve().name.endswith(f".so.{version}")
            if of_driver and path.is_file():
                paths.setdefault(path.name, path)
                # The CDI generator knows a library by the driver's version in its name.
                paths.setdefault(path.resolve().name, path)
    return paths


def _mounts(paths: Mapping[str, Path], prefixes: tuple[str, ...], pattern: str, node: str) -> Iterator[Mount]:
    """Mount of a whole folder that holds nothing but the driver's files, else a mount of each file.

    Single files are mounted as well where a link leads out of the folder: in the node there would be nothing behind
    it. `prefixes` are the starts of NVIDIA's file names, `pattern` picks the folder's files that are compared.
    """
    folders = {path.parent for path in paths.values()}
    if len(folders) == 1:
        (folder,) = folders
        inside = all(path.resolve().is_relative_to(folder.resolve()) for path in paths.values())
        present = {path.name for path in folder.glob(pattern) if path.is_file()}
        if inside and all(name in paths or name.startswith(prefixes) for name in present):
            yield Mount(str(folder.resolve()), node)
            return
    for name, path in sorted(paths.items()):
        yield Mount(str(path.resolve()), f"{node}/{name}")


def find(driver_root: str | None, machine: Machine) -> HostDriver:
    """NVIDIA's driver on a machine. `driver_root` is the only folder that is searched, if it is given."""
    match = VERSION.search(machine.text("proc/driver/nvidia/version").partition("\n")[0])
    kernel_version = match[0] if match else None
    libraries = _first_files(LIBRARIES, lambda name: _library_candidates(name, driver_root, machine), kernel_version)
    programs = _first_files(
        (*PROGRAMS, *OPTIONAL_PROGRAMS), lambda name: _program_candidates(name, driver_root, machine), None
    )
    version, source = _version(libraries)
    toolkit = driver_root is None and _toolkit(machine)
    mounts = _node_mounts(libraries, programs, version, machine)
    return HostDriver(
        version=version or kernel_version,
        version_from=source if version else "/proc/driver/nvidia/version",
        kernel_version=kernel_version,
        architecture=machine.architecture,
        libraries=libraries,
        programs=programs,
        toolkit=toolkit,
        mounts=(Mount("/dev/null", f"{TOOLKIT_DEVICES}/all"),) if toolkit else tuple(mounts),
    )


def _version(libraries: tuple[DriverFile, ...]) -> tuple[str | None, str]:
    """Version in the name of a library or of a file beside it, and the text that says which one."""
    for library in libraries:
        if version := _version_in_names(library):
            return version, f"{library.name} is {library.target}"
    return None, ""


def _version_in_names(library: DriverFile) -> str | None:
    stem = library.name.removesuffix(".1")
    names = [library.target.name, *(path.name for path in sorted(library.path.parent.glob(f"{stem}.*")))]
    return next((match[1] for name in names if (match := VERSIONED.search(name))), None)


def _first_files(
    names: tuple[str, ...], candidates: Callable[[str], Iterator[Candidate]], kernel_version: str | None
) -> tuple[DriverFile, ...]:
    """First file of each name, where there is one; if possible the first of the kernel module's version."""
    chosen = []
    for name in names:
        files = [DriverFile(name, path, path.resolve(), source) for path, source in candidates(name) if _is_file(path)]
        fitting = [file for file in files if kernel_version and _version_in_names(file) == kernel_version]
        chosen += (fitting or files)[:1]
    return tuple(chosen)


def _is_file(path: Path) -> bool:
    """Test for a file; False as well in a folder that this user may not read, as in a shell."""
    try:
        return path.is_file()
    except OSError:
        return False


def _library_candidates(name: str, driver_root: str | None, machine: Machine) -> Iterator[Candidate]:
    if driver_root is not None:
        yield from _below(Path(driver_root), name, _library_folders(machine), "gpu.driverRoot")
        return
    _, cache, _ = machine.run(("ldconfig", "-p"), {"PATH": f"{machine.path}:/usr/sbin:/sbin"})
    word = ARCHITECTURES.get(machine.architecture, ("", "no such word"))[1]
    for line in cache.splitlines():
        entry, _, path = line.strip().partition(" => ")
        if entry.startswith(f"{name} ") and word in entry:
            yield Path(path), "ldconfig -p"
    for folder in filter(None, machine.library_path.split(":")):
        yield Path(folder) / name, "LD_LIBRARY_PATH"
    for root, source in _roots(machine):
        yield from _below(root, name, _library_folders(machine), source)


def _program_candidates(name: str, driver_root: str | None, machine: Machine) -> Iterator[Candidate]:
    if driver_root is not None:
        yield from _below(Path(driver_root), name, BINARY_FOLDERS, "gpu.driverRoot")
        return
    for folder in filter(None, machine.path.split(":")):
        yield Path(folder) / name, "PATH"
    for root, source in _roots(machine):
        yield from _below(root, name, BINARY_FOLDERS, source)


def _roots(machine: Machine) -> Iterator[Candidate]:
    """Usual roots of drivers, then that of an nvidia-smi on PATH: its libraries may be beside it only."""
    for root in ROOTS:
        yield machine.at(root), "a usual root"
    for folder in filter(None, machine.path.split(":")):
        if _is_file(program := Path(folder) / "nvidia-smi"):
            yield program.resolve().parent.parent, "beside nvidia-smi on PATH"


def _below(root: Path, name: str, folders: tuple[str, ...], source: str) -> Iterator[Candidate]:
    yield from ((root / folder / name, source) for folder in folders)


def _library_folders(machine: Machine) -> tuple[str, ...]:
    multiarch = ARCHITECTURES.get(machine.architecture, ("lib", ""))[0]
    return (f"usr/lib/{multiarch}", "usr/lib64", "lib64", f"lib/{multiarch}", "usr/lib", "lib")


def _toolkit(machine: Machine) -> bool:
    """True if a container with a volume below TOOLKIT_DEVICES gets GPUs, for which root has to change two settings.

    Source: https://github.com/NVIDIA/nvidia-container-toolkit, internal/config/image/cuda_image.go.
    """
    try:
        config = tomllib.loads(machine.text(TOOLKIT_CONFIG))
    except tomllib.TOMLDecodeError:
        return False
    if config.get(TOOLKIT_KEY) is not True:
        return False
    return default_runtime(machine) == "nvidia"


def default_runtime(machine: Machine) -> str:
    """Name of Docker's runtime for containers that name none; empty where no engine answers."""
    code, text, _ = machine.run(("docker", "info", "--format", "{{.DefaultRuntime}}"), {})
    return text.strip() if code == 0 else ""
