"""gpu-exporter without a GPU: GPUs and MIG devices of ResourceSlices, and the GPU instance of one that is used."""

from pathlib import Path

import pytest
import yaml
from gpu_agents.slices import devices

from tests.unit.gpu_agents.conftest import ApiServer, Kubelet, pod
from tests.unit.gpu_agents.test_exporter import CLAIMS, allocated, errors, scrape

SLICES = "/apis/resource.k8s.io/v1/resourceslices"
PARENT, WHOLE = "GPU-00000000-0000-0000-0000-00000000000a", "GPU-00000000-0000-0000-0000-00000000000b"
LARGE, SMALL = "gpu-0-mig-3g20gb-9-4", "gpu-0-mig-1g5gb-19-0"
HELD, IDLE = "MIG-00000000-0000-0000-0000-00000000000a", "MIG-00000000-0000-0000-0000-00000000000b"
MODEL = "NVIDIA A100-PCIE-40GB"
COMMON = {
    "productName": {"string": MODEL},
    "driverVersion": {"version": "580.159.4"},
    "resource.kubernetes.io/pciBusID": {"string": "0000:0a:00.0"},
}


def mig(name: str, profile: str, memory: str, sms: int, uuid: str | None) -> dict:
    attributes = {**COMMON, "type": {"string": "mig"}, "parentUUID": {"string": PARENT}, "profile": {"string": profile}}
    if uuid:
        attributes["uuid"] = {"string": uuid}
    return {
        "name": name,
        "attributes": attributes,
        "capacity": {"memory": {"value": memory}, "multiprocessors": {"value": str(sms)}},
    }


def whole(name: str) -> dict:
    attributes = {**COMMON, "type": {"string": "gpu"}, "uuid": {"string": WHOLE}}
    return {"name": name, "attributes": attributes, "capacity": {"memory": {"value": "40Gi"}}}


def resource_slice(*published: dict, generation: int = 1, driver: str = "gpu.nvidia.com") -> dict:
    pool = {"name": "node", "generation": generation, "resourceSliceCount": 1}
    return {"spec": {"driver": driver, "nodeName": "node", "pool": pool, "devices": list(published)}}


def environment(api: ApiServer, kubelet: Kubelet, folder: Path) -> dict[str, str]:
    return {
        "KUBECONFIG": str(api.kubeconfig(folder)),
        "POD_RESOURCES_SOCKET": str(kubelet.socket),
        "DEVICE_SOURCE": "slices",
        "CDI_FOLDER": str(folder / "cdi"),
        "CAPABILITIES_FOLDER": str(folder / "capabilities"),
    }


def write_files(folder: Path, device: str = LARGE) -> None:
    """What NVIDIA's driver and kernel module write of a device that a claim has: GPU instance 2 of GPU 0."""
    for instance, minor in ((1, 30), (2, 39)):
        for file, number in ((f"gi{instance}/access", minor), (f"gi{instance}/ci0/access", minor + 1)):
            path = folder / "capabilities" / "gpu0" / "mig" / file
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(f"DeviceFileMinor: {number}\nDeviceFileMode: 292\nDeviceFileModify: 1\n")
    nodes = [{"path": f"/dev/{name}"} for name in ("nvidia0", "nvidia-caps/nvidia-cap39", "nvidia-caps/nvidia-cap40")]
    entries = [{"name": f"0123-4567-{device}", "containerEdits": {"deviceNodes": nodes}}]
    (folder / "cdi").mkdir(exist_ok=True)
    text = yaml.safe_dump({"cdiVersion": "0.6.0", "kind": "k8s.gpu.nvidia.com/claim", "devices": entries})
    (folder / "cdi" / "k8s.gpu.nvidia.com-claim_0123-4567.yaml").write_text(text)


def labels(**more: str) -> dict[str, str]:
    names = ("namespace", "pod", "container", "dra_claim_namespace", "dra_claim_name", "dra_driver_name")
    return {
        "gpu": "0",
        "UUID": PARENT,
        "pci_bus_id": "00000000:0A:00.0",
        "device": "nvidia0",
        "modelName": MODEL,
        "GPU_I_ID": "",
        "Hostname": "node",
        "DCGM_FI_DRIVER_VERSION": "580.159.4",
        **dict.fromkeys((*names, "dra_pool_name", "dra_device_name"), ""),
        **more,
    }


