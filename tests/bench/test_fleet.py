"""Pods that Kubernetes schedules a second in a fleet of nodes that are only objects, by its size and what they claim.

Times are of the client's clock, from a create call's return until the watch tells of the pod's node; KWOK then says
that it runs. Figures of one machine: what may be compared is what one run measured.
"""

import os
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from checks import fleet
from checks.live import LiveStack, wait_for
from checks.timeline import Api, Moments, Timeline, follow
from gpus.models import GPU_MODELS
from settings import PROJECT
from tests.bench.figures import percentile, processes, save, show
from tests.bench.test_at_rest import READ, TICKS
from tests.e2e.workspace import Workspace
from toolchain.paths import CHECKOUT

pytestmark = pytest.mark.bench
STACK = "sizes"
# Nodes -> pods of a round. Of the least fleet the pairs take 72 of 80 GPUs.
SIZES = {10: 36, 100: 200, 1000: 400}
# What a pod claims -> example, and words of it that are replaced.
KINDS: dict[str, tuple[str, dict[str, str]]] = {
    "no claim": ("one-of-fleet", {}),
    "one GPU": ("one-of-fleet", {}),
    "one by CEL": ("by-product", {"NVIDIA L40S": GPU_MODELS["h100-80gb"].product_name}),
    "two by attribute": ("pair", {}),
    "19Gi of one": ("share", {}),
}
CLIENTS = {"controller manager": (20, 30), "scheduler": (50, 100)}  # requests a second, at once: Kubernetes' defaults
TUNED = {"controller manager": (500, 1000), "scheduler": (500, 1000)}
PROGRAMS = ("kube-apiserver", "kube-scheduler", "kube-controller-manager", "etcd")
CREATORS = 4
CLEAN_SECONDS = 600
FULL, TURNED = 0.9, 100  # part of the GPUs that are taken in the steady state, pods of it that are replaced
# The largest fleet that is filled: some 7000 pods would take longer than all else.
FILLED = 100
# Port of a program's metrics in its node.
METRICS = {"scheduler": 10259, "controller manager": 10257}
# What of a pod's way takes how long -> program, and the histogram's name with its labels.
STEPS = {
    "search": ("scheduler", "scheduler_scheduling_algorithm_duration_seconds", ""),
    "look round": (
        "scheduler",
        "scheduler_framework_extension_point_duration_seconds",
        'extension_point="PreFilter"',
    ),
    "filters": ("scheduler", "scheduler_framework_extension_point_duration_seconds", 'extension_point="Filter"'),
    "writes": ("scheduler", "scheduler_framework_extension_point_duration_seconds", 'extension_point="PreBind"'),
    "scheduler's client": ("scheduler", "rest_client_rate_limiter_duration_seconds", ""),
    "controller's client": ("controller manager", "rest_client_rate_limiter_duration_seconds", ""),
}
# At 100 times the nodes a pod with a claim may cost so many times as much of the whole round.
AIM_GROWTH = 25


@dataclass(frozen=True)
class Round:
    """Pods of one kind in a fleet of one size, and what the control plane used meanwhile.

    `steps` is the mean milliseconds of each of `STEPS`, `load` the machine's load before and after.
    """

    size: int
    kind: str
    clients: str
    pods: list[Moments]
    cores: dict[str, float]
    memory: dict[str, float]
    steps: dict[str, float]
    load: tuple[float, float]

    @property
    def waits(self) -> list[float]:
        """Seconds from created to scheduled."""
        return [(at.scheduled or 0.0) - (at.created or 0.0) for at in self.pods]

    @property
    def rate(self) -> float:
        """Pods a second from the first one created to the last one scheduled."""
        first = min(at.created or 0.0 for at in self.pods)
        return len(self.pods) / (max(at.scheduled or 0.0 for at in self.pods) - first)

    @property
    def row(self) -> dict[str, Any]:
        waits = self.waits
        return {
            "nodes": self.size,
            "claim": self.kind,
            "clients": self.clients,
            "pods": len(self.pods),
            "podsASecond": round(self.rate, 2),
            "p50": round(percentile(waits, 50), 3),
            "p99": round(percentile(waits, 99), 3),
            "cores": {name: round(value, 3) for name, value in self.cores.items()},
            "rssMib": {name: round(value) for name, value in self.memory.items()},
            "stepsMs": {name: round(value, 2) for name, value in self.steps.items()},
            "load": [round(value, 1) for value in self.load],
        }


def config(nodes: int) -> str:
    blocks = {
        "modules": ["01", "02", "12"],
        "cluster": {"workers": 0},
        "gpu": {"model": "h100-80gb", "count": 8},
        "fleet": {"nodes": nodes},
        "timeouts": {"workload": 1200},
    }
    return yaml.safe_dump({"config": {f"{PROJECT}:{key}": value for key, value in blocks.items()}})


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    copy = Workspace.copy(CHECKOUT, tmp_path_factory.mktemp(STACK))
    copy.write_stack(STACK, config(min(SIZES)))
    return copy


@pytest.fixture(scope="module")
def stack(workspace: Workspace) -> Iterator[LiveStack]:
    with workspace.up(STACK) as live:
        yield live


