"""Faults of module 09: their names and bounds, and how each is made and undone."""

import json
import re
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import kr8s
import yaml

from checks.capacity import claim_manifest
from checks.live import DRIVER, LABEL, MANIFESTS, LiveStack, Playground, wait_for
from checks.mps import CLIENTS, Daemon, deployment_pods
from components.dra_driver import NAMESPACE as DRIVER_NAMESPACE
from components.mps_daemon import NAME as MPS_DAEMON
from components.mps_daemon import NAMESPACE as MPS_NAMESPACE
from components.pods import on_node
from machine.gpus import driver_root


@dataclass(frozen=True)
class Fault:
    """One fault. `name` is its row in docs/reference/modules/09-resilience.md.

    `bound` are the seconds within which all is well again.

    The bounds are for two cores and clusters of the stack's own: what was measured, the kubelet's ten seconds between
    two starts of a container and its up to fifteen between two tries at a claim, and as much again for a machine that
    is busy. They do not allow for the ninety seconds between two tries that the kubelet's default syncFrequency makes.
    """

    name: str
    bound: float
    by_claim: bool = False
    """Only where `mps.mode` is `claim`, which the stack of the page with the figures is not."""

    def after(self, kill: "Kill") -> "Fault":
        """The fault with the bound after this kill: after each further one the kubelet waits twice as long."""
        return replace(self, bound=self.bound + kill.later)


@dataclass(frozen=True)
class Kill:
    """Kill of a container's process: the time (monotonic, in seconds), and the how manieth in a row it was."""

    at: float
    number: int

    @property
    def later(self) -> float:
        """Seconds by which the kubelet's wait is longer than after the second kill, for which the bounds are."""
        return BACK_OFF_SECONDS * (2 ** (self.number - BOUNDED_KILLS) - 1)


PLUGIN_KILLED = Fault("kubelet plugin killed, twice", 60)
PLUGIN_KILLED_PREPARING = Fault("kubelet plugin killed while it prepares a claim", 60)
MPS_DAEMON_KILLED = Fault("MPS daemon of the node killed, twice", 90)
CLAIM_MPS_DAEMON_KILLED = Fault("MPS daemon of a claim killed", 90, by_claim=True)
KUBELET_KILLED = Fault("kubelet killed and kept down", 60)
NODE_RESTARTED = Fault("node's container restarted", 120)
API_SERVER_KILLED = Fault("API server killed, twice", 120)
CHECKPOINT_TRUNCATED = Fault("driver's checkpoint truncated", 60)
CHECKPOINT_ALTERED = Fault("driver's checkpoint altered", 60)
CHECKPOINT_DELETED = Fault("driver's checkpoint deleted", 60)
CLAIM_DELETED = Fault("claim of a running pod deleted", 45)
XID = Fault("GPU reports XID 79", 60)
DRAINED = Fault("node drained", 90)
EVICTED = Fault("GPU tainted NoExecute by a DeviceTaintRule", 60)
FAULTS = (
    PLUGIN_KILLED,
    PLUGIN_KILLED_PREPARING,
    MPS_DAEMON_KILLED,
    CLAIM_MPS_DAEMON_KILLED,
    KUBELET_KILLED,
    NODE_RESTARTED,
    API_SERVER_KILLED,
    CHECKPOINT_TRUNCATED,
    CHECKPOINT_ALTERED,
    CHECKPOINT_DELETED,
    CLAIM_DELETED,
    XID,
    EVICTED,
    DRAINED,
)

KILLS = 3  # further ones at most: the kubelet waits 10, 20, 40 s before it starts a container again
BOUNDED_KILLS = 2  # that every check makes; the first is undone at once
BACK_OFF_SECONDS = 10  # that the kubelet waits after the second kill
NOTICE_SECONDS = 45  # until somebody notices: the kubelet, which may look every fifteen; the scheduler, the driver
START_SECONDS = 60  # until what a check needs before its fault is there
RESTORE_SECONDS = 120  # until everything is as it was

