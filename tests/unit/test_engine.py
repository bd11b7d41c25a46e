"""Docker Engines of other kinds than the machine's own, and what a distribution lacks, each with what helps."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.unit.os_releases import fields
from toolchain import __main__ as command
from toolchain import debian, engine, images
from toolchain.engine import Endpoint, Engine
from toolchain.steps import StepError

DESKTOP = "unix:///home/me/.docker/desktop/docker.sock"
ROOTLESS = "unix:///run/user/1000/docker.sock"


@pytest.fixture
def client(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """A `docker` that no engine answers, with the context `<name> <address>`, and no dockerd."""
    (tmp_path / "bin").mkdir()
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}")
    monkeypatch.delenv("DOCKER_HOST", raising=False)
    monkeypatch.setattr(engine, "SOCKETS", (tmp_path / "docker.sock", Path("/var/run/docker.sock")))
    monkeypatch.setattr(engine, "WSL_DESKTOP", str(tmp_path / "wsl"))

    def install(context: str) -> None:
        program = tmp_path / "bin" / "docker"
        program.write_text(f'#!/bin/sh\n[ "$1" = context ] || exit 1\necho "{context}"\n')
        program.chmod(0o755)

    return install


def dockerd(folder: Path) -> None:
    (folder / "bin" / "dockerd").write_text("#!/bin/sh\n")
    (folder / "bin" / "dockerd").chmod(0o755)


def test_stopped_docker_desktop_is_to_be_started_and_nothing_installed(client: Callable[[str], None]):
    client(f"desktop-linux {DESKTOP}")
    assert engine.explain_missing() == (
        f"docker: Docker Desktop does not answer at {DESKTOP} (context desktop-linux); start it by its icon or "
        "`systemctl --user start docker-desktop`, or use another engine (`docker context use default`)"
    )
    assert not engine.to_install()


def test_engine_of_another_context_is_named(client: Callable[[str], None]):
    client(f"rootless {ROOTLESS}")
    text = engine.explain_missing()
    assert text.startswith(f"docker: no engine answers at {ROOTLESS} (context rootless); start that one")
    assert "docker context use default" in text and not engine.to_install()


def test_engine_of_docker_host_is_named(client: Callable[[str], None], monkeypatch: pytest.MonkeyPatch):
    client("default unix:///var/run/docker.sock")
    monkeypatch.setenv("DOCKER_HOST", "tcp://10.0.0.5:2376")
    text = engine.explain_missing()
    assert "no engine answers at tcp://10.0.0.5:2376 (DOCKER_HOST=tcp://10.0.0.5:2376)" in text
    assert "unset DOCKER_HOST" in text and not engine.to_install()


def test_docker_desktop_that_does_not_serve_a_distribution_of_wsl_is_told(
    client: Callable[[str], None], tmp_path: Path
):
    (tmp_path / "wsl").mkdir()
    assert "switch the distribution on in its settings" in engine.explain_missing()
    assert not engine.to_install()
    client("default unix:///var/run/docker.sock")
    assert "switch the distribution on in its settings" in engine.explain_missing()


def test_machine_without_any_engine_gets_one(client: Callable[[str], None], tmp_path: Path):
    assert engine.to_install() and "no Docker Engine is installed" in engine.explain_missing()
    client("default unix:///var/run/docker.sock")
    assert engine.to_install()
    dockerd(tmp_path)
    assert not engine.to_install() and "no Docker Engine answers this user; start it" in engine.explain_missing()


@pytest.mark.parametrize("address", ["unix:///var/run/docker.sock", "unix:///run/docker.sock"])
def test_both_names_of_the_systems_socket_are_the_default(monkeypatch: pytest.MonkeyPatch, address: str):
    assert Endpoint(address, "context default").is_default
    assert not Endpoint(DESKTOP, "context desktop-linux").is_default


@pytest.mark.parametrize(
    ("root", "client", "refused"),
    [
        ("/var/snap/docker/common/var-lib-docker", "/usr/bin/docker", True),
        ("/var/lib/docker", "/snap/bin/docker", True),
        ("/var/lib/docker", "/usr/bin/docker", False),
        ("/var/snapshots/docker", "/usr/bin/docker", False),
        ("/home/me/snap/docker", "/usr/local/bin/docker", False),
    ],
)
def test_docker_from_a_snap_is_refused_with_the_way_out(root: str, client: str, refused: bool):
    found = Engine("28.1.1", "2", Path(root))
    if not refused:
        engine.refuse_snap(found, client)
        return
    with pytest.raises(StepError, match=r"is a snap, which sees neither hidden folders .*snap remove docker"):
        engine.refuse_snap(found, client)


@pytest.mark.parametrize(
    ("way", "cgroup", "warned"), [("stock", "1", True), ("stock", "2", False), ("built", "1", False)]
)
def test_upstreams_node_on_cgroup_v1_is_told_at_set_up(way: str, cgroup: str, warned: bool):
    warning = engine.cgroup_warning(Engine("28.1.1", cgroup, Path("/var/lib/docker")), way)
    assert bool(warning) == warned
    assert not warning or ("systemd.unified_cgroup_hierarchy=1" in warning and "SOURCE=built" in warning)


def elsewhere(
    monkeypatch: pytest.MonkeyPatch, folder: Path, release: dict[str, str], libc: str, *programs: str
) -> None:
    """A distribution without apt, with these programs; gcc tells where the static C library is."""
    (folder / "bin").mkdir()
    for name in programs:
        (folder / "bin" / name).write_text(f"#!/bin/sh\necho {libc}\n")
        (folder / "bin" / name).chmod(0o755)
    monkeypatch.setenv("PATH", str(folder / "bin"))
    monkeypatch.setattr(debian.platform, "freedesktop_os_release", lambda: release)


FEDORA = {"ID": "fedora"}
RHEL = {"ID": "rhel", "ID_LIKE": "fedora"}
LEAP = {"ID": "opensuse-leap", "ID_LIKE": "suse opensuse"}


@pytest.mark.parametrize(
    ("release", "programs", "libc", "message"),
    [
        (FEDORA, ("gcc", "make"), "libc.a", "the static C library (libc.a) missing; `sudo dnf install gcc make"),
        (FEDORA, (), "", "gcc, make missing; `sudo dnf install gcc make glibc-devel glibc-static`"),
        (RHEL, ("make",), "", "gcc missing; `sudo dnf --enablerepo=crb install"),
        (LEAP, ("gcc", "make"), "libc.a", "missing; `sudo zypper install gcc make glibc-devel glibc-devel-static`"),
        ({"ID": "void"}, ("gcc",), "/usr/lib/libc.a", "make missing; install them with your distribution's"),
    ],
)
def test_distribution_without_a_static_c_library_is_told_its_package_before_anything_is_downloaded(
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    release: dict[str, str],
    programs: tuple[str, ...],
    libc: str,
    message: str,
):
    elsewhere(monkeypatch, tmp_path, release, libc, *programs)
    monkeypatch.setattr(engine, "debian_like", lambda: False)
    with pytest.raises(StepError) as caught:
        command._require_packages(command.Console(), "stock", "it answers")
    assert message in str(caught.value)


def test_distribution_with_everything_passes(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    elsewhere(monkeypatch, tmp_path, FEDORA, "/usr/lib64/libc.a", "gcc", "make")
    monkeypatch.setattr(engine, "debian_like", lambda: False)
    command._require_packages(command.Console(), "stock", "it answers")


def test_built_that_cannot_be_says_what_was_in_the_way_of_stock(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(debian, "is_debian", lambda: False)
    with pytest.raises(StepError, match=r"built \(https://kind\.example: timed out\) makes .*SOURCE=auto"):
        command._require_packages(command.Console(), "built", "https://kind.example: timed out")


@pytest.mark.parametrize("instead", ["", "name upstream's"])
def test_root_filesystem_is_refused_where_apt_has_no_debian(monkeypatch: pytest.MonkeyPatch, instead: str):
    monkeypatch.setattr(debian.platform, "freedesktop_os_release", lambda: {"ID": "ubuntu", "ID_LIKE": "debian"})
    with pytest.raises(StepError) as caught:
        debian.require_root_filesystems("vllm-image", instead)
    text = str(caught.value)
    assert text.startswith("vllm-image: it is made of packages of Debian bookworm, and this machine lacks Debian 12")
    assert (f", or {instead}" in text) == bool(instead)


@pytest.mark.parametrize(
    ("system", "has_apt", "makes_root_filesystems"),
    [
        *(("debian-12", True, True), ("debian-13", True, True), ("debian-sid", True, True)),
        *(("debian-11", True, False), ("ubuntu-22.04", True, False), ("ubuntu-24.04", True, False)),
        *(("mint-21", True, False), ("fedora-43", False, False), ("rocky-10", False, False), ("none", False, False)),
    ],
)
def test_distribution_is_known_by_its_os_release(
    monkeypatch: pytest.MonkeyPatch, system: str, has_apt: bool, makes_root_filesystems: bool
):
    monkeypatch.setattr(debian.platform, "freedesktop_os_release", lambda: fields(system))
    assert (engine.debian_like(), debian.is_debian()) == (has_apt, makes_root_filesystems)


@pytest.mark.parametrize(
    ("system", "told"),
    [
        ("fedora-43", "`sudo dnf install gcc make glibc-devel glibc-static`"),
        ("rhel-9", "`sudo dnf --enablerepo=crb install gcc make glibc-devel glibc-static`"),
        ("rocky-10", "`sudo dnf --enablerepo=crb install gcc make glibc-devel glibc-static`"),
        ("leap", "`sudo zypper install gcc make glibc-devel glibc-devel-static`"),
        ("arch", "`sudo pacman -S gcc make`"),
        ("alpine", "install them with your distribution's package manager"),
        ("none", "install them with your distribution's package manager"),
    ],
)
def test_compiler_is_told_by_the_name_that_the_distribution_gives_it(
    monkeypatch: pytest.MonkeyPatch, system: str, told: str
):
    monkeypatch.setattr(debian.platform, "freedesktop_os_release", lambda: fields(system))
    assert debian.how_to_install_elsewhere() == told


def test_bundle_is_refused_on_ubuntu_before_a_step_is_made(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(debian.platform, "freedesktop_os_release", lambda: {"ID": "ubuntu", "ID_LIKE": "debian"})
    monkeypatch.setattr(debian.shutil, "which", lambda program: f"/usr/bin/{program}")
    with pytest.raises(StepError, match="bundle: it is made of packages of Debian bookworm"):
        debian.require_for_bundle()


def test_attestations_are_asked_of_no_builder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    """buildx reads the variable, and the older builder would refuse the option."""

    class Recorder:
        def run(self, *argv: object, env: dict[str, str]) -> None:
            self.argv, self.env = argv, env

    work = Recorder()
    images._docker_build(work, tmp_path, tmp_path / "Dockerfile", "it:v1")  # pyrefly: ignore[bad-argument-type]
    assert work.env == {"BUILDX_NO_DEFAULT_ATTESTATIONS": "1"}
    assert not any("provenance" in str(word) for word in work.argv)


@pytest.fixture
def startable(client: Callable[[str], None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """A `dockerd` that is this script of a shell, on a machine without systemd, and no engine that answers."""
    client("default unix:///var/run/docker.sock")
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:/usr/bin:/bin")
    for name, path in {"RUN": tmp_path, "PID_FILE": tmp_path / "dockerd.pid", "LOG": tmp_path / "dockerd.log"}.items():
        monkeypatch.setattr(engine, name, path)

    def install(script: str) -> None:
        dockerd(tmp_path)
        (tmp_path / "bin" / "dockerd").write_text(f"#!/bin/sh\n{script}\n")

    return install


def test_engine_that_cannot_start_is_told_at_once_with_its_last_words(startable: Callable[[str], None]):
    startable("echo starting; echo 'libdevmapper.so.1: cannot open shared object file' >&2; exit 127")
    with pytest.raises(StepError, match=r"dockerd ended with exit code 127: libdevmapper\.so\.1: cannot open shared"):
        engine.start(None, {})


def test_engine_that_ends_since_another_was_started_is_waited_for(
    startable: Callable[[str], None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    startable("echo 'pid file found, ensure docker is not running' >&2; exit 1")
    (tmp_path / "dockerd.pid").write_text(f"{os.getpid()}\n")  # a process that lives
    answers = iter([None, None, Engine("29.0.0", "2", tmp_path)])
    monkeypatch.setattr(engine, "find", lambda: next(answers))
    assert engine.start(None, {}).version == "29.0.0"


def test_engine_that_never_answers_is_given_up(startable: Callable[[str], None], monkeypatch: pytest.MonkeyPatch):
    startable("exec sleep 3")
    monkeypatch.setattr(engine, "START_SECONDS", 1)
    with pytest.raises(StepError, match=r"the engine was started but does not answer after 1 s; its log: "):
        engine.start(None, {})