def used(stack: LiveStack) -> dict[str, tuple[float, float]]:
    """Program of the control plane -> CPU seconds and MiB that it has used and has."""
    node = f"{stack.settings.cluster_name}-control-plane"
    found = processes(stack.in_node(node, "bash", "-c", READ, "read", "|".join(PROGRAMS)), PROGRAMS)
    return {one.program: (one.ticks / TICKS, one.rss_mib) for one in found}


def timed(stack: LiveStack) -> dict[str, tuple[float, float]]:
    """Step -> seconds that it took, and how often, since its program started."""
    node = f"{stack.settings.cluster_name}-control-plane"
    # Each has a certificate of its own making, and shows its metrics to administrators.
    look = ("kubectl", "--kubeconfig=/etc/kubernetes/admin.conf", "--insecure-skip-tls-verify", "get", "--raw=/metrics")
    texts = {name: stack.in_node(node, *look, f"--server=https://127.0.0.1:{port}") for name, port in METRICS.items()}
    found = {}
    for step, (program, histogram, labels) in STEPS.items():
        pair = [
            sum(
                float(line.split()[-1])
                for line in texts[program].splitlines()
                if line.startswith(name) and labels in line
            )
            for name in (f"{histogram}_sum", f"{histogram}_count")
        ]
        found[step] = (pair[0], pair[1])
    return found


def mean_ms(before: dict[str, tuple[float, float]], after: dict[str, tuple[float, float]]) -> dict[str, float]:
    """Mean milliseconds of each step that was taken in between."""
    taken = {step: (after[step][0] - before[step][0], after[step][1] - before[step][1]) for step in before}
    return {step: 1000 * seconds / count for step, (seconds, count) in taken.items() if count}


def tune(stack: LiveStack, clients: dict[str, tuple[int, int]]) -> None:
    """Let the kubelet start controller manager and scheduler with these bounds of their clients."""
    node = f"{stack.settings.cluster_name}-control-plane"
    for name, (rate, burst) in clients.items():
        program = f"kube-{name.replace(' ', '-')}"
        options = f"    - --kube-api-qps={rate}\\n    - --kube-api-burst={burst}"
        file = f"/etc/kubernetes/manifests/{program}.yaml"
        stack.in_node(node, "sed", "-i", "-e", "/--kube-api-/d", "-e", f"s/^    - {program}$/&\\n{options}/", file)

        def started(program: str = program, wanted: str = f"--kube-api-qps={rate}") -> bool:
            pods = stack.get("pods", f"{program}-{node}", "kube-system")
            return any(wanted in pod["spec"]["containers"][0]["command"] and _ready(pod) for pod in pods)

        wait_for(f"{program} runs with {rate} requests a second", started)
    # Each waits for the lease that the one before it held.
    for name in ("kube-controller-manager", "kube-scheduler"):
        wait_for(f"{name} leads", lambda name=name: _leads(stack, name))


def _ready(pod: dict[str, Any]) -> bool:
    conditions = {each["type"]: each["status"] for each in pod["status"].get("conditions", [])}
    return conditions.get("Ready") == "True"


def _leads(stack: LiveStack, name: str) -> bool:
    """Whether somebody renewed the lease a moment ago, and again meanwhile."""
    first = stack.one("leases.coordination.k8s.io", name, "kube-system")["spec"]
    time.sleep(3)  # longer than a leader takes to renew it, which is two seconds
    second = stack.one("leases.coordination.k8s.io", name, "kube-system")["spec"]
    return first["holderIdentity"] == second["holderIdentity"] and first["renewTime"] != second["renewTime"]


@contextmanager
def room(stack: LiveStack) -> Iterator[tuple[str, Api]]:
    """A namespace with the templates of all kinds."""
    with stack.playground() as playground:
        documents = {name: fleet.example(name)[0] for name, _ in KINDS.values()}
        for name, words in KINDS.values():
            if words:
                documents[name] = fleet.example(name, **words)[0]
        fleet.create_all(playground, list(documents.values()))
        yield playground.namespace, Api(Path(stack.kubeconfig), stack.settings.context)


def manifests(kind: str, namespace: str, names: Sequence[str]) -> list[dict[str, Any]]:
    example, _ = KINDS[kind]
    (pod,) = (document for document in fleet.example(example) if document["kind"] == "Pod")
    if kind == "no claim":
        del pod["spec"]["resourceClaims"], pod["spec"]["containers"][0]["resources"]
    return [{**pod, "metadata": {"name": name, "namespace": namespace}} for name in names]


