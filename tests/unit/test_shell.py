"""State of the shell: what would take a stack elsewhere is refused, and `activate` and `make clean` see to the rest."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from checks.verify import OTHERS_OPTIONS
from machine import docker_engine, shell
from settings import Settings
from settings import stack as settings_stack
from toolchain.paths import CHECKOUT, STATE

VARIABLES = (
    *("PULUMI_BACKEND_URL", "PULUMI_STACK", "KIND_EXPERIMENTAL_PROVIDER", "DOCKER_HOST", "TMPDIR"),
    *("DOCKER_DEFAULT_PLATFORM", "DOCKER_CONTENT_TRUST", "PULUMI_CONFIG_PASSPHRASE"),
    *shell.PROVIDER_SWITCHES,
)
# What they would change: where `cd` goes, where Python looks for modules, whether it asserts, how it reads files.
OF_THE_SHELL = {"CDPATH": "decoy", "PYTHONSAFEPATH": "1", "PYTHONOPTIMIZE": "1", "PYTHONUTF8": "0"}
EXISTING = {
    "cluster": {"provider": "existing", "kubeconfig": str(CHECKOUT / "tests/golden/kubeconfig.yaml"), "context": "lab"},
    "gpu": {"nodes": [{"name": "a"}]},
}


@pytest.fixture(autouse=True)
def plain_shell(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(settings_stack, "STATE", tmp_path / ".state")


def seen(**raw: object) -> list[str]:
    findings = list(shell.look(Settings.parse(raw, "test")))
    assert all(not finding.ok and finding.remedy for finding in findings)
    return [finding.observed for finding in findings]


def test_shell_in_order_says_nothing() -> None:
    assert seen() == []
    assert seen(**EXISTING) == []


def test_another_backend_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PULUMI_BACKEND_URL", "file:///tmp/team-state")
    assert seen() == [f"PULUMI_BACKEND_URL is file:///tmp/team-state, and stacks are kept in {STATE}"]
    assert len(seen(**EXISTING)) == 1


def test_the_checkouts_own_backend_may_be_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PULUMI_BACKEND_URL", f"file://{STATE}")
    assert seen() == []


def test_another_container_engine_of_kind_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KIND_EXPERIMENTAL_PROVIDER", "podman")
    assert seen() == ["KIND_EXPERIMENTAL_PROVIDER is podman, and the nodes are Docker's"]
    assert seen(**EXISTING) == []


@pytest.mark.parametrize("name", shell.PROVIDER_SWITCHES)
def test_switch_that_drops_state_may_not_become_a_stacks(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(name, "true")
    assert seen(**EXISTING) == [f"{name} is true, and {shell.PROVIDER_SWITCHES[name][0]}"]
    assert seen() == []


def test_images_of_another_platform_are_refused_where_docker_makes_the_nodes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DOCKER_DEFAULT_PLATFORM", "linux/arm64")
    assert seen() == ["DOCKER_DEFAULT_PLATFORM is linux/arm64, and nodes are linux/amd64"]
    assert seen(**EXISTING) == []
    monkeypatch.setenv("DOCKER_DEFAULT_PLATFORM", "linux/amd64")
    assert seen() == []


@pytest.mark.parametrize(("value", "refused"), [("1", True), ("true", True), ("yes", True), ("0", False), ("", False)])
def test_signatures_that_no_image_has_are_not_asked_for(
    value: str, refused: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DOCKER_CONTENT_TRUST", value)
    said = [f"DOCKER_CONTENT_TRUST is {value}, and images that set-up made are signed by nobody"]
    assert seen() == (said if refused else [])
    assert seen(**EXISTING) == []


def test_another_docker_engine_is_refused_while_the_cluster_is_up(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(docker_engine, "engine_id", lambda: "there")
    assert seen() == []  # nothing is up
    folder = tmp_path / ".state" / "test"
    folder.mkdir(parents=True)
    (folder / docker_engine.ENGINE_FILE).write_text("here\n")
    monkeypatch.setenv("DOCKER_HOST", "tcp://build-machine:2375")
    (problem,) = seen()
    assert problem.startswith("this shell's Docker Engine (DOCKER_HOST is tcp://build-machine:2375) is not the one")
    monkeypatch.setattr(docker_engine, "engine_id", lambda: "here")
    assert seen() == []


def test_engine_that_does_not_answer_has_no_id(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DOCKER_HOST", "tcp://127.0.0.1:1")
    assert docker_engine.engine_id() == ""


def test_folder_for_temporary_files_has_to_be_there(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path / "absent"))
    assert seen() == [f"TMPDIR is {tmp_path}/absent, which is no folder that this user can write to"]
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    assert seen() == []


def test_encoding_other_than_utf_8_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shell.locale, "getpreferredencoding", lambda _: "ISO-8859-1")
    if not sys.flags.utf8_mode:
        assert seen() == ["the locale's encoding is ISO-8859-1, and files here are UTF-8"]


def bash(script: str, **variables: str) -> str:
    env = {name: value for name, value in os.environ.items() if name not in VARIABLES} | variables
    done = subprocess.run(["bash", "-c", script], cwd=CHECKOUT, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_activate_keeps_to_the_projects_backend_stack_and_engine() -> None:
    others = {"PULUMI_BACKEND_URL": "file:///tmp/x", "PULUMI_STACK": "x", "KIND_EXPERIMENTAL_PROVIDER": "podman"}
    assert bash("source ./activate; env", **others).count("/tmp/x") == 0
    names = "${PULUMI_BACKEND_URL-none} ${PULUMI_STACK-none} ${KIND_EXPERIMENTAL_PROVIDER-none}"
    assert bash(f"source ./activate; echo {names}", **others) == "none none none\n"


def decoy(folder: Path) -> dict[str, str]:
    """Variables of another shell, and a folder that CDPATH would lead to in place of the checkout's."""
    for name in (CHECKOUT.name, "toolchain"):
        (folder / name).mkdir()
    return {**OF_THE_SHELL, "CDPATH": str(folder)}


