"""What the checks of a real GPU compute from what they saw, against a stack of plain data."""

import json
from types import SimpleNamespace
from typing import Any

import pytest

from checks import throughput
from checks.mps import Client, ClientEnd, model_of
from checks.test_05_mps_limits import same_limit, split_by_time
from checks.throughput import Burn, burns, chip, common_repeats, query, row
from settings import Settings

UUID = "GPU-1"


class Plain:
    """A stack of one GPU that answers from what it was given."""

    def __init__(self, source: str = "host", provider: str = "kind", said: str = "1980\n", **device: Any) -> None:
        cluster = SimpleNamespace(provider=provider)
        gpu = SimpleNamespace(source=source, driver_root="/driver")
        self.settings: Any = SimpleNamespace(cluster=cluster, gpu=gpu, gpu_model=None)
        self.said = said
        self.words: tuple[str, ...] = ()
        values = {"uuid": UUID, "productName": "NVIDIA H100 80GB HBM3", "cudaComputeCapability": "9.0.0"}
        self.device = {**values, **device}

    def devices(self) -> dict[tuple[str, str], dict[str, Any]]:
        return {("n", "gpu-0"): {**self.device, "uuid": "other"}, ("n", "gpu-1"): self.device}

    def in_node(self, node: str, *words: str) -> str:
        self.words = words
        return self.said


