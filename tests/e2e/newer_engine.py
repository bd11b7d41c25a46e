"""Docker Engine of Debian 13 in a root of its own, with containerd's image store, which this machine's engine lacks.

It has its own folder of images, its own socket and its own bridge: one that is told to have none removes `docker0`,
which is the other engine's. It makes no rules of iptables, which are the other's too. A Kind cluster of one node works
without them; between two nodes the other engine's rules, which also hold for what a bridge forwards, let nothing
through.
"""

import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.e2e import roots

SUITE = "trixie"
# Of the network for measurements between networks, RFC 2544, which nobody has on a machine.
BRIDGE, ADDRESS = "dra-newer", "198.18.0.1/24"
STARTS_SECONDS = 60
# In a mount namespace of its own. The root is pivoted into, not only changed: `docker exec` joins a container's mount
# namespace, and where the engine was only changed into its root, it comes out in that of the machine.
ENTER = f"""{roots.MOUNTS}
mkdir "$root/old" "$root/socket" "$root/images"
mount --bind "$2" "$root/socket"
mount --bind "$3" "$root/images"
cp /etc/resolv.conf "$root/etc/resolv.conf"
cd "$root"
pivot_root . old
umount -l old
exec dockerd --data-root /images --host unix:///socket/docker.sock --log-level warn --bridge "$4" \\
  --iptables=false --ip6tables=false --ip-forward=false --ip-masq=false --config-file /daemon.json
"""
CONFIGURATION = '{"features": {"containerd-snapshotter": true}}'


@contextmanager
def newer_engine(folder: Path) -> Iterator[str]:
    """Address of such an engine, whose files are in `folder` until it ends."""
    root, socket, images = (folder / name for name in ("engine", "engine-socket", "engine-images"))
    _ = [made.mkdir() for made in (socket, images)]
    roots.make(root, SUITE, ("docker.io", "iptables", "ca-certificates"))
    (root / "daemon.json").write_text(CONFIGURATION)
    for words in (("link", "add", BRIDGE, "type", "bridge"), ("address", "add", ADDRESS, "dev", BRIDGE)):
        subprocess.run(["ip", *words], check=True)
    log = folder / "engine.log"
    command = ["unshare", "--mount", "sh", "-c", ENTER, "enter", root, socket, images, BRIDGE]
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
        subprocess.run(["ip", "link", "delete", BRIDGE], check=True)
        _ = [shutil.rmtree(made) for made in (root, images)]
