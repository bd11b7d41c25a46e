"""`make doctor`: a table of every prerequisite, and an exit status that says whether all are met."""

from pathlib import Path

import pytest

from machine import images, prerequisites
from machine.__main__ import main
from machine.findings import Finding
from settings import Settings

MET = Finding("kernel", "Linux 6.1", True, "Linux 5.4 or newer is needed")
UNMET = Finding("memory", "2.0 GiB", False, "at least 3 GiB are needed")
WARNED = Finding("runtime", "[runc]", True, "use another one", warning=True)


@pytest.fixture(autouse=True)
def after_setup(monkeypatch: pytest.MonkeyPatch) -> None:
    names = ("node", "dra-driver", "gpu-sim", "gpu-probe", "mps-daemon", "gpu-agents")
    monkeypatch.setattr(images, "read_index", lambda: dict.fromkeys(names, "localhost/it:v1"))


def looks_at(monkeypatch: pytest.MonkeyPatch, *findings: Finding) -> None:
    monkeypatch.setattr(prerequisites, "look", lambda settings, images: iter(findings))


@pytest.mark.parametrize(("findings", "status"), [((MET, WARNED), 0), ((MET, UNMET, WARNED), 1)])
def test_status_says_whether_everything_is_met(
    findings: tuple[Finding, ...], status: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    looks_at(monkeypatch, *findings)
    assert main([]) == status
    printed = capsys.readouterr().out
    assert f"{sum(finding.ok for finding in findings)} of {len(findings)} prerequisites are met" in printed
    for finding in findings:
        assert finding.observed in printed
        assert (finding.remedy in printed) == (not finding.ok or finding.warning)


def test_images_that_are_not_made_yet_are_one_finding_among_the_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.undo()
    monkeypatch.setattr(images, "INDEX", tmp_path / "images.json")
    looks_at(monkeypatch, MET)
    assert main([]) == 1
    assert "run `make setup` first" in capsys.readouterr().out


def test_machine_is_looked_at_before_set_up():
    found = [finding.name for finding in prerequisites.look(Settings.parse({}, "test"), None)]
    assert {"kernel", "memory", "docker"} <= set(found) and "image" not in found


@pytest.mark.parametrize(
    ("stack", "text", "words"),
    [
        ("none", None, "Pulumi.none.yaml is missing"),
        ("wrong", "config: {dra-workshop:gpu: {count: 99}}", "gpu.count: 99 must be at most 16"),
    ],
)
def test_stack_that_cannot_be_used_is_told(
    stack: str,
    text: str | None,
    words: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
):
    (tmp_path / "stacks").mkdir()
    if text:
        (tmp_path / "stacks" / f"Pulumi.{stack}.yaml").write_text(text)
    of_stack = Settings.of_stack
    monkeypatch.setattr(Settings, "of_stack", lambda name: of_stack(name, tmp_path))
    assert main(["--stack", stack]) == 2
    assert words in " ".join(capsys.readouterr().out.split())
