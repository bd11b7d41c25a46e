"""Time of a pod with a claim from created to running, beside one without, and the stages that make the difference.

Times are those of `checks.timeline`: of the client's clock.
"""

import statistics
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import kr8s
import pytest
import yaml

from checks.live import LiveStack, wait_for
from checks.timeline import CLAIM_TEMPLATE, STAGES, Api, Moments, Timeline, follow, pod_manifest
from components.dra_driver import NAMESPACE
from gpus.quantity import quantity_mib
from machine.images import images_of
from settings import PROJECT
from tests.bench.figures import Prepared, breakdown, percentile, save, show, spread
from tests.e2e.workspace import Workspace
from toolchain.paths import CHECKOUT

pytestmark = pytest.mark.bench
STACK = "latency"
CONFIG = {
    "modules": ["01", "02"],
    "cluster": {"workers": 2},
    "gpu": {"model": "h100-80gb", "count": 8},
    "driver": {"consumableShares": "memory"},
}
# Pods at once -> rounds, in each of which both kinds have their turn.
ROUNDS = {1: 5, 10: 2, 50: 2, 200: 2}
KINDS = ("claim", "plain")
MEMORY_MIB = 256
CREATORS = 8
CLEAN_SECONDS = 600
METRICS_PORT = 8080
AIM_DIFFERENCE_OF_ONE = 3.0
AIM_RATIO_OF_MOST = 3.0


@dataclass(frozen=True)
class Round:
    """Some pods of one kind, created at once, and what the driver prepared for them."""

    kind: str
    pods: list[Moments]
    prepared: Prepared

    @property
    def seconds(self) -> float:
        """Seconds from the first pod created to the last one running."""
        created, running = zip(*((at.created or 0.0, at.running or 0.0) for at in self.pods), strict=True)
        return max(running) - min(created)


def template(namespace: str) -> dict[str, Any]:
    """Claims for a part of a GPU's memory."""
    memory = {"requests": {"memory": f"{MEMORY_MIB}Mi"}}
    request = {"name": "gpu", "exactly": {"deviceClassName": "gpu.nvidia.com", "capacity": memory}}
    return {
        "apiVersion": "resource.k8s.io/v1",
        "kind": "ResourceClaimTemplate",
        "metadata": {"name": CLAIM_TEMPLATE, "namespace": namespace},
        "spec": {"spec": {"devices": {"requests": [request]}}},
    }


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveStack]:
    workspace = Workspace.copy(CHECKOUT, tmp_path_factory.mktemp(STACK))
    config = {f"{PROJECT}:{key}": value for key, value in CONFIG.items()}
    workspace.write_stack(STACK, yaml.safe_dump({"config": config}))
    with workspace.up(STACK) as live:
        yield live


