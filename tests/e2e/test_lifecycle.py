"""Life of a stack: up, again, changed, broken, interrupted, lost and gone. One stack, in the order of the tests.

By the stock way, as most people have it, with what upstream serves where this checkout can serve that. What source
`built` makes in its place is run by the other files.
"""

import json
import os
import re
import shutil
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from checks.live import LiveStack, Playground, wait_for
from checks.mps import Client, deployment_pods
from gpus.mps import context_mib
from tests.e2e import stock, upstream_images
from tests.e2e.addresses import exchange_addresses
from tests.e2e.workspace import Workspace
from toolchain import images
from toolchain.paths import CHECKOUT

STACK = "life"
CLUSTER = f"dra-workshop-{STACK}"
RESTART_SECONDS = 180
KIND_LABEL = '{{.Names}}\t{{.Label "io.x-k8s.kind.cluster"}}'
RESOURCES = 48
CONFIG = """\
config:
  dra-workshop:modules: ["00", "01", "02", "03", "04", "05"]
  dra-workshop:gpu: {{model: l40s, count: {count}}}
  dra-workshop:driver: {{logVerbosity: {verbosity}}}
  dra-workshop:timeouts: {{driver: {timeout}}}
{more}"""


def config(count: int = 3, verbosity: int = 4, timeout: int = 180, more: str = "") -> str:
    return CONFIG.format(count=count, verbosity=verbosity, timeout=timeout, more=more)


def docker(*words: str) -> list[str]:
    return sorted(subprocess.run(["docker", *words], capture_output=True, text=True, check=True).stdout.split("\n"))


def traces(workspace: Workspace) -> dict[str, object]:
    """Everything on this machine that a stack could leave; not what other tests have meanwhile, which is Kind's."""
    kubeconfig = Path.home() / ".kube" / "config"
    containers = [line.split("\t") for line in docker("ps", "--all", "--format", KIND_LABEL) if line]
    return {
        "containers": [name for name, cluster in containers if cluster in ("", CLUSTER)],
        "networks": [
            name
            for name in docker("network", "ls", "--format", "{{.Name}}")
            if not name.startswith("kind") or name == f"kind-{CLUSTER}"
        ],
        "volumes": docker("volume", "ls", "--quiet", "--filter", "dangling=true"),
        # No stack makes images. Other tests set up checkouts of their own meanwhile.
        "image tags": [
            tag
            for tag in docker("image", "ls", "--format", "{{.Repository}}:{{.Tag}}")
            if not tag.startswith(("127.0.0.1:", images.PREFIX))
        ],
        "kubeconfig": kubeconfig.read_text() if kubeconfig.exists() else None,
        # Pulumi's own history and the checkout's mark stay: they are the checkout's, not the cluster's.
        "files": sorted(
            str(path.relative_to(workspace.root))
            for path in workspace.root.rglob("*")
            if path.is_file()
            and not path.is_relative_to(workspace.root / ".state" / ".pulumi")
            and not {".venv", ".tools", "__pycache__"} & set(path.parts)
        ),
    }


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Workspace]:
    folder = tmp_path_factory.mktemp("life")
    if not upstream_images.can_be_served():
        # This checkout has everything from upstream itself.
        copy = Workspace.copy(CHECKOUT, folder)
        copy.write_stack(STACK, config(count=2))
        copy.pulumi("stack", "init", STACK)
        yield copy
        copy.take_down(STACK)
        return
    with stock.site(folder, STACK, config(count=2)) as site:
        stock.set_up(site)
        site.workspace.pulumi("stack", "init", STACK)
        yield site.workspace


@pytest.fixture(scope="module")
def before(workspace: Workspace) -> dict[str, object]:
    return traces(workspace)


def up(workspace: Workspace, *, fails: bool = False) -> str:
    return workspace.pulumi("up", "--yes", "--skip-preview", "--stack", STACK, fails=fails)


def changes(output: str) -> dict[str, int]:
    """Pulumi's closing count, such as {"created": 40} or {"unchanged": 40}."""
    counts = output.rpartition("Resources:")[2].partition("Duration:")[0]
    return {word: int(number) for number, word in re.findall(r"(\d+) (?:to )?(\w+)", counts)}


