"""gpu-exporter as a process: what a scrape tells, whatever fails beside it."""

import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from gpus.models import simulated_gpus
from tests.unit.gpu_agents.conftest import PACKAGES, ApiServer, Kubelet, Program, pod
from tests.unit.gpu_sim.driver_root import DRIVER, MODELS
from tests.unit.gpu_sim.mps import Mps

GPUS = simulated_gpus("node", MODELS["h100-80gb"], 2)
CLAIMS = "/apis/resource.k8s.io/v1/namespaces/team/resourceclaims"
Labels = frozenset[tuple[str, str]]


def scrape(program: Program) -> dict[str, list[tuple[dict[str, str], float]]]:
    """Samples by name."""
    status, text = program.get("/metrics")
    assert status == 200, text
    found: dict[str, list[tuple[dict[str, str], float]]] = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            found.setdefault(sample.name, []).append((sample.labels, sample.value))
    return found


def holders(program: Program, name: str = "DCGM_FI_DEV_FB_TOTAL") -> set[tuple[str, str, str, str]]:
    return {(at["gpu"], at["pod"], at["container"], at["dra_claim_name"]) for at, _ in scrape(program)[name]}


def errors(program: Program) -> dict[str, float]:
    samples = scrape(program)["gpu_exporter_scrape_errors_total"]
    return {labels["source"]: value for labels, value in samples if value}


def allocated(*results: tuple[str, bool]) -> dict:
    """A claim with (device, adminAccess)."""
    found = [
        {"driver": "gpu.nvidia.com", "pool": "node", "device": device, **({"adminAccess": True} if admin else {})}
        for device, admin in results
    ]
    return {"status": {"allocation": {"devices": {"results": found}}}}


def test_a_simulated_gpu_has_nvidias_labels_and_only_what_nvml_answers(run, kubelet: Kubelet):
    program = run("exporter", POD_RESOURCES_SOCKET=str(kubelet.socket), GPU_SIMULATED="true")
    found = scrape(program)
    model = MODELS["h100-80gb"]
    empty = ("namespace", "pod", "container", "dra_claim_namespace", "dra_claim_name", "dra_driver_name")
    assert found["DCGM_FI_DEV_FB_TOTAL"] == [
        (
            {
                "gpu": str(number),
                "UUID": gpu.uuid,
                "pci_bus_id": bus_id,
                "device": f"nvidia{number}",
                "modelName": model.product_name,
                "Hostname": "node",
                "DCGM_FI_DRIVER_VERSION": DRIVER,
                **dict.fromkeys((*empty, "dra_pool_name", "dra_device_name"), ""),
            },
            model.memory_mib,
        )
        for number, (gpu, bus_id) in enumerate(zip(GPUS, ("00000000:0A:00.0", "00000000:1A:00.0"), strict=True))
    ]
    assert {value for _, value in found["DCGM_FI_DEV_FB_USED"]} == {0}
    assert {value for _, value in found["DCGM_FI_DEV_FB_FREE"]} == {model.memory_mib - model.reserved_memory_mib}
    assert {value for _, value in found["DCGM_FI_DEV_XID_ERRORS"]} == {0}
    assert found["gpu_simulated"] == [({"UUID": gpu.uuid}, 1) for gpu in GPUS]
    figures = {name for name in found if name.startswith("DCGM_")}
    assert figures == {
        *("DCGM_FI_DEV_FB_TOTAL", "DCGM_FI_DEV_FB_USED", "DCGM_FI_DEV_FB_FREE", "DCGM_FI_DEV_XID_ERRORS"),
        *("DCGM_FI_DEV_GPU_UTIL", "DCGM_FI_DEV_MEM_COPY_UTIL"),
    }
    assert not {name for name in found if name.startswith("mps")}
    assert errors(program) == {}
    assert program.get("/healthz") == (200, "ok\n")
    assert program.get("/nothing")[0] == 404


def test_real_gpus_are_not_called_simulated(run, kubelet: Kubelet):
    assert "gpu_simulated" not in scrape(run("exporter", POD_RESOURCES_SOCKET=str(kubelet.socket)))


def test_an_xid_is_told_at_the_next_scrape(run, root, kubelet: Kubelet):
    program = run("exporter", POD_RESOURCES_SOCKET=str(kubelet.socket))
    (root.path / "run/xid").write_text("1 79\n")
    assert program.line("a GPU reported an XID")["xid"] == 79
    samples = scrape(program)["DCGM_FI_DEV_XID_ERRORS"]
    assert {labels["UUID"]: value for labels, value in samples} == {GPUS[0].uuid: 0, GPUS[1].uuid: 79}


