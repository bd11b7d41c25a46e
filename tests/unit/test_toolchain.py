"""Set-up's choices and what it lays into a checkout; builds nothing and asks no network."""

import io
import json
import os
import re
import subprocess
from collections.abc import Callable, Iterable
from pathlib import Path

import pytest
import yaml
from rich.console import Console

from tests.e2e.workspace import Workspace
from toolchain import engine, npm, optional, plan, programs, source, versions
from toolchain.golang import Go
from toolchain.paths import CHECKOUT, IMAGES
from toolchain.programs import DRA_DRIVERS, PINS, PROGRAMS
from toolchain.progress import Progress, duration
from toolchain.source import Source
from toolchain.steps import Runner, Step, StepError, Store, Work


@pytest.fixture
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(source.download, "answers", lambda *_: pytest.fail("asked the network"))


@pytest.mark.usefixtures("no_network")
@pytest.mark.parametrize("way", ["stock", "built"])
def test_source_that_is_asked_for_is_taken_and_recorded(tmp_path: Path, way: str):
    record = tmp_path / "tools" / "source.json"
    assert source.choose(way, record) == Source(way, f"SOURCE={way} asks for it")  # pyrefly: ignore[bad-argument-type]
    assert source.choose(None, record).way == way


@pytest.mark.usefixtures("no_network")
def test_recorded_source_stays_with_its_reason(tmp_path: Path):
    record = tmp_path / "source.json"
    record.write_text('{"way": "built", "reason": "an earlier look"}')
    assert source.choose(None, record) == Source("built", "an earlier look")
    assert source.choose("", record) == Source("built", "an earlier look")


@pytest.mark.usefixtures("no_network")
def test_unknown_source_is_refused_and_not_recorded(tmp_path: Path):
    with pytest.raises(StepError, match='SOURCE: "both" is neither stock nor built; use SOURCE=stock'):
        source.choose("both", tmp_path / "source.json")
    assert list(tmp_path.iterdir()) == []


def choose_by_network(
    closed: tuple[str, ...], monkeypatch: pytest.MonkeyPatch, record: Path, wanted: str | None = None
) -> tuple[Source, set[str]]:
    """Choice on a machine with cgroup v2 whose network does not reach `closed`, and the addresses that were tried."""
    asked: set[str] = set()

    def answers(url: str, seconds: float) -> str | None:
        asked.add(url)
        return f"{url}: timed out" if url in closed else None

    monkeypatch.setattr(source.download, "answers", answers)
    monkeypatch.setattr(source, "cgroup_version", lambda: 2)
    return source.choose(wanted, record), asked


def test_open_network_means_stock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    chosen, asked = choose_by_network((), monkeypatch, tmp_path / "source.json")
    assert chosen == Source("stock", "upstream's sites and registries answer")
    assert asked == set(source.sites())


def test_every_site_that_the_steps_need_is_tried():
    wanted = plan.stock(Go(Path("go"), f"go{versions.GO}"))
    downloads = {step.recipe.split()[-1] for step in (*wanted.tools, *wanted.plugins.values()) if step.recipe}
    registries = {ref.partition("/")[0] for ref in (step.recipe for step in wanted.images) if "registry" in ref}
    assert downloads == {url for url in source.sites() if not url.endswith("/v2/")}
    assert registries | {"registry-1.docker.io"} == {url.split("/")[2] for url in source.REGISTRIES}


@pytest.mark.parametrize("closed", [source.sites()[:1], source.sites()[-1:], source.sites()[2:4], source.sites()])
def test_sites_that_cannot_be_reached_are_all_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, closed: tuple[str, ...]
):
    record = tmp_path / "source.json"
    chosen, _ = choose_by_network(closed, monkeypatch, record)
    reasons = "; ".join(f"{url}: timed out" for url in closed)
    assert chosen == Source("built", f"{len(closed)} of {len(source.sites())} addresses do not answer: {reasons}")
    assert json.loads(record.read_text())["reason"] == chosen.reason


