"""What the checks of module 08 read, against a stack of plain data."""

from typing import Any, cast

import pytest

from checks import metrics
from checks.live import LiveStack
from components.claims import request_least_memory
from components.manifests import by_kind, manifest

TEXT = """\
# TYPE DCGM_FI_DEV_FB_TOTAL gauge
DCGM_FI_DEV_FB_TOTAL{Hostname="a",namespace="n",pod="p",container="c",dra_claim_name="k",dra_device_name="gpu-0"} 80.0
DCGM_FI_DEV_FB_TOTAL{UUID="GPU-1",Hostname="a",namespace="",pod="",container=""} 80.0
# TYPE energy counter
energy{UUID="GPU-1"} 7
# TYPE errors_total counter
errors_total 8
# TYPE d_seconds histogram
d_seconds_bucket{operation="prepare",le="0.05"} 98
d_seconds_bucket{operation="prepare",le="0.1"} 99
d_seconds_bucket{operation="prepare",le="+Inf"} 100
d_seconds_sum{operation="prepare"} 3
d_seconds_count{operation="prepare"} 100
"""


def claim_of(name: str, device: str, *users: str, **more: Any) -> dict[str, Any]:
    result = {"driver": "gpu.nvidia.com", "pool": "a", "device": device, **more}
    status = {"allocation": {"devices": {"results": [result]}}, "reservedFor": [{"uid": user} for user in users]}
    return {"metadata": {"name": name, "namespace": "n"}, "status": status}


def pod_of(name: str, *containers: str, **entry: str) -> dict[str, Any]:
    """A pod with one entry `gpu` of resourceClaims, which each of its containers names."""
    made = [{"name": container, "resources": {"claims": [{"name": "gpu"}]}} for container in containers]
    spec = {"containers": [*made, {"name": "other"}], "resourceClaims": [{"name": "gpu", **entry}]}
    return {"metadata": {"name": name, "namespace": "n", "uid": name}, "spec": spec, "status": {}}


class Plain:
    """A stack that answers from what it was given."""

    def __init__(self, shares: str = "disabled", **kinds: Any) -> None:
        self.settings = type("Settings", (), {"consumable_shares": shares})
        self.kinds = {"resourceclaims.v1.resource.k8s.io": [], "pods": [], **kinds}

    def kubectl(self, *words: str) -> str:
        return TEXT

    def get(self, kind: str, **options: Any) -> list[dict[str, Any]]:
        return self.kinds[kind.partition(".")[0]]

    def devices(self) -> dict[tuple[str, str], dict[str, Any]]:
        return {(node, device): {"memory": "1Gi", "uuid": f"{node}-{device}"} for node in "ab" for device in ("x", "y")}

    def allocations(self) -> list[tuple[str, str]]:
        found = [result for claim in self.kinds["resourceclaims"] for result in results(claim)]
        return [(result["pool"], result["device"]) for result in found if not result.get("adminAccess")]


def results(claim: dict[str, Any]) -> list[dict[str, Any]]:
    return claim["status"]["allocation"]["devices"]["results"]


def plain(*claims: Any, pods: Any = (), shares: str = "disabled") -> Any:
    return Plain(shares, resourceclaims=list(claims), pods=list(pods))


def test_metrics_have_the_names_that_are_written():
    samples = metrics.scrape(cast(LiveStack, Plain()), "pods/a")
    assert metrics.value(samples, "energy") == 7 and metrics.value(samples, "errors_total") == 8
    assert not metrics.select(samples, "energy_total")


def test_checks_read_series_and_histograms():
    samples = metrics.scrape(plain(), "nodes/a")
    assert metrics.exported_holders(samples) == {metrics.Holder("a", "gpu-0", "n", "p", "c", "k")}
    assert metrics.value_of_gpu(samples, "DCGM_FI_DEV_FB_TOTAL", "GPU-1") == 80
    assert metrics.value(samples, "d_seconds_count", operation="prepare") == 100
    quantiles = metrics.bounds(samples, "d_seconds", (0.5, 0.99, 1), operation="prepare")
    assert quantiles == ["<= 0.05", "<= 0.1", "<= inf"]


def test_checks_take_holders_from_the_claims_status():
    by_template = pod_of("second", "main", resourceClaimTemplateName="t")
    by_template["status"] = {"resourceClaimStatuses": [{"name": "gpu", "resourceClaimName": "made"}]}
    extended = pod_of("third")
    mappings = [{"containerName": "main", "requestName": "r", "resourceName": "nvidia.com/gpu"}]
    extended["spec"] = {"containers": []}
    extended["status"] = {"extendedResourceClaimStatus": {"resourceClaimName": "ext", "requestMappings": mappings}}
    stack = plain(
        claim_of("own", "gpu-0", "first", "gone"),
        claim_of("made", "gpu-1", "second"),
        claim_of("ext", "gpu-2", "third"),
        claim_of("looks", "gpu-3", "first", adminAccess=True),
        claim_of("other", "nic-0", "first", driver="nic.example.com"),
        pods=[pod_of("first", "a", "b", resourceClaimName="own"), by_template, extended],
    )
    assert metrics.allocated_holders(stack) == {
        metrics.Holder("a", "gpu-0", "n", "first", "a", "own"),
        metrics.Holder("a", "gpu-0", "n", "first", "b", "own"),
        metrics.Holder("a", "gpu-1", "n", "second", "main", "made"),
        metrics.Holder("a", "gpu-2", "n", "third", "main", "ext"),
    }


