"""Module 09: each fault is made, what it breaks is seen while it lasts, and all is well again within its bound."""

import re
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import pytest
import yaml

from checks import faults, metrics
from checks.aside import set_aside
from checks.faults import CLAIMS, Fault, Ground, shortened
from checks.live import LiveStack, mebibytes, wait_for
from checks.mps import CLIENTS, Client, Daemon, deployed, model_of
from checks.test_04_mps import RPC_FAILURE, again, restarts
from gpus.models import GpuModel
from gpus.mps import granted_multiprocessors
from gpus.quantity import quantity_mib

Record = Callable[[Fault, float, str, str, str], None]

NO_PLUGIN = r"not registered|NodePrepareResources"  # in the kubelet's words, before and after it has noticed
TAINT_SECONDS = 15  # from an XID to the driver's taint, which took 0.8 s where it was measured
XID_NUMBER = 79  # "GPU has fallen off the bus"; the driver ignores those that are an application's fault
TOLERATES_XID = {"key": faults.XID_KEY, "operator": "Exists", "effect": "NoSchedule"}
MAINTENANCE = "dra-workshop/maintenance"
# The eviction controller heeds a toleration only where it names the effect.
TOLERATES_MAINTENANCE = {"key": MAINTENANCE, "operator": "Exists", "effect": "NoExecute"}
PROTECTION = "resource.kubernetes.io/delete-protection"
LEADERS = ("kube-controller-manager", "kube-scheduler")  # they end when they cannot renew their lease


@pytest.fixture(autouse=True)
def as_it_was(stack: LiveStack) -> Iterator[None]:
    """Every check leaves the cluster as it found it."""
    before = faults.state(stack)
    yield
    seen: list[str] = []

    def same() -> bool:
        seen.append(faults.differences(before, faults.state(stack)))
        return not seen[-1]

    try:
        wait_for("the cluster is as it was", same, faults.RESTORE_SECONDS)
    except AssertionError as error:
        raise AssertionError(f"{error}: {seen[-1]}") from None


@pytest.fixture
def ground(stack: LiveStack) -> Iterator[Ground]:
    """The last node that has a free GPU: the first one is where the stack's own pods share theirs.

    Where every GPU is in use and claims share them, the first node: its pods ask for little.
    """
    taken = len(set(stack.allocations())) >= len(stack.devices())
    if taken and stack.settings.consumable_shares != "disabled":
        with stack.playground() as playground:
            yield Ground(stack, stack.settings.gpu_nodes[0].node, playground)
        return
    with stack.free_gpu(), stack.playground() as playground:
        grounds = [Ground(stack, node.node, playground) for node in stack.settings.gpu_nodes]
        yield next(ground for ground in reversed(grounds) if ground.free())


@pytest.fixture
def record(fault: Callable[..., None], seen: Callable[[str], None]) -> Record:
    """Record a fault that began at a time (monotonic), and is over now. Fails beyond its bound."""

    def made(what: Fault, began: float, noticed: str, broke: str, lost: str) -> None:
        seconds = time.monotonic() - began
        assert seconds <= what.bound, f"{what.name}: {seconds:.1f} s until all was well again, {what.bound} are allowed"
        fault(fault=what.name, noticed=noticed, broke=broke, seconds=seconds, lost=lost)
        seen(f"well again after {seconds:.1f} of {what.bound} s; noticed by {noticed}")

    return made


def in_the_node(stack: LiveStack) -> None:
    if stack.settings.cluster.provider != "kind":
        pytest.skip("cluster.provider is existing: only a node of Kind is a container in which this can be done")


def room_for(ground: Ground, pods: int) -> None:
    """Where claims do not share GPUs, each pod of the check needs one of its own."""
    free = len(ground.free())
    if not ground.shared and free < pods:
        pytest.skip(f"{free} free GPUs on {ground.node}, {pods} needed: raise gpu.count, or let claims share them")
    if free or ground.stack.settings.consumable_shares != "memory":
        return
    needed = pods * quantity_mib(faults.LITTLE)
    left = sum(mebibytes(values["memory"]) for values in metrics.left_of(ground.stack, ground.node).values())
    if left < needed:
        pytest.skip(f"{left} MiB are left on {ground.node}, {needed} needed: lower consumableCapacity.requests")