CLAIMS = "resourceclaims.v1.resource.k8s.io"
RULES = "devicetaintrules.v1.resource.k8s.io"
PLUGIN = {"dra-driver-nvidia-gpu-component": "kubelet-plugin"}
# Command lines of processes, as `pgrep -f` matches them in the node.
PLUGIN_PROCESS = "^gpu-kubelet-plugin "
MPS_DAEMON_PROCESS = "^/usr/bin/mps-daemon run$"
API_SERVER_PROCESS = "^kube-apiserver "
PLUGIN_FOLDER = "/var/lib/kubelet/plugins/gpu.nvidia.com"
CHECKPOINT = f"{PLUGIN_FOLDER}/checkpoint.json"
CHECKPOINT_KEPT = "/tmp/checkpoint.json.kept"
CDI = "/var/run/cdi"
CDI_OF_CLAIM = "k8s.gpu.nvidia.com-claim_"
XID_KEY = "gpu.nvidia.com/xid"
LITTLE = "1Gi"  # of a GPU's memory, where claims share it
WORDS = 160  # of a message in the table


@dataclass(frozen=True)
class FaultSite:
    """Place where faults are made: a node with a free GPU, and a namespace for pods with claims."""

    stack: LiveStack
    node: str
    playground: Playground

    @property
    def gpus_are_shared(self) -> bool:
        """True if several claims may have one GPU."""
        return self.stack.settings.consumable_shares != "disabled"

    def free_devices(self) -> list[str]:
        """The node's devices of which no claim has anything."""
        taken = set(self.stack.allocations())
        return sorted(device for node, device in self.stack.devices().keys() - taken if node == self.node)

    def start(
        self,
        name: str,
        *,
        uuid: str | None = None,
        tolerations: Sequence[dict[str, str]] = (),
        claim: str | None = None,
    ) -> None:
        """A pod on the node with a claim of its own name, for the GPU of `uuid` if given; or with the claim `claim`.

        Where claims share GPUs it asks for little of one, so that several of them fit.
        """
        namespace = self.playground.namespace
        # A share of another kind than memory needs no request.
        by_memory = self.stack.settings.consumable_shares in ("memory", "unlimited")
        manifest = claim_manifest(name, namespace, LITTLE if by_memory else None, uuid)
        manifest["spec"]["devices"]["requests"][0]["exactly"]["tolerations"] = list(tolerations)
        example = yaml.safe_load_all((MANIFESTS / "03-workloads" / "examples" / "exclusive.yaml").read_text())
        pod = next(document for document in example if document["kind"] == "Pod")
        pod["metadata"] = {"name": name, "namespace": namespace}
        spec = pod["spec"]
        spec["affinity"] = on_node(self.node)
        spec["tolerations"] = [*spec["tolerations"], *self.stack.tolerations]
        spec["terminationGracePeriodSeconds"] = 1
        spec["resourceClaims"] = [{"name": "gpu", "resourceClaimName": claim or name}]
        (container,) = spec["containers"]
        container["image"] = self.stack.settings.images.get("gpu-probe") or container["image"]
        container["resources"] |= {"requests": {"cpu": "1m", "memory": "16Mi"}, "limits": {"memory": "512Mi"}}
        self.stack.create(*[pod] if claim else [manifest, pod])

    def run(self, name: str, **wanted: Any) -> tuple[str, int]:
        """Start a pod and wait until it runs; returns its uid and restarts."""
        self.start(name, **wanted)
        self.playground.wait_running(name, START_SECONDS)
        return self.playground.life(name)

    def claim(self, name: str) -> dict[str, Any]:
        return self.stack.one(CLAIMS, name, self.playground.namespace)

    def pod_is_gone(self, name: str) -> bool:
        """True if there is no pod of that name."""
        selector = f"metadata.name={name}"
        return not self.stack.get("pods", namespace=self.playground.namespace, field_selector=selector)

    def remove_pods(self) -> None:
        """Remove the playground's pods, and wait until the driver has let go of their claims."""
        namespace = self.playground.namespace
        self.stack.delete("v1", "pods", namespace)
        wait_for(
            "the pods of the check are gone", lambda: not self.stack.get("pods", namespace=namespace), START_SECONDS
        )

    def containers(self, name: str) -> list[str]:
        """The ids of the pod's containers that run, as the node's container runtime knows them."""
        uid = self.playground.pod(name)["metadata"]["uid"]
        return running_containers(self.stack, self.node, uid)

    def kubelet_refusal(self, name: str, words: str) -> str | None:
        """Message of the kubelet on a pod that it cannot start, if it matches; None if not, or if the pod has begun.

        `words` is a regular expression: the API server may not let the kubelet read a claim that its authorizer does
        not know of yet, and of that, which it tries again, the kubelet says the same reason with other words.
        """
        messages = self.playground.messages(name, "FailedPrepareDynamicResources")
        matching = [line for line in messages if re.search(words, line)]
        return matching[-1] if matching and self.playground.pod(name)["status"]["phase"] == "Pending" else None

    def wait_kubelet_refusal(self, name: str, words: str) -> str:
        """Message that `kubelet_refusal` returns, once it returns one."""
        what = f"{name} is Pending, and the kubelet says why: {words}"
        return wait_for(what, lambda: self.kubelet_refusal(name, words), NOTICE_SECONDS)


