"""Checks of module 04: two pods on one GPU at the same time, as clients of an MPS daemon without privilege."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pytest
import yaml

from checks import aims, throughput
from checks import measured as sheets
from checks.live import RESTRICTED, LiveStack, Playground, wait_for
from checks.mps import (
    CLIENTS,
    NOT_STARTED,
    Client,
    Daemon,
    deployment_pods,
    model_of,
    outside_namespace,
    shared_gpu,
    stack_client_count,
)
from checks.privileges import excess, pod_privileges, reviewed_privileges
from components.mps_clients import PIPE_FOLDER
from gpus.mps import granted_multiprocessors
from settings import GPU_MODELS

RPC_FAILURE, OUT_OF_MEMORY = "CUDA_ERROR_MPS_RPC_FAILURE", "CUDA_ERROR_OUT_OF_MEMORY"
SHARE = 0.02  # by which speed may differ from the share of the SMs


@pytest.fixture
def daemon(stack: LiveStack) -> Daemon:
    return Daemon(stack)


def skip_unless_node_daemon(daemon: Daemon, otherwise: str) -> None:
    if daemon.by_claim:
        pytest.skip(f"mps.mode is claim: {otherwise}")


def uuids(stack: LiveStack, pod: str) -> list[str]:
    return [gpu["uuid"] for gpu in Playground(stack, CLIENTS).report(pod)["gpus"]]


def test_two_pods_have_the_gpu_of_their_claim(stack: LiveStack, observed: Callable[[str], None]) -> None:
    """Fails if the pods of `clients` see different GPUs, or another one than the claim's status names."""
    pods = [pod["metadata"]["name"] for pod in deployment_pods(stack, "clients")]
    assert len(pods) == 2
    (device,) = Playground(stack, CLIENTS).allocated(pods[0])
    assert [uuids(stack, pod) for pod in pods] == [[device["uuid"]]] * 2
    if first := stack.settings.gpu_uuid(1 if "03" in stack.settings.modules else 0):
        assert device["uuid"] == first
    observed(f"{' and '.join(pods)} have {device['uuid']}")


def test_daemon_lists_both_as_clients_of_that_gpu(
    stack: LiveStack, daemon: Daemon, observed: Callable[[str], None]
) -> None:
    """Fails if the number of its contexts is not that of the stack's clients, or they are on another GPU."""
    count = stack_client_count(stack)
    (uuid,) = uuids(stack, deployment_pods(stack, "clients")[0]["metadata"]["name"])
    wait_for(f"the daemon has {count} clients", lambda: daemon.clients() == count)
    (device,) = daemon.gpus_in_use()
    assert uuid.startswith(device)
    observed(f"{count} clients of server {daemon.servers()[0]} on {device}...")


def test_daemon_has_the_limits_of_the_stack(stack: LiveStack, daemon: Daemon, observed: Callable[[str], None]) -> None:
    """Fails if its default percentage is another one."""
    percentage = daemon.default_percentage()
    assert percentage == stack.settings.mps.active_thread_percentage
    observed(f"default active thread percentage {percentage:g}")


def test_every_gpu_node_has_a_daemon_with_the_limits(
    stack: LiveStack, daemon: Daemon, observed: Callable[[str], None]
) -> None:
    """Fails if one of several nodes has none, or its percentage is another one."""
    skip_unless_node_daemon(daemon, "the driver starts a daemon where the claim's GPU is")
    daemons = {node.node: Daemon(stack, node.node) for node in stack.settings.gpu_nodes}
    percentages = {node: one.default_percentage() for node, one in daemons.items()}
    assert set(percentages.values()) == {stack.settings.mps.active_thread_percentage}
    observed(", ".join(f"{node}: {percentage:g} %" for node, percentage in percentages.items()))


def test_clients_are_without_privilege(stack: LiveStack, observed: Callable[[str], None]) -> None:
    """Fails if a client has a host namespace, a capability or escalation."""
    pods = [*deployment_pods(stack, "clients"), *deployment_pods(stack, "limited")]
    assert len(pods) >= 2
    for pod in pods:
        spec = pod["spec"]
        assert not {"hostPID", "hostIPC", "hostNetwork"} & spec.keys()
        assert spec["securityContext"]["runAsNonRoot"]
        for container in [*spec["containers"], *spec.get("initContainers", [])]:
            context = container["securityContext"]
            assert context["capabilities"] == {"drop": ["ALL"]}
            assert not context["allowPrivilegeEscalation"]
            assert not context.get("privileged")
    observed("no hostPID, hostIPC or hostNetwork, every capability dropped, not root")


