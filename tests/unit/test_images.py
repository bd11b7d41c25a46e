"""The images of a stack: which driver's it is, and which a Kind cluster has to be given."""

import json
from dataclasses import fields, replace
from pathlib import Path

import pytest

from machine import images
from machine.images import Images, ImagesMissing
from toolchain.versions import DRA_DRIVER, DRA_DRIVERS

MADE = {
    "node": "localhost/w/node:v1",
    "dra-driver": "localhost/w/dra-driver:v0.5.0",
    "dra-driver-0.4.1": "localhost/w/dra-driver:v0.4.1",
    "gpu-sim": "localhost/w/gpu-sim:v1",
    "gpu-probe": "localhost/w/gpu-probe:v1",
    "mps-daemon": "localhost/w/mps-daemon:v1",
    "gpu-agents": "localhost/w/gpu-agents:v1",
}


@pytest.fixture
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    file = tmp_path / "images.json"
    file.write_text(json.dumps(MADE))
    monkeypatch.setattr(images, "INDEX", file)
    return file


@pytest.mark.usefixtures("index")
@pytest.mark.parametrize("version", DRA_DRIVERS)
def test_driver_image_is_that_of_the_version(version: str):
    assert Images.made_by_setup({}, version).dra_driver == f"localhost/w/dra-driver:v{version}"


@pytest.mark.usefixtures("index")
def test_another_version_of_the_driver_changes_no_other_image():
    default, older = Images.made_by_setup({}), Images.made_by_setup({}, "0.4.1")
    assert default == Images.made_by_setup({}, DRA_DRIVER)
    assert replace(older, dra_driver=default.dra_driver) == default


@pytest.mark.usefixtures("index")
def test_own_driver_image_is_taken_whatever_the_version():
    assert Images.made_by_setup({"dra_driver": "mine:1"}, "0.4.1").dra_driver == "mine:1"


def test_driver_image_that_setup_has_not_made_is_named(index: Path):
    index.write_text(json.dumps({name: ref for name, ref in MADE.items() if name != "dra-driver-0.4.1"}))
    assert Images.made_by_setup({}).dra_driver == "localhost/w/dra-driver:v0.5.0"
    with pytest.raises(ImagesMissing, match=r"does not name dra-driver-0\.4\.1; run `make setup` again"):
        Images.made_by_setup({}, "0.4.1")


@pytest.mark.usefixtures("index")
def test_kind_gets_what_runs_in_the_cluster_and_only_the_driver_that_is_used():
    made = Images.made_by_setup({}, "0.4.1")
    assert set(made.to_load) == set(MADE.values()) - {MADE["node"], MADE["dra-driver"]}


@pytest.mark.usefixtures("index")
@pytest.mark.parametrize("elsewhere", ["", "registry.example.com/its:1"])
def test_kind_is_not_given_what_nothing_runs_or_a_registry_has(elsewhere: str):
    for field in fields(Images):
        if field.name != "node":
            made = Images.made_by_setup({field.name: elsewhere})
            assert elsewhere not in made.to_load
            assert len(made.to_load) == len(Images.made_by_setup({}).to_load) - 1, field.name
