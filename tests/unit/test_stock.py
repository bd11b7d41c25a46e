"""The stock way's tools and plugins, end to end against a server that is laid out like upstream's sites."""

import io
import os
import re
import subprocess
import tarfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest
from rich.console import Console

from tests.unit import upstream
from tests.unit.upstream import (
    Answer,
    Upstream,
    archive,
    dies,
    good,
    of_this_checkout,
    page,
    plugin_path,
    releases,
    sha256,
    status,
)
from toolchain import download, plan, source, versions
from toolchain.golang import Go
from toolchain.paths import BIN, PULUMI_HOME
from toolchain.progress import Progress
from toolchain.steps import Interrupted, Runner, Step, StepError, Store

# Stands for the CLI: installs a plugin's archive as `pulumi plugin install --file` does.
CLI = b"""#!/bin/sh
set -eu
[ "$1 $2 $3" = "plugin install resource" ] && [ "$6" = --file ]
to=$PULUMI_HOME/plugins/resource-$4-v$5
mkdir -p "$to"
tar -xzf "$7" -C "$to"
"""
PROGRAMS = {"pulumi": CLI, "pulumi-language-python": b"host", "pulumi-language-python-exec": b"exec", "other": b"more"}
PLUGINS = {plugin: f"plugin {plugin[0]}".encode() for plugin in source.PLUGINS}


@pytest.fixture(autouse=True)
def short_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(download, "PAUSE_SECONDS", 0.01)


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Upstream]:
    with releases(PROGRAMS, b"kind", b"kubectl", PLUGINS) as made:
        monkeypatch.setenv(download.MIRROR, made.address)
        yield made


@pytest.fixture
def said() -> io.StringIO:
    return io.StringIO()


@pytest.fixture
def runner(tmp_path: Path, said: io.StringIO) -> Runner:
    (tmp_path / "store").mkdir()
    return Runner(Store(tmp_path / "store"), Progress(Console(file=said, width=300)))


def steps() -> dict[str, Step]:
    wanted = plan.stock(Go(Path("go"), f"go{versions.GO}"))
    return {step.name: step for step in (*wanted.tools, *wanted.plugins.values())}


def contents(runner: Runner, step: Step) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in runner.store.path(step).iterdir()}


def test_tools_and_plugins_are_those_of_upstream(server: Upstream, runner: Runner, said: io.StringIO):
    made = steps()
    runner.run(list(made.values()))
    assert contents(runner, made["stock-pulumi"]) == PROGRAMS
    assert contents(runner, made["stock-kind"]) == {"kind": b"kind"}
    assert contents(runner, made["stock-kubectl"]) == {"kubectl": b"kubectl"}
    for (name, version), content in PLUGINS.items():
        step = next(step for step in made.values() if step.name == f"stock-pulumi-resource-{name}")
        assert contents(runner, step) == {f"pulumi-resource-{name}": content}, version
    for step in made.values():
        assert all(os.access(path, os.X_OK) for path in runner.store.path(step).iterdir()), step.name
    # A file that is not a terminal gets a line with size and speed for each.
    lines = [line.strip() for line in said.getvalue().splitlines()]
    assert len([line for line in lines if line.startswith("kind-linux-amd64: 0.0 MB, ") and "MB/s" in line]) == 1
    assert server.asked.count(f"GET {upstream.KIND_RELEASE}") == 1


def test_terminal_shows_bytes_and_speed_while_a_download_runs(server: Upstream, tmp_path: Path):
    content, shown = b"x" * 3_000_000, list[str]()
    progress = Progress(Console(file=io.StringIO(), width=200, force_terminal=True), slowness=lambda: 1)
    (tmp_path / "store").mkdir()

    def looks(request: upstream.Request) -> None:
        request.head(200, len(content))
        request.body(content[:2_000_000])
        deadline = time.monotonic() + 20
        while "2.0 of 3.0 MB" not in (text := rendered(progress)):
            assert time.monotonic() < deadline
            time.sleep(0.02)  # between two looks at a condition that is bounded above
        shown.append(text)
        request.body(content[2_000_000:])

    server.answers[upstream.KUBECTL] = looks
    server.serve({f"{upstream.KUBECTL}.sha256": sha256(content).encode()})
    Runner(Store(tmp_path / "store"), progress).run([steps()["stock-kubectl"]])
    assert re.search(r"stock-kubectl +\S+ of about 10s, 2\.0 of 3\.0 MB, \d+\.\d MB/s", shown[0])


