"""Root filesystems of Debian beside this machine's own, in which a test has what another machine has."""

import os
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

import pytest

# Begin of a script whose first argument is the root, in a mount namespace of its own: what every program needs there.
MOUNTS = """
set -eu
root=$1
mount --make-rprivate /
mount --bind "$root" "$root"
mount -t proc proc "$root/proc"
mount --rbind /sys "$root/sys"
mount --rbind /dev "$root/dev"
mount -t tmpfs tmpfs "$root/run"
"""


def make(root: Path, suite: str, packages: Sequence[str]) -> None:
    """Make Debian's smallest system with these packages more; skips the test where that cannot be done."""
    if os.geteuid() != 0 or not shutil.which("mmdebstrap"):
        pytest.skip("needs root and mmdebstrap, to make a root filesystem")
    options = ("--variant=minbase", "--mode=root", f"--include={','.join(packages)}")
    subprocess.run(["mmdebstrap", "--quiet", *options, suite, root], check=True)
