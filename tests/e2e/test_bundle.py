"""End-to-end test of the air-gap bundle on a machine that has nothing but Python: own processes, no network.

`make bundle-test` makes the bundle and runs this on it. Needs root and mmdebstrap, as making the bundle does. The
kernel and its cgroups are this machine's; the Docker Engine, its images and all programs are the bundle's.
"""

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e import roots
from toolchain import versions
from toolchain.paths import CHECKOUT

UP_SECONDS = 1800
FOLDER = "/opt/workshop"
# Debian's smallest system with the Python that it calls python3: without make, zstd, iptables, Docker and ensurepip.
PACKAGES = ("python3",)
# In a mount, network and process namespace of its own. What it started ends with it.
ENTER = f"""{roots.MOUNTS}mount -t tmpfs tmpfs "$root/tmp"
cd "$root"
pivot_root . mnt
umount -l /mnt
exec env -i PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin sh -eu /script
"""
# A new network namespace's loopback device is down, and no program of a minimal Debian sets it up.
LOOPBACK = """
import fcntl, socket, struct
fcntl.ioctl(socket.socket(), 0x8914, struct.pack("16sh14x", b"lo", 1))
assert [name for _, name in socket.if_nameindex()] == ["lo"], socket.if_nameindex()
"""
SCRIPT = f"""
for program in make zstd docker dockerd iptables; do
  if command -v $program; then echo "$program is there, so this proves nothing" >&2; exit 1; fi
done
if python3 -c 'import ensurepip' 2>/dev/null; then echo "ensurepip is there" >&2; exit 1; fi
python3 -c '{LOOPBACK}'
sh /media/unpack {FOLDER}
cd {FOLDER}
make=bundle/engine/bin/make
trap '$make stop-engine' EXIT
$make up
echo "second set-up:"
$make setup
bash -c 'source ./activate && python -m checks.verify --stack phase1 --module 03'
$make down
echo "left: $(.tools/bin/docker ps --all --quiet | wc -l) containers"
"""


@pytest.fixture(scope="module")
def bundle() -> Path:
    if not (folder := os.environ.get("BUNDLE")):
        pytest.skip("needs a bundle, which takes half an hour to compress: `make bundle-test` makes one")
    return CHECKOUT / folder


@pytest.fixture
def root(tmp_path_factory: pytest.TempPathFactory, bundle: Path) -> Iterator[Path]:
    """A machine's root filesystem with the bundle's files in /media."""
    root = tmp_path_factory.mktemp("machine") / "root"
    roots.make(root, versions.DEBIAN, PACKAGES)
    for name in ("SHA256SUMS", "unpack", "unzstd"):
        shutil.copy(bundle / name, root / "media")
    for archive in bundle.glob("*.tar.zst*"):
        shutil.copy(archive, root / "media")
    yield root
    shutil.rmtree(root)


def test_stack_comes_up_from_the_bundle_on_a_machine_without_network_engine_or_make(root: Path):
    (root / "script").write_text(SCRIPT)
    command = ["unshare", "--net", "--mount", "--pid", "--fork", "--kill-child", "sh", "-c", ENTER, "enter", str(root)]
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=UP_SECONDS)
    print(done.stdout)
    assert done.returncode == 0
    assert "setup: everything is there" in done.stdout.partition("second set-up:")[2]
    assert "left: 0 containers" in done.stdout
    assert "engine: stopped" in done.stdout
