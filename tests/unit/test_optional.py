"""Images that only some stacks run: made when a checkout asks for them, and not taken away by the next command."""

import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml
from rich.console import Console

from machine import images
from machine import optional as needed
from settings import Settings
from toolchain import optional, plan
from toolchain.bundle import unpacked
from toolchain.golang import Go
from toolchain.paths import CHECKOUT
from toolchain.steps import StepError
from toolchain.versions import OPTIONAL_IMAGES


@pytest.mark.parametrize("make", [plan.built, plan.stock])
def test_image_and_its_chart_are_made_only_when_asked_for(make: Callable[[Go], plan.Plan]):
    whole = make(Go(Path("go"), "go1.26.6"))
    small = optional.without(whole, frozenset())
    # Of Prometheus nodes pull upstream's image where upstream's tools and images are used.
    expected = set(OPTIONAL_IMAGES) - ({"prometheus"} if make is plan.stock else set())
    assert {step.name for step in whole.images} - {step.name for step in small.images} == expected
    assert list(small.charts) == ["0.5.0"]
    assert list(optional.without(whole, frozenset({"dra-driver-0.4.1"})).charts) == ["0.5.0", "0.4.1"]
    assert optional.without(whole, frozenset(OPTIONAL_IMAGES)) == whole


def test_what_was_asked_for_once_stays(tmp_path: Path):
    recorded = tmp_path / ".tools" / "optional.json"
    assert optional.recall([], recorded) == frozenset()
    assert not recorded.exists()
    assert optional.recall(["kwok"], recorded) == {"kwok"}
    assert optional.recall([], recorded) == {"kwok"}
    assert optional.recall(["dra-driver-0.4.1 kwok"], recorded) == {"kwok", "dra-driver-0.4.1"}
    # An earlier version of the driver that is no longer offered is no reason to refuse every command.
    recorded.write_text(json.dumps(["dra-driver-0.3.0", "kwok"]))
    assert optional.recall([], recorded) == {"kwok"}
    assert optional.recall(["all"], recorded) == set(OPTIONAL_IMAGES)


def test_name_that_is_unknown_is_refused(tmp_path: Path):
    with pytest.raises(StepError, match=r"--with: dra-driver-9 is unknown; it may be dra-driver-0\.4\.1, "):
        optional.recall(["kwok dra-driver-9"], tmp_path / "optional.json")


def test_bundle_that_was_made_without_it_says_how_to_make_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "manifest.json").write_text(json.dumps({"images": {"node": "a:1"}}))
    monkeypatch.setattr(unpacked, "CHECKOUT", tmp_path)
    monkeypatch.setattr(unpacked, "MANIFEST", "manifest.json")
    with pytest.raises(StepError, match='this bundle was made without kwok; make one with `make bundle WITH="kwok"`'):
        unpacked.setup(Console(), frozenset({"kwok"}))


MADE = ("node", "dra-driver", "gpu-sim", "gpu-probe", "mps-daemon", "gpu-agents")


@pytest.mark.parametrize(
    ("keys", "made", "printed"),
    [
        ({"modules": ["01", "02"]}, MADE, ""),
        ({"modules": ["01", "02"], "driver": {"version": "0.4.1"}}, MADE, "dra-driver-0.4.1"),
        # Its chart comes with it, also where the image is the stack's own.
        (
            {"modules": ["01", "02"], "driver": {"version": "0.4.1"}, "images": {"draDriver": "mine:1"}},
            MADE,
            "dra-driver-0.4.1",
        ),
        ({"modules": ["01", "02"], "driver": {"version": "0.4.1"}}, (*MADE, "dra-driver-0.4.1"), ""),
        # Set-up has to run anew, whatever is asked for.
        ({"modules": ["01", "02"], "driver": {"version": "0.4.1"}}, MADE[1:], ""),
        ({"modules": ["no"]}, MADE, ""),
    ],
)
def test_stack_says_what_only_it_needs(
    keys: dict[str, object],
    made: tuple[str, ...],
    printed: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
):
    file = tmp_path / "stacks" / "Pulumi.one.yaml"
    file.parent.mkdir()
    file.write_text(yaml.safe_dump({"config": {f"dra-workshop:{key}": value for key, value in keys.items()}}))
    index = tmp_path / "images.json"
    index.write_text(json.dumps({name: f"{name}:v1" for name in made}))
    monkeypatch.setattr(images, "INDEX", index)
    monkeypatch.setattr(needed, "Settings", SimpleNamespace(of_stack=lambda stack: Settings.of_stack(stack, tmp_path)))
    needed.main(["--stack", "one"])
    assert capsys.readouterr().out.strip() == printed


@pytest.mark.parametrize(
    ("way", "made", "chosen", "printed"),
    [
        ("built", MADE, {}, "prometheus"),
        ("built", (*MADE, "prometheus"), {}, ""),
        ("built", MADE, {"images": {"prometheus": "mine:1"}}, ""),
        ("stock", MADE, {}, ""),
    ],
)
def test_prometheus_is_made_where_no_registry_of_upstream_is_used(
    way: str,
    made: tuple[str, ...],
    chosen: dict[str, object],
    printed: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
):
    keys = {"modules": ["01", "02", "08"], "observability": {"prometheus": True}, **chosen}
    (tmp_path / "stacks").mkdir()
    config = {"config": {f"dra-workshop:{key}": value for key, value in keys.items()}}
    (tmp_path / "stacks" / "Pulumi.one.yaml").write_text(json.dumps(config))
    (tmp_path / "images.json").write_text(json.dumps({name: f"{name}:v1" for name in made}))
    (tmp_path / "source.json").write_text(json.dumps({"way": way, "reason": "a test"}))
    monkeypatch.setattr(images, "INDEX", tmp_path / "images.json")
    monkeypatch.setattr(needed, "Settings", SimpleNamespace(of_stack=lambda stack: Settings.of_stack(stack, tmp_path)))
    needed.main(["--stack", "one"])
    assert capsys.readouterr().out.strip() == printed


STACKS = sorted(file.stem.removeprefix("Pulumi.") for file in (CHECKOUT / "stacks").glob("Pulumi.*.yaml"))


@pytest.mark.parametrize("stack", STACKS)
def test_stacks_of_the_workshop_need_little(
    stack: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    index = tmp_path / "images.json"
    index.write_text(json.dumps({name: f"{name}:v1" for name in MADE}))
    monkeypatch.setattr(images, "INDEX", index)
    needed.main(["--stack", stack])
    assert capsys.readouterr().out.strip() == ("kwok" if stack == "fleet" else "")


@pytest.mark.parametrize("target", ["test", "unit", "e2e", "bench"])
def test_tests_make_all_of_them_and_a_person_none(target: str):
    def set_up(*words: str) -> str:
        command = ["make", "--dry-run", "--no-print-directory", *words]
        printed = subprocess.run(command, cwd=CHECKOUT, capture_output=True, text=True, check=True).stdout
        (line,) = (line for line in printed.splitlines() if "-m toolchain setup" in line and "needed" not in line)
        return line.rstrip()

    assert set_up(target).endswith(' --with "all"')
    assert set_up("verify").endswith("-m toolchain setup")
    assert set_up("setup", "WITH=kwok dra-driver-0.4.1").endswith(' --with "kwok dra-driver-0.4.1"')
