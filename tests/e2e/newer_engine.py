"""Docker Engine of Debian 13 in a root of its own, with containerd's image store, which this machine's engine lacks.

It has its own folder of images and its own socket. It makes no default bridge and no rules of iptables, which are the
other engine's. A Kind cluster of one node works without either; between two nodes the other engine's rules, which also
hold for what a bridge forwards, let nothing through.
"""

import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

SUITE = "trixie"
STARTS_SECONDS = 60
# In a mount namespace of its own. The root is pivoted into, not only changed: `docker exec` joins a container's mount
# namespace, and where the engine was only changed into its root, it comes out in that of the machine.
ENTER = """
set -eu
mount --make-rprivate /
mount --bind "$1" "$1"
mount --rbind /sys "$1/sys"
mount --rbind /dev "$1/dev"
mount -t tmpfs tmpfs "$1/run"
mkdir "$1/old" "$1/socket" "$1/images"
mount --bind "$2" "$1/socket"
mount --bind "$3" "$1/images"
cp /etc/resolv.conf "$1/etc/resolv.conf"
mount -t proc proc "$1/proc"
cd "$1"
pivot_root . old
umount -l old
exec dockerd --data-root /images --host unix:///socket/docker.sock --log-level warn --bridge none \
  --iptables=false --ip6tables=false --ip-forward=false --ip-masq=false --config-file /daemon.json
"""
CONFIGURATION = '{"features": {"containerd-snapshotter": true}}'


@contextmanager
def newer_engine(folder: Path) -> Iterator[str]:
    """Address of such an engine, whose files are in `folder` until it ends."""
    if not shutil.which("mmdebstrap"):
        pytest.skip("needs mmdebstrap, to make a root filesystem")
    root, socket, images = (folder / name for name in ("engine", "engine-socket", "engine-images"))
    _ = [made.mkdir() for made in (socket, images)]
    packages = "--include=docker.io,iptables,ca-certificates"
    subprocess.run(["mmdebstrap", "--quiet", "--variant=minbase", "--mode=root", packages, SUITE, root], check=True)
    (root / "daemon.json").write_text(CONFIGURATION)
    log = folder / "engine.log"
    command = ["unshare", "--mount", "sh", "-c", ENTER, "enter", root, socket, images]
    with open(log, "wb") as out:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=out, stderr=out, start_new_session=True)
    address = f"unix://{socket}/docker.sock"
    try:
        info = ["docker", "--host", address, "info", "--format", "{{.DriverStatus}}"]
        deadline = time.monotonic() + STARTS_SECONDS
        while "containerd.snapshotter" not in subprocess.run(info, capture_output=True, text=True, check=False).stdout:
            assert process.poll() is None and time.monotonic() < deadline, log.read_text()
            time.sleep(0.2)  # between two looks at a condition that is bounded above
        yield address
    finally:
        process.terminate()
        process.wait()
        _ = [shutil.rmtree(made) for made in (root, images)]
