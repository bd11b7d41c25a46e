"""Prometheus' text, and the kubelet's bytes."""

from collections.abc import Iterator

import pytest
from gpu_agents.claims import only_looks
from gpu_agents.collector import render
from gpu_agents.mps import contexts_by_number
from gpu_agents.pods import CLASSES
from prometheus_client.core import Metric
from prometheus_client.registry import Collector


class Energy(Collector):
    def collect(self) -> Iterator[Metric]:
        metric = Metric("DCGM_FI_DEV_TOTAL_ENERGY_CONSUMPTION", "Energy", "counter")
        metric.add_sample(metric.name, {"gpu": "0"}, 5)
        yield metric


def test_nvidias_counter_has_nvidias_name_and_is_a_counter():
    assert render(Energy()).decode().splitlines() == [
        "# HELP DCGM_FI_DEV_TOTAL_ENERGY_CONSUMPTION Energy",
        "# TYPE DCGM_FI_DEV_TOTAL_ENERGY_CONSUMPTION counter",
        'DCGM_FI_DEV_TOTAL_ENERGY_CONSUMPTION{gpu="0"} 5.0',
    ]


def test_the_kubelets_message_is_read_by_its_field_numbers_and_what_is_unknown_is_skipped():
    def field(number: int, content: bytes | str) -> bytes:
        data = content.encode() if isinstance(content, str) else content
        assert len(data) < 2**14
        length = [len(data)] if len(data) < 2**7 else [len(data) & 0x7F | 0x80, len(data) >> 7]
        return bytes([number << 3 | 2, *length]) + data

    share, cdi = field(5, "share-1"), field(1, field(1, "k8s.gpu.nvidia.com/claim=x"))
    result = cdi + field(2, "gpu.nvidia.com") + field(3, "node-1") + field(4, "gpu-0") + share
    claim = field(2, "claim") + field(3, "team") + field(4, result)
    cpu_ids, device = field(3, b"\x01\x02"), field(2, field(1, "example.com/nic"))
    container = field(1, "main") + device + cpu_ids + field(5, claim)
    pod = field(1, "worker") + field(2, "team") + field(3, container) + field(4, b"\x01")
    (found,) = CLASSES["ListPodResourcesResponse"].FromString(field(1, pod)).pod_resources
    (held,) = found.containers[0].dynamic_resources
    assert (found.name, found.namespace, found.containers[0].name) == ("worker", "team", "main")
    assert (held.claim_name, held.claim_namespace) == ("claim", "team")
    (device,) = held.claim_resources
    assert (device.driver_name, device.pool_name, device.device_name) == ("gpu.nvidia.com", "node-1", "gpu-0")


def result(device: str, **more: object) -> dict:
    return {"driver": "gpu.nvidia.com", "pool": "node", "device": device, **more}


@pytest.mark.parametrize(
    ("results", "expected"),
    [
        ([result("gpu-0", adminAccess=True), result("gpu-1")], {("node", "gpu-0")}),
        # The same GPU by another request of the claim: held.
        ([result("gpu-0", adminAccess=True), result("gpu-0")], set()),
        ([result("gpu-0", adminAccess=False)], set()),
        ([result("x", adminAccess=True) | {"driver": "net.example.com"}], set()),
        ([], set()),
    ],
)
def test_only_admin_access_looks_on(results: list[dict], expected: set):
    assert only_looks({"status": {"allocation": {"devices": {"results": results}}}}) == expected


@pytest.mark.parametrize("claim", [{}, {"status": {}}, {"status": {"allocation": {}}}])
def test_a_claim_without_an_allocation_looks_at_nothing(claim: dict):
    assert only_looks(claim) == frozenset()


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        ("", {}),
        ("[0] 00:00.0, NVIDIA H100\n", {}),
        ("[0] 00:00.0, H\n0.1\n0.2\n[10] 00:0a.0, H\n12.3\n", {"0": 2, "10": 1}),
        ("Server 17 not found\n", {}),
    ],
)
def test_contexts_are_counted_below_their_devices_heading(answer: str, expected: dict):
    assert contexts_by_number(answer) == expected
