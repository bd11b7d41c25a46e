"""Page docs/measured/fleet.md: its tables and plots follow from the committed file of the bench."""

import json
import shutil
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest

from checks.report import fleet_page
from toolchain.paths import CHECKOUT

FILE = CHECKOUT / "results" / "fleet-2-cores.json"
ROUNDS = json.loads(FILE.read_text())["rounds"]


def test_page_and_plots_are_those_of_the_committed_file(tmp_path: Path):
    page = tmp_path / "fleet.md"
    shutil.copy(fleet_page.PAGE, page)
    assert fleet_page.main(FILE, page) == 0
    assert page.read_text() == fleet_page.PAGE.read_text()
    folder = fleet_page.PAGE.parent / fleet_page.PLOTS
    assert {file.stem: file.read_text() for file in folder.glob("*.svg")} == fleet_page.drawings(ROUNDS)
    assert {file.name for file in (tmp_path / fleet_page.PLOTS).iterdir()} == {file.name for file in folder.iterdir()}


def test_plots_are_pictures_that_name_each_size():
    for svg in fleet_page.drawings(ROUNDS).values():
        assert ET.fromstring(svg).tag == "{http://www.w3.org/2000/svg}svg"
        assert all(f">{nodes}</text>" in svg for nodes in (10, 100, 1000))


def test_figures_of_a_round_stand_in_all_tables():
    text = "\n".join(fleet_page.generated(ROUNDS))
    (one,) = (each for each in ROUNDS if (each["nodes"], each["claim"]) == (1000, "one GPU"))
    assert f"| 1000 | one GPU | raised | {one['pods']} | {one['podsASecond']:.1f} |" in text
    assert f"| {one['stepsMs']['search']:.1f} | {one['stepsMs']['filters']:.1f} |" in text
    assert f"| {one['cores']['kube-scheduler']:.2f}, {one['rssMib']['kube-scheduler']} |" in text


def test_file_that_is_not_there_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    assert fleet_page.main(tmp_path / "none.json") == 2
    assert "none.json" in capsys.readouterr().err
