"""The images of a stack: which driver's it is, and which a Kind cluster has to be given."""

import json
from pathlib import Path

import pytest

from machine import images
from machine.images import Images, ImagesMissing, images_of
from settings import Settings
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


def made(version: str = DRA_DRIVER, **chosen: str) -> Images:
    """Images of a stack that runs all those that set-up makes, but for its own choices."""
    modules = ["01", "02", "04", "08"]
    return images_of(Settings.parse({"modules": modules, "driver": {"version": version}, "images": chosen}, "test"))


@pytest.mark.usefixtures("index")
@pytest.mark.parametrize("version", DRA_DRIVERS)
def test_driver_image_is_that_of_the_version(version: str):
    assert made(version)["dra-driver"] == f"localhost/w/dra-driver:v{version}"


@pytest.mark.usefixtures("index")
def test_another_version_of_the_driver_changes_no_other_image():
    default, older = made(), made("0.4.1")
    assert older.node == default.node
    assert {**older.references, "dra-driver": default["dra-driver"]} == default.references


@pytest.mark.usefixtures("index")
def test_own_driver_image_is_taken_whatever_the_version():
    assert made("0.4.1", draDriver="mine:1")["dra-driver"] == "mine:1"


def test_driver_image_that_setup_has_not_made_is_named(index: Path):
    index.write_text(json.dumps({name: ref for name, ref in MADE.items() if name != "dra-driver-0.4.1"}))
    assert made()["dra-driver"] == "localhost/w/dra-driver:v0.5.0"
    with pytest.raises(
        ImagesMissing, match=r'does not name dra-driver-0\.4\.1; run `make setup WITH="dra-driver-0\.4\.1"`'
    ):
        made("0.4.1")


@pytest.mark.usefixtures("index")
def test_kind_gets_what_runs_in_the_cluster_and_only_the_driver_that_is_used():
    assert set(made("0.4.1").to_load) == set(MADE.values()) - {MADE["node"], MADE["dra-driver"]}


def test_filled_node_image_is_none_that_a_node_is_given(index: Path):
    assert made().filled_node is None
    index.write_text(json.dumps({**MADE, "filled-node": "localhost/w/filled-node:v1"}))
    assert made().filled_node == "localhost/w/filled-node:v1"
    assert "localhost/w/filled-node:v1" not in made().to_load


@pytest.mark.usefixtures("index")
@pytest.mark.parametrize("key", ["draDriver", "gpuSim", "gpuProbe", "mpsDaemon", "gpuAgents"])
def test_kind_is_not_given_what_a_registry_has(key: str):
    elsewhere = "registry.example.com/its:1"
    chosen = made(**{key: elsewhere})
    assert elsewhere in chosen.references.values() and elsewhere not in chosen.to_load
    assert len(chosen.to_load) == len(made().to_load) - 1


def test_kind_is_given_what_set_up_pulled_and_an_existing_cluster_is_not_asked_for_it(index: Path):
    pulled = "registry.example.com/dra-driver:v0.5.0"
    index.write_text(json.dumps({**MADE, "dra-driver": pulled, "node": "kindest/node:v1"}))
    chosen = made()
    assert pulled in chosen.to_load and pulled not in chosen.only_here
    assert set(chosen.to_load) - set(chosen.only_here) == {pulled}
    assert chosen.node not in chosen.to_load
    # Upstream's images of other modules are large, and set-up does not pull them.
    upstreams = {ref for ref in chosen.references.values() if ref not in chosen.to_load}
    assert not any(ref in json.loads(index.read_text()).values() for ref in upstreams)