def shorten(message: str) -> str:
    """A message for a table: without what is different in every run, and not longer than WORDS."""
    text = re.sub(r"\b[0-9a-f]{8}-(?:[0-9a-f]{4}-){3}[0-9a-f]{12}\b", "UID", " ".join(message.split()))
    text = re.sub(r"\bcheck-[0-9a-f]{8}\b", "NAMESPACE", text)
    return text if len(text) <= WORDS else f"{text[:WORDS].rpartition(' ')[0]} ..."


def pids(stack: LiveStack, node: str, process: str) -> set[str]:
    """The processes of a node whose command line matches; none is no error."""
    return set(stack.in_node(node, "sh", "-c", 'pgrep -f "$1" || [ $? = 1 ]', "sh", process).split())


def send(stack: LiveStack, node: str, process: str, name: str) -> None:
    """Send a signal to the processes of a node that match. Raises `CalledProcessError` if there is none."""
    stack.in_node(node, "pkill", f"-{name}", "-f", process)


def running_containers(stack: LiveStack, node: str, uid: str) -> list[str]:
    """The ids of the containers that run of the pod with that uid; asks the node, not the API."""
    # Its own time limit is two seconds, too little for a node in which everything starts again.
    words = ("crictl", "--timeout=30s", "ps", "--quiet", "--label", f"io.kubernetes.pod.uid={uid}")
    return sorted(stack.in_node(node, *words).split())


def crash(stack: LiveStack, node: str, process: str, between: Callable[[], None] = lambda: None) -> Kill:
    """Kill a container's process, and once more when it is back; returns the second kill.

    The kubelet starts it again at once after the first kill, which is too soon to see what is broken meanwhile, and
    ten seconds after the second. `between` is called between the two, with the process back.
    """
    first = pids(stack, node, process)
    send(stack, node, process, "KILL")
    wait_for(f"{process} is started again", lambda: pids(stack, node, process) - first, START_SECONDS)
    between()
    send(stack, node, process, "KILL")
    return Kill(time.monotonic(), BOUNDED_KILLS)


def watch_while_down(
    stack: LiveStack,
    node: str,
    process: str,
    killed: Kill,
    signs: Mapping[str, Callable[[], object]],
    between: Callable[[], None] = lambda: None,
) -> Kill:
    """Look until each sign was seen while the process is away; returns the last kill.

    Where it is back before that, it is killed again, after `between`: the kubelet waits twice as long each time. An
    AssertionError names what was not seen, after `KILLS` or where the process stays away for `START_SECONDS`.
    """
    left = dict(signs)

    def watch_is_over() -> bool:
        shown = [name for name, look in left.items() if look()]
        if pids(stack, node, process):
            return True  # and what was seen just now may have come after it
        for name in shown:
            del left[name]
        return not left

    for _ in range(KILLS):
        wait_for(f"{', '.join(left)}, while {process} is away", watch_is_over, START_SECONDS)
        if not left:
            return killed
        between()
        send(stack, node, process, "KILL")
        killed = Kill(time.monotonic(), killed.number + 1)
    raise AssertionError(f"{process} was back {KILLS} times before this was seen: {', '.join(left)}")


@contextmanager
def plugin_stopped(stack: LiveStack, node: str) -> Iterator[None]:
    """The plugin does not run, and is not dead: it answers nothing. What was killed meanwhile stays dead."""
    send(stack, node, PLUGIN_PROCESS, "STOP")
    try:
        yield
    finally:
        stack.in_node(node, "sh", "-c", 'pkill -CONT -f "$1" || [ $? = 1 ]', "sh", PLUGIN_PROCESS)


