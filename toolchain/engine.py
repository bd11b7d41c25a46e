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
START_SECONDS = 180  # it answers when it has restored its containers, on a busy machine those of three nodes in 75 s
SOCKETS = (Path("/run/docker.sock"), Path("/var/run/docker.sock"))
WSL_DESKTOP = "/mnt/wsl/docker-desktop"
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


@dataclass(frozen=True)
class Endpoint:
    """Address at which `docker` looks for an engine, and who chose it: a context of the client's, or DOCKER_HOST."""

    address: str
    chosen_by: str

    @property
    def is_default(self) -> bool:
        """True for the system's own engine, which set-up may install and start."""
        return self.address in ("", *(f"unix://{socket}" for socket in SOCKETS))

    @property
    def is_desktop(self) -> bool:
        """True for Docker Desktop's: https://docs.docker.com/desktop/setup/install/linux/ names its context."""
        return "desktop" in self.address.lower() or "desktop" in self.chosen_by.lower()


def endpoint() -> Endpoint:
    """Endpoint of this user's `docker`; the default one where there is no client."""
    if host := os.environ.get("DOCKER_HOST"):
        return Endpoint(host, f"DOCKER_HOST={host}")
    if not shutil.which("docker"):
        return Endpoint("", "no docker")
    command = ["docker", "context", "inspect", "--format", "{{.Name}} {{.Endpoints.docker.Host}}"]
    told = subprocess.run(command, capture_output=True, text=True, check=False).stdout.split()
    return Endpoint(told[1], f"context {told[0]}") if len(told) == 2 else Endpoint("", "no context")


def explain_missing() -> str:
    """Message for a machine whose engine set-up cannot start: cause and remedy."""
    chosen = endpoint()
    if chosen.is_desktop:
        return (
            f"docker: Docker Desktop does not answer at {chosen.address} ({chosen.chosen_by}); start it by its icon or "
            "`systemctl --user start docker-desktop`, or use another engine (`docker context use default`)"
        )
    if not chosen.is_default:
        return (
            f"docker: no engine answers at {chosen.address} ({chosen.chosen_by}); start that one, or use this "
            "machine's own (`docker context use default`, and unset DOCKER_HOST)"
        )
    if Path(WSL_DESKTOP).exists() and not shutil.which("dockerd"):
        return (
            "docker: Docker Desktop does not serve this distribution of WSL; start it, and switch the distribution on "
            "in its settings (Resources, WSL integration)"
        )
    if shutil.which("dockerd") or SOCKETS[0].exists():
        return (
            "docker: no Docker Engine answers this user; start it (`sudo systemctl start docker`) and let this user "
            "use it (`sudo usermod -aG docker $USER`, then log in again), or run `make setup` as root"
        )
    return (
        "docker: no Docker Engine is installed; install Docker Engine 20.10 or newer for your distribution "
        "(package docker-ce, docker.io or moby-engine) and start it, or run `make setup` as root on Debian or Ubuntu"
    )


def refuse_snap(docker: Engine, client: str | None = None) -> None:
    """Refuse Docker from a snap: it sees neither hidden folders of the home nor this machine's /tmp.

    https://snapcraft.io/docs/home-interface; kind names the same among its known issues. Build contexts are in
    `~/.cache`, and kind's archives in /tmp.
    """
    program = str(Path(client or shutil.which("docker") or "").resolve())
    if docker.root.is_relative_to("/var/snap") or program.startswith(("/snap/", "/var/lib/snapd/")):
        raise StepError(
            "docker: this Docker Engine is a snap, which sees neither hidden folders of the home (`~/.cache`) nor "
            "/tmp; use another (`sudo snap remove docker`, then `sudo apt-get install docker.io`)"
        )


def cgroup_warning(docker: Engine, way: str) -> str | None:
    """Warning on upstream's node image on cgroup v1: runc freezes each new container there, and sometimes cannot."""
    if way != "stock" or docker.cgroup_version != "1":
        return None
    return (
        "docker: cgroup v1, on which upstream's node image starts some containers twice (`unable to freeze`); "
        "start the host with cgroup v2 (`systemd.unified_cgroup_hierarchy=1` on its kernel's command line), or use "
        "SOURCE=built"
    )


def to_install() -> bool:
    """True if there is no engine at all, so that its packages are wanted; any other one only has to be started."""
    if not endpoint().is_default or Path(WSL_DESKTOP).exists():
        return False
    return not shutil.which("docker") or not (find() or shutil.which("dockerd"))


def start(bounded_runtime: Path | None, env: Mapping[str, str] | None = None) -> Engine:
    """Start the installed engine, by systemd where it runs, and wait until it answers.

    `env` is for an engine that is not installed but runs from a folder: no service of systemd knows it.
    """
    if Path("/run/systemd/system").is_dir() and env is None:
        subprocess.run(["systemctl", "start", "docker"], check=True)
        process = None
    else:
        process = _start_detached(bounded_runtime, env or {})
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline:
        if engine := find():
            return engine
        # It ends as well where another set-up has started one meanwhile, which may not answer yet.
        if process and process.poll() is not None and not _runs():
            raise StepError(f"docker: dockerd ended with exit code {process.returncode}: {_last_words()} (log: {LOG})")
        time.sleep(0.2)  # between two looks at a condition that is bounded above
    raise StepError(f"docker: the engine was started but does not answer after {START_SECONDS} s; its log: {LOG}")


def _runs() -> bool:
    """True if an engine that this toolchain started is a process, whether it answers or not."""
    return PID_FILE.exists() and Path(f"/proc/{PID_FILE.read_text().strip()}").exists()


def _last_words() -> str:
    """Last line of the engine's log."""
    lines = LOG.read_text(encoding="utf-8", errors="replace").splitlines()
    return lines[-1].strip() if lines else "it has logged nothing"


def _start_detached(bounded_runtime: Path | None, env: Mapping[str, str]) -> subprocess.Popen[bytes]:
    RUN.mkdir(parents=True, exist_ok=True)
    command = ["dockerd", "--pidfile", str(PID_FILE), "--log-level", "warn"]
    if bounded_runtime:
        command += ["--add-runtime", f"bounded={bounded_runtime}", "--default-runtime", "bounded"]
    with open(LOG, "ab") as log:
        return subprocess.Popen(
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