def unharmed(ground: Ground, name: str, life: tuple[str, int], gpus: list[str]) -> str:
    """Asserts that a pod is the one that it was, was not started again and sees its GPU; returns that in words."""
    assert ground.playground.life(name) == life
    assert ground.playground.sees(name) == gpus
    return f"same uid, {life[1]} restarts, still sees its GPU"


def test_killed_plugin_leaves_pods_alone_and_makes_new_ones_wait(
    stack: LiveStack, ground: Ground, record: Record
) -> None:
    in_the_node(stack)
    room_for(ground, 3)
    pods, node = ground.playground, ground.node
    life = ground.run("stays")
    gpus = pods.sees("stays")
    faults.renew_plugin(stack, node)
    pair, said = Pair.begin(ground, 1), ""

    def refused() -> str:
        nonlocal said
        said = pair.refused()
        return said

    def another() -> None:
        nonlocal pair
        pair.end()
        pair = Pair.begin(ground, pair.number + 1)

    killed = faults.crash(stack, node, faults.PLUGIN_PROCESS)
    signs: dict[str, Callable[[], object]] = {
        "a deleted pod ends and stays, with its claim": lambda: pair.held(),
        "the kubelet cannot start a new pod": refused,
        "a pod from before is unharmed": lambda: unharmed(ground, "stays", life, gpus),
    }
    killed = faults.seen_while_down(stack, node, faults.PLUGIN_PROCESS, killed, signs, another)

    bound = faults.PLUGIN_KILLED.bound
    pods.wait_running(pair.waits, bound)
    wait_for(f"{pair.leaves} is gone", lambda: ground.gone(pair.leaves), bound)
    words = unharmed(ground, "stays", life, gpus)
    assert pair.claim not in faults.prepared(stack, node)
    count = faults.plugin_state(stack, node)["restartCount"]
    record(
        faults.PLUGIN_KILLED,
        killed,
        f"kubelet: {shortened(said)}",
        f"a new pod waited in ContainerCreating, a deleted one in Terminating; the plugin was restarted {count} times",
        f"nothing: a pod with a claim has the {words}",
    )


@dataclass(frozen=True)
class Pair:
    """A pod that is deleted while there is no plugin, and one that is made then."""

    ground: Ground
    number: int
    claim: str

    @classmethod
    def begin(cls, ground: Ground, number: int) -> "Pair":
        """With the first of the two running, the uid of whose claim is `claim`."""
        ground.run(f"leaves-{number}")
        return cls(ground, number, ground.claim(f"leaves-{number}")["metadata"]["uid"])

    @property
    def leaves(self) -> str:
        return f"leaves-{self.number}"

    @property
    def waits(self) -> str:
        return f"waits-{self.number}"

    def part(self) -> None:
        """Delete the one and make the other, if that was not done."""
        if self.ground.gone(self.waits):
            self.ground.playground.delete_pod(self.leaves)
            self.ground.start(self.waits)

    def refused(self) -> str:
        """What the kubelet says of the pod that is made; empty while it says nothing."""
        self.part()
        return self.ground.refused(self.waits, NO_PLUGIN) or ""

    def held(self) -> bool:
        """Whether the deleted pod is there without its container: its claim cannot be let go of."""
        self.part()
        ground = self.ground
        return (
            not ground.gone(self.leaves)
            and not ground.containers(self.leaves)
            and bool(ground.claim(self.leaves)["status"].get("reservedFor"))
        )

    def end(self) -> None:
        """Both gone: the plugin was back before all was seen."""
        pods = self.ground.playground
        pods.stack.kubectl("delete", "pod", self.leaves, self.waits, "-n", pods.namespace, "--ignore-not-found")