def changed_resources(preview: str) -> set[str]:
    """The names of the resources that a preview with --diff says it would change."""
    operations = re.findall(r"^\s+([~+-]+)\s?(\S+): \(\w+\)\n(?:.*\n)*?\s+\[urn=\S+::(\S+)\]", preview, re.M)
    return {name for _, _, name in operations}


def test_interrupted_up_is_repaired_by_the_next(workspace: Workspace, before: dict[str, object]) -> None:
    process = workspace.start("up", "--yes", "--skip-preview", "--stack", STACK)
    node = f"{CLUSTER}-control-plane"
    wait_for("kind makes a node", lambda: node in docker("ps", "--format", "{{.Names}}"), 60)
    os.killpg(process.pid, signal.SIGINT)  # as Ctrl-C does: to the whole foreground group
    output, _ = process.communicate(timeout=60)
    assert process.returncode != 0, output
    repaired = changes(up(workspace))
    assert repaired.keys() <= {"created", "unchanged"}  # components are there already
    assert sum(repaired.values()) == RESOURCES


def test_nodes_are_kinds_own_and_the_driver_has_no_shell_but_bash(workspace: Workspace) -> None:
    if not upstream_images.can_be_served():
        pytest.skip("upstream's own images are not looked into")
    stock.assert_shaped_as_upstream(LiveStack.find(workspace.root, STACK))


def test_second_up_and_preview_change_nothing(workspace: Workspace) -> None:
    assert changes(workspace.make(STACK, "up")) == {"unchanged": RESOURCES}
    assert changes(workspace.pulumi("preview", "--diff", "--stack", STACK)) == {"unchanged": RESOURCES}


def test_refresh_finds_no_drift(workspace: Workspace) -> None:
    output = workspace.pulumi("refresh", "--yes", "--skip-preview", "--stack", STACK)
    assert changes(output) == {"unchanged": RESOURCES}


def test_verify_passes_every_check_and_keeps_the_results(workspace: Workspace) -> None:
    print(workspace.make(STACK, "verify"))
    results = workspace.root / "results" / STACK
    checks = json.loads((results / "verify.json").read_text())["checks"]
    assert {check["module"] for check in checks} == {"00", "01", "02", "03", "04", "05"}
    skipped = {check["seen"] for check in checks if check["result"] == "skipped"}
    one_model = "every node has the same GPUs, so a claim cannot tell them apart by model"
    one_gpu = "the stack has not two GPUs beside those of other modules; raise gpu.count"
    assert skipped == {"needs a real GPU", one_model, one_gpu}
    assert {check["result"] for check in checks} == {"passed", "skipped"}
    assert f'tests="{len(checks)}"' in (results / "verify.xml").read_text()
    shutil.rmtree(results)  # it is the user's to keep, not the stack's to remove


def test_verify_of_a_stack_that_is_not_up_says_so(workspace: Workspace) -> None:
    workspace.write_stack("absent", "config: {}\n")
    status, printed = workspace.verify("absent")
    (workspace.root / "stacks" / "Pulumi.absent.yaml").unlink()
    assert status == 2
    assert "stack absent is not up" in printed
    assert "make up STACK=absent" in printed


def test_changed_gpu_count_shows_in_the_preview_as_what_depends_on_it(workspace: Workspace) -> None:
    # One more, not one less: NVIDIA's driver cannot unprepare a claim whose GPU is gone, and the MPS daemon's has all.
    workspace.write_stack(STACK, config())
    output = workspace.pulumi("preview", "--diff", "--stack", STACK)
    assert changed_resources(output) == {
        *("mps-daemon-daemonset", "shared-gpu-clients", "limited-client-limited"),
        *("shared-gpu-clients-rollout", "limited-client-limited-rollout"),
        "simulated-gpus-config",
        "simulated-gpus-daemonset",
        "dra-driver-release",
        "dra-driver-gpus",
    }
    up(workspace)
    live = LiveStack.find(workspace.root, STACK)
    assert len(live.devices()) == 3