def request_is_waiting(stack: LiveStack, node: str) -> bool:
    """True if a request waits in the plugin's socket that it has not read."""
    (pid,) = pids(stack, node, PLUGIN_PROCESS)
    # A connection is listed in the network namespace of who accepted it, the plugin's pod; until then of the kubelet.
    inside = ("nsenter", f"--net=/proc/{pid}/ns/net")
    lines = [
        line
        for where in (inside, ())
        for line in stack.in_node(node, *where, "ss", "--unix", "--no-header").splitlines()
        if f" {PLUGIN_FOLDER}/dra" in line
    ]
    return any(state == "ESTAB" and int(unread) > 0 for _, state, unread, *_ in map(str.split, lines))


@contextmanager
def kubelet_down(stack: LiveStack, node: str) -> Iterator[float]:
    """The kubelet killed, and kept from starting again; yields the time of the kill."""
    stack.in_node(node, "systemctl", "kill", "--signal=KILL", "kubelet")
    began = time.monotonic()
    stack.in_node(node, "systemctl", "stop", "kubelet")
    try:
        yield began
    finally:
        stack.in_node(node, "systemctl", "start", "kubelet")


def restart_node(node: str) -> float:
    """Restart a node's container; returns the time at which it was told to."""
    began = time.monotonic()
    subprocess.run(["docker", "restart", node], capture_output=True, check=True)
    return began


def api_answers(stack: LiveStack) -> bool:
    return stack.kubectl("get", "--raw", "/readyz", "--request-timeout=2s", check=False) == "ok"


def plugin_on(stack: LiveStack, node: str) -> dict[str, Any] | None:
    """The plugin's pod on a node; None while there is no other than one that ends."""
    for pod in stack.get("pods", namespace=DRIVER_NAMESPACE, label_selector=PLUGIN):
        if pod["spec"].get("nodeName") == node and "deletionTimestamp" not in pod["metadata"]:
            return pod
    return None


def plugin_state(stack: LiveStack, node: str) -> dict[str, Any]:
    """The status of the plugin's container."""
    pod = plugin_on(stack, node)
    assert pod, f"there is no plugin on {node}"
    (state,) = [state for state in pod["status"]["containerStatuses"] if state["name"] == "gpus"]
    return state


def renew_plugin(stack: LiveStack, node: str) -> None:
    """Another pod of the plugin: it has no taints in mind, and the kubelet does not hold its crashes against it."""
    old = plugin_on(stack, node)
    assert old, f"there is no plugin on {node}"
    stack.kubectl("delete", "pod", "-n", DRIVER_NAMESPACE, old["metadata"]["name"], "--wait=false")

    def fresh() -> bool:
        pod = plugin_on(stack, node)
        if pod is None or pod["metadata"]["uid"] == old["metadata"]["uid"]:
            return False
        states = pod["status"].get("containerStatuses", [])
        return bool(states) and all(state["ready"] for state in states)

    wait_for(f"another plugin on {node} is ready", fresh, START_SECONDS)


def last_checkpoint_message(stack: LiveStack, node: str) -> str:
    """Last line on its checkpoint that the plugin logged before it ended."""
    pod = plugin_on(stack, node)
    assert pod, f"there is no plugin on {node}"
    words = ("logs", "-n", DRIVER_NAMESPACE, pod["metadata"]["name"], "-c", "gpus", "--previous")
    lines = [line for line in stack.kubectl(*words, check=False).splitlines() if "checkpoint" in line]
    return lines[-1] if lines else ""


def prepared_claims(stack: LiveStack, node: str) -> set[str]:
    """The uids of the claims that the driver remembers to have prepared, or to have begun to."""
    return set(json.loads(stack.in_node(node, "cat", CHECKPOINT))["v2"].get("preparedClaims", {}))


def cdi_claims(stack: LiveStack, node: str) -> set[str]:
    """The uids of the claims of which a node has a CDI file."""
    # In the driver's own image, where a cluster of somebody else is asked, there is no ls.
    names = stack.in_node(node, "sh", "-c", f"echo {CDI}/{CDI_OF_CLAIM}*.yaml")
    return set(re.findall(rf"{re.escape(CDI_OF_CLAIM)}([0-9a-f-]+)\.yaml", names))