def test_plugin_killed_while_it_prepares_a_claim(stack: LiveStack, ground: Ground, record: Record) -> None:
    in_the_node(stack)
    room_for(ground, 2)
    pods, node = ground.playground, ground.node
    life = ground.run("stays")
    gpus = pods.sees("stays")
    faults.renew_plugin(stack, node)

    with faults.plugin_stopped(stack, node):
        ground.start("waits")
        wait_for("the kubelet has asked the plugin", lambda: faults.asked(stack, node), faults.NOTICE_SECONDS)
        waiting = wait_for("waits has a reason", lambda: reason_to_wait(ground, "waits"), faults.NOTICE_SECONDS)
        assert waiting == "ContainerCreating"
        uid = ground.claim("waits")["metadata"]["uid"]
        assert ground.claim("waits")["status"]["reservedFor"]
        assert uid not in faults.prepared(stack, node)
        faults.send(stack, node, faults.PLUGIN_PROCESS, "KILL")
        killed = time.monotonic()
    said = ground.refusal("waits", "NodePrepareResources")

    pods.wait_running("waits", faults.PLUGIN_KILLED_PREPARING.bound)
    assert uid in faults.prepared(stack, node)
    assert len(pods.sees("waits")) == 1
    words = unharmed(ground, "stays", life, gpus)
    record(
        faults.PLUGIN_KILLED_PREPARING,
        killed,
        f"kubelet: {shortened(said)}",
        f"the pod waited in {waiting} until the kubelet asked again",
        f"nothing: the claim is prepared once; a pod beside it has the {words}",
    )


def reason_to_wait(ground: Ground, name: str) -> str:
    """Why the pod's container does not run, as its status says; empty while it says nothing."""
    states = ground.playground.pod(name)["status"].get("containerStatuses", [])
    return states[0]["state"].get("waiting", {}).get("reason", "") if states else ""


def mps_daemon(stack: LiveStack, mode: str) -> Daemon:
    if "04" not in stack.settings.modules:
        pytest.skip("module 04 is off: there is no MPS daemon")
    if stack.settings.mps.mode != mode:
        pytest.skip(f"mps.mode is {stack.settings.mps.mode}: the daemon of mode {mode} is not there")
    return Daemon(stack)


def witnesses(stack: LiveStack) -> list[Client]:
    """Two clients that do not start again: a pod that does has no log of the container before."""
    clients = [Client.start(stack, "hold", "0", "--alloc", "64Mi") for _ in range(2)]
    for client in clients:
        client.wait_line("holding")
    return clients


def started_again(stack: LiveStack, ended: list[Client], before: dict[str, int]) -> str:
    """Waits until each witness has ended and each of the stack's clients was started again; says so in words."""
    for client in ended:
        assert [line["error"] for line in client.ended().lines if "error" in line] == [RPC_FAILURE]
    for name, count in before.items():
        wait_for(
            f"{name} starts again", lambda name=name, count=count: again(stack, name, count), faults.RESTORE_SECONDS
        )
    # Their Deployment's pods have restartPolicy Always.
    counts = [restarts(stack.one("pods", name, CLIENTS)) - count for name, count in before.items()]
    return (
        f"{len(ended)} clients ended with {RPC_FAILURE}; {len(before)} that their Deployment keeps were restarted "
        f"{' and '.join(map(str, counts))} times"
    )


def granted(stack: LiveStack, client: Client, model: GpuModel | None) -> int:
    """The SMs that a new client got, which are those of the stack's limit on a known model."""
    sms = client.wait_line("holding")["sms"]
    if model:
        assert sms == granted_multiprocessors(model, stack.settings.mps.active_thread_percentage)
    return sms