def test_changed_mps_limit_shows_and_reaches_every_client(workspace: Workspace) -> None:
    live = LiveStack.find(workspace.root, STACK)
    daemons = [pod["metadata"]["uid"] for pod in live.get("pods", namespace="mps-system")]
    workspace.write_stack(STACK, config(more="  dra-workshop:mps: {activeThreadPercentage: 30}\n"))
    output = workspace.pulumi("preview", "--diff", "--stack", STACK)
    assert changed_resources(output) == {
        *("mps-daemon-config", "mps-daemon-limits", "mps-policy-class-default"),
        *("shared-gpu-clients", "limited-client-limited"),
        *("shared-gpu-clients-rollout", "limited-client-limited-rollout"),
    }
    assert "thread percentage: 50 -> 30" in output
    assert "SMs granted: 70 of 142 (l40s) -> 42 of 142 (l40s)" in output
    up(workspace)
    # At once: the update itself waits for the new clients, and for all of them.
    for deployment in live.get("deployments.apps", namespace="mps"):
        status, replicas = deployment["status"], deployment["spec"]["replicas"]
        assert [status.get(key, 0) for key in ("updatedReplicas", "readyReplicas", "replicas")] == [replicas] * 3
    for pod in deployment_pods(live, "clients"):
        assert Client(live, pod["metadata"]["name"]).wait_line("holding")["sms"] == 42
    assert [pod["metadata"]["uid"] for pod in live.get("pods", namespace="mps-system")] == daemons


def test_what_kubectl_changed_is_taken_back_by_the_next_up_that_touches_it(workspace: Workspace) -> None:
    live = LiveStack.find(workspace.root, STACK)
    plugin = ("-n", "dra-driver-nvidia-gpu", "daemonset/dra-driver-nvidia-gpu-kubelet-plugin")
    mark = "somebody=was-here"

    def marks(*words: str) -> str:
        return live.kubectl("get", *words, "-o", "jsonpath={.metadata.annotations.somebody}")

    live.kubectl("scale", "-n", "mps", "deployment/clients", "--replicas=1")
    live.kubectl("annotate", "-n", "mps", "deployment/clients", mark)
    live.kubectl("annotate", "namespace/mps", mark)
    live.kubectl("annotate", *plugin, mark)
    edit = json.dumps({"data": {"activeThreadPercentage": "77"}})
    live.kubectl("patch", "-n", "mps-system", "configmap/mps-limits", "--type=merge", f"--patch={edit}")
    workspace.write_stack(STACK, config(verbosity=5, more="  dra-workshop:mps: {activeThreadPercentage: 40}\n"))
    workspace.pulumi("preview", "--stack", STACK)
    up(workspace)
    assert live.one("deployments.apps", "clients", "mps")["spec"]["replicas"] == 2
    assert live.one("configmaps", "mps-limits", "mps-system")["data"]["activeThreadPercentage"] == "40"
    assert marks("-n", "mps", "deployment/clients") == ""
    assert marks("namespace/mps") == marks(*plugin) == "was-here"  # the update touched neither of these fields
    # What no update touches is found by a refresh.
    live.kubectl("scale", "-n", "mps", "deployment/clients", "--replicas=1")
    assert changes(up(workspace)) == {"unchanged": RESOURCES}
    output = workspace.pulumi("refresh", "--yes", "--skip-preview", "--stack", STACK)
    assert changes(output)["updated"] == 1
    assert changes(up(workspace))["updated"] == 1
    assert live.one("deployments.apps", "clients", "mps")["spec"]["replicas"] == 2


def test_limit_that_the_gpu_cannot_grant_is_refused_in_the_preview(workspace: Workspace) -> None:
    more = "  dra-workshop:mps: {activeThreadPercentage: 1, pinnedDeviceMemoryLimit: 64Gi}\n"
    workspace.write_stack(STACK, config(more=more))
    output = workspace.pulumi("preview", "--stack", STACK, fails=True)
    assert "mps.activeThreadPercentage: 1 cannot be granted: l40s gives a client 2 of its 142 SMs or more" in output
    assert 'mps.pinnedDeviceMemoryLimit: "64Gi" is more than the 46068 MiB of l40s' in output


