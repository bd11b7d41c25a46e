"""The first script of set-up, on machines and distributions that are not this one: what it installs, asks for, refuses.

It runs in a checkout of its own, with a PATH that holds nothing else and an os-release of that distribution's.
"""

import os
import shutil
import subprocess
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tests.unit.os_releases import OS_RELEASE
from toolchain import pypi
from toolchain.paths import CHECKOUT

UTILITIES = ("sh", "dirname", "sed", "sha256sum", "cat", "rm", "mkdir", "cp", "chmod", "ln")
# Python 3.<MINOR> with venv if there is a file `<its path>.venv`; its pip and uv write what they were called with.
PYTHON = """#!/bin/sh
set -eu
case "$*" in
  -V) echo "Python 3.@MINOR@.0" ;;
  "-c import sys, venv"*) [ -e "$0.venv" ] && [ @MINOR@ -ge 11 ] ;;
  "-m venv "*) mkdir -p "$3/bin"; cp "$0" "$3/bin/python"; cp @BIN@/uv "$3/bin/uv" ;;
  "-m pip config list") cat "@ROOT@/pip-config" ;;
  "-m pip install "*) ;;
  *) echo "python $*: not faked" >&2; exit 64 ;;
esac
"""
UV = '#!/bin/sh\necho "uv ${UV_DEFAULT_INDEX-none} ${SSL_CERT_FILE-none}" >>@ROOT@/calls\n'
# Installs the pythons of `apt` there by linking them.
APT = """#!/bin/sh
set -eu
echo "apt-get $*" >>@ROOT@/calls
[ "$1" = install ] || exit 0
shift 3
for package in "$@"; do
  case "$package" in
    *-venv) : >"@BIN@/${package%-venv}.venv" ;;
    *) [ -e "@BIN@/$package" ] || ln -s "@ROOT@/apt/$package" "@BIN@/$package" ;;
  esac
done
"""
APT_CACHE = '#!/bin/sh\nif [ -e "@ROOT@/apt/${2%-venv}" ]; then echo "Package: $2"; else exit 100; fi\n'


@dataclass
class Machine:
    """Machine with its own PATH, os-release and checkout."""

    root: Path
    env: dict[str, str] = field(default_factory=dict)

    @property
    def bin(self) -> Path:
        return self.root / "bin"

    def program(self, path: Path, text: str) -> None:
        text = text.replace("@ROOT@", str(self.root)).replace("@BIN@", str(self.bin))
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        path.chmod(0o755)

    def python(self, folder: Path, name: str, minor: int, venv: bool = False) -> None:
        self.program(folder / name, PYTHON.replace("@MINOR@", str(minor)))
        if venv:
            (folder / f"{name}.venv").touch()

    def apt(self, **pythons: int) -> None:
        """apt that has these Pythons, by name (python3, python3_11) and minor version."""
        self.program(self.bin / "apt-get", APT)
        self.program(self.bin / "apt-cache", APT_CACHE)
        for name, minor in pythons.items():
            self.python(self.root / "apt", name.replace("_", "."), minor)

    def user(self, uid: int, system: str = "Linux", architecture: str = "x86_64") -> None:
        self.program(self.bin / "id", f"#!/bin/sh\necho {uid}\n")
        self.program(self.bin / "uname", f"#!/bin/sh\n[ $1 = -s ] && echo {system} || echo {architecture}\n")

    def run(self) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [self.root / "checkout/toolchain/bootstrap"],
            env={"PATH": str(self.bin), "HOME": str(self.root), **self.env},
            capture_output=True,
            text=True,
            check=False,
        )

    @property
    def calls(self) -> list[str]:
        file = self.root / "calls"
        return file.read_text().splitlines() if file.exists() else []

    @property
    def installed(self) -> list[str]:
        start = "apt-get install -qy --no-install-recommends "
        return [line.removeprefix(start) for line in self.calls if line.startswith(start)]