@pytest.mark.parametrize(
    ("shares", "left"),
    [
        ("disabled", {"y": {}}),
        ("memory", {"x": {"memory": "423Mi"}, "y": {"memory": "1023Mi"}}),
        ("3", {"x": {"shares": "1"}, "y": {"shares": "2"}}),
        ("2", {"y": {"shares": "1"}}),
        ("1", {}),
    ],
)
def test_checks_know_what_is_left_of_a_node_beside_what_an_admin_claim_has_to_fit_into(
    shares: str, left: dict[str, dict[str, str]]
):
    taken = claim_of("own", "x", "first", consumedCapacity={"memory": "600Mi"})
    looks = claim_of("looks", "y", "first", adminAccess=True, consumedCapacity={"memory": "1Gi"})
    assert metrics.free_capacity(plain(taken, looks, shares=shares), "a") == left


def test_a_gpu_of_which_only_the_least_is_left_is_full():
    taken = claim_of("own", "x", "first", consumedCapacity={"memory": "1023Mi"})
    assert metrics.free_capacity(plain(taken, shares="memory"), "a") == {"y": {"memory": "1023Mi"}}


@pytest.mark.parametrize(
    ("shares", "asked"),
    [
        ("disabled", {}),
        ("memory", {"capacity": {"requests": {"memory": "2Mi"}}}),
        ("3", {"capacity": {"requests": {"shares": "2"}}}),
    ],
)
def test_one_too_many_asks_for_more_than_is_left_of_a_full_gpu(shares: str, asked: dict[str, Any]):
    assert metrics.request_beyond_full_node(plain(shares=shares)) == {**metrics.request(), **asked}


@pytest.mark.parametrize("shares", ["disabled", "memory", "unlimited", "3"])
def test_look_at_every_gpu_is_that_of_the_components(shares: str):
    claim = by_kind(manifest("3-gpu-exporter.yaml"))["ResourceClaimTemplate"]
    if shares != "disabled":
        request_least_memory(claim)
    (request,) = claim["spec"]["spec"]["devices"]["requests"]
    # Theirs stays on a GPU that failed; a check's has none that did.
    del request["exactly"]["tolerations"]
    asked = metrics.every_gpu(plain(shares=shares))
    assert {key: asked[key] for key in request["exactly"]} == request["exactly"]


def test_checks_say_where_no_node_is_ever_full():
    with pytest.raises(pytest.skip.Exception, match="is unlimited: a node is never full"):
        metrics.free_capacity(plain(shares="unlimited"), "a")


def full(*, shares: str, left: str = "1Mi") -> Any:
    """A stack of which every GPU is taken, but for some memory of node b's last one."""
    most = {"x": "1Gi", "y": "1Gi"}
    taken = [{**claim_of(f"{node}-{device}", device, "first"), "node": node} for node in "ab" for device in most]
    for one in taken:
        (result,) = results(one)
        last = (one["node"], result["device"]) == ("b", "y")
        used = f"{1024 - int(left.removesuffix('Mi'))}Mi" if last else "1Gi"
        result |= {"pool": one["node"], "consumedCapacity": {"memory": used}}
    stack = plain(*taken, shares=shares)
    nodes = [type("Node", (), {"node": node}) for node in "ab"]
    stack.settings = type("Settings", (), {"consumable_shares": shares, "gpu_nodes": nodes})
    return stack


def test_little_is_asked_of_a_shared_gpu_where_every_one_is_taken():
    with metrics.part_of_a_gpu(full(shares="memory", left="100Mi")) as (device, asked):
        assert device == ("b", "y")
        assert asked == metrics.request("b-y", capacity={"requests": {"memory": "64Mi"}})


def test_full_gpus_are_said_to_be_with_the_remedy():
    with (
        pytest.raises(pytest.skip.Exception, match="every GPU is full: lower consumableCapacity"),
        metrics.part_of_a_gpu(full(shares="memory", left="50Mi")),
    ):
        pass


class Scraped(Plain):
    """A stack with an exporter whose scrapes tell these failures so far of the source `mps`, one after the other."""

    def __init__(self, *failures: int) -> None:
        pod = {"metadata": {"name": "exporter-a"}, "spec": {"nodeName": "a"}}
        super().__init__(pods=[pod])
        self.failures = list(failures)

    def kubectl(self, *words: str) -> str:
        return f'gpu_exporter_scrape_errors_total{{source="mps"}} {self.failures.pop(0)}\n'


@pytest.mark.parametrize(
    ("told", "left"),
    [((7, 7, 7), 1), ((7, 8, 8, 8), 1), ((0, 1, 2, 3, 3, 3), 1)],
    ids=["both answered", "the second did not", "three did not"],
)
def test_scrape_in_which_a_source_failed_is_repeated(told: tuple[int, ...], left: int):
    stack = Scraped(*told)
    (sample,) = metrics.exporter_samples(cast(LiveStack, stack), "a")
    assert sample.value == told[-1]
    assert len(stack.failures) == left


def test_source_that_fails_in_every_scrape_is_named():
    stack = Scraped(*range(9))
    with pytest.raises(AssertionError, match=r"exporter on a had no answer in 4 scrapes; in the last of \['mps'\]"):
        metrics.exporter_samples(cast(LiveStack, stack), "a")
