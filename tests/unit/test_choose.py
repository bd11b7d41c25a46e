"""Modules that `make up MODULES="..."` writes into a stack's file."""

import runpy
from pathlib import Path

import pytest

from settings import Settings, choose


@pytest.fixture
def file(tmp_path: Path) -> Path:
    (tmp_path / "stacks").mkdir()
    return tmp_path / "stacks" / "Pulumi.mine.yaml"


@pytest.mark.parametrize(
    "before",
    [
        'config:\n  dra-workshop:modules: ["00"]\n  # kept\n  dra-workshop:gpu: {count: 3}\nsalt: x\n',
        'config:\n  dra-workshop:modules:\n  - "00"\n  - "01"\n  # kept\n  dra-workshop:gpu: {count: 3}\nsalt: x\n',
        'config:\n    dra-workshop:modules:\n      - "00"\n    # kept\n    dra-workshop:gpu: {count: 3}\nsalt: x',
        "config:\n  # kept\n  dra-workshop:gpu: {count: 3}\nsalt: x\n",
    ],
)
def test_modules_are_written_with_what_they_require_and_all_else_is_kept(file: Path, before: str):
    file.write_text(before)
    assert choose.choose(file, "mine", ["03"]) == ("01", "02", "03")
    settings = Settings.of_stack("mine", file.parent.parent)
    assert settings.modules == ("01", "02", "03") and settings.gpu.count == 3
    assert "# kept" in file.read_text() and "salt: x\n" in file.read_text() and '"00"' not in file.read_text()


def test_stack_that_would_be_refused_keeps_its_file(file: Path):
    before = "config:\n  dra-workshop:mps: {activeThreadPercentage: 30}\n"
    file.write_text(before)
    with pytest.raises(
        choose.ChooseError, match=r"(?s)with the modules 01, 02: .*mps: .* is set, but no module that uses it is on"
    ):
        choose.choose(file, "mine", ["02"])
    assert file.read_text() == before


def test_number_of_no_module_and_file_of_no_stack_are_told(file: Path):
    with pytest.raises(choose.ChooseError, match='MODULES: "3" is no module; use some of 00, 01'):
        choose.choose(file, "mine", ["3"])
    with pytest.raises(choose.ChooseError, match=r"Pulumi\.mine\.yaml: there is no such file"):
        choose.choose(file, "mine", ["03"])
    file.write_text("salt: x\n")
    with pytest.raises(choose.ChooseError, match="has no `config:`"):
        choose.choose(file, "mine", ["03"])


def test_program_says_what_it_wrote(file: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    monkeypatch.setattr(choose, "CHECKOUT", file.parent.parent)
    monkeypatch.setattr("sys.argv", ["choose", "--stack", "mine", "04"])
    assert choose.main() == 2 and "there is no such file" in capsys.readouterr().err
    file.write_text("config:\n  dra-workshop:gpu: {count: 3}\n")
    assert choose.main() == 0
    assert capsys.readouterr().out == "modules of stack mine: 01, 02, 04, written to stacks/Pulumi.mine.yaml\n"


@pytest.mark.filterwarnings("ignore:.*found in sys.modules:RuntimeWarning")  # this file has imported it
def test_program_ends_with_2_for_no_module(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    monkeypatch.setattr("sys.argv", ["choose", "--stack", "mine", "3"])
    with pytest.raises(SystemExit, match="2"):
        runpy.run_module("settings.choose", run_name="__main__")
    assert capsys.readouterr().err.startswith('error: MODULES: "3" is no module')