def make(root: Path, system: str) -> Machine:
    machine = Machine(root)
    machine.bin.mkdir()
    for name in UTILITIES:
        real = shutil.which(name)
        assert real
        (machine.bin / name).symlink_to(real)
    (root / "os-release").write_text(OS_RELEASE[system])
    toolchain = root / "checkout" / "toolchain"
    toolchain.mkdir(parents=True)
    text = (CHECKOUT / "toolchain/bootstrap").read_text()
    assert "/etc/os-release" in text
    (toolchain / "bootstrap").write_text(text.replace("/etc/os-release", str(root / "os-release")))
    (toolchain / "bootstrap").chmod(0o755)
    shutil.copy(CHECKOUT / "toolchain/versions.py", toolchain)
    (root / "checkout/requirements.lock").write_text("locked\n")
    machine.program(machine.bin / "uv", UV)
    machine.user(uid=1000)
    return machine


def test_new_enough_python_makes_the_environment_once(tmp_path: Path):
    machine = make(tmp_path, "debian-12")
    machine.python(machine.bin, "python3", 11, venv=True)
    assert machine.run().returncode == 0
    assert machine.calls == ["uv none none"]
    assert machine.run().stdout == "" and machine.calls == ["uv none none"]


@pytest.mark.parametrize(
    ("system", "minor", "advice"),
    [
        ("debian-12", 11, "`sudo apt-get install python3 python3-venv`"),
        ("debian-13", 13, "`sudo apt-get install python3 python3-venv`"),
        ("debian-sid", 13, "`sudo apt-get install python3 python3-venv`"),
        ("debian-11", 9, "no package of this release is new enough; upgrade to Debian 12, Ubuntu 22.04 or newer"),
        ("ubuntu-20.04", 8, "no package of this release is new enough; upgrade to Debian 12, Ubuntu 22.04 or newer"),
        ("ubuntu-22.04", 10, "`sudo apt-get install python3.11 python3.11-venv` (component universe)"),
        ("mint-21", 10, "`sudo apt-get install python3.11 python3.11-venv` (component universe)"),
        ("ubuntu-24.04", 12, "`sudo apt-get install python3 python3-venv`"),
        ("fedora-43", 10, "`sudo dnf install python3`"),
        ("rhel-9", 9, "`sudo dnf install python3.11`"),
        ("rocky-10", 10, "`sudo dnf install python3`"),
        ("leap", 6, "`sudo zypper install python311`"),
        ("arch", 10, "`sudo pacman -S python`"),
        ("alpine", 10, "install it with your distribution's package manager"),
        ("none", 10, "install it with your distribution's package manager"),
    ],
)
def test_advice_is_what_the_distribution_has(tmp_path: Path, system: str, minor: int, advice: str):
    machine = make(tmp_path, system)
    machine.python(machine.bin, "python3", minor)
    done = machine.run()
    assert done.returncode == 1 and machine.calls == []
    name = OS_RELEASE[system].partition('"')[2].partition('"')[0] or "unknown distribution"
    assert done.stderr == (
        f"python: Python 3.11 or newer with venv is needed, and on PATH is: Python 3.{minor}.0 ({name}); {advice}\n"
    )


@pytest.mark.parametrize("minor", [11, 12, 14])
def test_fedora_needs_no_package_more(tmp_path: Path, minor: int):
    machine = make(tmp_path, "fedora-43")
    machine.python(machine.bin, "python3", minor, venv=True)
    assert machine.run().returncode == 0


def test_root_on_debian_gets_the_missing_venv(tmp_path: Path):
    machine = make(tmp_path, "debian-12")
    machine.user(uid=0)
    machine.apt(python3=11)
    machine.python(machine.bin, "python3", 11)
    done = machine.run()
    assert done.returncode == 0, done.stderr
    assert machine.installed == ["python3 python3-venv"]


def test_root_on_ubuntu_22_04_gets_the_python_of_universe(tmp_path: Path):
    machine = make(tmp_path, "ubuntu-22.04")
    machine.user(uid=0)
    machine.apt(python3=10, python3_11=11)
    machine.python(machine.bin, "python3", 10)
    done = machine.run()
    assert done.returncode == 0, done.stderr
    assert machine.installed == ["python3 python3-venv", "python3.11 python3.11-venv"]