def test_killed_mps_daemon_ends_its_clients_and_makes_new_ones_wait(stack: LiveStack, record: Record) -> None:
    daemon = mps_daemon(stack, "daemon")
    in_the_node(stack)
    before = {pod["metadata"]["name"]: restarts(pod) for pod in deployed(stack, "clients")}
    assert len(before) == 2
    (namespace, name), observed = daemon.pod, observes_mps(stack)
    model = model_of(stack)  # asks a client, which will have to wait for its next start
    if observed:
        wait_for("the exporter says mps_up 1", lambda: mps_up(stack, daemon.node, 1), faults.NOTICE_SECONDS)
    life, contexts = restarts(stack.one("pods", name, namespace)), daemon.clients()
    new: Client | None = None
    words: list[str] = []

    def back() -> bool:
        try:
            alive = new is not None and "terminated" not in new.state()
            return daemon.clients() >= contexts + alive
        except subprocess.CalledProcessError:
            return False  # it does not answer yet

    def everyone_back() -> None:
        # A client whose wait is over when the next kill comes would find no daemon, and run without MPS for good.
        wait_for("the daemon has every client of before", back, faults.RESTORE_SECONDS)

    def between_kills() -> None:
        words.append(started_again(stack, ended, before))
        everyone_back()

    with faults.clients_restored(stack):
        ended = witnesses(stack)
        try:
            # What they died of is to be read before they may die of the second kill.
            killed = faults.crash(stack, daemon.node, faults.MPS_DAEMON_PROCESS, between_kills)
            new = Client.start(stack, "hold", "0", "--alloc", "64Mi")

            def fresh() -> Client:
                """The new client, or another one where it ran and was ended by a further kill."""
                nonlocal new
                assert new
                if "terminated" in new.state():
                    new.remove()
                    new = Client.start(stack, "hold", "0", "--alloc", "64Mi")
                return new

            signs = {"a new client waits for the daemon": lambda: waits_for_daemon(stack, fresh())}
            if observed:
                signs["the exporter says mps_up 0"] = lambda: mps_up(stack, daemon.node, 0)
            killed = faults.seen_while_down(stack, daemon.node, faults.MPS_DAEMON_PROCESS, killed, signs, everyone_back)

            bound = faults.MPS_DAEMON_KILLED.bound
            wait_for("the new client runs", lambda: "running" in fresh().state(), bound)
            sms = granted(stack, fresh(), model)
            if observed:
                wait_for("the exporter says mps_up 1", lambda: mps_up(stack, daemon.node, 1), faults.NOTICE_SECONDS)
            assert daemon.pod == (namespace, name)
            count = restarts(stack.one("pods", name, namespace)) - life
            record(
                faults.MPS_DAEMON_KILLED,
                killed,
                f"its clients: {RPC_FAILURE}" + ("; the exporter: mps_up 0" if observed else ""),
                f"{words[0]}; a new client waited in its init container; the daemon was restarted {count} times",
                f"what the clients had on the GPU; a new one has its {sms} SMs",
            )
        finally:
            if new:
                new.remove()


def observes_mps(stack: LiveStack) -> bool:
    """Whether the stack has an exporter that asks the MPS daemon; NVIDIA's dcgm-exporter does not."""
    return "08" in stack.settings.modules and stack.settings.observability.exporter == "nvml"


def mps_up(stack: LiveStack, node: str, wanted: int) -> bool:
    """Whether the exporter on the node answers, and says so of the MPS daemon."""
    return metrics.value(metrics.exported(stack, node), "mps_up") == wanted


def waits_for_daemon(stack: LiveStack, client: Client) -> bool:
    """Whether the client's init container runs, and so its own container does not."""
    status = stack.one("pods", client.name, client.namespace)["status"]
    return any("running" in state["state"] for state in status.get("initContainerStatuses", []))


def test_killed_mps_daemon_of_a_claim_ends_its_clients(stack: LiveStack, record: Record) -> None:
    daemon = mps_daemon(stack, "claim")
    before = {pod["metadata"]["name"]: restarts(pod) for pod in deployed(stack, "clients")}
    (namespace, old), model = daemon.pod, model_of(stack)
    new = None
    with faults.clients_restored(stack):
        ended = witnesses(stack)
        try:
            killed = time.monotonic()
            stack.kubectl("delete", "pod", "-n", namespace, old, "--grace-period=0", "--force")

            name = wait_for(
                "NVIDIA's Deployment has another daemon",
                lambda: daemon_of_claim(stack, namespace, old),
                faults.CLAIM_MPS_DAEMON_KILLED.bound,
            )
            new = Client.start(stack, "hold", "0", "--alloc", "64Mi")
            sms = granted(stack, new, model)
            words = started_again(stack, ended, before)
            record(
                faults.CLAIM_MPS_DAEMON_KILLED,
                killed,
                f"its clients: {RPC_FAILURE}",
                f"{words}; {re.sub(r'-[a-z0-9]+$', '', name)} has another pod",
                f"what the clients had on the GPU; a new one has its {sms} SMs",
            )
        finally:
            if new:
                new.remove()


def daemon_of_claim(stack: LiveStack, namespace: str, old: str) -> str | None:
    """The pod of NVIDIA's daemon that came after `old`, once it is ready."""
    for pod in stack.get("pods", namespace=namespace):
        name, states = pod["metadata"]["name"], pod["status"].get("containerStatuses", [])
        if name.startswith("mps-control-daemon") and name != old and states and all(s["ready"] for s in states):
            return name
    return None


