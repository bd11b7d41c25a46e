"""Module 05: what MPS grants and refuses, set by the daemon, by a client and by a claim, and who wins."""

import time
from collections.abc import Callable, Iterator

import pytest
import yaml

from components.mps_clients import CLASS_LABEL, LIMITS_ANNOTATION
from mps_limits import MIB, context_mib, granted_multiprocessors, mps_memory, quantity_mib
from settings.blocks import Mps, MpsLimits
from tests.e2e.live import LiveStack, Playground
from tests.e2e.mps import CLIENTS, MEMORY, PERCENTAGE, Client, Daemon, Ended, deployed, run

OUT_OF_MEMORY = "CUDA_ERROR_OUT_OF_MEMORY"
NEEDS_A_REAL_GPU = 4  # gpu-probe's exit code for a simulated GPU that is asked for a speed
REFUSED_MEMORY = 5
THROTTLE = (100, 50, 20, 10, 5, 1)
PARTITIONING = "CUDA_MPS_ENABLE_PER_CTX_DEVICE_MULTIPROCESSOR_PARTITIONING"
# The variable's value, and the limit that then holds in MiB under a daemon's 2048, None for none.
LIFTED = [("1=1024M", None), ("0=junk", None), ("0=8192M", 2048)]
HIDES_THE_PIPE = {"name": "nothing", "mountPath": "/tmp/nvidia-mps/control"}
# Driver and context round to 2 MiB each.
ROUNDING_MIB = 4


@pytest.fixture
def daemon(stack: LiveStack) -> Daemon:
    return Daemon(stack)


@pytest.fixture
def unlimited(daemon: Daemon) -> Iterator[Daemon]:
    """The daemon without limits, for checks of what clients set; the stack's limits are put back afterwards."""
    with daemon.limits():
        daemon.apply(100, "0")
        yield daemon


def granted(stack: LiveStack, percentage: float) -> int:
    """SMs by the rule, on the stack's GPU."""
    model = stack.settings.gpu_model
    if model is None:
        pytest.skip("the rule's constants are known for the simulated models only")
    return granted_multiprocessors(model, percentage)


def context(ended: Ended) -> dict:
    return next(line for line in ended.lines if "sms" in line)


def test_clients_have_what_the_stack_gives_them(stack: LiveStack, seen: Callable[[str], None]) -> None:
    mps = stack.settings.mps
    for name, limits, count in (("clients", mps, 2), ("limited", mps.classes["small"], 1)):
        pods = deployed(stack, name)
        assert len(pods) == count
        for pod in pods:
            holding = Client(stack, pod["metadata"]["name"]).wait_line("holding")
            sms = granted(stack, limits.active_thread_percentage)
            assert holding["sms"] == sms
            assert holding["free_mib"] == pytest.approx(expected_free(limits, sms, holding), abs=ROUNDING_MIB)
    seen(f"clients {describe(stack, mps)}; limited {describe(stack, mps.classes['small'])}")


def expected_free(limits: Mps | MpsLimits, sms: int, holding: dict) -> int:
    limit = limits.effective_memory_limit if isinstance(limits, Mps) else limits.pinned_device_memory_limit
    return quantity_mib(limit) - context_mib(sms) - holding["allocated_bytes"] // MIB


def describe(stack: LiveStack, limits: Mps | MpsLimits) -> str:
    percentage, memory = limits.active_thread_percentage, limits.pinned_device_memory_limit
    return f"{granted(stack, percentage)} SMs at {percentage} %, {memory}"


def test_memory_within_the_limit_succeeds_and_beyond_it_fails(stack: LiveStack, seen: Callable[[str], None]) -> None:
    neighbour = deployed(stack, "clients")[0]
    before = neighbour["status"]["containerStatuses"][0]["restartCount"]
    small = stack.settings.mps.classes["small"]
    percentage, memory = small.active_thread_percentage, mps_memory(small.pinned_device_memory_limit)
    beyond = f"{quantity_mib(small.pinned_device_memory_limit) + 1024}Mi"
    ended = run(stack, "alloc", "100Mi", beyond, percentage=percentage, memory=memory)
    results = [line["result"] for line in ended.lines if "result" in line]
    assert results == ["CUDA_SUCCESS", OUT_OF_MEMORY]
    assert ended.code == REFUSED_MEMORY
    assert ended.lines[-1]["error"] == OUT_OF_MEMORY
    (after,) = [p for p in deployed(stack, "clients") if p["metadata"]["name"] == neighbour["metadata"]["name"]]
    assert after["status"]["containerStatuses"][0]["restartCount"] == before
    seen(f"under 0={memory}: 100Mi {results[0]}, {beyond} {results[1]}; the neighbour runs on")