def test_another_mode_is_another_way_to_the_same_checks(workspace: Workspace) -> None:
    workspace.write_stack(STACK, config(more="  dra-workshop:mps: {mode: claim}\n"))
    assert "mode: daemon -> claim" in workspace.pulumi("preview", "--diff", "--stack", STACK)
    up(workspace)
    status, printed = workspace.verify(STACK, "04", "05")
    assert status == 0, printed
    print(printed)
    # The one fault of module 09 that takes this mode; the others are made to the stack of test_phase2.py.
    killed = "test_killed_mps_daemon_of_a_claim_ends_its_clients"
    check = f"checks/test_09_resilience.py::{killed}"
    output = workspace.run("pytest", check, "--stack", STACK, "-p", "no:cacheprovider")
    assert "1 passed" in output
    shutil.rmtree(workspace.root / "results" / STACK)


def test_changed_limit_of_a_claim_replaces_it_with_its_clients(workspace: Workspace) -> None:
    limits = "mode: claim, activeThreadPercentage: 30, perDevicePinnedMemoryLimit: {'0': 4Gi}"
    more = f"  dra-workshop:mps: {{{limits}}}\n"
    workspace.write_stack(STACK, config(more=more))
    output = workspace.pulumi("preview", "--diff", "--stack", STACK)
    assert changed_resources(output) == {
        *("shared-gpu-shared-gpu-claim", "shared-gpu-clients", "limited-client-limited"),
        *("shared-gpu-clients-rollout", "limited-client-limited-rollout"),
        "mps-policy-class-default",
    }
    assert "the claim that clients share cannot be changed" in output
    up(workspace)
    live = LiveStack.find(workspace.root, STACK)
    for pod in deployment_pods(live, "clients"):
        holding = Client(live, pod["metadata"]["name"]).wait_line("holding")
        assert holding["sms"] == 42
        assert holding["free_mib"] == pytest.approx(4096 - context_mib(42) - 256, abs=4)
    workspace.write_stack(STACK, config())
    up(workspace)


@pytest.mark.parametrize("node", [f"{CLUSTER}-worker", f"{CLUSTER}-control-plane"])
def test_pods_with_claims_survive_a_restart_of_a_node(workspace: Workspace, node: str) -> None:
    live = LiveStack.find(workspace.root, STACK)
    with live.free_gpu(), live.playground() as playground:
        pods = playground.create("shared-claim")
        uuids = {pod: playground.report(pod)["gpus"][0]["uuid"] for pod in pods}
        subprocess.run(["docker", "restart", node], capture_output=True, check=True)
        wait_for(
            "the API answers", lambda: live.kubectl("get", "--raw", "/readyz", check=False) == "ok", RESTART_SECONDS
        )
        if node.endswith("-worker"):
            for pod in pods:
                wait_for(f"{pod} was started again", lambda pod=pod: restarts(playground, pod), RESTART_SECONDS)
        for pod in pods:
            playground.wait_running(pod, RESTART_SECONDS)
            assert playground.report(pod)["gpus"][0]["uuid"] == uuids[pod]
        # A new claim is served as well.
        for pod in pods:
            playground.delete_pod(pod)
        (fresh,) = playground.create("extended-resource")
        playground.wait_running(fresh, RESTART_SECONDS)
    # The clients of MPS are back under their limits, and nobody before the daemon.
    for pod in deployment_pods(live, "clients"):
        assert Client(live, pod["metadata"]["name"]).wait_line("holding")["sms"] == 70


def test_nodes_may_have_other_addresses_after_a_restart_of_the_engine(workspace: Workspace) -> None:
    exchange_addresses(LiveStack.find(workspace.root, STACK))


def restarts(playground: Playground, pod: str) -> int:
    return sum(state["restartCount"] for state in playground.pod(pod)["status"].get("containerStatuses", []))