def test_privileges_of_every_pod_are_the_reviewed_ones(stack: LiveStack, observed: Callable[[str], None]) -> None:
    """Fails if any pod of the cluster may do more than privileges.yaml says."""
    privileges, allowed = pod_privileges(stack), reviewed_privileges()
    more = {name: extra for name, what in privileges.items() if (extra := excess(what, allowed.get(name, {})))}
    assert not more, f"more than checks/privileges.yaml allows:\n{yaml.safe_dump(more)}"
    assert not privileges.keys() - allowed.keys(), f"not in the list: {sorted(privileges.keys() - allowed.keys())}"
    privileged = [name for name, what in privileges.items() if what.get("privileged")]
    observed(f"{len(privileges)} kinds of pods; privileged: {', '.join(sorted(privileged))}")


def test_client_without_the_pipe_runs_without_mps_and_without_limits(
    stack: LiveStack, daemon: Daemon, observed: Callable[[str], None]
) -> None:
    """Fails if it is limited: then what its page says of it is out of date."""
    skip_unless_node_daemon(daemon, "the driver mounts the pipe itself, so a pod cannot be without it")
    with outside_namespace(stack, shared_gpu(stack), RESTRICTED) as playground:
        report, context = pod_without_pipe(stack, playground, ["info", "--context"]).ended().lines
    (gpu,) = report["gpus"]
    assert gpu["uuid"] == shared_gpu(stack)
    client = Client(stack, deployment_pods(stack, "clients")[0]["metadata"]["name"]).wait_line("holding")
    assert context["sms"] > client["sms"]
    assert context["free_mib"] > client["free_mib"]
    observed(
        f"{context['sms']} SMs and {context['free_mib']} MiB free; "
        f"a client of the daemon has {client['sms']} and {client['free_mib']}"
    )


def pod_without_pipe(stack: LiveStack, playground: Playground, args: Sequence[str]) -> Client:
    """A pod of a namespace without a class, whose policy does not ask for the daemon's pipe."""
    pod = Client.manifest(stack, args, {}, playground.namespace)
    for container in pod["spec"]["containers"]:
        for key in ("volumeMounts", "env", "command"):
            container.pop(key)
    for key in ("volumes", "initContainers"):
        pod["spec"].pop(key)
    return Client.create(stack, pod)


@pytest.fixture
def unlimited(stack: LiveStack, daemon: Daemon) -> Iterator[Daemon]:
    """The daemon without limits, on a real GPU; the stack's limits are put back afterwards."""
    throughput.skip_unless_real(stack)
    skip_unless_node_daemon(daemon, "the driver mounts the pipe itself, so nothing is exclusive beside it")
    if stack.settings.capacity_enforced:
        pytest.skip("module 07 gives every client limits of its own; a stack without it measures this")
    with daemon.limits():
        daemon.apply(100, "0")
        yield daemon


@pytest.mark.gpu
def test_mps_costs_no_throughput_and_two_halves_are_a_whole(
    stack: LiveStack, unlimited: Daemon, table: Callable[..., None], observed: Callable[[str], None]
) -> None:
    # The stack's own clients hold memory meanwhile, and run nothing.
    """Fails if on a real GPU exclusive use stays below 95 % of the FP32 peak, MPS at 100 % differs from it by more
    than 1 %, or two clients at 50 % from each other.
    """
    uuid = shared_gpu(stack)
    with outside_namespace(stack, uuid, RESTRICTED) as playground:
        exclusive = throughput.wait_repeats(pod_without_pipe(stack, playground, throughput.ALONE))
    whole = throughput.wait_repeats(Client.start(stack, *throughput.ALONE))
    unlimited.apply(50, "0")
    halves = throughput.common_repeats(
        [throughput.wait_repeats(client) for client in [Client.start(stack, *throughput.TOGETHER) for _ in range(2)]]
    )
    ways = ((sheets.EXCLUSIVE, [exclusive]), (sheets.WHOLE, [whole]), (sheets.HALVES, halves))
    rows = [
        (who, number, *throughput.row(burning)) for who, clients in ways for number, burning in enumerate(clients, 1)
    ]
    # Kept whether the aims are met or not.
    table(*sheets.TOGETHER, rows)
    chip = throughput.chip(stack, uuid, exclusive[0].sms)
    facts = (chip.name, chip.compute_capability, chip.multiprocessors, chip.lanes, chip.clock, chip.peak)
    table(*sheets.CHIP, [facts])
    alone, by_mps = throughput.mean(exclusive), throughput.mean(whole)
    each = [throughput.mean(half) for half in halves]
    observed(
        f"exclusive {alone:.2f} of {chip.peak:.2f} TFLOPS, MPS at 100 % {by_mps:.2f}, two at 50 % "
        f"{' and '.join(f'{half:.2f}' for half in each)}"
    )
    assert alone >= aims.PEAK_SHARE * chip.peak
    assert by_mps == pytest.approx(alone, rel=aims.MPS_COST)
    assert max(each) - min(each) <= aims.UNFAIRNESS * max(each)
    (sms,) = {burn.sms for half in halves for burn in half}
    if model := model_of(stack):
        assert sms == granted_multiprocessors(model, 50)
    assert sum(each) == pytest.approx(alone * 2 * sms / exclusive[0].sms, rel=SHARE)