def test_activate_finds_the_checkout_and_its_python_whatever_the_shell_has(tmp_path: Path) -> None:
    above = f"cd {CHECKOUT.parent} && source {CHECKOUT.name}/activate >&2 && cd {CHECKOUT}"
    program = "import sys, settings; print(settings.__file__, sys.flags.optimize, sys.flags.utf8_mode)"
    told = bash(f"{above} && echo $PULUMI_HOME && python -c '{program}'", **decoy(tmp_path))
    assert told == f"{CHECKOUT}/.tools/pulumi\n{CHECKOUT}/settings/__init__.py 0 1\n"


@pytest.mark.parametrize("script", ["bootstrap", "bundle-python", "bundle/unpack"])
def test_scripts_of_setup_find_the_checkout_whatever_the_shell_has(script: str, tmp_path: Path) -> None:
    lines = (CHECKOUT / "toolchain" / script).read_text().splitlines()
    first = next(number for number, line in enumerate(lines) if "dirname" in line)
    copy = tmp_path / "checkout" / "toolchain" / script
    copy.parent.mkdir(parents=True)
    copy.write_text("\n".join([*lines[: first + 1], 'echo "${here-$PWD}"']))
    copy.chmod(0o755)
    (tmp_path / "elsewhere" / "toolchain" / "bundle").mkdir(parents=True)
    env = {**os.environ, "CDPATH": str(tmp_path / "elsewhere")}
    command = ["sh", f"toolchain/{script}"]
    done = subprocess.run(command, cwd=tmp_path / "checkout", env=env, capture_output=True, text=True, check=True)
    where = copy.parent if script.startswith("bundle/") else tmp_path / "checkout"
    assert done.stdout == f"{where}\n"


def test_make_hands_on_none_of_them(tmp_path: Path) -> None:
    (tmp_path / "Makefile").write_text(f"include {CHECKOUT}/Makefile\nshow:\n\t@env\n")
    elsewhere = {**decoy(tmp_path), "DOCKER_DEFAULT_PLATFORM": "linux/arm64"}
    env = {**os.environ, **elsewhere}
    make = ["make", "-C", str(tmp_path), "show"]
    done = subprocess.run(make, env=env, capture_output=True, text=True, check=True)
    handed = dict(line.split("=", 1) for line in done.stdout.splitlines() if "=" in line)
    assert {name: handed[name] for name in elsewhere if name in handed} == {"PYTHONUTF8": "1"}