def create(stack: LiveStack, api: Api, namespace: str, kind: str, names: Sequence[str]) -> Round:
    """Create pods at once and wait until all have nodes; `clients` and `size` are the caller's to say."""
    load, steps = os.getloadavg()[0], timed(stack)
    timeline, before, started = Timeline(names), used(stack), time.monotonic()
    made = manifests(kind, namespace, names)
    with api.pod_events(namespace) as events, ThreadPoolExecutor(CREATORS) as pool:
        created = [pool.submit(api.create_pods, made[first::CREATORS], timeline) for first in range(CREATORS)]
        follow(timeline, events, created)
    after, seconds = used(stack), time.monotonic() - started
    cores = {name: (after[name][0] - before[name][0]) / seconds for name in after if name in before}
    memory = {name: value for name, (_, value) in after.items()}
    memory_of = fleet.memory_by_device(fleet.slices(stack))
    assert not (lines := fleet.overbooked(fleet.taken(stack), memory_of)), lines
    moments = list(timeline.moments.values())
    return Round(0, kind, "", moments, cores, memory, mean_ms(steps, timed(stack)), (load, os.getloadavg()[0]))


def clean(stack: LiveStack, namespace: str) -> None:
    """Remove all pods, and wait for their claims to go."""
    stack.kubectl("delete", "--raw", f"/api/v1/namespaces/{namespace}/pods?gracePeriodSeconds=0")
    paths = (f"/api/v1/namespaces/{namespace}/pods", f"/apis/resource.k8s.io/v1/namespaces/{namespace}/resourceclaims")
    wait_for("pods and claims are gone", lambda: not any(fleet.listed(stack, path) for path in paths), CLEAN_SECONDS)


def measure(stack: LiveStack, clients: str, kinds: Sequence[str]) -> list[Round]:
    """A round of each kind in the fleet as it is."""
    size, rounds = len(stack.settings.fleet_nodes), []
    with room(stack) as (namespace, api):
        # What is made once, such as a compiled CEL expression, is not what is measured.
        create(stack, api, namespace, kinds[0], [f"warm-{number}" for number in range(4)])
        for kind in kinds:
            clean(stack, namespace)
            done = create(stack, api, namespace, kind, [f"pod-{number}" for number in range(SIZES[size])])
            rounds.append(replace(done, size=size, clients=clients))
            print({key: value for key, value in rounds[-1].row.items() if key not in ("cores", "rssMib")})
        clean(stack, namespace)
    return rounds


def steady(stack: LiveStack, clients: str) -> list[Round]:
    """Fill 90 % of the fleet, then replace some of its pods: the first is a round of many, the second one of churn."""
    size = len(stack.settings.fleet_nodes)
    count = int(FULL * sum(node.count or 0 for node in stack.settings.fleet_nodes))
    with room(stack) as (namespace, api):
        names = [f"pod-{number}" for number in range(count)]
        filled = create(stack, api, namespace, "one GPU", names)
        gone = names[:: max(count // TURNED, 1)][:TURNED]
        stack.kubectl("delete", "pods", "-n", namespace, "--wait=false", *gone)
        new = [f"new-{number}" for number in range(len(gone))]
        turned = create(stack, api, namespace, "one GPU", new)
        clean(stack, namespace)
    rounds = [("fill to 90 %", filled), ("churn at 90 %", turned)]
    return [replace(done, size=size, kind=kind, clients=clients) for kind, done in rounds]


def test_scheduling_grows_no_faster_than_the_fleet(workspace: Workspace, stack: LiveStack) -> None:
    rounds: list[Round] = []
    for size in SIZES:
        workspace.write_stack(STACK, config(size))
        workspace.pulumi("up", "--yes", "--skip-preview", "--stack", STACK)
        live = LiveStack.find(workspace.root, STACK)
        if size == FILLED:
            tune(live, CLIENTS)
            rounds += measure(live, "as they are", ("no claim", "one GPU"))
        tune(live, TUNED)
        rounds += measure(live, "tuned", tuple(KINDS))
        if size <= FILLED:
            rounds += steady(live, "tuned")
        save_all(rounds)
    by_size = {one.size: one for one in rounds if (one.kind, one.clients) == ("one GPU", "tuned")}
    growth = by_size[min(SIZES)].rate / by_size[max(SIZES)].rate
    print(f"one GPU: {growth:.1f} times the pods a second at {min(SIZES)} nodes as at {max(SIZES)}")
    assert growth < AIM_GROWTH


def save_all(rounds: Sequence[Round]) -> None:
    """Print the tables and keep the figures; after each size, since a run takes long."""
    columns = ("nodes", "pod", "clients", "pods", "pods/s", "p50 s", "p99 s")
    rows = [one.row for one in rounds]
    shown = [
        (
            str(r["nodes"]),
            r["claim"],
            r["clients"],
            str(r["pods"]),
            *(float(r[k]) for k in ("podsASecond", "p50", "p99")),
        )
        for r in rows
    ]
    note = (
        f"Created to scheduled, {os.cpu_count()} cores. GPUs are simulated, nodes are objects: Kubernetes is measured."
    )
    show("Pods scheduled in a fleet", columns, shown, note)
    shown = [
        (
            str(r["nodes"]),
            r["claim"],
            r["clients"],
            *(f"{r['cores'].get(p, 0):.2f}, {r['rssMib'].get(p, 0)}" for p in PROGRAMS),
        )
        for r in rows
    ]
    show("Control plane: cores, RSS in MiB", ("nodes", "pod", "clients", *PROGRAMS), shown)
    save("fleet", {"simulated": True, "clients": {"as they are": CLIENTS, "tuned": TUNED}, "rounds": rows})
