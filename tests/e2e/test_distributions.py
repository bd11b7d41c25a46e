"""Set-up in bare roots of Debian: their own apt, Python, compiler and C library, and nothing that this machine has.

A root is what mmdebstrap makes as minbase, with make, git and authorities for HTTPS. Kernel and Docker Engine are this
machine's, and so are proxies and mirrors of packages. What upstream serves comes from this machine, by the stock way.
"""

import json
import os
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.e2e import roots, upstream_images
from tests.e2e.workspace import TRACEBACKS, Workspace
from toolchain import images, versions
from toolchain.paths import CHECKOUT

# Bare but for what a person has who has cloned the repository and calls make.
PACKAGES = ("make", "git", "ca-certificates")
SETUP_SECONDS = 900
# In a mount and process namespace of its own; what it started ends with it. The network is this machine's, since the
# servers and mirrors are.
ENTER = f"""{roots.MOUNTS}touch "$root/run/docker.sock"
mount --bind "$2" "$root/run/docker.sock"
exec chroot "$root" /bin/sh -eu /script
"""
SCRIPT = """
for program in python3 gcc go; do
  if command -v $program; then echo "$program is there, so this proves nothing" >&2; exit 1; fi
done
cd /checkout
make setup
echo "second set-up:"
make setup
.venv/bin/python -c 'import sys; print("python:", sys.version.split()[0], "of", sys.base_prefix)'
.tools/bin/pulumi version
.tools/bin/kind version
.tools/bin/kubectl version --client
cp .tools/images.json /result
"""
# Runs in the image of the agents, on Debian 12, with the driver's root that the bare root's own compiler made.
LOADS = """
import ctypes
ctypes.CDLL("libcuda.so.1")
nvml = ctypes.CDLL("libnvidia-ml.so.1")
nvml.nvmlErrorString.restype = ctypes.c_char_p
print(nvml.nvmlErrorString(0).decode())
"""
# Ends of the variables by which this machine's shell says by which way packages come.
WAYS = ("PROXY", "proxy", "CERT", "CERT_FILE", "CERT_DIR", "CA_BUNDLE", "INDEX_URL", "DEFAULT_INDEX", "GOSUMDB")


@dataclass(frozen=True)
class Debian:
    suite: str
    python: str


DEBIAN_12, DEBIAN_13 = Debian("bookworm", "3.11"), Debian("trixie", "3.13")


@contextmanager
def bare_root(debian: Debian, folder: Path) -> Iterator[Path]:
    """Root filesystem with a copy of this checkout and the engine's command."""
    root = folder / "root"
    roots.make(root, debian.suite, PACKAGES)
    # What a machine has of its network and of its company's authorities, and no program reads from elsewhere.
    for name in ("etc/resolv.conf", "etc/hosts", "etc/ssl/certs/ca-certificates.crt"):
        shutil.copy(Path("/", name), root / name)
    docker = shutil.which("docker")
    assert docker is not None  # set-up found the engine by it
    shutil.copy(docker, root / "usr/local/bin/docker")
    (root / "checkout").mkdir()
    workspace = Workspace.copy(CHECKOUT, root / "checkout")
    for link in (".tools", ".venv"):
        (workspace.root / link).unlink()
    try:
        yield root
    finally:
        shutil.rmtree(root)


def engines_socket() -> Path:
    endpoint = ["docker", "context", "inspect", "--format", "{{.Endpoints.docker.Host}}"]
    host = subprocess.run(endpoint, capture_output=True, text=True, check=True).stdout.strip()
    if not host.startswith("unix://"):
        pytest.skip(f"the Docker Engine is at {host}, and a root of its own is given a socket")
    return Path(host.removeprefix("unix://")).resolve()


def image_tags() -> set[str]:
    listed = ["docker", "image", "ls", "--format", "{{.Repository}}:{{.Tag}}"]
    return set(subprocess.run(listed, capture_output=True, text=True, check=True).stdout.split())


def load_driver(made: Mapping[str, str], folder: Path) -> str:
    """What a program on Debian 12 prints that loads the driver of the image gpu-sim, and asks it for a word."""
    container = subprocess.run(["docker", "create", made["gpu-sim"]], capture_output=True, text=True, check=True)
    name, driver = container.stdout.strip(), folder / "driver"
    subprocess.run(["docker", "cp", f"{name}:/driver-root", driver], capture_output=True, check=True)
    subprocess.run(["docker", "rm", name], capture_output=True, check=True)
    options = ("--volume", f"{driver}/usr/lib/x86_64-linux-gnu:/driver:ro", "--env", "LD_LIBRARY_PATH=/driver")
    command = ["docker", "run", "--rm", *options, "--entrypoint", "python3", made["gpu-agents"], "-c", LOADS]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


# Two to three minutes each, of the processor's too.
@pytest.mark.slow
@pytest.mark.parametrize("debian", [DEBIAN_12, DEBIAN_13], ids=lambda debian: debian.suite)
def test_stock_set_up_in_a_bare_root(debian: Debian, tmp_path: Path) -> None:
    before, engine = image_tags(), engines_socket()
    with upstream_images.served(tmp_path) as served, bare_root(debian, tmp_path) as root:
        ways = {name: value for name, value in os.environ.items() if name.endswith(WAYS)}
        path = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
        shell = {**ways, **served.shell, "PATH": path, "HOME": "/root"}
        (root / "script").write_text(SCRIPT)
        command = ["unshare", "--mount", "--pid", "--fork", "--kill-child", "sh", "-c", ENTER, "enter", root, engine]
        try:
            done = subprocess.run(
                command,
                env=shell,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                timeout=SETUP_SECONDS,
                check=False,
            )
            print(done.stdout)
            loaded = load_driver(json.loads((root / "result").read_text()), tmp_path) if done.returncode == 0 else ""
        finally:
            served.remove(*(tag for tag in image_tags() - before if tag.startswith(images.PREFIX)))
    assert done.returncode == 0 and not [words for words in TRACEBACKS if words in done.stdout], done.stdout
    first, _, second = done.stdout.partition("second set-up:")
    assert "python: installing python3 python3-venv" in first
    assert "packages: installing gcc, libc6-dev" in first
    assert "setup: everything is there" in second
    assert f"python: {debian.python}." in second and " of /usr\n" in second
    for tool in (f"v{versions.PULUMI}", f"kind v{versions.KIND}", f"Client Version: v{versions.KUBERNETES}"):
        assert tool in second
    assert loaded == "Success\n"