def break_checkpoint(stack: LiveStack, node: str, fault: Fault) -> None:
    """Damage the file under the running plugin."""
    commands = {
        CHECKPOINT_TRUNCATED: ("truncate", "--size=-20", CHECKPOINT),
        # Still JSON, but not what the checksum is of.
        CHECKPOINT_ALTERED: ("sed", "-i", "s/PrepareCompleted/PrepareForgotten/", CHECKPOINT),
        CHECKPOINT_DELETED: ("rm", CHECKPOINT),
    }
    before = stack.in_node(node, "cat", CHECKPOINT)
    stack.in_node(node, *commands[fault])
    after = stack.in_node(node, "sh", "-c", 'if [ -e "$1" ]; then cat "$1"; fi', "sh", CHECKPOINT)
    assert after != before, f"{fault.name}: {CHECKPOINT} is as it was"


def mend_checkpoint(stack: LiveStack, node: str) -> None:
    """Repair by hand: the driver makes an empty checkpoint when it starts without one."""
    stack.in_node(node, "rm", "--force", CHECKPOINT)
    renew_plugin(stack, node)


@contextmanager
def checkpoint_kept(site: FaultSite) -> Iterator[None]:
    """Puts the checkpoint back as it was, once the check's pods are gone, of which it knows nothing."""
    stack, node = site.stack, site.node
    stack.in_node(node, "cp", CHECKPOINT, CHECKPOINT_KEPT)
    try:
        yield
    finally:
        mend_checkpoint(stack, node)
        site.remove_pods()
        # It reads the file at every call, so it need not start again; and nothing calls it now.
        stack.in_node(node, "mv", CHECKPOINT_KEPT, CHECKPOINT)
        remove_orphans(stack, node)


def orphans(stack: LiveStack, node: str) -> set[str]:
    """The uids in the names of a node's CDI files of claims that are no more."""
    alive = {claim["metadata"]["uid"] for claim in stack.get(CLAIMS, namespace=kr8s.ALL)}
    return cdi_claims(stack, node) - alive


def remove_orphans(stack: LiveStack, node: str) -> None:
    """Repair by hand after the driver has forgotten claims: their CDI files would stay for ever."""
    claims = stack.get(CLAIMS, namespace=kr8s.ALL)
    used = {claim["metadata"]["uid"] for claim in claims if claim.get("status", {}).get("reservedFor")}
    for uid in cdi_claims(stack, node) - used - prepared_claims(stack, node):
        stack.in_node(node, "rm", f"{CDI}/{CDI_OF_CLAIM}{uid}.yaml")


def taints(stack: LiveStack, node: str, device: str) -> list[dict[str, str]]:
    """The taints that the driver publishes of a device."""
    return [
        taint
        for slice_ in stack.slices()
        if slice_["spec"].get("nodeName") == node
        for published in slice_["spec"].get("devices", [])
        if published["name"] == device
        for taint in published.get("taints", [])
    ]


def blocking_taints(published: Sequence[dict[str, str]]) -> list[tuple[str, str]]:
    """(key, effect) of the taints that keep pods off.

    One of effect None only tells: the driver publishes so what an application has caused, as a process of MPS that was
    killed on a real GPU may.
    """
    return [(taint["key"], taint["effect"]) for taint in published if taint["effect"] != "None"]


def rules_of(stack: LiveStack, node: str, device: str) -> list[dict[str, Any]]:
    """The DeviceTaintRules that name a device."""
    wanted = {"driver": DRIVER, "pool": node, "device": device}
    return [rule for rule in stack.get(RULES) if rule["spec"].get("deviceSelector") == wanted]


def delete_rules(stack: LiveStack, node: str, devices: Sequence[str]) -> None:
    names = [rule["metadata"]["name"] for device in devices for rule in rules_of(stack, node, device)]
    if names:
        stack.kubectl("delete", RULES, *names)


@contextmanager
def reported_xid(stack: LiveStack, node: str, device: str, number: int) -> Iterator[float]:
    """A simulated GPU reports an XID; yields the time. Ends with the GPU mended: no taint, and no rule for it."""
    try:
        with mended(stack, node, [device]):
            report_xids(stack, node, [f"{device.removeprefix('gpu-')} {number}"])
            yield time.monotonic()
    finally:
        delete_rules(stack, node, [device])


@contextmanager
def mended_with_rules(stack: LiveStack, node: str, devices: Sequence[str]) -> Iterator[None]:
    """Block that ends with all of a node mended as a person does it: the plugin first, then the keeper's rules."""
    try:
        yield
    finally:
        renew_plugin(stack, node)
        wait_for(
            "the driver has forgotten the taints",
            lambda: not any(taints(stack, node, device) for device in devices),
            START_SECONDS,
        )
        delete_rules(stack, node, devices)