def test_each_container_that_holds_a_gpu_has_a_series_and_a_free_gpu_has_one_without(
    run, kubelet: Kubelet, api_server: ApiServer, tmp_path: Path
):
    kubelet.has(
        pod("one", "shared", "gpu-1"),
        pod("two", "shared", "gpu-1"),
        pod("other-driver", "net", "gpu-0", driver="net.example.com"),
        pod("slice", "mig", "gpu-0-mig-1g10gb-19-0"),
    )
    for claim in ("shared", "mig"):
        api_server.objects[f"{CLAIMS}/{claim}"] = allocated(("gpu-1", False))
    program = run(
        "exporter",
        POD_RESOURCES_SOCKET=str(kubelet.socket),
        KUBECONFIG=str(api_server.kubeconfig(tmp_path)),
    )
    assert holders(program) == {
        ("0", "", "", ""),
        ("1", "one", "main", "shared"),
        ("1", "two", "main", "shared"),
    }
    (held, _) = next(each for each in scrape(program)["DCGM_FI_DEV_XID_ERRORS"] if each[0]["pod"] == "one")
    told = {key: held[key] for key in held if key.startswith("dra_") or key == "namespace"}
    assert told == {
        "namespace": "team",
        "dra_claim_namespace": "team",
        "dra_claim_name": "shared",
        "dra_driver_name": "gpu.nvidia.com",
        "dra_pool_name": "node",
        "dra_device_name": "gpu-1",
    }
    assert errors(program) == {}


def test_two_shares_of_one_gpu_in_one_claim_are_one_series(run, kubelet: Kubelet):
    kubelet.has(pod("one", "shares", "gpu-0", "gpu-0"))
    program = run("exporter", POD_RESOURCES_SOCKET=str(kubelet.socket))
    assert len(scrape(program)["DCGM_FI_DEV_FB_TOTAL"]) == 2


def test_an_admin_claim_holds_nothing_and_is_asked_for_once_while_its_pod_lives(
    run, kubelet: Kubelet, api_server: ApiServer, tmp_path: Path
):
    looking = pod("monitor", "every-gpu", "gpu-0", "gpu-1")
    kubelet.has(looking, pod("worker", "own", "gpu-0"))
    api_server.objects[f"{CLAIMS}/every-gpu"] = allocated(("gpu-0", True), ("gpu-1", True))
    api_server.objects[f"{CLAIMS}/own"] = allocated(("gpu-0", False))
    program = run(
        "exporter",
        POD_RESOURCES_SOCKET=str(kubelet.socket),
        KUBECONFIG=str(api_server.kubeconfig(tmp_path)),
    )
    expected = {("0", "worker", "main", "own"), ("1", "", "", "")}
    assert [holders(program) for _ in range(3)] == [expected] * 3
    asked = [line for line in api_server.asked if "resourceclaims" in line]
    assert sorted(asked) == [f"GET {CLAIMS}/every-gpu", f"GET {CLAIMS}/own"]
    # The same name again, later: another claim, which holds.
    kubelet.has()
    assert holders(program) == {("0", "", "", ""), ("1", "", "", "")}
    api_server.objects[f"{CLAIMS}/every-gpu"] = allocated(("gpu-0", False), ("gpu-1", False))
    kubelet.has(looking)
    assert holders(program) == {("0", "monitor", "main", "every-gpu"), ("1", "monitor", "main", "every-gpu")}


def test_without_the_api_everything_is_told_as_held_and_logged_once(
    run, kubelet: Kubelet, api_server: ApiServer, tmp_path: Path
):
    kubelet.has(pod("monitor", "every-gpu", "gpu-0"))
    api_server.refused[f"{CLAIMS}/every-gpu"] = 403
    program = run(
        "exporter",
        POD_RESOURCES_SOCKET=str(kubelet.socket),
        KUBECONFIG=str(api_server.kubeconfig(tmp_path)),
    )
    for _ in range(3):
        assert ("0", "monitor", "main", "every-gpu") in holders(program)
    failed = [line for line in program.logged() if line["level"] == "error"]
    assert [(line["source"], line["reason"]) for line in failed] == [("api", f"{CLAIMS}/every-gpu is refused")]
    assert failed[0]["consequence"] == "admin claims are told as holders"
    assert errors(program) == {"api": 4}


def test_a_claim_that_is_gone_is_no_failure(run, kubelet: Kubelet, api_server: ApiServer, tmp_path: Path):
    kubelet.has(pod("worker", "gone", "gpu-0"))
    program = run(
        "exporter",
        POD_RESOURCES_SOCKET=str(kubelet.socket),
        KUBECONFIG=str(api_server.kubeconfig(tmp_path)),
    )
    assert ("0", "worker", "main", "gone") in holders(program)
    assert errors(program) == {}


