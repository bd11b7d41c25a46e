"""Docker Engine for machines that have none: Debian's dockerd and docker, our containerd and runc, iptables, make.

They run from the bundle's own folder, with their own shared libraries but the machine's C library: glibc as new as that
of versions.DEBIAN (2.36 for bookworm) is needed.
"""

import json
import re
import shutil
from pathlib import Path

from toolchain import programs, versions
from toolchain.bundle import sbom
from toolchain.golang import Go
from toolchain.steps import Step, StepError, Work

PACKAGES = ("docker.io", "iptables", "make")
PROGRAMS = ("usr/sbin/dockerd", "usr/bin/docker", "usr/sbin/docker-proxy", "usr/bin/docker-init", "usr/bin/make")
# As in the node image, so that the archive holds them once. runc starts itself again with an empty environment, so it
# has to be one that needs no library.
OUR_PROGRAMS = {
    "containerd": ("containerd", "containerd-shim-runc-v2"),
    "runc": ("runc",),
    "runc-bounded": ("runc-bounded",),
}
XTABLES = ("iptables", "ip6tables")
# The machine's own: a second C library in one process does not work, and every machine has one.
GLIBC = re.compile(r"^(libc|libm|libdl|libpthread|librt|libresolv|ld-linux.*)\.so\.\d+$")
# dockerd starts iptables by name, with an environment that is for dockerd's libraries and not for these.
WRAPPER = """#!/bin/sh
# {program} with the libraries and extensions that came with it.
folder=$(dirname "$(dirname "$(readlink -f "$0")")")
LD_LIBRARY_PATH=$folder/lib XTABLES_LIBDIR=$folder/xtables exec "$folder/{program}" "$(basename "$0")" "$@"
"""


def step(go: Go) -> Step:
    """Step of the engine's folder: `bin`, `lib` and `iptables/{nft,legacy}`."""
    needs = tuple(p.step(go) for p in (*programs.NODE, programs.RUNC_BOUNDED) if p.name in OUR_PROGRAMS)

    def build(work: Work) -> None:
        root = work.scratch / "root"
        sbom.extract(work, root, PACKAGES)
        for folder in ("bin", "lib", "iptables/lib", "iptables/xtables"):
            (work.out / folder).mkdir(parents=True)
        for name in PROGRAMS:
            shutil.copy(root / name, work.out / "bin")
        for program, names in OUR_PROGRAMS.items():
            for name in names:
                shutil.copy(work.need(program) / name, work.out / "bin")
        libraries = {name for program in PROGRAMS for name in closure(work, root, root / program)}
        _copy_libraries(root, libraries, work.out / "lib")
        _iptables(work, root, work.out / "iptables")

    recipe = json.dumps([versions.DEBIAN, PACKAGES, PROGRAMS, OUR_PROGRAMS, XTABLES, WRAPPER])
    return Step("bundle-engine", build, recipe, needs=needs, expected_seconds=40)


def _iptables(work: Work, root: Path, out: Path) -> None:
    """Copy iptables for both ways into the kernel; which of them works is found out on the machine."""
    extensions = sorted((root / "usr/lib").glob("*/xtables/*.so"))
    for file in extensions:
        shutil.copy(file, out / "xtables")
    libraries = set[str]()
    for kind in ("nft", "legacy"):
        program = f"xtables-{kind}-multi"
        shutil.copy(root / "usr/sbin" / program, out)
        libraries |= closure(work, root, out / program)
        (out / kind).mkdir()
        for name in XTABLES:
            wrapper = out / kind / name
            wrapper.write_text(WRAPPER.format(program=program))
            wrapper.chmod(0o755)
    _copy_libraries(root, libraries, out / "lib")


def closure(work: Work, root: Path, program: Path) -> set[str]:
    """Names of all shared libraries that a program needs, directly or not, but those of the C library."""
    libraries, todo = set[str](), [program]
    while todo:
        text = work.run("readelf", "--dynamic", todo.pop()).decode()
        for name in re.findall(r"\(NEEDED\)\s+Shared library: \[(.+)\]", text):
            if not GLIBC.match(name) and name not in libraries:
                libraries.add(name)
                todo.append(_library(root, name))
    return libraries


def _library(root: Path, name: str) -> Path:
    for folder in (*(root / "lib").glob("*-linux-gnu"), *(root / "usr/lib").glob("*-linux-gnu")):
        if (folder / name).exists():
            return folder / name
    raise StepError(f"bundle-engine: {name} is in none of the packages that {', '.join(PACKAGES)} depend on")


def _copy_libraries(root: Path, names: set[str], folder: Path) -> None:
    for name in sorted(names):
        shutil.copy(_library(root, name), folder / name)