def rendered(progress: Progress) -> str:
    console = Console(file=io.StringIO(), width=200)
    console.print(progress._table())
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def test_links_of_the_plan_name_what_the_steps_made(server: Upstream, runner: Runner):
    wanted = plan.stock(Go(Path("go"), f"go{versions.GO}"))
    runner.run([*wanted.tools, *wanted.plugins.values()])
    links = {link.name: target for link, target in wanted.links(runner.store).items() if "chart" not in str(target)}
    assert sorted(links) == sorted(
        (*source.PULUMI_PROGRAMS, "kind", "kubectl", *(f"pulumi-resource-{name}" for name, _ in PLUGINS))
    )
    assert all(target.is_file() for target in links.values())


PULUMI_ARCHIVE = f"{upstream.PULUMI}/pulumi-v{versions.PULUMI}-linux-x64.tar.gz"
PATHS = {
    "stock-pulumi": PULUMI_ARCHIVE,
    "stock-kind": upstream.KIND_RELEASE,
    "stock-kubectl": upstream.KUBECTL,
    **{f"stock-pulumi-resource-{name}": plugin_path(name, version) for name, version in source.PLUGINS},
}


@pytest.mark.parametrize("answer", [status(404), page, dies(b"x" * 1000), good(b"something else")])
@pytest.mark.parametrize("name", PATHS)
def test_step_that_cannot_download_says_from_where_and_leaves_nothing(
    server: Upstream, runner: Runner, name: str, answer: Answer
):
    server.answers[PATHS[name]] = answer
    step = steps()[name]
    if step.needs:
        runner.run(list(step.needs))
    before = sorted(path.name for path in runner.store.root.iterdir() if path.suffix != ".lock")
    with pytest.raises(StepError) as caught:
        runner.run([step])
    asked = upstream.KIND if name == "stock-kind" else PATHS[name]
    assert str(caught.value).startswith(f"{server.address}{asked}: ")
    assert sorted(path.name for path in runner.store.root.iterdir() if path.suffix != ".lock") in (
        before,
        sorted([*before, "logs"]),
    )


def test_what_was_downloaded_stays_when_another_file_fails(server: Upstream, runner: Runner):
    server.answers[upstream.KUBECTL] = status(404)
    made = steps()
    runner.run([made["stock-kind"]])
    with pytest.raises(StepError, match="/kubectl: HTTP 404"):
        runner.run(list(made.values()))
    server.serve({upstream.KUBECTL: b"kubectl"})
    runner.run(list(made.values()))
    assert server.asked.count(f"GET {upstream.KIND_RELEASE}") == 1


def test_interruption_of_a_download_is_no_error_of_the_network(server: Upstream, runner: Runner):
    content = b"x" * (1 << 20)

    def interrupts(request: upstream.Request) -> None:
        request.head(200, len(content))
        runner._stopping = True
        request.body(content)

    server.answers[upstream.KUBECTL] = interrupts
    step = steps()["stock-kubectl"]
    with pytest.raises(Interrupted):
        runner.run([step])
    assert not runner.store.path(step).exists()


def test_archive_without_a_program_of_pulumis_is_refused(server: Upstream, runner: Runner):
    replace_pulumi(server, {f"pulumi/{name}": b"x" for name in PROGRAMS if name != "pulumi-language-python-exec"})
    with pytest.raises(StepError, match=r"pulumi/pulumi-language-python-exec is not in the archive; upstream has"):
        runner.run([steps()["stock-pulumi"]])


def replace_pulumi(server: Upstream, members: Mapping[str, bytes]) -> None:
    content = archive(members)
    checksums = f"{sha256(content)}  {PULUMI_ARCHIVE.rpartition('/')[2]}\n"
    server.serve(
        {PULUMI_ARCHIVE: content, f"{upstream.PULUMI}/pulumi-{versions.PULUMI}-checksums.txt": checksums.encode()}
    )