def wait_rule(stack: LiveStack, node: str, device: str) -> dict[str, Any]:
    """Rule of the keeper for a device, once it is there."""
    (rule,) = wait_for(f"the keeper has a rule for {device}", lambda: rules_of(stack, node, device), NOTICE_SECONDS)
    return rule


def report_xids(stack: LiveStack, node: str, lines: Sequence[str]) -> None:
    """Simulated GPUs report XIDs, in that order: a line is GPU_INDEX XID, and GPU and compute instance if of one."""
    words = ("sh", "-c", 'printf "%s\\n" "$@" >"$0"', f"{driver_root(stack.settings)}/run/xid", *lines)
    stack.in_node(node, *words)


@contextmanager
def mended(stack: LiveStack, node: str, devices: Sequence[str]) -> Iterator[None]:
    """Block that ends with these devices of a node mended: the driver has no taint for them."""

    def tainted() -> list[str]:
        return [device for device in devices if taints(stack, node, device)]

    try:
        yield
    finally:
        if tainted():
            renew_plugin(stack, node)
            wait_for("the driver has forgotten the taints", lambda: not tainted(), START_SECONDS)


@contextmanager
def no_execute_rules(stack: LiveStack, node: str, devices: Sequence[str], key: str) -> Iterator[float]:
    """A person's rule for each device that evicts the pods on it; yields the time at which they were made."""
    rules = [
        {
            "apiVersion": "resource.k8s.io/v1",
            "kind": "DeviceTaintRule",
            "metadata": {"name": f"maintenance-{node}-{device}", "labels": {LABEL: ""}},
            "spec": {
                "deviceSelector": {"driver": DRIVER, "pool": node, "device": device},
                "taint": {"key": key, "effect": "NoExecute"},
            },
        }
        for device in devices
    ]
    try:
        began = time.monotonic()
        stack.create(*rules)
        yield began
    finally:
        delete_rules(stack, node, devices)


def admin_claim_pods(stack: LiveStack, node: str) -> dict[str, str]:
    """namespace/name -> uid of the pods that look on at a node's GPUs by an admin claim."""
    claims = [
        claim
        for claim in stack.get(CLAIMS, namespace=kr8s.ALL)
        for result in claim.get("status", {}).get("allocation", {}).get("devices", {}).get("results", [])
        if result.get("adminAccess") and result["pool"] == node
    ]
    return {
        f"{claim['metadata']['namespace']}/{pod['name']}": pod["uid"]
        for claim in claims
        for pod in claim["status"].get("reservedFor", [])
    }


@contextmanager
def clients_restored(stack: LiveStack) -> Iterator[None]:
    """Ends when all that the stack has of clients are back under their limits."""
    contexts = Daemon(stack).clients()
    try:
        yield
    finally:
        if stack.settings.mps.mode == "daemon":
            words = ("-n", MPS_NAMESPACE, f"daemonset/{MPS_DAEMON}", f"--timeout={RESTORE_SECONDS}s")
            stack.kubectl("rollout", "status", *words)
        # Fresh ones: the kubelet lets those that it started several times wait for minutes before the next time, and by
        # claim or on an existing cluster one may have come before the next daemon, and be without limits.
        if stack.settings.mps.mode == "daemon":
            stack.kubectl("delete", "pods", "-n", CLIENTS, "--all", "--timeout=60s")
        else:
            replace_clients(stack)
        wait_for("the daemon has its clients", lambda: Daemon(stack).clients() == contexts, RESTORE_SECONDS)


def replace_clients(stack: LiveStack) -> None:
    """Replace the clients' pods one by one, so that their claim is in use all the time.

    Where all go at once, NVIDIA's driver undoes the claim, and takes the daemon that it is still deleting for that of
    the next pods: docs/reference/troubleshooting.md, "MPS".
    """
    for app in ("clients", "limited"):
        for old in [pod["metadata"]["name"] for pod in deployment_pods(stack, app)]:
            count = len(deployment_pods(stack, app))
            stack.kubectl("delete", "pod", "-n", CLIENTS, old, "--timeout=60s")

            def again(app: str = app, count: int = count) -> bool:
                states = [
                    pod["status"].get("containerStatuses", [{"ready": False}]) for pod in deployment_pods(stack, app)
                ]
                return len(states) == count and all(state["ready"] for pod in states for state in pod)

            wait_for(f"{app} has a pod instead of {old}", again, RESTORE_SECONDS)