@pytest.fixture(autouse=True)
def root(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(throughput, "driver_root", lambda settings: "/driver")


def plain(**options: Any) -> Any:
    return Plain(**options)


def client(first: float, repeats: int, seconds: float = 1.5, sms: int = 26, tflops: float = 13.0) -> list[Burn]:
    ends = [first + seconds * number for number in range(1, repeats + 1)]
    return [Burn(sms, tflops, end - seconds, end) for end in ends]


def test_repeats_end_when_their_lines_were_printed():
    line = {"repeat": 1, "tflops": 33.0, "sms": 66, "seconds": 2.0}
    assert burns([(9.0, {"gpus": []}), (12.5, line)]) == [Burn(66, 33.0, 10.5, 12.5)]


def test_only_repeats_of_which_every_client_ran_count():
    first, second = common_repeats([client(4.0, 6), client(7.5, 6)])
    # The second one warmed up from 3.5 on, and the first one ended at 13.
    assert [burn.begin for burn in first] == [4.0, 5.5, 7.0]
    assert [burn.begin for burn in second] == [7.5, 9.0, 10.5]


def test_clients_that_hardly_met_are_refused():
    with pytest.raises(AssertionError, match="only 0 repeats of a client were while all of them ran; 3 count"):
        common_repeats([client(0.0, 6), client(20.0, 6)])


def test_row_has_the_repeats_and_one_number_of_sms():
    assert row(client(0, 3)) == (26, 13.0, 13.0, 13.0)
    with pytest.raises(AssertionError, match="2 repeats"):
        row(client(0, 2))
    with pytest.raises(ValueError, match="too many values"):
        row([*client(0, 2), *client(3, 1, sms=24)])


def test_peak_is_that_of_every_lane_in_every_cycle():
    stack = plain()
    found = chip(stack, UUID, 132)
    assert found.peak == pytest.approx(66.908, abs=0.001)
    assert (found.name, found.lanes, found.clock) == ("NVIDIA H100 80GB HBM3", 128, 1980)
    assert stack.words[-3:] == ("--id=GPU-1", "--query-gpu=clocks.max.sm", "--format=csv,noheader,nounits")
    assert "/driver/usr/bin/nvidia-smi" in stack.words
    assert any("/driver/usr/lib/x86_64-linux-gnu" in word for word in stack.words)


def test_chip_whose_lanes_are_not_known_is_skipped_with_the_remedy():
    with pytest.raises(pytest.skip.Exception, match=r"capability 99\.0 are not known; add them to FP32_LANES"):
        chip(plain(cudaComputeCapability="99.0.0"), UUID, 132)


def test_warning_of_nvidia_smi_is_no_answer():
    said = "81559, 345\nWARNING: infoROM is corrupted at gpu 0000:01:00.0, and more\n"
    assert query(plain(said=said), "n", UUID, "memory.total", "clocks.sm") == ["81559", "345"]


def test_nvidia_smi_is_run_in_nodes_of_kind_only():
    with pytest.raises(pytest.skip.Exception, match="nodes of Kind only"):
        query(plain(provider="existing"), "n", UUID, "clocks.sm")


def test_simulated_gpu_is_not_measured():
    with pytest.raises(pytest.skip.Exception, match=r"^needs a real GPU$"):
        throughput.skip_unless_real(plain(source="simulated"))
    throughput.skip_unless_real(plain())


class Pod:
    """A client's pod that has ended, and its log."""

    def __init__(self, code: int, *lines: dict[str, Any]) -> None:
        self.code, self.removed = code, False
        self.printed = [
            f"2026-11-20T10:00:{second:02d}.123456789Z {json.dumps(one)}" for second, one in enumerate(lines)
        ]

    def one(self, kind: str, name: str, namespace: str) -> dict[str, Any]:
        times = {"startedAt": "2026-11-20T10:00:00Z", "finishedAt": "2026-11-20T10:00:05Z"}
        ended = {"state": {"terminated": {"exitCode": self.code, **times}}}
        return {"spec": {"restartPolicy": "Never"}, "status": {"containerStatuses": [ended]}}

    def delete(self, version: str, path: str, namespace: str, grace_seconds: int) -> None:
        self.removed = path == "pods/client-1"

    def log(self, namespace: str, pod: str, *, check: bool = True, timestamps: str = "false") -> str:
        lines = self.printed if timestamps == "true" else [line.partition(" ")[2] for line in self.printed]
        return "\n".join(lines)


def test_client_that_has_ended_gives_its_repeats_and_goes():
    pod: Any = Pod(0, {"gpus": []}, {"tflops": 33.0, "sms": 66, "seconds": 0.5})
    (found,) = throughput.wait_repeats(Client(pod, "client-1"))
    assert found.end - found.begin == pytest.approx(0.5) and found.end % 60 == pytest.approx(1.123456)
    assert pod.removed


def test_client_that_failed_is_an_error_with_its_last_line():
    pod: Any = Pod(6, {"error": "CUDA_ERROR_MPS_RPC_FAILURE"})
    with pytest.raises(AssertionError, match=r"client-1 ended with 6: .*RPC_FAILURE"):
        throughput.wait_repeats(Client(pod, "client-1"))


def test_end_of_a_client_has_its_times():
    pod: Any = Pod(0, {"sms": 66})
    ended = Client(pod, "client-1").ended()
    assert isinstance(ended, ClientEnd) and ended.finished - ended.began == 5 and ended.sms == 66


def test_repeats_are_told_apart_by_another_pods_life():
    parts = split_by_time(client(0.0, 12, seconds=1.0), 3.0, 5.0)
    assert {when: [burn.end for burn in part] for when, part in parts.items()} == {
        "before": [1, 2, 3],
        "meanwhile": [4, 5, 6],
        "after": [7, 8, 9, 10, 11, 12],
    }
    with pytest.raises(AssertionError, match="no repeat was after"):
        split_by_time(client(0.0, 4, seconds=1.0), 1.0, 3.0)


@pytest.mark.parametrize(
    ("rule", "holds", "expected"),
    [(2048, 2046, True), (2048, 2043, False), ("no limit", "no limit", True), ("no limit", 2048, False)],
)
def test_limits_are_the_same_to_what_the_driver_rounds(rule: int | str, holds: int | str, expected: bool):
    assert same_limit(rule, holds) is expected


def test_model_of_the_hosts_gpu_is_that_of_its_product_name(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("checks.mps.shared_gpu", lambda stack: UUID)
    found = model_of(plain())
    assert found and found.key == "h100-80gb"
    assert model_of(plain(productName="NVIDIA Unknown")) is None
    simulated: Any = SimpleNamespace(settings=Settings.parse({}, "test"))
    assert model_of(simulated) is simulated.settings.gpu_model