def test_pods_outlive_the_kubelet(stack: LiveStack, ground: Ground, record: Record) -> None:
    in_the_node(stack)
    room_for(ground, 2)
    pods, node = ground.playground, ground.node
    life = ground.run("stays")
    gpus, ids = pods.sees("stays"), ground.containers("stays")
    with faults.kubelet_down(stack, node) as killed:
        ground.start("waits")
        wait_for("waits is scheduled", lambda: pods.pod("waits")["spec"].get("nodeName"), faults.NOTICE_SECONDS)
        said = stack.kubectl_fails("exec", "-n", pods.namespace, "stays", "--", "gpu-probe", "info").strip()
        assert "connect" in said
        # Nobody has taken up the new one, and the other one's process is there as before.
        assert "containerStatuses" not in pods.pod("waits")["status"]
        assert ground.containers("stays") == ids
    pods.wait_running("waits", faults.KUBELET_KILLED.bound)
    words = unharmed(ground, "stays", life, gpus)
    assert ground.containers("stays") == ids
    record(
        faults.KUBELET_KILLED,
        killed,
        f"kubectl exec: {shortened(said.splitlines()[-1])}",
        "a new pod was scheduled and not taken up; no exec, no logs",
        f"nothing: a pod with a claim has the {words}",
    )


def test_pods_come_back_with_their_claims_after_a_restart_of_the_node(
    stack: LiveStack, ground: Ground, record: Record
) -> None:
    in_the_node(stack)
    room_for(ground, 2)
    pods, node = ground.playground, ground.node
    if node.endswith("-control-plane"):
        pytest.skip("the node with GPUs is the control plane: tests/e2e/test_lifecycle.py restarts that")
    uid, count = ground.run("stays")
    gpus = pods.sees("stays")
    claim = ground.claim("stays")["status"]["allocation"]

    began = faults.restart_node(node)
    ground.start("waits")
    said = stack.kubectl_fails("exec", "-n", pods.namespace, "stays", "--", "gpu-probe", "info").strip()
    assert pods.pod("waits")["status"]["phase"] == "Pending"

    bound = faults.NODE_RESTARTED.bound
    wait_for("stays was started again", lambda: pods.life("stays")[1] > count, bound)
    for name in ("stays", "waits"):
        pods.wait_running(name, bound)
    (same, now), after = pods.life("stays"), ground.claim("stays")["status"]["allocation"]
    assert (same, after) == (uid, claim)
    assert pods.sees("stays") == gpus
    # The plugin and the others that the node runs are there as well.
    wait_for("the plugin is ready", lambda: faults.plugin_state(stack, node)["ready"], bound)
    record(
        faults.NODE_RESTARTED,
        began,
        f"kubectl exec: {shortened(said.splitlines()[-1])}",
        f"every pod of the node; the one with a claim was restarted {now - count} times, a new one waited",
        "what ran in the containers; pods, claims and their GPUs are the same",
    )


def test_pods_outlive_the_api_server(stack: LiveStack, ground: Ground, record: Record) -> None:
    in_the_node(stack)
    room_for(ground, 2)
    pods, node = ground.playground, ground.node
    control_plane = f"{stack.settings.cluster_name}-control-plane"
    life = ground.run("stays")
    gpus, ids = pods.sees("stays"), ground.containers("stays")
    plugin = faults.plugin_state(stack, node)["restartCount"]
    before = {name: restarts_of(stack, name, control_plane) for name in LEADERS}

    said = ""

    def unanswered() -> bool:
        nonlocal said
        said = (stack.refusal("get", "pods", "-n", pods.namespace, "--request-timeout=2s") or "").strip()
        return bool(said)

    killed = faults.crash(stack, control_plane, faults.API_SERVER_PROCESS)
    signs: dict[str, Callable[[], object]] = {
        "kubectl has no answer": unanswered,
        # Asked of the node, since nobody else can say it.
        "a pod runs on": lambda: faults.running_containers(stack, node, life[0]) == ids,
    }
    killed = faults.seen_while_down(stack, control_plane, faults.API_SERVER_PROCESS, killed, signs)

    bound = faults.API_SERVER_KILLED.bound
    wait_for("the API server answers", lambda: faults.api_answers(stack), bound)
    ground.start("waits")
    pods.wait_running("waits", bound)
    words = unharmed(ground, "stays", life, gpus)
    assert faults.plugin_state(stack, node)["restartCount"] == plugin
    more = {name: restarts_of(stack, name, control_plane) - count for name, count in before.items()}
    record(
        faults.API_SERVER_KILLED,
        killed,
        f"kubectl: {shortened(said.splitlines()[-1])}",
        "nothing could be asked or made; restarts: " + ", ".join(f"{name} {count}" for name, count in more.items()),
        f"nothing: the plugin was not restarted; a pod with a claim has the {words}",
    )