def test_cluster_deleted_behind_the_stacks_back_is_made_anew(workspace: Workspace) -> None:
    subprocess.run(["kind", "delete", "cluster", "--name", CLUSTER], env=workspace.env, capture_output=True, check=True)
    workspace.pulumi("refresh", "--yes", "--skip-preview", "--stack", STACK)
    output = workspace.pulumi("preview", "--stack", STACK)
    assert "cluster-kind" in output
    up(workspace)
    assert changes(up(workspace)) == {"unchanged": RESOURCES}
    assert len(LiveStack.find(workspace.root, STACK).devices()) == 3


def test_failed_up_says_why_and_the_next_one_mends_it(workspace: Workspace) -> None:
    broken = "  dra-workshop:images: {draDriver: 'localhost/dra-workshop/no-such-driver:v1'}\n"
    workspace.write_stack(STACK, config(timeout=40, more=broken))
    # Prerequisites find it first: nothing is touched.
    output = up(workspace, fails=True)
    assert "localhost/dra-workshop/no-such-driver:v1 is not in the engine; run `make setup`" in output
    # Without them the driver's pods wait for an image, and the wait says so.
    without = config(timeout=40, more=broken).replace('"00", ', "").replace("localhost/", "registry.invalid/")
    workspace.write_stack(STACK, without)
    output = up(workspace, fails=True)
    assert "after 40 s: dra-driver-nvidia-gpu-kubelet-plugin: " in output
    assert "ErrImagePull" in output or "ImagePullBackOff" in output
    workspace.write_stack(STACK, config())
    up(workspace)
    assert changes(up(workspace)) == {"unchanged": RESOURCES}


def test_foreign_cluster_of_the_same_name_is_never_adopted(workspace: Workspace, tmp_path: Path) -> None:
    other = Workspace.copy(CHECKOUT, tmp_path)
    other.write_stack("other", f"config:\n  dra-workshop:cluster: {{name: {CLUSTER}}}\n")
    other.pulumi("stack", "init", "other")
    output = other.pulumi("up", "--yes", "--skip-preview", "--stack", "other", fails=True)
    assert f"a cluster named {CLUSTER} exists that this checkout did not create" in output
    assert len(LiveStack.find(workspace.root, STACK).devices()) == 3


def test_destroy_leaves_nothing(workspace: Workspace, before: dict[str, object]) -> None:
    workspace.make(STACK, "down")
    assert traces(workspace) == before


def test_shell_of_other_projects_changes_nothing(
    workspace: Workspace, before: dict[str, object], tmp_path: Path
) -> None:
    shell = {
        "KUBECONFIG": "/somebody/elses",
        "PULUMI_CONFIG": json.dumps({"dra-workshop:cluster": '{"workers": 7}'}),
        "NO_COLOR": "1",
        "LC_ALL": "C",
        "TMPDIR": str(tmp_path),
    }
    workspace.write_stack(STACK, config().replace('["00", "01", "02", "03", "04", "05"]', '["00", "01"]'))
    command = ("--yes", "--skip-preview", "--stack", STACK)
    assert changes(workspace.pulumi("up", *command, shell=shell, umask=0o077))["created"] > 5
    elsewhere = {"PULUMI_BACKEND_URL": f"file://{tmp_path}"}
    workspace.pulumi("stack", "init", STACK, shell=elsewhere)
    output = workspace.pulumi("up", *command, fails=True, shell=elsewhere)
    assert f"PULUMI_BACKEND_URL is file://{tmp_path}, and stacks are kept in {workspace.root}/.state" in output
    (kubeconfig,) = (workspace.root / ".state" / STACK).glob("kubeconfig")
    (kubeconfig.parent / "engine").write_text("another\n")
    output = workspace.pulumi("destroy", *command, fails=True)
    assert "is not the one that the stack's cluster is in" in output
    (kubeconfig.parent / "engine").unlink()


def test_destroy_after_the_cluster_is_gone_succeeds(workspace: Workspace, before: dict[str, object]) -> None:
    subprocess.run(["kind", "delete", "cluster", "--name", CLUSTER], env=workspace.env, capture_output=True, check=True)
    workspace.pulumi("destroy", "--yes", "--skip-preview", "--stack", STACK)
    assert traces(workspace) == before