def test_memory_limit_of_the_daemon_or_claim_holds_for_a_client_that_sets_none(
    stack: LiveStack, seen: Callable[[str], None]
) -> None:
    limit = quantity_mib(stack.settings.mps.effective_memory_limit)
    ended = run(stack, "alloc", "100Mi", f"{limit}Mi")
    results = [line["result"] for line in ended.lines if "result" in line]
    assert results == ["CUDA_SUCCESS", OUT_OF_MEMORY]
    seen(f"under {limit} MiB: 100Mi {results[0]}, {limit}Mi {results[1]}")


@pytest.mark.parametrize("by", ["client", "default"])
def test_throttle_curve_grants_exactly_what_the_rule_says(
    stack: LiveStack, unlimited: Daemon, by: str, seen: Callable[[str], None]
) -> None:
    found = {}
    if by == "client":
        # The policy holds every client of this namespace to the stack's own limits.
        most = stack.settings.mps.active_thread_percentage
        asked = [percentage for percentage in THROTTLE if percentage <= most]
        clients = {p: Client.start(stack, "info", "--context", percentage=p) for p in asked}
        found = {percentage: context(client.ended())["sms"] for percentage, client in clients.items()}
    else:
        for percentage in THROTTLE:
            unlimited.apply(percentage, "0")
            found[percentage] = context(run(stack, "info", "--context"))["sms"]
    assert found == {percentage: granted(stack, percentage) for percentage in found}
    seen(", ".join(f"{percentage} %: {sms} SMs" for percentage, sms in found.items()))


def test_three_clients_of_a_fifth_run_together(stack: LiveStack, daemon: Daemon, seen: Callable[[str], None]) -> None:
    percentage = min(20, stack.settings.mps.active_thread_percentage)
    clients = [Client.start(stack, "hold", "0", "--alloc", "64Mi", percentage=percentage) for _ in range(3)]
    try:
        sms = [client.wait_line("holding")["sms"] for client in clients]
        assert sms == [granted(stack, percentage)] * 3
        listed = daemon.clients()
        assert listed >= len(clients) + len(deployed(stack, "clients"))
    finally:
        for client in clients:
            client.remove()
    seen(f"{sms[0]} SMs each at {percentage} %, {listed} clients listed")