@contextmanager
def cordoned(stack: LiveStack, *nodes: str) -> Iterator[None]:
    """Nodes that take no new pods for a while."""
    try:
        stack.kubectl("cordon", *nodes)
        yield
    finally:
        stack.kubectl("uncordon", *nodes)


def deployment_on_any_node(stack: LiveStack, namespace: str, name: str) -> list[dict[str, Any]]:
    """A claim template and a Deployment of one pod with a claim of it, on whichever node has a GPU for it."""
    example = yaml.safe_load_all((MANIFESTS / "03-workloads" / "examples" / "exclusive.yaml").read_text())
    pod = next(document for document in example if document["kind"] == "Pod")
    spec = {**pod["spec"], "resourceClaims": [{"name": "gpu", "resourceClaimTemplateName": name}]}
    (container,) = spec["containers"]
    container["image"] = stack.settings.images.get("gpu-probe") or container["image"]
    spec["terminationGracePeriodSeconds"] = 1
    labels = {"app": name}
    claim = claim_manifest(name, namespace, None, None)
    template = {**claim, "kind": "ResourceClaimTemplate", "spec": {"spec": claim["spec"]}}
    deployment = {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": name, "namespace": namespace},
        "spec": {
            "replicas": 1,
            "selector": {"matchLabels": labels},
            "template": {"metadata": {"labels": labels}, "spec": spec},
        },
    }
    return [template, deployment]


def cluster_state(stack: LiveStack) -> dict[str, Any]:
    """State of the cluster that every check has to leave as it was; its own namespaces end by themselves."""
    claims = stack.get(CLAIMS, namespace=kr8s.ALL)
    reserved = [claim for claim in claims if claim.get("status", {}).get("reservedFor")]
    nodes = [node.node for node in stack.settings.gpu_nodes]
    observed: dict[str, Any] = {
        "nodes that are ready": sorted(node["metadata"]["name"] for node in stack.nodes() if _ready(node)),
        "pods that are ready": _ready_pods(stack),
        "devices": sorted(stack.devices()),
        "taints of devices": {
            f"{node} {device}": blocking_taints(taints(stack, node, device)) for node, device in sorted(stack.devices())
        },
        "allocations": sorted(
            (claim["metadata"]["namespace"], result["pool"], result["device"], str(result.get("consumedCapacity")))
            for claim in claims
            for result in claim.get("status", {}).get("allocation", {}).get("devices", {}).get("results", [])
        ),
        "DeviceTaintRules": sorted(rule["metadata"]["name"] for rule in stack.get(RULES)),
    }
    for node in nodes:
        known = {claim["metadata"]["uid"] for claim in reserved if node in _pools(claim)}
        observed |= {
            f"claims that the driver forgot on {node}": sorted(known - prepared_claims(stack, node)),
            f"claims that the driver keeps on {node} for nobody": len(prepared_claims(stack, node) - known),
            f"CDI files on {node} of no claim": sorted(orphans(stack, node)),
        }
    return observed


def differences(before: dict[str, Any], now: dict[str, Any]) -> str:
    """Differences between two states, in words."""
    return "; ".join(f"{key}: {before[key]} before, {now[key]} now" for key in before if before[key] != now[key])


def _pools(claim: dict[str, Any]) -> set[str]:
    results = claim["status"].get("allocation", {}).get("devices", {}).get("results", [])
    return {result["pool"] for result in results if result["driver"] == DRIVER}


def _ready(node: dict[str, Any]) -> bool:
    return any(
        condition["type"] == "Ready" and condition["status"] == "True" for condition in node["status"]["conditions"]
    )


def _ready_pods(stack: LiveStack) -> dict[str, int]:
    """namespace/name -> pods that are ready, of every DaemonSet and Deployment."""
    counts = {}
    for kind, key in (("daemonsets.apps", "numberReady"), ("deployments.apps", "readyReplicas")):
        for workload in stack.get(kind, namespace=kr8s.ALL):
            name = f"{workload['metadata']['namespace']}/{workload['metadata']['name']}"
            counts[name] = workload["status"].get(key, 0)
    return counts