def test_second_daemon_on_the_node_is_refused(
    stack: LiveStack, daemon: Daemon, observed: Callable[[str], None]
) -> None:
    """Fails if it starts, or does not say why."""
    skip_unless_node_daemon(daemon, "the driver starts one daemon a claim, in a folder of its own")
    namespace, pod = daemon.pod
    command = ["exec", "-n", namespace, pod, "--", "mps-daemon", "run"]
    message = stack.kubectl_fails(*command)
    assert "another" in message and "/mps/pipe" in message
    assert daemon.default_percentage() == stack.settings.mps.active_thread_percentage
    observed(message.strip().splitlines()[0])


def test_killed_daemon_comes_back_over_its_stale_pipe(
    stack: LiveStack, daemon: Daemon, observed: Callable[[str], None]
) -> None:
    """Fails if a client does not get `CUDA_ERROR_MPS_RPC_FAILURE`, or the stack's clients are not all back under their
    limits by themselves.
    """
    skip_unless_node_daemon(daemon, "the daemon is NVIDIA's, and its pod is the driver's to bring back")
    percentage = stack.settings.mps.active_thread_percentage
    before = {pod["metadata"]["name"]: restarts(pod) for pod in deployment_pods(stack, "clients")}
    contexts = stack_client_count(stack)  # now, since those that start again have none meanwhile
    # One that does not start again, so that what it said of its end can be read.
    witness = Client.start(stack, "hold", "0", "--alloc", "64Mi")
    witness.wait_line("holding")
    namespace, old = daemon.pod
    if stack.settings.cluster.provider == "kind":
        assert "control" in stack.in_node(daemon.node, "ls", PIPE_FOLDER)
    stack.kubectl("delete", "pod", "-n", namespace, old, "--grace-period=0", "--force")

    def fresh() -> str | None:
        alive = [
            pod
            for pod in stack.get("pods", namespace=namespace)
            if pod["metadata"]["name"] != old and pod["spec"].get("nodeName") == daemon.node
        ]
        ready = [
            pod for pod in alive if all(s["ready"] for s in pod["status"].get("containerStatuses", [{"ready": 0}]))
        ]
        return ready[0]["metadata"]["name"] if ready else None

    new = wait_for("another daemon is ready", fresh)
    assert [line["error"] for line in witness.ended().lines if "error" in line] == [RPC_FAILURE]
    for name, count in before.items():
        wait_for(f"{name} starts again", lambda name=name, count=count: restarted_and_ready(stack, name, count))
    wait_for("the daemon has its clients", lambda: daemon.clients() == contexts)
    if model := model_of(stack):
        sms = {
            Client(stack, pod["metadata"]["name"]).wait_line("holding")["sms"]
            for pod in deployment_pods(stack, "clients")
        }
        assert sms == {granted_multiprocessors(model, percentage)}
    assert daemon.default_percentage() == percentage
    observed(f"a client got {RPC_FAILURE}; {old} is {new} now, and all {contexts} clients are back under their limits")