def assert_room(stack: LiveStack, pods: int) -> None:
    """Assertion that so many pods, and their claims, fit the GPU nodes beside what is there."""
    nodes = [node.node for node in stack.settings.gpu_nodes]
    room = sum(int(stack.one("nodes", node)["status"]["allocatable"]["pods"]) for node in nodes)
    room -= sum(other["spec"].get("nodeName") in nodes for other in stack.get("pods", namespace=kr8s.ALL))
    assert room >= pods, f"{pods} pods do not fit: {', '.join(nodes)} have room for {room}; give the stack more workers"
    claims = sum(quantity_mib(device["memory"]) // MEMORY_MIB for device in stack.devices().values())
    assert claims >= pods, f"{pods} claims of {MEMORY_MIB} MiB do not fit: the GPUs have room for {claims}"


def prepared(stack: LiveStack) -> Prepared:
    """Counts of the plugins of all nodes since they started."""
    label = {"dra-driver-nvidia-gpu-component": "kubelet-plugin"}
    total = Prepared()
    for plugin in stack.get("pods", namespace=NAMESPACE, label_selector=label):
        name = f"{plugin['metadata']['name']}:{METRICS_PORT}"
        path = f"/api/v1/namespaces/{NAMESPACE}/pods/{name}/proxy/metrics"
        total += Prepared.parse(stack.kubectl("get", "--raw", path))
    return total


def measure(stack: LiveStack, api: Api, namespace: str, kind: str, count: int) -> Round:
    """Create the pods at once, wait until all run, and remove them with their claims."""
    image = images_of(stack.settings)["gpu-probe"]
    names = [f"{kind}-{number}" for number in range(count)]
    manifests = [pod_manifest(name, namespace, image, claim=kind == "claim") for name in names]
    timeline, before = Timeline(names), prepared(stack)
    try:
        with api.pod_events(namespace) as events, ThreadPoolExecutor(CREATORS) as pool:
            created = [pool.submit(api.create_pods, manifests[first::CREATORS], timeline) for first in range(CREATORS)]
            follow(timeline, events, created)
        made = prepared(stack).since(before)
    finally:
        clean(stack, namespace)
    # The kubelet may ask again for a claim that is prepared, where what comes after it failed.
    enough = made.requests >= count if kind == "claim" else made.requests == 0
    assert enough, f"the driver prepared {made.requests} claims for {count} pods of kind {kind}"
    return Round(kind, list(timeline.moments.values()), made)


def clean(stack: LiveStack, namespace: str) -> None:
    """Remove all pods; the driver gives up their claims before they are gone."""
    stack.kubectl("delete", "pods", "-n", namespace, "--all", "--wait=false")
    kinds = ("pods", "resourceclaims.v1.resource.k8s.io")
    look = "pods and claims of the round are gone"
    wait_for(look, lambda: not any(stack.get(kind, namespace=namespace) for kind in kinds), CLEAN_SECONDS)


def pods_of(rounds: Sequence[Round], kind: str) -> list[Moments]:
    return [at for round_ in rounds if round_.kind == kind for at in round_.pods]


def totals(rounds: Sequence[Round], kind: str) -> list[float]:
    return [at.total for at in pods_of(rounds, kind)]


def compared(rounds: Sequence[Round]) -> dict[str, Any]:
    """Comparison of the rounds of one size: both kinds, their difference by stage, and the driver's part of it."""
    claim, plain = (spread(totals(rounds, kind)) for kind in KINDS)
    stages = breakdown(*(pods_of(rounds, kind) for kind in KINDS))
    driver = sum((round_.prepared for round_ in rounds), Prepared())
    return {
        "claim": claim,
        "plain": plain,
        "ratioOfP50": claim["p50"] / plain["p50"],
        "differenceOfP50": claim["p50"] - plain["p50"],
        "differenceOfMean": claim["mean"] - plain["mean"],
        "stages": {stage: dict(zip((*KINDS, "difference"), means, strict=True)) for stage, means in stages.items()},
        "prepare": {"requests": driver.requests, "meanSeconds": driver.mean, "errors": driver.errors},
    }


def growth(results: dict[int, dict[str, Any]], rounds: dict[int, list[Round]], kind: str) -> str:
    """Growth of p50 with the number of pods, in a line."""
    least, most = min(results), max(results)
    first, last = results[least][kind]["p50"], results[most][kind]["p50"]
    rate = most / statistics.fmean(round_.seconds for round_ in rounds[most] if round_.kind == kind)
    each = ", ".join(f"{results[count][kind]['p50'] / count:.3f} at {count}" for count in results)
    slope = (last - first) / (most - least)
    return (
        f"{kind}: p50 {first:.2f} s at {least} to {last:.2f} s at {most}, {slope:.3f} s for each further pod; "
        f"p50 a pod in s: {each}; {rate:.1f} pods a second run at {most}"
    )


def report(results: dict[int, dict[str, Any]], rounds: dict[int, list[Round]]) -> None:
    """Print the tables and keep everything."""
    rows = [
        (str(count), kind, str(result[kind]["count"]), *(result[kind][key] for key in ("p50", "p99", "max", "mean")))
        for count, result in results.items()
        for kind in KINDS
    ]
    note = "p99 of fewer than 100 pods is the slowest one. Simulated GPUs: times of Kubernetes and of NVIDIA's driver."
    show("Created to running, seconds", ("at once", "kind", "pods", "p50", "p99", "max", "mean"), rows, note)
    columns = ("at once", "p50 ratio", "p50 difference", "mean difference", *STAGES, "driver's prepare", "its errors")
    rows = [
        (
            str(count),
            *(result[key] for key in ("ratioOfP50", "differenceOfP50", "differenceOfMean")),
            *(result["stages"][stage]["difference"] for stage in STAGES),
            result["prepare"]["meanSeconds"],
            str(result["prepare"]["errors"]),
        )
        for count, result in results.items()
    ]
    note = (
        f"The stages add up to the mean difference: {STAGES[0]} is the claim controller's, {STAGES[1]} the "
        f"scheduler's, {STAGES[2]} the kubelet's and the driver's. Prepare is the driver's own mean of a request, "
        f"a part of {STAGES[2]}, with its wait for the plugin's lock."
    )
    show("A claim's cost beside a plain pod, seconds", columns, rows, note)
    lines = [growth(results, rounds, kind) for kind in KINDS]
    print("\n".join(lines))
    raw = {
        str(count): [
            {
                "kind": round_.kind,
                "seconds": round(round_.seconds, 3),
                "pods": [[round(seconds, 3) for seconds in (*at.stages, at.total)] for at in round_.pods],
            }
            for round_ in turns
        ]
        for count, turns in rounds.items()
    }
    save(
        "allocation-latency",
        {
            "simulated": True,
            "config": CONFIG,
            "unit": "seconds",
            "results": {str(count): result for count, result in results.items()},
            "growth": dict(zip(KINDS, lines, strict=True)),
            "columnsOfPods": [*STAGES, "created to running"],
            "rounds": raw,
        },
    )


def test_claim_costs_a_pod_little_time(stack: LiveStack) -> None:
    assert_room(stack, max(ROUNDS))
    api = Api(Path(stack.kubeconfig), stack.settings.context)
    rounds: dict[int, list[Round]] = {}
    with stack.playground() as playground:
        space = playground.namespace
        stack.kubectl("create", "-f", "-", stdin=yaml.safe_dump(template(space)))
        for kind in KINDS:
            # The first pods on a node pay for what is made once, which is not what is measured here.
            measure(stack, api, space, kind, 2 * len(stack.settings.gpu_nodes))
        for count, number in ROUNDS.items():
            for turn in range(number):
                order = KINDS if turn % 2 == 0 else KINDS[::-1]
                rounds.setdefault(count, []).extend(measure(stack, api, space, kind, count) for kind in order)
                print(f"{count} at once, round {turn + 1} of {number}: " + ", ".join(one_line(rounds[count][-2:])))
    results = {count: compared(turns) for count, turns in rounds.items()}
    report(results, rounds)
    least, most = results[min(ROUNDS)], results[max(ROUNDS)]
    assert least["differenceOfP50"] < AIM_DIFFERENCE_OF_ONE
    assert most["ratioOfP50"] < AIM_RATIO_OF_MOST


def one_line(rounds: Sequence[Round]) -> list[str]:
    return [f"{round_.kind} p50 {percentile([at.total for at in round_.pods], 50):.2f} s" for round_ in rounds]