def test_auto_looks_again_and_records_what_it_finds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    record = tmp_path / "source.json"
    assert choose_by_network(source.sites()[:1], monkeypatch, record)[0].way == "built"
    assert choose_by_network((), monkeypatch, record)[0].way == "built"
    assert choose_by_network((), monkeypatch, record, "auto")[0].way == "stock"
    assert choose_by_network(source.sites(), monkeypatch, record)[0].way == "stock"


@pytest.mark.usefixtures("no_network")
def test_cgroup_v1_means_built(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(source, "cgroup_version", lambda: 1)
    chosen = source.choose(None, tmp_path / "source.json")
    assert (
        chosen.way == "built"
        and "cgroup v1, on which upstream's node image starts some containers twice" in chosen.reason
    )


@pytest.mark.parametrize(("files", "version"), [(("cgroup.controllers",), 2), (("unified/cgroup.controllers",), 1)])
def test_hybrid_hierarchy_is_cgroup_v1(tmp_path: Path, files: tuple[str, ...], version: int):
    for name in files:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    assert source.cgroup_version(tmp_path) == version


@pytest.fixture
def runner(tmp_path: Path) -> Runner:
    (tmp_path / "store").mkdir()
    return Runner(Store(tmp_path / "store"), Progress(Console(file=io.StringIO())))


@pytest.fixture
def tools(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / ".tools"
    for name, path in (
        ("TOOLS", folder),
        ("BIN", folder / "bin"),
        ("PULUMI_HOME", folder / "pulumi"),
        ("CHART", folder / "charts" / "driver"),
        ("IMAGES_FILE", folder / "images.json"),
    ):
        monkeypatch.setattr(plan, name, path)
    return folder


def finished(runner: Runner, name: str, recipe: str = "", *files: str) -> Step:
    def build(work: Work) -> None:
        for file in files:
            (work.out / file).write_text(f"{file} {recipe}")

    step = Step(name, build, recipe)
    runner.run([step])
    return step


def make_plan(runner: Runner, recipe: str, programs: tuple[str, ...], plugin: str) -> plan.Plan:
    return plan.Plan(
        tools={finished(runner, "tools", recipe, *programs): programs},
        plugins={("command", plugin): finished(runner, "command", plugin, "pulumi-resource-command")},
        images=(finished(runner, "node", recipe, "ref"),),
        charts={
            version: finished(runner, f"chart-{version}", f"{version} {recipe}", "chart")
            for version in versions.DRA_DRIVERS
        },
    )


def links(folder: Path) -> dict[str, str]:
    return {str(path.relative_to(folder)): path.read_text() for path in sorted(folder.rglob("*")) if path.is_symlink()}


def test_links_are_what_the_plan_says_and_stale_ones_go(runner: Runner, tools: Path):
    plan.lay(make_plan(runner, "1", ("kind", "kubectl"), "1.0.0"), runner.store)
    assert links(tools) == {
        "bin/kind": "kind 1",
        "bin/kubectl": "kubectl 1",
        "charts/driver": "chart 0.5.0 1",
        "charts/driver-0.4.1": "chart 0.4.1 1",
        "pulumi/plugins/resource-command-v1.0.0/pulumi-resource-command": "pulumi-resource-command 1.0.0",
    }
    assert json.loads((tools / "images.json").read_text()) == {"node": "ref 1"}
    plan.lay(make_plan(runner, "2", ("kind",), "1.1.0"), runner.store)
    assert links(tools) == {
        "bin/kind": "kind 2",
        "charts/driver": "chart 0.5.0 2",
        "charts/driver-0.4.1": "chart 0.4.1 2",
        "pulumi/plugins/resource-command-v1.1.0/pulumi-resource-command": "pulumi-resource-command 1.1.0",
    }
    assert [path.name for path in (tools / "pulumi" / "plugins").iterdir()] == ["resource-command-v1.1.0"]
    assert json.loads((tools / "images.json").read_text()) == {"node": "ref 2"}


@pytest.mark.parametrize("make", [plan.built, plan.stock])
def test_both_ways_bring_every_version_of_the_driver(make: Callable[[Go], plan.Plan]):
    wanted = make(Go(Path("go"), "go1.26.6"))
    names = {step.name for step in wanted.images}
    assert {versions.of_driver("dra-driver", version) for version in versions.DRA_DRIVERS} <= names
    assert tuple(wanted.charts) == versions.DRA_DRIVERS


@pytest.mark.parametrize("version", versions.DRA_DRIVERS)
def test_driver_of_a_version_is_built_from_the_module_of_that_version(version: str):
    program = DRA_DRIVERS[version]
    assert f"v{version}" in program.variables.values()
    required = (PINS / program.name / "go.mod").read_text()
    assert f"\tsigs.k8s.io/dra-driver-nvidia-gpu v{version} //" in required


def test_pins_hold_no_source():
    for folder in PINS.iterdir():
        assert sorted(path.name for path in folder.rglob("*")) == ["go.mod", "go.sum"], folder


def test_every_go_module_of_the_checkout_belongs_to_a_program():
    programs_of_steps = (*programs.PULUMI, programs.KIND, *programs.NODE, *DRA_DRIVERS.values())
    tools = (programs.RUNC_BOUNDED, programs.UNZSTD, programs.HELM, programs.REGISTRY)
    others = (programs.MPS_DAEMON, programs.KWOK, programs.PROMETHEUS, *programs.KUBERNETES.values(), *tools)
    used = {folder for program in (*programs_of_steps, *others) for folder in (program.folder, *program.replacements)}
    assert used == {file.parent for root in (PROGRAMS, IMAGES) for file in root.rglob("go.mod")}


def test_replacement_in_a_go_mod_is_a_folder_that_the_step_hashes():
    for program in DRA_DRIVERS.values():
        text = (program.folder / "go.mod").read_text()
        named = {(program.folder / path).resolve() for path in re.findall(r"=> (\.\S+)$", text, re.MULTILINE)}
        assert named == set(program.replacements)


def test_versions_of_the_driver_share_no_step():
    wanted = plan.built(Go(Path("go"), "go1.26.6"))
    drivers = [step for step in wanted.images if step.name.startswith("dra-driver")]
    assert len({step.key for step in (*drivers, *wanted.charts.values())}) == 2 * len(versions.DRA_DRIVERS)


def test_laying_the_same_plan_again_touches_no_link(runner: Runner, tools: Path):
    wanted = make_plan(runner, "1", ("kind",), "1.0.0")
    plan.lay(wanted, runner.store)
    before = {path: path.lstat().st_ino for path in tools.rglob("*") if path.is_symlink()}
    plan.lay(wanted, runner.store)
    assert {path: path.lstat().st_ino for path in tools.rglob("*") if path.is_symlink()} == before


def test_link_replaces_a_file_that_is_in_its_place(runner: Runner, tools: Path):
    (tools / "bin").mkdir(parents=True)
    (tools / "bin" / "kind").write_text("by hand")
    plan.lay(make_plan(runner, "1", ("kind",), "1.0.0"), runner.store)
    assert (tools / "bin" / "kind").read_text() == "kind 1"


@pytest.mark.parametrize(
    ("dockerd", "socket", "start", "remedy"),
    [
        ("/usr/bin/dockerd", False, "docker: no Docker Engine answers this user; start it", "usermod -aG docker"),
        (None, True, "docker: no Docker Engine answers this user; start it", "run `make setup` as root"),
        (None, False, "docker: no Docker Engine is installed; install", "Docker Engine 20.10 or newer"),
    ],
)
def test_missing_engine_is_explained_by_what_is_there(
    monkeypatch: pytest.MonkeyPatch, dockerd: str | None, socket: bool, start: str, remedy: str
):
    monkeypatch.setattr(engine.shutil, "which", lambda program: dockerd)
    monkeypatch.setattr(Path, "exists", lambda path: socket and str(path) == "/run/docker.sock")
    text = engine.explain_missing()
    monkeypatch.undo()
    assert text.startswith(start) and remedy in text


@pytest.mark.parametrize(
    ("answer", "found"),
    [
        ("echo '29.1.3|2|/var/lib/docker'", engine.Engine("29.1.3", "2", Path("/var/lib/docker"))),
        ("echo '||'", None),
        ("echo 'cannot connect' >&2; exit 1", None),
    ],
)
def test_engine_is_found_only_if_it_answers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, answer: str, found: engine.Engine | None
):
    (tmp_path / "docker").write_text(f"#!/bin/sh\n{answer}\n")
    (tmp_path / "docker").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    assert engine.find() == found


def test_engine_that_setup_did_not_start_is_left_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(engine, "PID_FILE", tmp_path / "dockerd.pid")
    assert engine.stop() == "engine: not started by `make setup`, left alone"


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.04, "0.0s"), (9.94, "9.9s"), (10, "10s"), (59.4, "59s"), (185, "3m05s")]
)
def test_durations_read_well(seconds: float, text: str):
    assert duration(seconds) == text