def restarts_of(stack: LiveStack, component: str, node: str) -> int:
    return restarts(stack.one("pods", f"{component}-{node}", "kube-system"))


@pytest.mark.parametrize(
    ("what", "words"),
    [
        (faults.CHECKPOINT_TRUNCATED, "unexpected end of JSON input"),
        (faults.CHECKPOINT_ALTERED, "checkpoint is corrupted"),
        (faults.CHECKPOINT_DELETED, "checkpoint is not found"),
    ],
    ids=["truncated", "altered", "deleted"],
)
def test_damaged_checkpoint_stops_new_claims_until_it_is_removed(
    stack: LiveStack, ground: Ground, record: Record, what: Fault, words: str
) -> None:
    in_the_node(stack)
    room_for(ground, 2)
    pods, node = ground.playground, ground.node
    faults.renew_plugin(stack, node)
    with faults.checkpoint_kept(ground):
        life = ground.run("stays")
        gpus, uid = pods.sees("stays"), ground.claim("stays")["metadata"]["uid"]
        faults.break_checkpoint(stack, node, what)
        ground.start("waits")
        said = ground.refusal("waits", words)
        unharmed(ground, "stays", life, gpus)
        broke = "a new pod waited in ContainerCreating"
        if what != faults.CHECKPOINT_DELETED:  # without one it starts: that is how it is mended
            faults.send(stack, node, faults.PLUGIN_PROCESS, "KILL")
            ended = wait_for(
                "the plugin does not start with it",
                lambda: (
                    faults.plugin_state(stack, node).get("lastState", {}).get("terminated", {}).get("exitCode") == 1
                    and faults.last_words(stack, node)
                ),
                faults.NOTICE_SECONDS,
            )
            assert words in ended
            unharmed(ground, "stays", life, gpus)
            broke += f"; the plugin does not start again: {shortened(ended)}"

        mended = time.monotonic()
        faults.mend_checkpoint(stack, node)
        pods.wait_running("waits", what.bound)
        assert uid not in faults.prepared(stack, node)
        kept = unharmed(ground, "stays", life, gpus)
        record(
            what,
            mended,
            f"kubelet: {shortened(said)}",
            broke,
            f"what the driver had prepared before, whose CDI files stay behind; a pod of then has the {kept}",
        )
        # Asserted, not only said: the driver is not asked to take away what it does not know.
        pods.delete_pod("stays")
        wait_for("stays is gone", lambda: ground.gone("stays"), faults.START_SECONDS)
        assert uid in faults.cdi_claims(stack, node)


def test_deleted_claim_stays_until_its_pod_goes(stack: LiveStack, ground: Ground, record: Record) -> None:
    room_for(ground, 2)
    pods = ground.playground
    life = ground.run("stays")
    gpus = pods.sees("stays")
    stack.kubectl("delete", CLAIMS, "stays", "-n", pods.namespace, "--wait=false")
    metadata = wait_for(
        "the claim is to go",
        lambda: (found := ground.claim("stays")["metadata"]).get("deletionTimestamp") and found,
        faults.NOTICE_SECONDS,
    )
    assert PROTECTION in metadata["finalizers"]
    assert [pod["name"] for pod in ground.claim("stays")["status"]["reservedFor"]] == ["stays"]
    words = unharmed(ground, "stays", life, gpus)
    # Another pod of the claim is passed over by the scheduler, which gives those after it their nodes.
    ground.start("late", claim="stays")
    ground.run("other")
    late = pods.pod("late")
    assert "nodeName" not in late["spec"]
    said = [condition["message"] for condition in late["status"].get("conditions", []) if condition.get("message")]
    for name in ("late", "other"):
        pods.delete_pod(name)
        wait_for(f"{name} is gone", lambda name=name: ground.gone(name), faults.START_SECONDS)

    began = time.monotonic()
    pods.delete_pod("stays")
    wait_for("the claim is gone", lambda: "stays" not in claims_of(stack, pods.namespace), faults.CLAIM_DELETED.bound)
    ground.start("fresh", uuid=gpus[0])
    pods.wait_running("fresh", faults.CLAIM_DELETED.bound)
    record(
        faults.CLAIM_DELETED,
        began,
        f"API: finalizer {PROTECTION}; scheduler: " + (shortened(said[0]) if said else "no word in the pod's status"),
        "another pod of the claim got no node",
        f"the claim, once its pod went; until then the pod had the {words}",
    )


