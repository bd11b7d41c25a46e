"""Checks of module 09: each fault breaks what it is known to break, and all is well again within its bound."""

import re
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import pytest

from checks import faults, metrics
from checks.aside import set_aside
from checks.faults import CLAIMS, Fault, FaultSite, shorten
from checks.live import LiveStack, wait_for
from checks.mps import CLIENTS, WAITS, Client, Daemon, deployment_pods, model_of
from checks.test_04_mps import RPC_FAILURE, restarted_and_ready, restarts
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
def restored_cluster(stack: LiveStack) -> Iterator[None]:
    """Assertion after every check: the cluster is as it was before."""
    before = faults.cluster_state(stack)
    yield
    changes: list[str] = []

    def same() -> bool:
        changes.append(faults.differences(before, faults.cluster_state(stack)))
        return not changes[-1]

    try:
        wait_for("the cluster is as it was", same, faults.RESTORE_SECONDS)
    except AssertionError as error:
        raise AssertionError(f"{error}: {changes[-1]}") from None


@pytest.fixture
def site(stack: LiveStack) -> Iterator[FaultSite]:
    """The last node that has a free GPU: the first one is where the stack's own pods share theirs.

    Where every GPU is in use and claims share them, the first node: its pods ask for little.
    """
    taken = len(set(stack.allocations())) >= len(stack.devices())
    if taken and stack.settings.consumable_shares != "disabled":
        with stack.playground() as playground:
            yield FaultSite(stack, stack.settings.gpu_nodes[0].node, playground)
        return
    with stack.free_gpu(), stack.playground() as playground:
        sites = [FaultSite(stack, node.node, playground) for node in stack.settings.gpu_nodes]
        yield next(site for site in reversed(sites) if site.free_devices())


@pytest.fixture
def record(fault: Callable[..., None], observed: Callable[[str], None]) -> Record:
    """Record a fault that began at a time (monotonic), and is over now. Fails beyond its bound."""

    def record_fault(what: Fault, began: float, noticed: str, broke: str, lost: str) -> None:
        seconds = time.monotonic() - began
        assert seconds <= what.bound, f"{what.name}: {seconds:.1f} s until all was well again, {what.bound} are allowed"
        fault(fault=what.name, noticed=noticed, broke=broke, seconds=seconds, lost=lost)
        observed(f"well again after {seconds:.1f} of {what.bound} s; noticed by {noticed}")

    return record_fault


def skip_unless_kind(stack: LiveStack) -> None:
    if stack.settings.cluster.provider != "kind":
        pytest.skip("cluster.provider is existing: only a node of Kind is a container in which this can be done")


def skip_unless_room(site: FaultSite, pods: int) -> None:
    """Skip unless the pods of a check fit. Where claims do not share GPUs, each pod needs one of its own."""
    free = len(site.free_devices())
    if not site.gpus_are_shared and free < pods:
        pytest.skip(f"{free} free GPUs on {site.node}, {pods} needed: raise gpu.count, or let claims share them")
    if free or site.stack.settings.consumable_shares != "memory":
        return
    needed = pods * quantity_mib(faults.LITTLE)
    left = sum(quantity_mib(values["memory"]) for values in metrics.free_capacity(site.stack, site.node).values())
    if left < needed:
        pytest.skip(f"{left} MiB are left on {site.node}, {needed} needed: lower consumableCapacity.requests")


def assert_unharmed(site: FaultSite, name: str, life: tuple[str, int], gpus: list[str]) -> str:
    """Asserts that a pod is the one that it was, was not started again and sees its GPU; returns that in words."""
    assert site.playground.life(name) == life
    assert site.playground.sees(name) == gpus
    return f"same uid, {life[1]} restarts, still sees its GPU"