def test_root_on_ubuntu_22_04_without_universe_is_told_so(tmp_path: Path):
    machine = make(tmp_path, "ubuntu-22.04")
    machine.user(uid=0)
    machine.apt(python3=10)
    machine.python(machine.bin, "python3", 10)
    done = machine.run()
    assert done.returncode == 1
    assert done.stderr.endswith("`sudo apt-get install python3.11 python3.11-venv` (component universe)\n")


def test_root_without_apt_is_told_what_to_install(tmp_path: Path):
    machine = make(tmp_path, "fedora-43")
    machine.user(uid=0)
    done = machine.run()
    assert done.returncode == 1 and "(Fedora Linux 43 (Workstation Edition)); `sudo dnf install python3`" in done.stderr


@pytest.mark.parametrize(
    ("system", "architecture"),
    [("Darwin", "arm64"), ("Darwin", "x86_64"), ("Linux", "aarch64"), ("MINGW64_NT-10.0", "x86_64")],
)
def test_machine_that_cannot_run_it_is_refused_before_anything_else(tmp_path: Path, system: str, architecture: str):
    machine = make(tmp_path, "none")
    machine.user(0, system, architecture)
    machine.apt(python3=12)
    machine.python(machine.bin, "python3", 12, venv=True)
    # A Mac has no sha256sum: nothing may come before the refusal.
    (machine.bin / "sha256sum").unlink()
    done = machine.run()
    assert done.returncode == 1 and machine.calls == []
    assert done.stderr.startswith(
        f"machine: this is {system} on {architecture}, and the workshop needs Linux on x86_64"
    )
    assert "WSL 2" in done.stderr and not (tmp_path / "checkout/.venv").exists()


@pytest.mark.parametrize(
    ("env", "pip", "wanted"),
    [
        ({}, {}, "none none"),
        ({}, {"index-url": "https://pip.example.com/simple"}, "https://pip.example.com/simple none"),
        ({}, {"cert": "/etc/company.pem"}, "none /etc/company.pem"),
        ({"PIP_INDEX_URL": "https://env"}, {"index-url": "https://pip"}, "https://env none"),
        ({"UV_INDEX_URL": "https://old", "PIP_INDEX_URL": "https://env"}, {}, "https://old none"),
        ({"UV_DEFAULT_INDEX": "https://uv"}, {"index-url": "https://pip"}, "https://uv none"),
        ({"SSL_CERT_FILE": "/mine.pem", "PIP_CERT": "/pips.pem"}, {"cert": "/etc/company.pem"}, "none /mine.pem"),
    ],
)
def test_index_that_only_pip_knows_is_handed_to_uv(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, env: dict[str, str], pip: dict[str, str], wanted: str
):
    machine = make(tmp_path, "debian-12")
    machine.python(machine.bin, "python3", 11, venv=True)
    machine.env |= env
    listed = {"global.timeout": "60", ":env:.index-url": "https://no", **{f"global.{key}": pip[key] for key in pip}}
    (tmp_path / "pip-config").write_text("".join(f"{key}='{value}'\n" for key, value in listed.items()))
    assert machine.run().returncode == 0
    assert machine.calls == [f"uv {wanted}"]
    # The steps that call uv later do the same.
    for name in ("UV_DEFAULT_INDEX", "UV_INDEX_URL", "PIP_INDEX_URL", "SSL_CERT_FILE", "PIP_CERT"):
        monkeypatch.delenv(name, raising=False)
    for name, value in env.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(pypi, "_pip_says", lambda key: pip.get(key, ""))
    given = pypi.uv_env()
    assert f"{given.get('UV_DEFAULT_INDEX', 'none')} {given.get('SSL_CERT_FILE', 'none')}" == wanted


def test_pips_own_configuration_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    file = tmp_path / "pip.conf"
    file.write_text("[global]\nindex-url = https://pip.example.com/simple\n")
    for name in [name for name in os.environ if name.startswith("PIP_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("PIP_CONFIG_FILE", str(file))
    pypi._pip_says.cache_clear()
    try:
        assert pypi._pip_says("index-url") == "https://pip.example.com/simple"
        assert pypi._pip_says("no-such-key") == ""
    finally:
        pypi._pip_says.cache_clear()
