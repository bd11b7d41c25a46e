"""Docker Engine: found if one answers, installed and started on Debian and Ubuntu as root, else explained."""

import os
import platform
import shutil
import subprocess
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from toolchain.steps import StepError

PACKAGES = ("docker.io", "containerd", "runc", "iptables")
START_SECONDS = 60
# Outside the checkout: the engine belongs to the machine, whichever checkout started it.
RUN = Path("/run/dra-workshop")
PID_FILE = RUN / "dockerd.pid"
LOG = Path("/var/log/dra-workshop-dockerd.log")


@dataclass(frozen=True)
class Engine:
    """A Docker Engine that answers."""

    version: str
    cgroup_version: str
    root: Path


def find() -> Engine | None:
    """Engine that `docker` reaches, or None."""
    if not shutil.which("docker"):
        return None
    answer = subprocess.run(
        ["docker", "info", "--format", "{{.ServerVersion}}|{{.CgroupVersion}}|{{.DockerRootDir}}"],
        capture_output=True,
        text=True,
        check=False,
    )
    version, _, rest = answer.stdout.strip().partition("|")
    cgroup, _, root = rest.partition("|")
    # `docker info` exits 0 with empty fields when the client works and no server answers.
    return Engine(version, cgroup, Path(root)) if answer.returncode == 0 and version else None


def debian_like() -> bool:
    """True on Debian, Ubuntu and what derives from them."""
    release = platform.freedesktop_os_release() if Path("/etc/os-release").exists() else {}
    return bool({release.get("ID"), *release.get("ID_LIKE", "").split()} & {"debian", "ubuntu"})


def explain_missing() -> str:
    """Message for a machine whose engine set-up cannot start: cause and remedy."""
    if shutil.which("dockerd") or Path("/run/docker.sock").exists():
        return (
            "docker: no Docker Engine answers this user; start it (`sudo systemctl start docker`) and let this user "
            "use it (`sudo usermod -aG docker $USER`, then log in again), or run `make setup` as root"
        )
    return (
        "docker: no Docker Engine is installed; install Docker Engine 20.10 or newer for your distribution "
        "(package docker-ce, docker.io or moby-engine) and start it, or run `make setup` as root on Debian or Ubuntu"
    )


def installable() -> bool:
    """True if set-up can install an engine: as root, with apt."""
    return os.geteuid() == 0 and debian_like()


def start(bounded_runtime: Path | None, env: Mapping[str, str] | None = None) -> Engine:
    """Start the installed engine, by systemd where it runs, and wait until it answers.

    `env` is for an engine that is not installed but runs from a folder: no service of systemd knows it.
    """
    if Path("/run/systemd/system").is_dir() and env is None:
        subprocess.run(["systemctl", "start", "docker"], check=True)
    else:
        _start_detached(bounded_runtime, env or {})
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline:
        if engine := find():
            return engine
        time.sleep(0.2)  # between two looks at a condition that is bounded above
    raise StepError(f"docker: the engine was started but does not answer after {START_SECONDS} s; its log: {LOG}")


def _start_detached(bounded_runtime: Path | None, env: Mapping[str, str]) -> None:
    RUN.mkdir(parents=True, exist_ok=True)
    command = ["dockerd", "--pidfile", str(PID_FILE), "--log-level", "warn"]
    if bounded_runtime:
        command += ["--add-runtime", f"bounded={bounded_runtime}", "--default-runtime", "bounded"]
    with open(LOG, "ab") as log:
        subprocess.Popen(
            command,
            env={**os.environ, **env},
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )


def stop() -> str:
    """Stop the engine if this toolchain started it; returns a line that says what was done."""
    if not PID_FILE.exists():
        return "engine: not started by `make setup`, left alone"
    pid = int(PID_FILE.read_text())
    try:
        os.kill(pid, 15)
    except ProcessLookupError:
        PID_FILE.unlink()
        return "engine: was not running any more"
    deadline = time.monotonic() + START_SECONDS
    while Path(f"/proc/{pid}").exists() and time.monotonic() < deadline:
        time.sleep(0.1)  # between two looks at a condition that is bounded above
    return "engine: stopped"


def needs_bounded_runtime() -> bool:
    """True if this machine cannot grant every capability, so that engines before 23 need a wrapper."""
    bounding = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("CapBnd"))
    last = int(Path("/proc/sys/kernel/cap_last_cap").read_text())
    full = (1 << (last + 1)) - 1
    return int(bounding.split()[1], 16) & full != full
