"""Debian packages that the machine needs, and root filesystems for images."""

import os
import platform
import shutil
import subprocess
from pathlib import Path

from toolchain import versions
from toolchain.steps import Step, StepError, Work

OLDEST_DEBIAN = 12  # which has the Python that is needed, and apt keys of bookworm
# What the machine needs to build: a C compiler, runc's seccomp library, root filesystems.
BUILD_PACKAGES = ("gcc", "make", "libc6-dev", "pkg-config", "libseccomp-dev", "mmdebstrap")

# The same elsewhere, by the start of ID or ID_LIKE in os-release. glibc of Arch has its static library.
COMPILING = {
    "fedora": "sudo dnf install gcc make glibc-devel glibc-static",
    "rhel": "sudo dnf --enablerepo=crb install gcc make glibc-devel glibc-static",
    "suse": "sudo zypper install gcc make glibc-devel glibc-devel-static",
    "opensuse": "sudo zypper install gcc make glibc-devel glibc-devel-static",
    "arch": "sudo pacman -S gcc make",
}

NODE_PACKAGES = (
    *("systemd", "conntrack", "iptables", "nftables", "iproute2", "ethtool", "util-linux", "mount", "kmod"),
    *("libseccomp2", "pigz", "bash", "ca-certificates", "curl", "jq", "procps", "hostname", "socat"),
)
# kube-proxy's rules, and the shell and mount that the chart of NVIDIA's driver calls in its pods.
BASE_PACKAGES = ("iptables", "nftables", "bash", "coreutils", "findutils", "mount", "sed", "grep")
# One static program, of which the image of NVIDIA's driver has wget.
BUSYBOX_PACKAGES = ("busybox-static",)
# Python without a shell, packages or a compiler, and the library that wheels of C++ need.
PYTHON_PACKAGES = ("python3-minimal", "libpython3-stdlib", "libstdc++6")
# vLLM's Python, and the compiler and headers with which Triton makes its launchers at run time.
VLLM_PACKAGES = ("python3", "libpython3-dev", "libstdc++6", "gcc", "libc6-dev")
PYTHON_HOOKS = (
    # What came along for installing packages, and what the standard library has for developers.
    'find "$1"/bin "$1"/sbin "$1"/usr/bin "$1"/usr/sbin ! -type d ! -name "python3*" -delete',
    'rm -rf "$1"/usr/lib/python3*/test "$1"/usr/lib/python3*/pydoc_data "$1"/var/lib/dpkg',
    # CDI's update-ldcache hook reads this file.
    ': >"$1"/etc/ld.so.conf',
)


def missing_packages(packages: tuple[str, ...]) -> list[str]:
    """Names of `packages` that are not installed."""
    listing = subprocess.run(
        ["dpkg-query", "-W", "-f", "${Package} ${db:Status-Abbrev}\n", *packages],
        capture_output=True,
        text=True,
        check=False,
    ).stdout
    installed = {line.split()[0] for line in listing.splitlines() if line.split()[1:] == ["ii"]}
    return [package for package in packages if package not in installed]


def missing_for_compiling() -> list[str]:
    """What a distribution without dpkg lacks for our C programs: compiler, make, the C library to link statically."""
    lacking = [program for program in ("gcc", "make") if not shutil.which(program)]
    if "gcc" not in lacking:
        # Told by its path where it is there, and by its bare name where it is not.
        command = ["gcc", "-print-file-name=libc.a"]
        told = subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()
        lacking += [] if Path(told).is_absolute() else ["the static C library (libc.a)"]
    return lacking


def how_to_install_elsewhere() -> str:
    """Command that brings what `missing_for_compiling` names, on the distributions whose packages are known."""
    release = platform.freedesktop_os_release() if Path("/etc/os-release").exists() else {}
    names = [release.get("ID", ""), *release.get("ID_LIKE", "").split()]
    for name in names:
        for start, command in COMPILING.items():
            if name.startswith(start):
                return f"`{command}`"
    return "install them with your distribution's package manager"


def is_debian() -> bool:
    """True on Debian 12 or newer: the machine's own apt sources and keys are those of `versions.DEBIAN`.

    Testing and unstable have no VERSION_ID, and are newer than any release.
    """
    release = platform.freedesktop_os_release() if Path("/etc/os-release").exists() else {}
    number = release.get("VERSION_ID", "").partition(".")[0]
    return release.get("ID") == "debian" and (not number.isdecimal() or int(number) >= OLDEST_DEBIAN)