def test_mig_device_has_nvidias_labels_whether_a_pod_has_it_or_not(
    run, kubelet: Kubelet, api_server: ApiServer, tmp_path: Path
):
    published = [
        mig(LARGE, "3g.20gb", "20096Mi", 42, HELD),
        mig(SMALL, "1g.5gb", "4864Mi", 14, IDLE),
        whole("gpu-1"),
    ]
    api_server.objects[SLICES] = {"items": [resource_slice(*published)]}
    api_server.objects[f"{CLAIMS}/slice"] = allocated((LARGE, False))
    kubelet.has(pod("tenant", "slice", LARGE))
    write_files(tmp_path)
    program = run("exporter", GPU_SIMULATED="true", **environment(api_server, kubelet, tmp_path))
    found = scrape(program)
    held = {
        **{"namespace": "team", "pod": "tenant", "container": "main", "dra_claim_namespace": "team"},
        **{"dra_claim_name": "slice", "dra_driver_name": "gpu.nvidia.com", "dra_pool_name": "node"},
        **{"dra_device_name": LARGE, "GPU_I_PROFILE": "3g.20gb", "GPU_I_ID": "2"},
        **{"dra_mig_profile": "3g.20gb", "dra_mig_device_uuid": HELD},
    }
    idle = {"GPU_I_PROFILE": "1g.5gb", "dra_mig_profile": "1g.5gb", "dra_mig_device_uuid": IDLE}
    none = dict.fromkeys(("GPU_I_PROFILE", "dra_mig_profile", "dra_mig_device_uuid"), "")
    gpu = {"gpu": "1", "UUID": WHOLE, "device": "nvidia1", **none}
    assert found["DCGM_FI_DEV_FB_TOTAL"] == [
        (labels(**idle), 4864),
        (labels(**held), 20096),
        (labels(**gpu), 40960),
    ]
    assert found["mig_multiprocessors"] == [(labels(**idle), 14), (labels(**held), 42)]
    assert found["gpu_simulated"] == [({"UUID": PARENT}, 1), ({"UUID": WHOLE}, 1)]
    # Nothing that no slice says.
    assert {name for name in found if name.startswith("DCGM_")} == {"DCGM_FI_DEV_FB_TOTAL"} and not errors(program)
    counted = {at["source"] for at, _ in found["gpu_exporter_scrape_errors_total"]}
    assert counted == {"api", "pod-resources", "cdi"}
    kubelet.has()
    assert [at["pod"] for at, _ in scrape(program)["DCGM_FI_DEV_FB_TOTAL"]] == ["", "", ""]


def test_two_containers_on_one_mig_device_are_two_series(run, kubelet: Kubelet, api_server: ApiServer, tmp_path: Path):
    api_server.objects[SLICES] = {"items": [resource_slice(mig(LARGE, "3g.20gb", "20096Mi", 42, HELD))]}
    api_server.objects[f"{CLAIMS}/slice"] = allocated((LARGE, False))
    kubelet.has(pod("a", "slice", LARGE), pod("b", "slice", LARGE))
    write_files(tmp_path)
    program = run("exporter", **environment(api_server, kubelet, tmp_path))
    series = scrape(program)["DCGM_FI_DEV_FB_TOTAL"]
    assert [(at["pod"], at["GPU_I_ID"], value) for at, value in series] == [("a", "2", 20096), ("b", "2", 20096)]
    assert "gpu_simulated" not in scrape(program)


def test_partition_that_nobody_made_is_no_device(run, kubelet: Kubelet, api_server: ApiServer, tmp_path: Path):
    # With the gate DynamicMIG a slice has every partition that could be, without UUIDs.
    partitions = [mig(LARGE, "3g.20gb", "20096Mi", 42, None), mig(SMALL, "1g.5gb", "4864Mi", 14, None)]
    api_server.objects[SLICES] = {"items": [resource_slice(*partitions)]}
    api_server.objects[f"{CLAIMS}/slice"] = allocated((SMALL, False))
    kubelet.has(pod("tenant", "slice", SMALL))
    write_files(tmp_path, SMALL)
    program = run("exporter", **environment(api_server, kubelet, tmp_path))
    ((at, value),) = scrape(program)["DCGM_FI_DEV_FB_TOTAL"]
    assert (at["GPU_I_PROFILE"], at["GPU_I_ID"], at["dra_mig_device_uuid"], value) == ("1g.5gb", "2", "", 4864)


def test_source_that_fails_is_counted_and_the_others_go_on(
    run, kubelet: Kubelet, api_server: ApiServer, tmp_path: Path
):
    api_server.objects[SLICES] = {"items": [resource_slice(mig(LARGE, "3g.20gb", "20096Mi", 42, HELD))]}
    api_server.objects[f"{CLAIMS}/slice"] = allocated((LARGE, False))
    kubelet.has(pod("tenant", "slice", LARGE))
    write_files(tmp_path)
    (tmp_path / "cdi" / "k8s.gpu.nvidia.com-claim_0123-4567.yaml").write_text("devices: {no list}")
    program = run("exporter", **environment(api_server, kubelet, tmp_path))
    ((at, _),) = scrape(program)["DCGM_FI_DEV_FB_TOTAL"]
    assert (at["pod"], at["GPU_I_ID"]) == ("tenant", "") and errors(program)["cdi"] > 0
    api_server.refused[SLICES] = 403
    assert "DCGM_FI_DEV_FB_TOTAL" not in scrape(program) and errors(program)["api"] > 0


def test_devices_are_those_of_the_newest_generation_and_of_nvidias_driver():
    old, new = mig(LARGE, "3g.20gb", "20096Mi", 42, HELD), mig(SMALL, "1g.5gb", "4864Mi", 14, IDLE)
    vfio = {"name": "gpu-vfio-0", "attributes": {"type": {"string": "vfio"}, "uuid": {"string": WHOLE}}}
    items = [
        resource_slice(old, generation=1),
        resource_slice(new, vfio, generation=2),
        resource_slice(whole("gpu-1"), generation=2, driver="compute-domain.nvidia.com"),
        {"spec": {"driver": "gpu.nvidia.com", "pool": {"name": "node", "generation": 2}, "sharedCounters": []}},
    ]
    assert [device.name for device in devices(items)] == [SMALL]


@pytest.mark.parametrize(
    ("quantity", "mib"), [("20096Mi", 20096), ("40Gi", 40960), ("1073741824", 1024), ("1Ti", 2**20)]
)
def test_memory_is_read_in_every_unit_that_the_driver_writes(quantity: str, mib: int):
    (device,) = devices([resource_slice(mig(LARGE, "3g.20gb", quantity, 42, HELD))])
    assert device.memory_mib == mib
