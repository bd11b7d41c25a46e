"""The release of NVIDIA's DRA driver: its chart by version, what goes into it, and what a changed version changes."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pulumi
import pytest
import yaml

from components.cluster import Cluster
from components.dra_driver import DraDriver, DriverOptions, ExpectedGpus, chart_values, gpu_of
from components.kind_cluster import KindCluster, KindOptions
from tests.golden.differences import Change, changes
from tests.golden.recorder import RELEASE, Recording, Resource, run
from toolchain.paths import CHECKOUT
from toolchain.versions import DRA_DRIVER, DRA_DRIVERS, of_driver

CHARTS = CHECKOUT / ".tools" / "charts"
IMAGE = "localhost/dra-workshop/dra-driver:v{}-0123456789ab"
PROBE = "localhost/dra-workshop/gpu-probe:v1-0123456789ab"


def build(version: str, **options: Any) -> Recording:
    """A Kind cluster and the driver in it, as they are registered."""
    image = IMAGE.format(version)

    def program() -> None:
        cluster: Cluster = KindCluster(
            "cluster",
            options=KindOptions(name="test", workers=1, gpu_nodes=["test-worker"], node_image="node:v1"),
            kubeconfig_file=Path("/nowhere/kubeconfig"),
            load_images=[image, PROBE],
            timeout_seconds=60,
        )
        DraDriver(
            "dra-driver",
            cluster=cluster,
            gpus=None,
            options=DriverOptions(
                image=image,
                driver_root="/driver",
                feature_gates={},
                log_verbosity=4,
                timeout_seconds=60,
                version=version,
                **options,
            ),
            expected=ExpectedGpus({"test-worker": 1}),
        )

    return run(program, "test")


@pytest.fixture(autouse=True)
def incarnation(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("machine.kind.incarnation", lambda *_: "1")


def release(recording: Recording) -> Resource:
    (found,) = recording.of_type(RELEASE)
    return found


def values(**options: Any) -> dict[str, Any]:
    return chart_values("registry.example.com/driver:v1", "/driver", {"MPSSupport": True}, 4, "digest", **options)


@pytest.mark.parametrize(
    ("version", "chart"),
    [
        ("0.5.0", "./.tools/charts/dra-driver-nvidia-gpu"),
        ("0.4.1", "./.tools/charts/dra-driver-nvidia-gpu-0.4.1"),
    ],
)
def test_chart_is_that_of_the_version(version: str, chart: str):
    inputs = release(build(version)).inputs
    assert (inputs["chart"], inputs["version"]) == (chart, version)
    assert inputs["values"]["image"]["tag"] == f"v{version}-0123456789ab"


def test_the_default_is_the_version_that_setup_says_it_is():
    assert DriverOptions.version == DRA_DRIVER == DRA_DRIVERS[0]


def upgrade() -> dict[str, Change]:
    return {change.name: change for change in changes(build("0.4.1"), build("0.5.0"))}


def test_another_version_updates_the_images_and_the_release_and_nothing_else():
    # The wait for the GPUs runs again as well: its revision is the release's, which only Helm knows.
    assert {name: change.what for name, change in upgrade().items()} == {
        "cluster-images": "updated",
        "dra-driver-release": "updated",
    }


def test_an_upgrade_is_one_of_the_same_release():
    before, after = release(build("0.4.1")), release(build("0.5.0"))
    assert before.inputs["name"] == after.inputs["name"] == "dra-driver-nvidia-gpu"
    assert "replaceOnChanges" not in after.options and "replaceWith" not in after.options


def test_the_new_image_is_in_the_nodes_before_the_release_changes():
    recording = build("0.5.0")
    assert IMAGE.format("0.5.0") in recording.resources["cluster-images"].inputs["create"]
    assert "cluster-images" in release(recording).depends_on


def test_images_are_loaded_by_an_update_of_the_command_and_not_by_another_one():
    # The command has no update of its own, so `create` runs again where it has changed.
    before, after = (build(version).resources["cluster-images"].inputs for version in ("0.4.1", "0.5.0"))
    assert "update" not in after and "delete" not in after
    assert before["triggers"] == after["triggers"] and before["create"] != after["create"]


@pytest.mark.parametrize("shares", ["memory", "unlimited", "10"])
def test_consumable_shares_go_to_the_chart_as_they_are(shares: str):
    assert values(consumable_shares=shares) == {**values(), "consumableShares": shares}
    assert release(build("0.5.0", consumable_shares=shares)).inputs["values"]["consumableShares"] == shares


def test_without_consumable_shares_the_chart_is_not_asked():
    assert "consumableShares" not in values()
    assert "consumableShares" not in release(build("0.4.1")).inputs["values"]


def chart(version: str) -> Path:
    folder = CHARTS / of_driver("dra-driver-nvidia-gpu", version)
    assert folder.is_dir(), f"{folder} is missing; run `make setup`"
    return folder


def unknown(given: Mapping[str, Any], known: Mapping[str, Any], path: str = "") -> list[str]:
    """The keys of `given` that `known` has not; an empty mapping of the chart takes any."""
    found = []
    for key, value in given.items():
        if known and key not in known:
            found.append(f"{path}{key}")
        elif isinstance(value, Mapping) and isinstance(known.get(key), Mapping):
            found += unknown(value, known[key], f"{path}{key}.")
    return found


@pytest.mark.parametrize("version", DRA_DRIVERS)
def test_chart_knows_every_value_that_it_is_given(version: str):
    known = yaml.safe_load((chart(version) / "values.yaml").read_text())
    assert unknown(values(), known) == []
    assert unknown(values(consumable_shares="memory"), known) == ([] if version == DRA_DRIVER else ["consumableShares"])


@pytest.mark.parametrize("version", DRA_DRIVERS)
def test_chart_starts_the_plugin_as_the_simulated_gpus_need_it(version: str):
    # By bash, which reads the file that BASH_ENV names first.
    template = (chart(version) / "templates" / "kubeletplugin.yaml").read_text()
    (_, gpus) = template.split("- name: gpus\n", 1)
    assert 'command: ["bash", "-c"]' in gpus.split("args:", 1)[0]
    assert ".Values.kubeletPlugin.containers.gpus.env" in gpus


@pytest.mark.parametrize("version", DRA_DRIVERS)
def test_chart_is_of_its_version(version: str):
    assert yaml.safe_load((chart(version) / "Chart.yaml").read_text())["version"] == version


def test_feature_gates_and_driver_root_are_handed_on():
    given = values()
    assert given["featureGates"] == {"MPSSupport": True}
    assert given["nvidiaDriverRoot"] == "/driver"
    assert given["kubeletPlugin"]["podAnnotations"] == {"dra-workshop/gpus": "digest"}


def test_gpu_that_the_node_does_not_have_is_an_error_with_its_remedy():
    gpus = [{"node": "a", "name": "gpu-0", "uuid": "GPU-0"}]
    assert gpu_of(gpus, "a", 0)["uuid"] == "GPU-0"
    with pytest.raises(pulumi.RunError, match="node a has 1 GPU, and the modules of the stack use 2"):
        gpu_of(gpus, "a", 1)