def claims_of(stack: LiveStack, namespace: str) -> set[str]:
    return {claim["metadata"]["name"] for claim in stack.get(CLAIMS, namespace=namespace)}


def test_xid_taints_the_gpu_and_the_taint_outlives_the_plugin(stack: LiveStack, ground: Ground, record: Record) -> None:
    if stack.settings.gpu.source != "simulated":
        pytest.skip("an XID is put into a simulated GPU only: a real one has to break")
    pods, node = ground.playground, ground.node
    if not (free := ground.free()):
        pytest.skip(f"no GPU on {node} is free, and one has to break: raise gpu.count")
    device = free[0]
    uuid = stack.devices()[node, device]["uuid"]
    life = ground.run("stays", uuid=uuid)
    gpus = pods.sees("stays")
    with faults.xid(stack, node, device, XID_NUMBER) as began:
        (taint,) = wait_for("the driver taints the GPU", lambda: faults.taints(stack, node, device), TAINT_SECONDS)
        noticed = time.monotonic() - began
        found = (taint["key"], taint["value"], taint["effect"])
        assert found == (faults.XID_KEY, str(XID_NUMBER), "NoSchedule")
        others = [other for place, other in stack.devices() if place == node and other != device]
        assert not any(faults.taints(stack, node, other) for other in others)
        kept = unharmed(ground, "stays", life, gpus)
        if not ground.shared:  # it would keep the others off by itself
            pods.delete_pod("stays")
            wait_for("stays is gone", lambda: ground.gone("stays"), faults.START_SECONDS)

        ground.start("waits", uuid=uuid)
        said = pods.wait_unschedulable("waits")
        # Only the taint keeps it off: one that tolerates it gets the GPU.
        ground.run("tolerates", uuid=uuid, tolerations=[TOLERATES_XID])
        assert pods.sees("tolerates") == [uuid]
        pods.delete_pod("tolerates")
        wait_for("tolerates is gone", lambda: ground.gone("tolerates"), faults.START_SECONDS)

        (rule,) = wait_for("the keeper has a rule", lambda: faults.rules_of(stack, node, device), faults.NOTICE_SECONDS)
        name = rule["metadata"]["name"]
        assert name.startswith("xid-")
        assert rule["spec"]["taint"]["effect"] == "NoSchedule"

        faults.renew_plugin(stack, node)
        wait_for("the driver has forgotten it", lambda: not faults.taints(stack, node, device), faults.START_SECONDS)
        ground.start("later", uuid=uuid)
        assert "cannot allocate all claims" in pods.wait_unschedulable("later")
        pods.delete_pod("later")
        wait_for("later is gone", lambda: ground.gone("later"), faults.START_SECONDS)

        mended = time.monotonic()
        faults.delete_rules(stack, node, [device])
        pods.wait_running("waits", faults.XID.bound)
        record(
            faults.XID,
            mended,
            f"driver, {noticed:.1f} s after it: taint {'='.join(found[:2])}:{found[2]}; taint-keeper: rule {name}",
            f"a new pod for that GPU: {shortened(said)}",
            f"nothing: a pod on it has the {kept}. The driver forgot the taint with its plugin, the rule kept it",
        )