def test_archive_writes_nothing_outside_its_folder(tmp_path: Path):
    file, out = tmp_path / "a.tar.gz", tmp_path / "out"
    out.mkdir()
    with tarfile.open(file, "w:gz") as tar:
        for name in ("pulumi/good", "pulumi/../../evil", "/pulumi/evil", "evil", "pulumi/deep/evil"):
            info = tarfile.TarInfo(name)
            info.size, info.mode = 1, 0o4755
            tar.addfile(info, io.BytesIO(b"x"))
        link = tarfile.TarInfo("pulumi/link")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        tar.addfile(link)
    source._extract(file, "pulumi", out)
    assert [path.name for path in out.iterdir()] == ["good"]
    assert (out / "good").stat().st_mode & 0o7777 == 0o755
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.tar.gz", "out"]


def test_archive_is_read_by_the_python_of_debian_12(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """3.11.2 has no `filter` of extractall, and `data_filter` came with it."""
    monkeypatch.delattr(tarfile, "data_filter", raising=False)
    monkeypatch.setattr(tarfile.TarFile, "extractall", lambda *_, **__: pytest.fail("extractall"))
    (tmp_path / "a.tar.gz").write_bytes(archive({"pulumi/pulumi": b"x"}))
    source._extract(tmp_path / "a.tar.gz", "pulumi", tmp_path)
    assert (tmp_path / "pulumi").read_bytes() == b"x"


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Upstream]:
    with of_this_checkout() as made:
        yield made


def test_real_tools_come_through_downloads_and_run(real: Upstream, runner: Runner, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv(download.MIRROR, real.address)
    made = steps()
    runner.run(list(made.values()))
    for step, program, word, wanted in (
        ("stock-pulumi", "pulumi", "version", f"v{versions.PULUMI}"),
        ("stock-kind", "kind", "version", versions.KIND),
    ):
        path = runner.store.path(made[step]) / program
        done = subprocess.run([path, word], capture_output=True, text=True, check=True)
        assert wanted in done.stdout
    for name, version in source.PLUGINS:
        got = runner.store.path(made[f"stock-pulumi-resource-{name}"]) / f"pulumi-resource-{name}"
        own = PULUMI_HOME / "plugins" / f"resource-{name}-v{version}" / got.name
        assert sha256(got.read_bytes()) == sha256(own.read_bytes())


@pytest.mark.parametrize("checksum", ["right", "wrong"])
def test_pulumis_own_plugin_install_works_with_the_mirror(real: Upstream, tmp_path: Path, checksum: str):
    """Unmodified, as somebody would call it who installs another plugin by way of the mirror."""
    name, version = source.PLUGINS[1]
    folder = plugin_path(name, version).rpartition("/")[0]
    (listed,) = (path for path in real.answers if path.startswith(folder) and path.endswith("_checksums.txt"))
    published = download.published(f"{real.address}{listed}", plugin_path(name, version).rpartition("/")[2])
    digest = published if checksum == "right" else "0" * 64
    done = subprocess.run(
        [BIN / "pulumi", "plugin", "install", "resource", name, version, "--checksum", digest],
        env={
            **os.environ,
            "PULUMI_HOME": str(tmp_path),
            "PULUMI_DISABLE_REGISTRY_RESOLVE": "true",
            "PULUMI_SKIP_UPDATE_CHECK": "true",
            "PULUMI_PLUGIN_DOWNLOAD_URL_OVERRIDES": (
                f"^github://api.github.com/pulumi/pulumi-(?P<name>[a-z-]+)$={real.address}"
                "/github.com/pulumi/pulumi-${name}/releases/download/v${VERSION}"
            ),
        },
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    installed = tmp_path / "plugins" / f"resource-{name}-v{version}" / f"pulumi-resource-{name}"
    if checksum == "right":
        assert done.returncode == 0 and installed.is_file(), done.stderr
    else:
        assert done.returncode != 0 and "invalid checksum, expected 00" in done.stderr
        assert not installed.exists()
