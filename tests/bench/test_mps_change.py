"""Time until a changed MPS limit reaches a client: by `pulumi up`, and by hand with kubectl doing the same."""

import statistics
import subprocess
import time
from collections.abc import Callable, Iterator

import kr8s
import pytest

from checks.live import LiveStack, wait_for
from checks.mps import CLIENTS, Client, Daemon, deployment_pods
from components.mps_clients import LIMITS_ANNOTATION
from gpus.mps import granted_multiprocessors
from tests.e2e.workspace import Workspace
from toolchain.paths import CHECKOUT

pytestmark = pytest.mark.bench
STACK = "limits"
PERCENTAGES = ((45, 40), (35, 30), (49, 44))  # by pulumi, by hand; each grants other SMs than the one before
MEMORY = "8192M"
# The aim is for a person to judge; what is above the other is a defect on any machine. Measured: 1.3 to 1.5 on a busy
# one, and 1.8 to 2.1 with nothing else at work, where the new pods take less and Pulumi's start takes what it takes.
AIM_RATIO, MOST_RATIO = 1.3, 2.4


@pytest.fixture(scope="module")
def live(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Workspace, LiveStack]]:
    workspace = Workspace.copy(CHECKOUT, tmp_path_factory.mktemp("limits"))
    workspace.write_stack(STACK, config(50))
    with workspace.up(STACK) as stack:
        yield workspace, stack


def config(percentage: int) -> str:
    modules = '["00", "01", "02", "04", "05"]'
    return f"config:\n  dra-workshop:modules: {modules}\n  dra-workshop:mps: {{activeThreadPercentage: {percentage}}}\n"


def first_client(stack: LiveStack, sms: int) -> Callable[[], bool]:
    """True if one of the stack's clients runs with that many SMs."""

    def look() -> bool:
        for pod in deployment_pods(stack, "clients"):
            if pod["status"]["phase"] == "Running" and all(s["ready"] for s in pod["status"]["containerStatuses"]):
                try:
                    lines = Client(stack, pod["metadata"]["name"]).lines()
                except kr8s.ServerError:
                    continue  # it went since it was listed
                if any(line.get("holding") and line["sms"] == sms for line in lines):
                    return True
        return False

    return look


def by_pulumi(workspace: Workspace, percentage: int) -> subprocess.Popen[str]:
    workspace.write_stack(STACK, config(percentage))
    return workspace.start("up", "--yes", "--skip-preview", "--stack", STACK)


def by_hand(stack: LiveStack, percentage: int) -> None:
    """Change by hand, in the stack's order: what daemons start with, the running ones, the clients."""
    namespace, pod = Daemon(stack).pod
    data = f'{{"data": {{"activeThreadPercentage": "{percentage}"}}}}'
    stack.kubectl("patch", "configmap", "-n", namespace, "mps-limits", "-p", data)
    limits = (f"--active-thread-percentage={percentage}", f"--pinned-device-memory-limit={MEMORY}")
    stack.kubectl("exec", "-n", namespace, pod, "--", "mps-daemon", "apply", *limits)
    note = f'{{"spec": {{"template": {{"metadata": {{"annotations": {{"{LIMITS_ANNOTATION}": "{percentage} %"}}}}}}}}}}'
    for name in ("clients", "limited"):
        stack.kubectl("patch", "deployment", "-n", CLIENTS, name, "-p", note)


def test_a_changed_limit_reaches_a_client_soon(live: tuple[Workspace, LiveStack]) -> None:
    workspace, stack = live
    model = stack.settings.gpu_model
    assert model
    pulumi, hand = [], []
    for first, second in PERCENTAGES:
        started = time.monotonic()
        process = by_pulumi(workspace, first)
        wait_for("a client has the new limit", first_client(stack, granted_multiprocessors(model, first)))
        pulumi.append(round(time.monotonic() - started, 1))
        output, _ = process.communicate(timeout=120)
        assert process.returncode == 0, output
        for deployment in stack.get("deployments.apps", namespace=CLIENTS):
            status, replicas = deployment["status"], deployment["spec"]["replicas"]
            assert [status.get(key, 0) for key in ("updatedReplicas", "readyReplicas", "replicas")] == [replicas] * 3
        started = time.monotonic()
        by_hand(stack, second)
        wait_for("a client has the new limit", first_client(stack, granted_multiprocessors(model, second)))
        hand.append(round(time.monotonic() - started, 1))
        for name in ("clients", "limited"):  # or the next change would find some of them on their way
            stack.wait_deployed(CLIENTS, name)
    ratio = statistics.median(pulumi) / statistics.median(hand)
    figures = f"pulumi up {pulumi} s, kubectl {hand} s, ratio of medians {ratio:.2f}, aim {AIM_RATIO}"
    print(f"\nchanged limit to first client: {figures}")
    assert ratio <= MOST_RATIO