def test_client_that_fails_keeps_its_last_words(
    stack: LiveStack, daemon: Daemon, observed: Callable[[str], None]
) -> None:
    """Fails if the status of one that failed does not say why, or its log is gone."""
    skip_unless_node_daemon(daemon, "the driver mounts the pipe once its daemon is ready, and no pod waits")
    pod = Client.manifest(stack, ["hold", "0", "--alloc", "900Gi"], {})
    for container in (*pod["spec"]["containers"], *pod["spec"]["initContainers"]):
        for key in ("restartPolicy", "restartPolicyRules"):
            container.pop(key)
    pod["spec"] |= {"restartPolicy": "Always", "terminationGracePeriodSeconds": 1}
    pod["spec"]["containers"][0]["terminationMessagePolicy"] = "FallbackToLogsOnError"
    failing = Client.create(stack, pod)
    try:

        def last() -> dict[str, Any] | None:
            (state,) = stack.one("pods", failing.name, CLIENTS)["status"].get("containerStatuses", [{}])
            end = state.get("lastState", {}).get("terminated", {})
            return end if end.get("reason", NOT_STARTED) != NOT_STARTED else None

        # It is started again alone: of a pod that starts again as a whole nothing would be left to read.
        ended = wait_for(f"{failing.name} was started again", last)
        assert OUT_OF_MEMORY in ended["message"]
        # It fails within a second: a log that was there a moment ago may be the one before the previous by now.
        wait_for(
            "its log is kept", lambda: OUT_OF_MEMORY in stack.log(CLIENTS, failing.name, check=False, previous="true")
        )
    finally:
        failing.remove()
    observed(f"the pod's status says {OUT_OF_MEMORY}, exit code {ended['exitCode']}")


@pytest.mark.parametrize("size", [None, "1Gi"], ids=["the runtime's", "a volume"])
def test_client_needs_no_shared_memory_of_the_node(
    stack: LiveStack, daemon: Daemon, size: str | None, observed: Callable[[str], None]
) -> None:
    """Fails if a client with a `/dev/shm` of its own, or with a volume there, has other SMs than the others, or
    another folder of the node is shared.

    As everybody writes a pod with PyTorch: /dev/shm of its own. Nothing of it stays when the pod goes.
    """
    skip_unless_node_daemon(daemon, "the driver mounts what daemon and clients share")
    pod = Client.manifest(stack, ["info", "--context"], {})
    paths = [volume["hostPath"]["path"] for volume in pod["spec"]["volumes"] if "hostPath" in volume]
    assert paths == [PIPE_FOLDER]
    if size:
        pod["spec"]["volumes"].append({"name": "shm", "emptyDir": {"medium": "Memory", "sizeLimit": size}})
        pod["spec"]["containers"][0]["volumeMounts"].append({"name": "shm", "mountPath": "/dev/shm"})
    own = Client.create(stack, pod).ended()
    (clients,) = {
        Client(stack, one["metadata"]["name"]).wait_line("holding")["sms"] for one in deployment_pods(stack, "clients")
    }
    assert own.sms == clients
    namespace, name = daemon.pod
    volumes = stack.one("pods", name, namespace)["spec"]["volumes"]
    assert [volume["hostPath"]["path"] for volume in volumes if "hostPath" in volume] == [PIPE_FOLDER]
    observed(f"{own.sms} SMs; of the node's folders only {PIPE_FOLDER} is shared")


def restarts(pod: dict) -> int:
    return sum(state["restartCount"] for state in pod["status"].get("containerStatuses", []))


def restarted_and_ready(stack: LiveStack, pod: str, count: int) -> bool:
    """True if the pod was started more often than that, and is ready."""
    live_pod = stack.one("pods", pod, CLIENTS)
    ready = all(state["ready"] for state in live_pod["status"].get("containerStatuses", [{"ready": False}]))
    return ready and restarts(live_pod) > count


def test_time_slicing_is_the_other_way_to_share(stack: LiveStack, observed: Callable[[str], None]) -> None:
    """Fails if two pods of a time-sliced claim do not both see the whole GPU."""
    if not stack.settings.feature_gates.get("TimeSlicingSettings"):
        pytest.skip("the driver's gate TimeSlicingSettings is off: with it the driver sets compute modes")
    with stack.free_gpu(), stack.playground() as playground:
        pods = playground.create("04-mps/time-slicing")
        reports = [playground.report(pod) for pod in pods]
        (first,), (second,) = (report["gpus"] for report in reports)
        assert first["uuid"] == second["uuid"]
        assert first["multiprocessors"] == second["multiprocessors"]
        (device,) = playground.allocated(pods[0])
        assert device["uuid"] == first["uuid"]
        if models := [model for model in GPU_MODELS.values() if model.product_name == device["productName"]]:
            assert stack.settings.gpu.source == "host" or first["multiprocessors"] == models[0].multiprocessors
        assert not any(name.startswith("CUDA_MPS") for report in reports for name in report["environment"])
    observed(f"two pods on {first['uuid']}, each sees all {first['multiprocessors']} SMs in turns")