def activated(*commands: str, **env: str) -> list[str]:
    script = "; ".join(["set -eu", *commands])
    environment = {"PATH": os.environ["PATH"], "HOME": os.environ["HOME"], **env}
    done = subprocess.run(["bash", "-c", script], env=environment, capture_output=True, text=True, check=True)
    assert done.stderr == ""
    return done.stdout.splitlines()


SOURCE_IT = f"source '{CHECKOUT}/activate'"


def test_activate_can_be_sourced_again_without_path_growing():
    once, twice = activated(SOURCE_IT, 'echo "$PATH"', SOURCE_IT, 'echo "$PATH"')
    assert once == twice
    assert once.split(":")[:2] == [f"{CHECKOUT}/.tools/bin", f"{CHECKOUT}/.venv/bin"]


@pytest.mark.parametrize(("env", "stack"), [({}, "phase1"), ({"STACK": "mine"}, "mine")])
def test_activate_points_kubectl_at_the_stacks_own_cluster(env: dict[str, str], stack: str):
    (path,) = activated(SOURCE_IT, 'echo "$KUBECONFIG"', **env)
    assert path == f"{CHECKOUT}/.state/{stack}/kubeconfig"


def test_activate_keeps_proxies_from_pulumis_connections_on_this_machine():
    # The end-to-end tests have the same variables without sourcing it.
    (rules,) = activated(SOURCE_IT, 'echo "$no_grpc_proxy"', https_proxy="http://127.0.0.1:9", no_proxy="example.com")
    assert rules == Workspace(CHECKOUT).env["no_grpc_proxy"] == "127.0.0.1,localhost"