def test_killed_plugin_leaves_pods_alone_and_makes_new_ones_wait(
    stack: LiveStack, site: FaultSite, record: Record
) -> None:
    """Fails if a running pod is restarted or loses its GPU, a new one does not wait with the kubelet's reason, or a
    deleted one goes before the plugin is back.
    """
    skip_unless_kind(stack)
    skip_unless_room(site, 3)
    pods, node = site.playground, site.node
    life = site.run("stays")
    gpus = pods.sees("stays")
    faults.renew_plugin(stack, node)
    pair, message = DeletedAndNewPod.start(site, 1), ""

    def refused() -> str:
        nonlocal message
        message = pair.kubelet_refusal()
        return message

    def restart_pair() -> None:
        nonlocal pair
        pair.remove()
        pair = DeletedAndNewPod.start(site, pair.number + 1)

    killed = faults.crash(stack, node, faults.PLUGIN_PROCESS)
    signs: dict[str, Callable[[], object]] = {
        "a deleted pod ends and stays, with its claim": lambda: pair.deleted_pod_is_held(),
        "the kubelet cannot start a new pod": refused,
        "a pod from before is unharmed": lambda: assert_unharmed(site, "stays", life, gpus),
    }
    killed = faults.watch_while_down(stack, node, faults.PLUGIN_PROCESS, killed, signs, restart_pair)

    what = faults.PLUGIN_KILLED.after(killed)
    pods.wait_running(pair.new_pod, what.bound)
    wait_for(f"{pair.deleted_pod} is gone", lambda: site.pod_is_gone(pair.deleted_pod), what.bound)
    words = assert_unharmed(site, "stays", life, gpus)
    assert pair.claim not in faults.prepared_claims(stack, node)
    count = faults.plugin_state(stack, node)["restartCount"]
    record(
        what,
        killed.at,
        f"kubelet: {shorten(message)}",
        f"a new pod waited in ContainerCreating, a deleted one in Terminating; the plugin was restarted {count} times",
        f"nothing: a pod with a claim has the {words}",
    )


@dataclass(frozen=True)
class DeletedAndNewPod:
    """Two pods of a moment without a plugin: one that is deleted then, and one that is made then."""

    site: FaultSite
    number: int
    claim: str
    """The uid of the claim of the pod that is deleted."""

    @classmethod
    def start(cls, site: FaultSite, number: int) -> "DeletedAndNewPod":
        """The pair, with the pod running that will be deleted."""
        site.run(f"leaves-{number}")
        return cls(site, number, site.claim(f"leaves-{number}")["metadata"]["uid"])

    @property
    def deleted_pod(self) -> str:
        return f"leaves-{self.number}"

    @property
    def new_pod(self) -> str:
        return f"waits-{self.number}"

    def replace_pod(self) -> None:
        """Delete the one and make the other, if that was not done."""
        if self.site.pod_is_gone(self.new_pod):
            self.site.playground.delete_pod(self.deleted_pod)
            self.site.start(self.new_pod)

    def kubelet_refusal(self) -> str:
        """Message of the kubelet on the new pod; empty while there is none."""
        self.replace_pod()
        return self.site.kubelet_refusal(self.new_pod, NO_PLUGIN) or ""

    def deleted_pod_is_held(self) -> bool:
        """True if the deleted pod is there without its container: its claim cannot be let go of."""
        self.replace_pod()
        site = self.site
        return (
            not site.pod_is_gone(self.deleted_pod)
            and not site.containers(self.deleted_pod)
            and bool(site.claim(self.deleted_pod)["status"].get("reservedFor"))
        )

    def remove(self) -> None:
        """Remove both pods: the plugin was back before every sign was seen."""
        pods = self.site.playground
        names = (self.deleted_pod, self.new_pod)
        pods.stack.kubectl("delete", "pod", *names, "-n", pods.namespace, "--ignore-not-found")


def test_plugin_killed_while_it_prepares_a_claim(stack: LiveStack, site: FaultSite, record: Record) -> None:
    """Fails if the kubelet was not waiting for its answer, or the claim is not prepared afterwards."""
    skip_unless_kind(stack)
    skip_unless_room(site, 2)
    pods, node = site.playground, site.node
    life = site.run("stays")
    gpus = pods.sees("stays")
    faults.renew_plugin(stack, node)

    with faults.plugin_stopped(stack, node):
        site.start("waits")
        wait_for(
            "the kubelet has asked the plugin", lambda: faults.request_is_waiting(stack, node), faults.NOTICE_SECONDS
        )
        waiting = wait_for("waits has a reason", lambda: reason_to_wait(site, "waits"), faults.NOTICE_SECONDS)
        assert waiting == "ContainerCreating"
        uid = site.claim("waits")["metadata"]["uid"]
        assert site.claim("waits")["status"]["reservedFor"]
        assert uid not in faults.prepared_claims(stack, node)
        faults.send(stack, node, faults.PLUGIN_PROCESS, "KILL")
        killed = time.monotonic()
    message = site.wait_kubelet_refusal("waits", "NodePrepareResources")

    pods.wait_running("waits", faults.PLUGIN_KILLED_PREPARING.bound)
    assert uid in faults.prepared_claims(stack, node)
    assert len(pods.sees("waits")) == 1
    words = assert_unharmed(site, "stays", life, gpus)
    record(
        faults.PLUGIN_KILLED_PREPARING,
        killed,
        f"kubelet: {shorten(message)}",
        f"the pod waited in {waiting} until the kubelet asked again",
        f"nothing: the claim is prepared once; a pod beside it has the {words}",
    )