def test_page_names_every_variable_that_is_looked_at() -> None:
    page = (CHECKOUT / "docs/reference/configuration.md").read_text().rpartition("### Variables of other projects")[2]
    named = set(re.findall(r"`([A-Z_0-9]+)`", page))
    unset = re.findall(r"^un(?:set|export) ([A-Z_0-9 ]+)$", (CHECKOUT / "activate").read_text(), re.M)
    unset += re.findall(r"^unexport (.+)$", (CHECKOUT / "Makefile").read_text(), re.M)
    looked_at = {name for line in unset for name in line.split()} | {*VARIABLES, *OTHERS_OPTIONS}
    assert looked_at - {"VIRTUAL_ENV"} <= named
    assert {"CDPATH", "PULUMI_STACK", "PYTHONOPTIMIZE"} <= looked_at


def test_setup_refuses_a_folder_for_temporary_files_that_is_not_there(tmp_path: Path) -> None:
    env = {**os.environ, "TMPDIR": str(tmp_path / "absent"), "DRA_WORKSHOP_CACHE": str(tmp_path / "cache")}
    command = [sys.executable, "-m", "toolchain", "setup"]
    done = subprocess.run(command, cwd=CHECKOUT, env=env, capture_output=True, text=True, check=False)
    remedy = "is no folder that this user can write to; make it, or `unset TMPDIR`"
    assert (done.returncode, done.stdout) == (1, f"error: TMPDIR: {tmp_path}/absent {remedy}\n")
    assert not (tmp_path / "cache").exists()


@pytest.mark.parametrize("target", ["up", "preview"])
def test_make_names_the_passphrase_of_another_project(target: str, tmp_path: Path) -> None:
    (tmp_path / "activate").write_text("")
    pulumi = tmp_path / "pulumi"
    pulumi.write_text("#!/bin/sh\necho 'error: incorrect passphrase' >&2\nexit 255\n")
    pulumi.chmod(0o755)
    (tmp_path / "Makefile").write_text(f"include {CHECKOUT}/Makefile\n")
    path = {"PATH": f"{tmp_path}:{os.environ['PATH']}"}
    make = ["make", "-C", str(tmp_path), "--old-file=setup", target]
    for passphrase, named in (("", False), ("of-another-project", True)):
        env = {**os.environ, **path, "PULUMI_CONFIG_PASSPHRASE": passphrase}
        done = subprocess.run(make, env=env, capture_output=True, text=True, check=False)
        assert done.returncode == 2
        assert ("`unset PULUMI_CONFIG_PASSPHRASE`" in done.stderr) == named
        assert "of-another-project" not in done.stderr


@pytest.mark.parametrize("values", [{"LC_ALL": "C", "PYTHONCOERCECLOCALE": "0"}, {"LC_ALL": "POSIX"}])
def test_after_activate_python_reads_utf_8_in_any_locale(values: dict[str, str]) -> None:
    program = "from settings import Settings; print(Settings.of_stack('phase1').stack, open('README.md').encoding)"
    assert bash(f'source ./activate; python -c "{program}"', **values).lower() == "phase1 utf-8\n"


def test_clean_refuses_while_a_cluster_of_the_checkout_is_up(tmp_path: Path) -> None:
    (tmp_path / "Makefile").write_text((CHECKOUT / "Makefile").read_text())
    (tmp_path / "activate").write_text("")
    cluster = tmp_path / ".state" / "phase1"
    cluster.mkdir(parents=True)
    (cluster / "incarnation").write_text("1")
    make = ["make", "-C", str(tmp_path), "clean"]
    done = subprocess.run(make, capture_output=True, text=True, check=False)
    assert done.returncode != 0
    assert "still up: phase1" in done.stderr
    assert cluster.exists()
    (cluster / "incarnation").unlink()
    subprocess.run(make, capture_output=True, text=True, check=True)
    assert not (tmp_path / ".state").exists()
