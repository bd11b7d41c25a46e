"""Machines with NVIDIA's driver, made of files in a folder and of the answers of programs."""

import shlex
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from machine.nvidia_driver import LIBRARIES, OPTIONAL_PROGRAMS, PROGRAMS, Answer, Machine

VERSION = "580.159.04"
UUIDS = tuple(f"GPU-{number}0000000-0000-0000-0000-000000000000" for number in range(4))
MULTIARCH = "usr/lib/x86_64-linux-gnu"


@dataclass
class Fake:
    """One machine; a test changes its files and answers before it looks."""

    root: Path
    architecture: str = "x86_64"
    answers: dict[str, Answer] = field(default_factory=dict)
    """By the beginning of the command line; a program that is not here cannot be started."""
    path: list[Path] = field(default_factory=list)
    library_path: list[Path] = field(default_factory=list)
    asked: list[tuple[str, Mapping[str, str]]] = field(default_factory=list)

    @property
    def machine(self) -> Machine:
        path, library_path = (":".join(map(str, folders)) for folders in (self.path, self.library_path))
        return Machine(self.root, self.architecture, self._run, path, library_path)

    def _run(self, argv: tuple[str, ...], env: Mapping[str, str]) -> Answer:
        line = shlex.join((Path(argv[0]).name, *argv[1:]))
        self.asked.append((line, env))
        found = (answer for start, answer in self.answers.items() if line.startswith(start))
        return next(found, (127, "", f"no such program: {argv[0]}"))

    def write(self, path: str, text: str = "") -> Path:
        file = self.root / path.lstrip("/")
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
        return file

    def libraries(self, folder: str, version: str = VERSION, links: bool = True) -> Path:
        """The driver's libraries, each with the link by which programs load it."""
        for name in LIBRARIES:
            file = self.write(f"{folder}/{name.removesuffix('.1')}.{version}")
            if links:
                (file.parent / name).symlink_to(file.name)
        return self.root / folder

    def programs(self, folder: str) -> Path:
        for name in (*PROGRAMS, *OPTIONAL_PROGRAMS):
            self.write(f"{folder}/{name}")
        return self.root / folder

    def kernel_module(self, version: str = VERSION) -> None:
        line = f"NVRM version: NVIDIA UNIX x86_64 Kernel Module  {version}  Fri Aug 29 2025"
        self.write("proc/driver/nvidia/version", f"{line}\nGCC version:  gcc version 12.2.0\n")

    def loader_cache(self, *folders: Path, word: str = "x86-64") -> None:
        lines = [f"\t{name} (libc6,{word}) => {folder / name}" for folder in folders for name in LIBRARIES]
        self.answers["ldconfig -p"] = (0, "\n".join([f"{len(lines)} libs found in cache", *lines]), "")

    def gpus(self, count: int = 1, code: int = 0, error: str = "", **changed: str) -> None:
        """What nvidia-smi says, and the files of the GPUs. Minors run the other way round than indices."""
        rows = []
        for index in range(count):
            row = {
                "index": str(index),
                "uuid": UUIDS[index],
                "name": "NVIDIA H100 80GB HBM3",
                "memory": "81559",
                "compute_mode": "Default",
                "persistence": "Enabled",
                "mig": "Disabled",
                "bus": f"00000000:0{index + 1}:00.0",
                **changed,
            }
            rows.append(", ".join(row.values()))
            minor = count - 1 - index
            text = f"Model: \t\t NVIDIA H100\nGPU UUID: \t {UUIDS[index]}\nDevice Minor: \t {minor}\n"
            self.write(f"proc/driver/nvidia/gpus/0000:0{index + 1}:00.0/information", text)
            self.write(f"dev/nvidia{minor}")
        for device in ("dev/nvidiactl", "dev/nvidia-uvm"):
            self.write(device)
        self.answers["nvidia-smi"] = (code, "\n".join(rows), error)

    def process(self, pid: int, comm: str, pids: str) -> None:
        self.write(f"proc/{pid}/comm", f"{comm}\n")
        self.write(f"proc/{pid}/status", f"Name:\t{comm}\nNSpid:\t{pids}\n")


def in_one_folder(root: Path, count: int = 1) -> Fake:
    """A driver in one folder with bin and lib64, as the loader and PATH know it; Docker runs containers by runc."""
    fake = Fake(root)
    fake.kernel_module()
    fake.loader_cache(fake.libraries("usr/local/nvidia/lib64"))
    fake.path = [fake.programs("usr/local/nvidia/bin")]
    fake.gpus(count)
    fake.answers["docker info"] = (0, "runc\n", "")
    fake.write("sys/fs/cgroup/cgroup.controllers")
    return fake