def test_without_the_kubelet_the_gpus_are_still_told(run, tmp_path: Path):
    program = run("exporter", POD_RESOURCES_SOCKET=str(tmp_path / "none.sock"))
    assert holders(program) == {("0", "", "", ""), ("1", "", "", "")}
    assert errors(program) == {"pod-resources": 2}
    (line,) = [line for line in program.logged() if line["level"] == "error"]
    assert line["source"] == "pod-resources" and line["reason"].startswith("UNAVAILABLE: ")


def test_without_a_driver_the_scrape_tells_only_the_failure(run, kubelet: Kubelet):
    program = run("exporter", POD_RESOURCES_SOCKET=str(kubelet.socket), LD_LIBRARY_PATH="")
    found = scrape(program)
    assert not {name for name in found if name.startswith("DCGM_")}
    assert errors(program)["nvml"] >= 2


ANSWERS = f"""
case "$commands" in
*get_server_list*) printf '4711\\nDefault\\nDevice Ordinal    PCI IDs    UUID    Name    Attributes\\n'
  printf '0   0000:19:00.0   {GPUS[1].uuid}   NVIDIA H100\\n1   0000:1A:00.0   {GPUS[0].uuid}   NVIDIA H100\\n';;
"get_device_client_list 4711") printf '[0] 00:00.0, NVIDIA H100\\n0.1\\n0.2\\n17.1\\n';;
esac
"""


def test_contexts_are_counted_on_the_gpu_that_the_daemon_means(run, kubelet: Kubelet, fake_control):
    program = run(
        "exporter",
        POD_RESOURCES_SOCKET=str(kubelet.socket),
        CUDA_MPS_PIPE_DIRECTORY="/pipe",
        PATH=fake_control(ANSWERS),
    )
    found = scrape(program)
    # The daemon's numbers are its own: here its 0 is NVML's 1.
    assert {labels["UUID"]: (labels["gpu"], value) for labels, value in found["mps_clients"]} == {
        GPUS[1].uuid: ("1", 3),
        GPUS[0].uuid: ("0", 0),
    }
    assert found["mps_servers"] == [({"Hostname": "node"}, 1)]
    assert found["mps_up"] == [({"Hostname": "node"}, 1)]


@pytest.mark.parametrize(
    ("script", "reason"),
    [
        ("exec sleep 60", "the MPS daemon did not answer within 2 s"),
        (
            "echo Cannot find MPS control daemon process; exit 1",
            "nvidia-cuda-mps-control ended with 1: Cannot find MPS control daemon process",
        ),
    ],
    ids=["hangs", "refuses"],
)
def test_a_daemon_that_does_not_answer_is_down_and_holds_no_scrape_up(
    run, kubelet: Kubelet, fake_control, script: str, reason: str
):
    program = run(
        "exporter",
        POD_RESOURCES_SOCKET=str(kubelet.socket),
        CUDA_MPS_PIPE_DIRECTORY="/pipe",
        PATH=fake_control(script),
    )
    started = time.monotonic()
    found = scrape(program)
    assert time.monotonic() - started < 4
    assert found["mps_up"] == [({"Hostname": "node"}, 0)]
    assert not {"mps_clients", "mps_servers"} & set(found)
    assert len(found["DCGM_FI_DEV_FB_TOTAL"]) == 2
    assert program.line("a source failed; its metrics are missing or incomplete")["reason"] == reason


def test_contexts_of_the_simulated_daemon_are_counted(run, root, kubelet: Kubelet, tmp_path: Path):
    with tempfile.TemporaryDirectory(prefix="mps", dir="/tmp") as name:
        mps = Mps(root, Path(name))
        for folder in ("p", "l", "sanitizer"):
            (Path(name) / folder).mkdir()
        try:
            mps.start()
            program = run(
                "exporter",
                POD_RESOURCES_SOCKET=str(kubelet.socket),
                PATH=f"{root.path}/usr/bin:/usr/bin:/bin",
                **{key: value for key, value in mps.environment().items() if key.startswith("CUDA_MPS")},
            )
            assert scrape(program)["mps_servers"] == [({"Hostname": "node"}, 0)]
            mps.client()("start()")
            found = scrape(program)
            assert found["mps_servers"] == [({"Hostname": "node"}, 1)]
            assert {labels["gpu"]: value for labels, value in found["mps_clients"]} == {"0": 1, "1": 0}
        finally:
            mps.stop()


def test_a_simulation_that_is_neither_true_nor_false_is_refused():
    done = subprocess.run(
        [sys.executable, "-m", "gpu_agents.exporter"],
        env={"PYTHONPATH": str(PACKAGES), "GPU_SIMULATED": "yes"},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 1
    assert re.search(r'GPU_SIMULATED: \\"yes\\" is neither true nor false; set one of them', done.stderr)