def test_rule_with_no_execute_evicts_who_does_not_tolerate_it(stack: LiveStack, ground: Ground, record: Record) -> None:
    room_for(ground, 2)
    pods, node = ground.playground, ground.node
    ground.run("goes")
    life = ground.run("stays", tolerations=[TOLERATES_MAINTENANCE])
    gpus, (uuid,) = pods.sees("stays"), pods.sees("goes")
    devices = sorted({device["device"] for name in ("goes", "stays") for device in pods.allocated(name)})
    looking = faults.onlookers(stack, node)
    with set_aside(stack, node, devices), faults.no_execute(stack, node, devices, MAINTENANCE) as began:
        wait_for("goes is evicted", lambda: ground.gone("goes"), faults.EVICTED.bound)
        evicted = time.monotonic() - began
        said = wait_for(
            "the controller says so", lambda: pods.messages("goes", "DeviceTaintManagerEviction"), faults.NOTICE_SECONDS
        )
        # The controller has done all that it will do.
        wait_for("nobody is left to evict", lambda: evictions(stack, node, devices), faults.NOTICE_SECONDS)
        kept = unharmed(ground, "stays", life, gpus)
        # The MPS daemon and the exporter look on by admin claims, which tolerate it.
        assert faults.onlookers(stack, node) == looking
        ground.start("waits", uuid=uuid)
        refused = pods.wait_unschedulable("waits")
        mended = time.monotonic()
        faults.delete_rules(stack, node, devices)
        pods.wait_running("waits", faults.EVICTED.bound)
    record(
        faults.EVICTED,
        mended,
        f"device taint eviction controller: {shortened(said[-1])}; the pod was gone after {evicted:.1f} s",
        f"a new pod for that GPU: {shortened(refused)}",
        f"the pod that did not tolerate it; one that did has the {kept}",
    )


def evictions(stack: LiveStack, node: str, devices: list[str]) -> bool:
    """Whether the rules of the devices say that they evicted somebody, and that nobody is left."""
    rules = [rule for device in devices for rule in faults.rules_of(stack, node, device)]
    found = [
        condition
        for rule in rules
        for condition in rule.get("status", {}).get("conditions", [])
        if condition["type"] == "EvictionInProgress"
    ]
    done = all(condition["status"] == "False" for condition in found) and len(found) == len(rules)
    return done and any(condition["reason"] == "Completed" for condition in found)


def test_drained_nodes_workload_moves_to_another_gpu(stack: LiveStack, ground: Ground, record: Record) -> None:
    others = [node.node for node in stack.settings.gpu_nodes if node.node != ground.node]
    if not others:
        pytest.skip("there is one GPU node, so nothing can move to another one")
    namespace = ground.playground.namespace
    with faults.cordoned(stack, *others):
        objects = faults.anywhere(stack, namespace, "moves")
        stack.kubectl("create", "-f", "-", stdin=yaml.safe_dump_all(objects))
        (old,) = wait_for("a pod is made", lambda: stack.get("pods", namespace=namespace))
        ground.playground.wait_running(old["metadata"]["name"], faults.START_SECONDS)
    (had,) = ground.playground.sees(old["metadata"]["name"])
    # Pods of DaemonSets stay: the driver's plugin has to unprepare what is drained.
    words = ("--ignore-daemonsets", "--delete-emptydir-data", "--pod-selector=app=moves", "--timeout=60s")
    with faults.cordoned(stack, ground.node):
        drained = time.monotonic()
        said = stack.kubectl("drain", ground.node, *words)
        new = wait_for("another pod is made", lambda: other(stack, namespace, old), faults.NOTICE_SECONDS)
        ground.playground.wait_running(new, faults.DRAINED.bound)
        (has,) = ground.playground.sees(new)
        assert has != had
        assert ground.playground.pod(new)["spec"]["nodeName"] in others
        record(
            faults.DRAINED,
            drained,
            next(line for line in said.splitlines() if line.startswith("evicting")).partition(" pod ")[0]
            + " by kubectl",
            f"the pod on {had[:12]} was evicted; its Deployment made another one on {has[:12]} of the other node",
            "what the process had on its GPU; its claim went with the pod, and the new pod has one of its own",
        )
    stack.kubectl("delete", "deployment/moves", "-n", namespace)


def other(stack: LiveStack, namespace: str, old: dict[str, Any]) -> str | None:
    """The name of the pod that is not `old`."""
    names = {pod["metadata"]["name"] for pod in stack.get("pods", namespace=namespace)}
    return next(iter(names - {old["metadata"]["name"]}), None)