def test_pulumis_host_is_told_the_packages_that_pip_lists():
    listing = "-m pip list -v --format json"
    (command,) = activated(SOURCE_IT, 'echo "$PULUMI_PYTHON_CMD"')
    assert command == Workspace(CHECKOUT).env["PULUMI_PYTHON_CMD"]
    (told,) = activated(SOURCE_IT, f'"$PULUMI_PYTHON_CMD" {listing}')
    (pips,) = activated(SOURCE_IT, f"python3 {listing} 2>/dev/null")
    named = [package for package in json.loads(pips) if package["name"].startswith("pulumi")]
    keys = ("name", "version", "location")
    assert len(named) == 3
    by_name = sorted(json.loads(told), key=lambda package: package["name"])
    assert by_name == [{key: package[key] for key in keys} for package in named]


def test_pulumis_host_has_the_checkouts_python_for_anything_else():
    program = "import sys; print(sys.prefix, *sys.argv[1:])"
    (line,) = activated(SOURCE_IT, f'"$PULUMI_PYTHON_CMD" -c "{program}" "a b" c')
    assert line == f"{CHECKOUT}/.venv a b c"


def test_activate_keeps_a_passphrase_that_is_set_and_leaves_no_variables_of_its_own():
    env = {"PULUMI_CONFIG_PASSPHRASE": "mine", "VIRTUAL_ENV": "/another"}
    (passphrase, *rest) = activated(SOURCE_IT, 'echo "$PULUMI_CONFIG_PASSPHRASE"', "compgen -v", **env)
    assert passphrase == "mine"
    assert [name for name in rest if name.startswith("dra_workshop") or name == "VIRTUAL_ENV"] == []


def test_pulumi_takes_no_toolchain_of_a_folder_above():
    """Upstream's language host looks upwards for uv.lock and poetry.lock unless the project names one."""
    project = yaml.safe_load((CHECKOUT / "Pulumi.yaml").read_text())
    assert project["runtime"] == {"name": "python", "options": {"toolchain": "pip"}}