def test_client_can_only_lower_what_it_is_given(stack: LiveStack, daemon: Daemon, seen: Callable[[str], None]) -> None:
    # Within what the policy lets a client ask for: the stack's own limits, of which the daemon gives a part here.
    mps = stack.settings.mps
    most, memory = mps.active_thread_percentage, quantity_mib(mps.effective_memory_limit)
    given, given_memory = most * 2 / 5, memory // 4
    with daemon.limits():
        daemon.apply(given, f"{given_memory}M")
        more = context(run(stack, "info", "--context", percentage=most, memory=f"{memory}M"))
        less = context(run(stack, "info", "--context", percentage=most / 5, memory=f"{memory // 8}M"))
    assert more["sms"] == granted(stack, given)
    assert more["free_mib"] == pytest.approx(given_memory - context_mib(more["sms"]), abs=ROUNDING_MIB)
    assert less["sms"] == granted(stack, most / 5)
    assert less["free_mib"] == pytest.approx(memory // 8 - context_mib(less["sms"]), abs=ROUNDING_MIB)
    seen(
        f"daemon {given:g} %, {given_memory} MiB: asking for {most} %, {memory} MiB gives {more['sms']} SMs; "
        f"for {most / 5:g} %, {memory // 8} MiB {less['sms']} SMs"
    )


def test_live_change_reaches_new_clients_and_leaves_running_ones(
    stack: LiveStack, daemon: Daemon, seen: Callable[[str], None]
) -> None:
    running = Client(stack, deployed(stack, "clients")[0]["metadata"]["name"])
    before = running.wait_line("holding")["sms"]
    restarts = deployed(stack, "clients")[0]["status"]["containerStatuses"][0]["restartCount"]
    servers, percentage = daemon.servers(), stack.settings.mps.active_thread_percentage * 3 / 5
    with daemon.limits():
        started = time.monotonic()
        daemon.apply(percentage, "4096M")
        new = context(run(stack, "info", "--context"))
        seconds = time.monotonic() - started
        assert daemon.servers() == servers
    assert new["sms"] == granted(stack, percentage)
    assert new["free_mib"] == pytest.approx(4096 - context_mib(new["sms"]), abs=ROUNDING_MIB)
    assert deployed(stack, "clients")[0]["status"]["containerStatuses"][0]["restartCount"] == restarts
    assert running.wait_line("holding")["sms"] == before
    seen(f"a new pod has {new['sms']} SMs {seconds:.1f} s after the change, the running one keeps {before}")


@pytest.mark.parametrize(("value", "free"), LIFTED)
def test_memory_variable_that_fits_no_gpu_lifts_the_limit(
    stack: LiveStack, daemon: Daemon, value: str, free: int | None, seen: Callable[[str], None]
) -> None:
    """A program may set it where no policy sees it. Measured on a real GPU, and simulated likewise."""
    with daemon.limits():
        daemon.apply(20, "2048M")
        found = context(run(stack, "info", "--context", "--setenv", f"{MEMORY}={value}"))
    if free is None:
        assert found["free_mib"] > 2048
    else:
        assert found["free_mib"] == pytest.approx(free - context_mib(found["sms"]), abs=ROUNDING_MIB)
    seen(f"daemon 2 GiB, the program sets {value}: {found['free_mib']} MiB free")


def test_partitioning_by_context_lifts_the_percentage(stack: LiveStack, seen: Callable[[str], None]) -> None:
    env = ("--setenv", f"{PARTITIONING}=1", "--setenv", f"{PERCENTAGE}=100")
    found = context(run(stack, "info", "--context", *env))
    assert found["sms"] == granted(stack, 100)
    seen(f"{found['sms']} SMs under {stack.settings.mps.active_thread_percentage} %")


def test_pods_of_a_workload_name_the_limits_that_they_started_with(
    stack: LiveStack, seen: Callable[[str], None]
) -> None:
    mps, small = stack.settings.mps, stack.settings.mps.classes["small"]
    words = f"{mps.active_thread_percentage} % of the SMs, {mps.pinned_device_memory_limit}"
    own = f"{small.active_thread_percentage} % of the SMs, {small.pinned_device_memory_limit} (class small; at most "
    notes = {
        name: {pod["metadata"]["annotations"][LIMITS_ANNOTATION] for pod in deployed(stack, name)}
        for name in ("clients", "limited")
    }
    assert all(len(found) == 1 for found in notes.values())
    assert min(notes["clients"]).startswith(words)
    assert min(notes["limited"]).startswith(own + words)
    seen("; ".join(f"{name}: {min(found)}" for name, found in notes.items()))


def test_speed_of_a_simulated_gpu_is_not_invented(stack: LiveStack, seen: Callable[[str], None]) -> None:
    if stack.settings.gpu.source == "host":
        pytest.skip("the GPU is real: test_speed_follows_the_granted_multiprocessors measures it")
    ended = run(stack, "flops", "1")
    assert ended.code == NEEDS_A_REAL_GPU
    assert ended.lines[-1]["error"] == "needs a real GPU"
    seen(f"gpu-probe flops: {ended.lines[-1]['error']}")


@pytest.mark.gpu
def test_speed_follows_the_granted_multiprocessors(
    stack: LiveStack, unlimited: Daemon, seen: Callable[[str], None]
) -> None:
    if stack.settings.gpu.source == "simulated":
        pytest.skip("needs a real GPU")
    speeds = {}
    for percentage in THROTTLE:
        unlimited.apply(percentage, "0")
        ended = run(stack, "flops", "2", "--repeats", "3")
        runs = [line for line in ended.lines if "tflops" in line]
        speeds[percentage] = (runs[0]["sms"], max(line["tflops"] for line in runs))
    (all_sms, whole) = speeds[100]
    for sms, speed in speeds.values():
        assert speed == pytest.approx(whole * sms / all_sms, rel=0.05)
    seen(", ".join(f"{p} %: {sms} SMs, {speed:.2f} TFLOPS" for p, (sms, speed) in speeds.items()))


def pod_of(stack: LiveStack, env: dict[str, str], **changed: object) -> str:
    """A client that nobody runs: the API server only looks at it."""
    pod = Client.manifest(stack, ["info"], env)
    pod["spec"].update(changed)
    return yaml.safe_dump(pod)


LIFTS = "would lift the limit"
# name -> the variable, its value with the stack's own limits in it (MiB, GiB), and what the message has to say
REFUSED = {
    "percentage above the class": (PERCENTAGE, "{above}", "at most {most}"),
    "percentage of 0": (PERCENTAGE, "0", "above 0"),
    "percentage that is no number": (PERCENTAGE, "all", "plain number"),
    "memory above the class": (MEMORY, "0={above_mib}M", "at most 0={mib}M"),
    "memory above the class in G": (MEMORY, "0={above_gib}G", "at most 0={mib}M"),
    "memory of another GPU": (MEMORY, "1=1M", LIFTS),
    "memory that is junk": (MEMORY, "junk", LIFTS),
    "memory of 0": (MEMORY, "0=0M", LIFTS),
    "memory of two GPUs": (MEMORY, "0=1M,1=1M", LIFTS),
    "partitioning by context": (PARTITIONING, "1", "is refused"),
    "another pipe": ("CUDA_MPS_PIPE_DIRECTORY", "/tmp/none", "without limits"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_policy_refuses_a_pod_that_asks_for_more(stack: LiveStack, name: str, seen: Callable[[str], None]) -> None:
    mps = stack.settings.mps
    most, mib = mps.active_thread_percentage, quantity_mib(mps.effective_memory_limit)
    values = {"most": most, "above": most + 1, "mib": mib, "above_mib": mib + 1, "above_gib": mib // 1024 + 1}
    variable, value, message = REFUSED[name]
    env = {variable: value.format(**values)}
    said = stack.kubectl_fails("create", "--dry-run=server", "-f", "-", stdin=pod_of(stack, env))
    assert "dra-workshop-mps-clients" in said
    assert message.format(**values) in said
    seen(said.partition("denied request: ")[2].strip() or said.strip())


def test_policy_refuses_other_folders_of_the_node_and_host_namespaces(
    stack: LiveStack, seen: Callable[[str], None]
) -> None:
    pod = yaml.safe_load(pod_of(stack, {}))["spec"]
    volumes = [*pod.get("volumes", []), {"name": "etc", "hostPath": {"path": "/etc"}}]
    (container,) = pod["containers"]
    hidden = {**container, "volumeMounts": [*container.get("volumeMounts", []), HIDES_THE_PIPE]}
    nothing = {"name": "nothing", "emptyDir": {}}
    for changed in (
        {"volumes": volumes},
        {"hostPID": True},
        {"hostIPC": True},
        {"hostNetwork": True},
        {"containers": [hidden], "volumes": [*pod.get("volumes", []), nothing]},
    ):
        said = stack.kubectl_fails("create", "--dry-run=server", "-f", "-", stdin=pod_of(stack, {}, **changed))
        # In mode claim Pod Security looks first, but for the last one.
        assert "dra-workshop-mps-clients" in said or (stack.settings.mps.mode == "claim" and "PodSecurity" in said)
    assert "nothing may be mounted over /tmp/nvidia-mps" in said
    seen("hostPath /etc, hostPID, hostIPC, hostNetwork and a volume over the pipe are refused")


def test_policy_allows_what_is_within_the_class(stack: LiveStack, seen: Callable[[str], None]) -> None:
    mps = stack.settings.mps
    most, memory = mps.active_thread_percentage, mps_memory(mps.effective_memory_limit)
    allowed = ({}, {PERCENTAGE: str(most)}, {PERCENTAGE: str(most / 4), MEMORY: "0=1M"}, {MEMORY: f"0={memory}"})
    for env in allowed:
        stack.kubectl("create", "--dry-run=server", "-f", "-", stdin=pod_of(stack, env))
    seen(f"no variables, {most} %, {most / 4} % with 1M, and {memory} pass")


def test_class_below_the_daemons_limits_has_to_be_set(stack: LiveStack, seen: Callable[[str], None]) -> None:
    level = stack.one("namespaces", CLIENTS)["metadata"]["labels"]["pod-security.kubernetes.io/enforce"]
    small = stack.settings.mps.classes["small"]
    percentage, memory = str(small.active_thread_percentage), f"0={mps_memory(small.pinned_device_memory_limit)}"
    labels = {CLASS_LABEL: "small", "pod-security.kubernetes.io/enforce": level}
    with stack.playground(labels) as playground:
        dry = ("create", "--dry-run=server", "-f", "-")
        said = stack.kubectl_fails(*dry, stdin=moved(pod_of(stack, {}), playground))
        assert "must set CUDA_MPS_ACTIVE_THREAD_PERCENTAGE" in said
        more = {PERCENTAGE: str(small.active_thread_percentage + 1), MEMORY: memory}
        assert f"at most {percentage}" in stack.kubectl_fails(*dry, stdin=moved(pod_of(stack, more), playground))
        stack.kubectl(*dry, stdin=moved(pod_of(stack, {PERCENTAGE: percentage, MEMORY: memory}), playground))
    seen(said.partition("denied request: ")[2].strip())


@pytest.mark.parametrize("labels", [{}, {CLASS_LABEL: "no-such-class"}], ids=["no class", "unknown class"])
def test_namespace_without_a_known_class_may_not_mount_the_pipe(
    stack: LiveStack, labels: dict[str, str], seen: Callable[[str], None]
) -> None:
    if stack.settings.mps.mode == "claim":
        pytest.skip("mps.mode is claim: there is no pipe of the node")
    with stack.playground({"pod-security.kubernetes.io/enforce": "privileged", **labels}) as playground:
        pod = moved(pod_of(stack, {}), playground)
        said = stack.kubectl_fails("create", "--dry-run=server", "-f", "-", stdin=pod)
    assert "dra-workshop-mps-pipe" in said
    seen(said.partition("denied request: ")[2].strip())


def moved(text: str, playground: Playground) -> str:
    pod = yaml.safe_load(text)
    pod["metadata"]["namespace"] = playground.namespace
    return yaml.safe_dump(pod)