def reason_to_wait(site: FaultSite, name: str) -> str:
    """Why the pod's container does not run, as its status says; empty while it says nothing."""
    states = site.playground.pod(name)["status"].get("containerStatuses", [])
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


def wait_clients_restarted(stack: LiveStack, ended: list[Client], before: dict[str, int]) -> str:
    """Waits until each witness has ended and each of the stack's clients was started again; says so in words."""
    for client in ended:
        assert [line["error"] for line in client.ended().lines if "error" in line] == [RPC_FAILURE]
    for name, count in before.items():
        wait_for(
            f"{name} starts again",
            lambda name=name, count=count: restarted_and_ready(stack, name, count),
            faults.RESTORE_SECONDS,
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
    """Fails if clients do not get `CUDA_ERROR_MPS_RPC_FAILURE` and start again, a new one does not wait for the
    daemon, or the exporter does not answer with `mps_up 0`.
    """
    daemon = mps_daemon(stack, "daemon")
    skip_unless_kind(stack)
    before = {pod["metadata"]["name"]: restarts(pod) for pod in deployment_pods(stack, "clients")}
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
        words.append(wait_clients_restarted(stack, ended, before))
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
            killed = faults.watch_while_down(
                stack, daemon.node, faults.MPS_DAEMON_PROCESS, killed, signs, everyone_back
            )

            what = faults.MPS_DAEMON_KILLED.after(killed)
            wait_for("the new client runs", lambda: any("holding" in line for line in fresh().lines(False)), what.bound)
            sms = granted(stack, fresh(), model)
            if observed:
                wait_for("the exporter says mps_up 1", lambda: mps_up(stack, daemon.node, 1), faults.NOTICE_SECONDS)
            assert daemon.pod == (namespace, name)
            count = restarts(stack.one("pods", name, namespace)) - life
            record(
                what,
                killed.at,
                f"its clients: {RPC_FAILURE}" + ("; the exporter: mps_up 0" if observed else ""),
                f"{words[0]}; a new client waited for the daemon; the daemon was restarted {count} times",
                f"what the clients had on the GPU; a new one has its {sms} SMs",
            )
        finally:
            if new:
                new.remove()


def observes_mps(stack: LiveStack) -> bool:
    """True if the stack has an exporter that asks the MPS daemon; NVIDIA's dcgm-exporter does not."""
    return "08" in stack.settings.modules and stack.settings.observability.exporter == "nvml"


def mps_up(stack: LiveStack, node: str, wanted: int) -> bool:
    """True if the exporter on the node answers, and has that value for the MPS daemon."""
    return metrics.value(metrics.one_scrape(stack, node), "mps_up") == wanted


def waits_for_daemon(stack: LiveStack, client: Client) -> bool:
    """True if the client's container has printed that it waits, and nothing else."""
    log = stack.log(client.namespace, client.name, check=False).splitlines()
    return bool(log) and all(line.startswith(WAITS) for line in log)


def test_killed_mps_daemon_of_a_claim_ends_its_clients(stack: LiveStack, record: Record) -> None:
    """Fails if in mode `claim` its clients do not get `CUDA_ERROR_MPS_RPC_FAILURE` and start again, or a new one does
    not wait.
    """
    daemon = mps_daemon(stack, "claim")
    before = {pod["metadata"]["name"]: restarts(pod) for pod in deployment_pods(stack, "clients")}
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
            words = wait_clients_restarted(stack, ended, before)
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


def test_pods_outlive_the_kubelet(stack: LiveStack, site: FaultSite, record: Record) -> None:
    """Fails if a container is another one than before, or a new pod is taken up meanwhile."""
    skip_unless_kind(stack)
    skip_unless_room(site, 2)
    pods, node = site.playground, site.node
    life = site.run("stays")
    gpus, ids = pods.sees("stays"), site.containers("stays")
    with faults.kubelet_down(stack, node) as killed:
        site.start("waits")
        wait_for("waits is scheduled", lambda: pods.pod("waits")["spec"].get("nodeName"), faults.NOTICE_SECONDS)
        message = stack.kubectl_fails("exec", "-n", pods.namespace, "stays", "--", "gpu-probe", "info").strip()
        assert "connect" in message
        # Nobody has taken up the new one, and the other one's process is there as before.
        assert "containerStatuses" not in pods.pod("waits")["status"]
        assert site.containers("stays") == ids
    pods.wait_running("waits", faults.KUBELET_KILLED.bound)
    words = assert_unharmed(site, "stays", life, gpus)
    assert site.containers("stays") == ids
    record(
        faults.KUBELET_KILLED,
        killed,
        f"kubectl exec: {shorten(message.splitlines()[-1])}",
        "a new pod was scheduled and not taken up; no exec, no logs",
        f"nothing: a pod with a claim has the {words}",
    )


def test_pods_come_back_with_their_claims_after_a_restart_of_the_node(
    stack: LiveStack, site: FaultSite, record: Record
) -> None:
    """Fails if a pod, its allocation or its GPU is another one."""
    skip_unless_kind(stack)
    skip_unless_room(site, 2)
    pods, node = site.playground, site.node
    if node.endswith("-control-plane"):
        pytest.skip("the node with GPUs is the control plane: tests/e2e/test_lifecycle.py restarts that")
    uid, count = site.run("stays")
    gpus = pods.sees("stays")
    claim = site.claim("stays")["status"]["allocation"]

    began = faults.restart_node(node)
    site.start("waits")
    message = stack.kubectl_fails("exec", "-n", pods.namespace, "stays", "--", "gpu-probe", "info").strip()
    assert pods.pod("waits")["status"]["phase"] == "Pending"

    bound = faults.NODE_RESTARTED.bound
    wait_for("stays was started again", lambda: pods.life("stays")[1] > count, bound)
    for name in ("stays", "waits"):
        pods.wait_running(name, bound)
    (same, now), after = pods.life("stays"), site.claim("stays")["status"]["allocation"]
    assert (same, after) == (uid, claim)
    assert pods.sees("stays") == gpus
    # The plugin and the others that the node runs are there as well.
    wait_for("the plugin is ready", lambda: faults.plugin_state(stack, node)["ready"], bound)
    record(
        faults.NODE_RESTARTED,
        began,
        f"kubectl exec: {shorten(message.splitlines()[-1])}",
        f"every pod of the node; the one with a claim was restarted {now - count} times, a new one waited",
        "what ran in the containers; pods, claims and their GPUs are the same",
    )


def test_pods_outlive_the_api_server(stack: LiveStack, site: FaultSite, record: Record) -> None:
    """Fails if a container is another one, or the plugin was restarted."""
    skip_unless_kind(stack)
    skip_unless_room(site, 2)
    pods, node = site.playground, site.node
    control_plane = f"{stack.settings.cluster_name}-control-plane"
    life = site.run("stays")
    gpus, ids = pods.sees("stays"), site.containers("stays")
    plugin = faults.plugin_state(stack, node)["restartCount"]
    before = {name: restarts_of(stack, name, control_plane) for name in LEADERS}

    message = ""

    def unanswered() -> bool:
        nonlocal message
        message = (stack.refusal("get", "pods", "-n", pods.namespace, "--request-timeout=2s") or "").strip()
        return bool(message)

    killed = faults.crash(stack, control_plane, faults.API_SERVER_PROCESS)
    signs: dict[str, Callable[[], object]] = {
        "kubectl has no answer": unanswered,
        # Asked of the node, since nobody else can say it.
        "a pod runs on": lambda: faults.running_containers(stack, node, life[0]) == ids,
    }
    killed = faults.watch_while_down(stack, control_plane, faults.API_SERVER_PROCESS, killed, signs)

    what = faults.API_SERVER_KILLED.after(killed)
    wait_for("the API server answers", lambda: faults.api_answers(stack), what.bound)
    site.start("waits")
    pods.wait_running("waits", what.bound)
    words = assert_unharmed(site, "stays", life, gpus)
    assert faults.plugin_state(stack, node)["restartCount"] == plugin
    more = {name: restarts_of(stack, name, control_plane) - count for name, count in before.items()}
    record(
        what,
        killed.at,
        f"kubectl: {shorten(message.splitlines()[-1])}",
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
    stack: LiveStack, site: FaultSite, record: Record, what: Fault, words: str
) -> None:
    """Fails if truncated, altered or deleted: a new pod starts or says another reason, the plugin starts with it, or
    no CDI file is left behind: then the driver cleans up, and this page is out of date.
    """
    skip_unless_kind(stack)
    skip_unless_room(site, 2)
    pods, node = site.playground, site.node
    faults.renew_plugin(stack, node)
    with faults.checkpoint_kept(site):
        life = site.run("stays")
        gpus, uid = pods.sees("stays"), site.claim("stays")["metadata"]["uid"]
        faults.break_checkpoint(stack, node, what)
        site.start("waits")
        message = site.wait_kubelet_refusal("waits", words)
        assert_unharmed(site, "stays", life, gpus)
        broke = "a new pod waited in ContainerCreating"
        if what != faults.CHECKPOINT_DELETED:  # without one it starts: that is how it is mended
            faults.send(stack, node, faults.PLUGIN_PROCESS, "KILL")
            ended = wait_for(
                "the plugin does not start with it",
                lambda: (
                    faults.plugin_state(stack, node).get("lastState", {}).get("terminated", {}).get("exitCode") == 1
                    and faults.last_checkpoint_message(stack, node)
                ),
                faults.NOTICE_SECONDS,
            )
            assert words in ended
            assert_unharmed(site, "stays", life, gpus)
            broke += f"; the plugin does not start again: {shorten(ended)}"

        mended = time.monotonic()
        faults.mend_checkpoint(stack, node)
        pods.wait_running("waits", what.bound)
        assert uid not in faults.prepared_claims(stack, node)
        kept = assert_unharmed(site, "stays", life, gpus)
        record(
            what,
            mended,
            f"kubelet: {shorten(message)}",
            broke,
            f"what the driver had prepared before, whose CDI files stay behind; a pod of then has the {kept}",
        )
        # Asserted, not only said: the driver is not asked to take away what it does not know.
        pods.delete_pod("stays")
        wait_for("stays is gone", lambda: site.pod_is_gone("stays"), faults.START_SECONDS)
        assert uid in faults.cdi_claims(stack, node)


def test_deleted_claim_stays_until_its_pod_goes(stack: LiveStack, site: FaultSite, record: Record) -> None:
    """Fails if the claim goes, the pod loses its GPU, or another pod gets the claim."""
    skip_unless_room(site, 2)
    pods = site.playground
    life = site.run("stays")
    gpus = pods.sees("stays")
    stack.kubectl("delete", CLAIMS, "stays", "-n", pods.namespace, "--wait=false")
    metadata = wait_for(
        "the claim is to go",
        lambda: (of_claim := site.claim("stays")["metadata"]).get("deletionTimestamp") and of_claim,
        faults.NOTICE_SECONDS,
    )
    assert PROTECTION in metadata["finalizers"]
    assert [pod["name"] for pod in site.claim("stays")["status"]["reservedFor"]] == ["stays"]
    words = assert_unharmed(site, "stays", life, gpus)
    # Another pod of the claim is passed over by the scheduler, which gives those after it their nodes.
    site.start("late", claim="stays")
    site.run("other")
    late = pods.pod("late")
    assert "nodeName" not in late["spec"]
    messages = [condition["message"] for condition in late["status"].get("conditions", []) if condition.get("message")]
    for name in ("late", "other"):
        pods.delete_pod(name)
        wait_for(f"{name} is gone", lambda name=name: site.pod_is_gone(name), faults.START_SECONDS)

    began = time.monotonic()
    pods.delete_pod("stays")
    wait_for("the claim is gone", lambda: "stays" not in claims_of(stack, pods.namespace), faults.CLAIM_DELETED.bound)
    site.start("fresh", uuid=gpus[0])
    pods.wait_running("fresh", faults.CLAIM_DELETED.bound)
    record(
        faults.CLAIM_DELETED,
        began,
        f"API: finalizer {PROTECTION}; scheduler: "
        + (shorten(messages[0]) if messages else "no word in the pod's status"),
        "another pod of the claim got no node",
        f"the claim, once its pod went; until then the pod had the {words}",
    )


def claims_of(stack: LiveStack, namespace: str) -> set[str]:
    return {claim["metadata"]["name"] for claim in stack.get(CLAIMS, namespace=namespace)}


def test_xid_taints_the_gpu_and_the_taint_outlives_the_plugin(
    stack: LiveStack, site: FaultSite, record: Record
) -> None:
    """Fails if there is no taint within 15 s, another GPU has one, a pod on it ends, a new one gets it, or the
    keeper's rule does not keep it.
    """
    if stack.settings.gpu.source != "simulated":
        pytest.skip("an XID is put into a simulated GPU only: a real one has to break")
    pods, node = site.playground, site.node
    if not (free := site.free_devices()):
        pytest.skip(f"no GPU on {node} is free, and one has to break: raise gpu.count")
    device = free[0]
    uuid = stack.devices()[node, device]["uuid"]
    life = site.run("stays", uuid=uuid)
    gpus = pods.sees("stays")
    with faults.reported_xid(stack, node, device, XID_NUMBER) as began:
        (taint,) = wait_for("the driver taints the GPU", lambda: faults.taints(stack, node, device), TAINT_SECONDS)
        noticed = time.monotonic() - began
        key, value, effect = taint["key"], taint["value"], taint["effect"]
        assert (key, value, effect) == (faults.XID_KEY, str(XID_NUMBER), "NoSchedule")
        others = [other for place, other in stack.devices() if place == node and other != device]
        assert not any(faults.taints(stack, node, other) for other in others)
        kept = assert_unharmed(site, "stays", life, gpus)
        if not site.gpus_are_shared:  # it would keep the others off by itself
            pods.delete_pod("stays")
            wait_for("stays is gone", lambda: site.pod_is_gone("stays"), faults.START_SECONDS)

        site.start("waits", uuid=uuid)
        message = pods.wait_unschedulable("waits")
        # Only the taint keeps it off: one that tolerates it gets the GPU.
        site.run("tolerates", uuid=uuid, tolerations=[TOLERATES_XID])
        assert pods.sees("tolerates") == [uuid]
        pods.delete_pod("tolerates")
        wait_for("tolerates is gone", lambda: site.pod_is_gone("tolerates"), faults.START_SECONDS)

        rule = faults.wait_rule(stack, node, device)
        name = rule["metadata"]["name"]
        assert name.startswith("xid-")
        assert rule["spec"]["taint"]["effect"] == "NoSchedule"

        faults.renew_plugin(stack, node)
        wait_for("the driver has forgotten it", lambda: not faults.taints(stack, node, device), faults.START_SECONDS)
        site.start("later", uuid=uuid)
        assert "cannot allocate all claims" in pods.wait_unschedulable("later")
        pods.delete_pod("later")
        wait_for("later is gone", lambda: site.pod_is_gone("later"), faults.START_SECONDS)

        mended = time.monotonic()
        faults.delete_rules(stack, node, [device])
        pods.wait_running("waits", faults.XID.bound)
        record(
            faults.XID,
            mended,
            f"driver, {noticed:.1f} s after it: taint {key}={value}:{effect}; taint-keeper: rule {name}",
            f"a new pod for that GPU: {shorten(message)}",
            f"nothing: a pod on it has the {kept}. The driver forgot the taint with its plugin, the rule kept it",
        )


def test_rule_with_no_execute_evicts_who_does_not_tolerate_it(
    stack: LiveStack, site: FaultSite, record: Record
) -> None:
    """Fails if the pod stays, one that tolerates it does not, or a pod that only looks on is evicted."""
    skip_unless_room(site, 2)
    pods, node = site.playground, site.node
    site.run("goes")
    life = site.run("stays", tolerations=[TOLERATES_MAINTENANCE])
    gpus, (uuid,) = pods.sees("stays"), pods.sees("goes")
    devices = sorted({device["device"] for name in ("goes", "stays") for device in pods.allocated(name)})
    looking = faults.admin_claim_pods(stack, node)
    with set_aside(stack, node, devices), faults.no_execute_rules(stack, node, devices, MAINTENANCE) as began:
        wait_for("goes is evicted", lambda: site.pod_is_gone("goes"), faults.EVICTED.bound)
        evicted = time.monotonic() - began
        messages = wait_for(
            "the controller says so", lambda: pods.messages("goes", "DeviceTaintManagerEviction"), faults.NOTICE_SECONDS
        )
        # The controller has done all that it will do.
        wait_for("nobody is left to evict", lambda: evictions(stack, node, devices), faults.NOTICE_SECONDS)
        kept = assert_unharmed(site, "stays", life, gpus)
        # The MPS daemon and the exporter look on by admin claims, which tolerate it.
        assert faults.admin_claim_pods(stack, node) == looking
        site.start("waits", uuid=uuid)
        refused = pods.wait_unschedulable("waits")
        mended = time.monotonic()
        faults.delete_rules(stack, node, devices)
        pods.wait_running("waits", faults.EVICTED.bound)
    record(
        faults.EVICTED,
        mended,
        f"device taint eviction controller: {shorten(messages[-1])}; the pod was gone after {evicted:.1f} s",
        f"a new pod for that GPU: {shorten(refused)}",
        f"the pod that did not tolerate it; one that did has the {kept}",
    )


def evictions(stack: LiveStack, node: str, devices: list[str]) -> bool:
    """True if the rules of the devices say that they evicted somebody, and that nobody is left."""
    rules = [rule for device in devices for rule in faults.rules_of(stack, node, device)]
    conditions = [
        condition
        for rule in rules
        for condition in rule.get("status", {}).get("conditions", [])
        if condition["type"] == "EvictionInProgress"
    ]
    done = all(condition["status"] == "False" for condition in conditions) and len(conditions) == len(rules)
    return done and any(condition["reason"] == "Completed" for condition in conditions)


def test_drained_nodes_workload_moves_to_another_gpu(stack: LiveStack, site: FaultSite, record: Record) -> None:
    """Fails if the pod does not run on another node's GPU, or the drain hangs."""
    others = [node.node for node in stack.settings.gpu_nodes if node.node != site.node]
    if not others:
        pytest.skip("there is one GPU node, so nothing can move to another one")
    namespace = site.playground.namespace
    with faults.cordoned(stack, *others):
        objects = faults.deployment_on_any_node(stack, namespace, "moves")
        stack.create(*objects)
        (old,) = wait_for("a pod is made", lambda: stack.get("pods", namespace=namespace))
        site.playground.wait_running(old["metadata"]["name"], faults.START_SECONDS)
    (had,) = site.playground.sees(old["metadata"]["name"])
    # Pods of DaemonSets stay: the driver's plugin has to unprepare what is drained.
    words = ("--ignore-daemonsets", "--delete-emptydir-data", "--pod-selector=app=moves", "--timeout=60s")
    with faults.cordoned(stack, site.node):
        drained = time.monotonic()
        output = stack.kubectl("drain", site.node, *words)
        new = wait_for("another pod is made", lambda: replacement_pod(stack, namespace, old), faults.NOTICE_SECONDS)
        site.playground.wait_running(new, faults.DRAINED.bound)
        (has,) = site.playground.sees(new)
        assert has != had
        assert site.playground.pod(new)["spec"]["nodeName"] in others
        record(
            faults.DRAINED,
            drained,
            next(line for line in output.splitlines() if line.startswith("evicting")).partition(" pod ")[0]
            + " by kubectl",
            f"the pod on {had[:12]} was evicted; its Deployment made another one on {has[:12]} of the other node",
            "what the process had on its GPU; its claim went with the pod, and the new pod has one of its own",
        )
    stack.kubectl("delete", "deployment/moves", "-n", namespace)


def replacement_pod(stack: LiveStack, namespace: str, old: dict[str, Any]) -> str | None:
    """The name of the pod that is not `old`."""
    names = {pod["metadata"]["name"] for pod in stack.get("pods", namespace=namespace)}
    return next(iter(names - {old["metadata"]["name"]}), None)