@pytest.mark.parametrize(("printed", "own"), [("10.2.1", False), ("6.14.18", True), ("", True), (None, True)])
def test_npm_of_the_machine_is_taken_where_it_reads_the_lock_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, printed: str | None, own: bool
):
    program = tmp_path / "npm"
    if printed is not None:
        program.write_text(f"#!/bin/sh\necho {printed}\n")
        program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    store = Store(tmp_path / "store")
    found = npm.find(store)
    assert [step.name for step in found.needs] == (["node"] if own else [])
    assert (str(program) in map(str, found.command)) is not own
    assert npm.mermaid_script(store).is_relative_to(store.path(npm.mermaid(found)))


def test_lock_file_of_mermaid_has_every_checksum_and_no_registry():
    packages = json.loads((npm.MERMAID / "package-lock.json").read_text())["packages"]
    installed = {name: package for name, package in packages.items() if name}
    wanted = json.loads((npm.MERMAID / "package.json").read_text())["dependencies"]
    assert {name.removeprefix("node_modules/"): package["version"] for name, package in installed.items()} == wanted
    # Without an address npm asks the registry that it is set up for, which may be a company's mirror.
    assert all(
        package["integrity"].startswith("sha512-") and "resolved" not in package for package in installed.values()
    )


def steps_of(name: str, asked: frozenset[str] = frozenset(optional.NAMES)) -> dict[str, Step]:
    """Steps of a source by name, and what they need, with the optional images that are asked for."""
    found: dict[str, Step] = {}

    def add(steps: Iterable[Step]) -> None:
        for step in steps:
            found[step.name] = step
            add(step.needs)

    whole = {"built": plan.built, "stock": plan.stock}[name](Go(Path("go"), "go1.26.6"))
    add(optional.without(whole, asked).steps)
    return found


def test_page_on_building_has_the_steps_and_their_seconds():
    page = (CHECKOUT / "docs" / "reference" / "how-it-is-built.md").read_text(encoding="utf-8")
    built, stock = steps_of("built"), steps_of("stock")
    del built["c-compiler"]  # named below the table
    told = re.findall(r"\| `([\w.-]+)`(?: \(image\))? \| (\d+) (?=\|)", page[: page.index("Beside them: `c-compiler`")])
    assert {name: int(seconds) for name, seconds in told} == {
        name: step.expected_seconds for name, step in built.items()
    }
    text = " ".join(page.split())
    default = steps_of("built", frozenset())
    del default["c-compiler"]
    seconds = sum(step.expected_seconds for step in default.values())
    compiling = sum(step.expected_seconds for step in default.values() if step.compiles)
    more = sum(step.expected_seconds for step in built.values()) - seconds
    assert f"Source `built` has {len(default)} steps, without the compiler's" in text
    assert f"{seconds} in all, of which {compiling} are compile time" in text
    assert f"{len(built) - len(default)} more steps, {more} seconds, are for what only some stacks run" in text
    default = steps_of("stock", frozenset())
    in_stock = sum(step.expected_seconds for step in default.values())
    more = sum(step.expected_seconds for step in stock.values()) - in_stock
    assert f"Source `stock` has {len(default)} steps, and {len(stock) - len(default)} for" in text
    assert f"the expected {in_stock} seconds, and {more} for those" in text


def test_npm_that_cannot_install_is_explained(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    program = tmp_path / "npm"
    program.write_text('#!/bin/sh\n[ "$1" = --version ] && echo 10.0.0 && exit\necho npm error ECONNREFUSED\nexit 1\n')
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    store = Store(tmp_path / "store")
    runner = Runner(store, Progress(Console(file=io.StringIO())))
    with pytest.raises(StepError, match=r"ended with 1; .*logs/mermaid\.log; .*`npm config set registry <address>`"):
        runner.run([npm.mermaid(npm.find(store))])
    assert "ECONNREFUSED" in (store.logs / "mermaid.log").read_text()
    assert not npm.mermaid_script(store).exists()