def require_root_filesystems(what: str, instead: str = "") -> None:
    """Refuse what takes a root filesystem where none can be made; `instead` is what does without one."""
    lacking = [] if is_debian() else ["Debian 12 or newer: elsewhere apt's sources have no such packages"]
    lacking += [] if os.geteuid() == 0 else ["root"]
    lacking += [] if shutil.which("mmdebstrap") else ["the package mmdebstrap"]
    if lacking:
        raise StepError(
            f"{what}: it is made of packages of Debian {versions.DEBIAN}, and this machine lacks {', '.join(lacking)}; "
            f"run it as root on Debian 12 or newer, such as in a virtual machine{f', or {instead}' if instead else ''}"
        )


def require_for_bundle() -> None:
    """Refuse to make a bundle where it cannot be made, or a program for it is missing that building does not need."""
    if not is_debian():
        require_root_filesystems("bundle")
    programs = {"mmdebstrap": "mmdebstrap", "zstd": "zstd", "readelf": "binutils", "git": "git"}
    missing = sorted(package for program, package in programs.items() if not shutil.which(program))
    if missing or os.geteuid() != 0:
        raise StepError(
            "bundle: its Docker Engine is made of Debian packages, which needs root on Debian 12 or newer, and "
            f"{', '.join(programs.values())}; {', '.join(missing) or 'root'} is missing; "
            f"`sudo apt-get install {' '.join(programs.values())}`, then run `make bundle` as root"
        )


def install(packages: list[str], log: Path) -> None:
    """Install packages with apt; needs root."""
    log.parent.mkdir(parents=True, exist_ok=True)
    env = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    with open(log, "wb") as out:
        for command in (["update", "-q"], ["install", "-qy", "--no-install-recommends", *packages]):
            done = subprocess.run(["apt-get", *command], stdout=out, stderr=subprocess.STDOUT, env=env, check=False)
            if done.returncode:
                raise StepError(f"apt-get {' '.join(command)} failed; its log: {log}")


def root_filesystem(
    name: str,
    packages: tuple[str, ...],
    expected_seconds: int,
    only_extract: bool = False,
    more_hooks: tuple[str, ...] = (),
    suite: str = versions.DEBIAN,
) -> Step:
    """Step of a tar of a minimal Debian with `packages`, from the machine's own apt sources.

    `only_extract`: the packages and what they depend on and nothing else, without running their scripts.
    """
    hooks = (
        # Documentation, locales and caches: half the size, and no program here reads them.
        'rm -rf "$1"/usr/share/doc/* "$1"/usr/share/man/* "$1"/usr/share/locale/* "$1"/usr/share/info/*',
        'rm -rf "$1"/var/cache/apt/* "$1"/var/lib/apt/lists/* "$1"/var/log/* "$1"/var/cache/debconf/*',
        'rm -rf "$1"/etc/hostname "$1"/etc/resolv.conf "$1"/etc/machine-id "$1"/etc/apt/sources.list*',
        # An image is made once and never installs a package, so what only packages' scripts call goes too: Perl
        # and apt. So do character sets, time zones and the hardware database, which nothing here looks up.
        'rm -rf "$1"/usr/bin/perl* "$1"/usr/share/perl* "$1"/usr/lib/*/perl* "$1"/usr/lib/*/libperl.so*',
        'rm -rf "$1"/usr/bin/apt* "$1"/usr/lib/apt "$1"/usr/lib/*/libapt-* "$1"/var/lib/dpkg/info',
        'rm -rf "$1"/usr/lib/*/gconv "$1"/usr/share/zoneinfo "$1"/usr/lib/udev/hwdb* "$1"/usr/share/bash-completion',
        *more_hooks,
    )
    # Where mmdebstrap only extracts, it runs no hook after those of the extracting.
    variant, when = ("extract", "extract") if only_extract else ("minbase", "customize")

    def build(work: Work) -> None:
        work.run(
            *("mmdebstrap", f"--variant={variant}", "--mode=root", f"--include={','.join(packages)}"),
            *(f"--{when}-hook={hook}" for hook in hooks),
            *(suite, work.out / "rootfs.tar"),
        )

    recipe = "\n".join((suite, *packages, *hooks, *(("extract",) if only_extract else ())))
    return Step(name, build, recipe, expected_seconds=expected_seconds)
