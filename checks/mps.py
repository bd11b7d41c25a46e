"""MPS of a stack that is up: its daemon, and clients of it for one check each."""

import json
import re
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from checks.live import HOPELESS, LABEL, WAIT_SECONDS, LiveStack, Playground, wait_for
from components.mps_daemon import NAME, NAMESPACE
from gpus import models as gpu_models
from gpus.models import GpuModel
from gpus.quantity import mps_memory

CLIENTS = "mps"
DRIVER_NAMESPACE = "dra-driver-nvidia-gpu"
PERCENTAGE = "CUDA_MPS_ACTIVE_THREAD_PERCENTAGE"
MEMORY = "CUDA_MPS_PINNED_DEVICE_MEM_LIMIT"
# How the kubelet tells that the runtime could not start a container's program: the program itself never ran.
NOT_STARTED, NOT_STARTED_CODE = "StartError", 128
# Beginning of the line that a client prints while no daemon answers. It waits in its own container.
WAITS = "mps-daemon: waiting: "
# Label that no node has, by which a check keeps the daemon away.
NOWHERE = "nowhere"
STARTS_AGAIN = 2  # within half a minute; what the runtime does not start then it will not start later


class Daemon:
    """The daemon that serves the stack's shared GPU: the node's own, or the one of the claim."""

    def __init__(self, stack: LiveStack, node: str | None = None) -> None:
        self.stack = stack
        self.by_claim = stack.settings.mps.mode == "claim"
        self.node = node or stack.settings.gpu_nodes[0].node

    @property
    def pod(self) -> tuple[str, str]:
        """(namespace, name) of its pod."""
        if not self.by_claim:
            pods = self.stack.get("pods", namespace=NAMESPACE, label_selector={"app": NAME})
            alive = [pod for pod in pods if "deletionTimestamp" not in pod["metadata"]]
            (name,) = [pod["metadata"]["name"] for pod in alive if pod["spec"].get("nodeName") == self.node]
            return NAMESPACE, name
        pods = self.stack.get("pods", namespace=DRIVER_NAMESPACE)
        (name,) = [
            pod["metadata"]["name"]
            for pod in pods
            if pod["metadata"]["name"].startswith("mps-control-daemon") and "deletionTimestamp" not in pod["metadata"]
        ]
        return DRIVER_NAMESPACE, name

    def ask(self, *commands: str) -> str:
        """Answer of the daemon to commands of nvidia-cuda-mps-control."""
        namespace, pod = self.pod
        stdin = "".join(f"{command}\n" for command in commands)
        if not self.by_claim:
            # On standard input: NVIDIA's program reads no command from its command line, and says nothing of it.
            words = ("exec", "-i", "-n", namespace, pod, "--", "nvidia-cuda-mps-control")
            return self.stack.kubectl(*words, stdin=stdin)
        script = (
            "cd /driver-root; export CUDA_MPS_PIPE_DIRECTORY=/driver-root/tmp/nvidia-mps; "
            "for control in usr/bin usr/local/bin bin; do [ -x $control/nvidia-cuda-mps-control ] && break; done; "
            "exec $control/nvidia-cuda-mps-control"
        )
        return self.stack.kubectl("exec", "-i", "-n", namespace, pod, "--", "sh", "-c", script, stdin=stdin)

    def servers(self) -> list[int]:
        return [int(line) for line in self.ask("get_server_list").split()]

    def clients(self) -> int:
        """Number of contexts that it serves; a daemon does not see the processes of other pods, so it tells no more."""
        return len(re.findall(r"^\d+\.\d+\s*$", self.ask("get_device_client_list"), re.M))

    def gpus_in_use(self) -> set[str]:
        """The beginnings of the UUIDs of the GPUs that clients use."""
        return set(re.findall(r"\s(GPU-[0-9a-f-]+)\s", self.ask("ps")))

    def default_percentage(self) -> float:
        return float(self.ask("get_default_active_thread_percentage"))

    def apply(self, percentage: float, memory: str) -> None:
        """Change the limits live, for the servers that run and those to come."""
        devices = self.devices()
        commands = [f"set_default_active_thread_percentage {percentage}"]
        commands += [f"set_default_device_pinned_mem_limit {device} {memory}" for device in devices]
        for server in self.servers():
            commands.append(f"set_active_thread_percentage {server} {percentage}")
            commands += [f"set_device_pinned_mem_limit {server} {device} {memory}" for device in devices]
        self.ask(*commands)

    def devices(self) -> list[int]:
        return [int(number) for number in re.findall(r"^(\d+)\s+\S+\s+GPU-", self.ask("device_query"), re.M)]

    @contextmanager
    def away(self) -> Iterator[None]:
        """No daemon of ours on any node meanwhile; ends when the stack's clients are back under the next one."""
        contexts = self.clients()
        try:
            select_nodes(self.stack, "true")
            # As a node that fails would: at once, and over whatever it leaves.
            words = ("delete", "pods", "-n", NAMESPACE, "-l", f"app={NAME}", "--grace-period=0", "--force")
            self.stack.kubectl(*words)
            wait_for("no daemon is left", lambda: not self.stack.get("pods", "", NAMESPACE))
            yield
        finally:
            # Fresh ones: the kubelet lets those that it started several times wait for minutes before the next time.
            self.stack.kubectl("delete", "pods", "-n", CLIENTS, "-l", "app in (clients, limited)", "--wait=false")
            select_nodes(self.stack, None)
            words = ("rollout", "status", "-n", NAMESPACE, f"daemonset/{NAME}", f"--timeout={WAIT_SECONDS}s")
            self.stack.kubectl(*words)
        wait_for("the daemon has its clients", lambda: self.clients() >= contexts)

    @contextmanager
    def limits(self) -> Iterator[None]:
        """Put back what the stack set, whatever a check sets in between."""
        try:
            yield
        finally:
            mps = self.stack.settings.mps
            self.apply(mps.active_thread_percentage, mps_memory(mps.effective_memory_limit))


def select_nodes(stack: LiveStack, value: str | None) -> None:
    """Let the MPS daemon be only on nodes whose label NOWHERE has this value, which are none; with None on all."""
    patch = {"spec": {"template": {"spec": {"nodeSelector": {NOWHERE: value}}}}}
    stack.kubectl("patch", "-n", NAMESPACE, "daemonset", NAME, "-p", json.dumps(patch))


@dataclass(frozen=True)
class ClientEnd:
    """A client's end: its exit code, what it printed line by line, and when it ran.

    Times are seconds since the epoch by the node's clock, whole ones.
    """

    code: int
    lines: list[dict[str, Any]]
    began: float
    finished: float

    @property
    def context(self) -> dict[str, Any]:
        """The line of its CUDA context. AssertionError with its exit code and last line where it had none."""
        context = next((line for line in self.lines if "sms" in line), None)
        assert context is not None, f"a client got no context and ended with {self.code}: {self.lines[-1:]}"
        return context

    @property
    def sms(self) -> int:
        """The multiprocessors that it was granted."""
        return self.context["sms"]


class Client:
    """One pod that shares the stack's GPU as the stack's own clients do, with a command of its own."""

    def __init__(self, stack: LiveStack, name: str, namespace: str = CLIENTS) -> None:
        self.stack, self.name, self.namespace = stack, name, namespace

    @classmethod
    def create(cls, stack: LiveStack, manifest: dict[str, Any]) -> "Client":
        """The client of a manifest, changed or not."""
        stack.create(manifest)
        return cls(stack, manifest["metadata"]["name"], manifest["metadata"]["namespace"])

    @classmethod
    def manifest(
        cls, stack: LiveStack, args: Sequence[str], env: dict[str, str], namespace: str = CLIENTS
    ) -> dict[str, Any]:
        """The pod of the stack's Deployment, but for what it runs and what it sets; it runs once."""
        template = stack.one("deployments.apps", "clients", CLIENTS)["spec"]["template"]["spec"]
        spec = runs_once(json.loads(json.dumps(template)))
        spec["containers"][0]["args"] = list(args)
        for container in [*spec["containers"], *spec.get("initContainers", [])]:
            # In place of what the stack sets, as with module 07.
            kept = [variable for variable in container.get("env", []) if variable["name"] not in env]
            container["env"] = [*kept, *({"name": key, "value": value} for key, value in env.items())]
        metadata = {"name": f"client-{uuid.uuid4().hex[:8]}", "namespace": namespace, "labels": {LABEL: ""}}
        return {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec}

    @classmethod
    def start(
        cls, stack: LiveStack, *args: str, percentage: float | None = None, memory: str | None = None
    ) -> "Client":
        env = {PERCENTAGE: f"{percentage:g}"} if percentage else {}
        env |= {MEMORY: f"0={memory}"} if memory else {}
        return cls.create(stack, cls.manifest(stack, args, env))

    def state(self) -> dict[str, Any]:
        pod = self.stack.one("pods", self.name, self.namespace)
        for container in [*pod["status"].get("initContainerStatuses", []), *pod["status"].get("containerStatuses", [])]:
            waiting = container["state"].get("waiting", {})
            assert waiting.get("reason") not in HOPELESS, f"pod {self.name}: {waiting}"
            why = start_error(container)
            # Of others than those of `runs_once` the count tells of ends that have nothing to do with it.
            once = pod["spec"]["restartPolicy"] == "Never"
            hopeless = why is not None and once and container["restartCount"] >= STARTS_AGAIN
            assert not hopeless, f"pod {self.name}: the runtime does not start it: {why}"
        states = pod["status"].get("containerStatuses", [])
        # What was not started has no end: the kubelet starts it again.
        return states[0]["state"] if states and start_error(states[0]) is None else {}

    def lines(self, check: bool = True) -> list[dict[str, Any]]:
        """Lines that it printed once it had waited; without `check` none where the kubelet has no log."""
        log = self.stack.log(self.namespace, self.name, check=check)
        return [json.loads(line) for line in log.splitlines() if not line.startswith(WAITS)]

    def timed_lines(self) -> list[tuple[float, dict[str, Any]]]:
        """Lines that it printed, each with its time in seconds since the epoch by the node's clock."""
        log = self.stack.log(self.namespace, self.name, timestamps="true")
        parts = [line.partition(" ") for line in log.splitlines()]
        printed = [(at, text) for at, _, text in parts if not text.startswith(WAITS)]
        return [(datetime.fromisoformat(at).timestamp(), json.loads(text)) for at, text in printed]

    def wait_line(self, key: str) -> dict[str, Any]:
        """The first line that has the key, once it is there."""

        def look() -> dict[str, Any] | None:
            if not {"running", "terminated"} & self.state().keys():
                return None
            # Of a node that has just started again the API still tells the state of before.
            return next((line for line in self.lines(check=False) if key in line), None)

        return wait_for(f"{self.name} prints {key}", look)

    def ended(self, seconds: float = WAIT_SECONDS) -> ClientEnd:
        """End of the client; removes its pod."""
        state = self.wait_end(seconds)
        began, finished = (datetime.fromisoformat(state[key]).timestamp() for key in ("startedAt", "finishedAt"))
        ended = ClientEnd(state["exitCode"], self.lines(), began, finished)
        self.remove()
        return ended

    def wait_end(self, seconds: float = 60) -> dict[str, Any]:
        """End of its container, by the pod's status."""
        return wait_for(f"{self.name} ends", lambda: self.state().get("terminated"), seconds)

    def remove(self) -> None:
        self.stack.delete("v1", f"pods/{self.name}", self.namespace, grace_seconds=1)


def start_error(status: dict[str, Any]) -> str | None:
    """Message of a runtime that could not start a container, by its status; None where it runs, ran or waits."""
    state = status["state"]
    # Between two starts the state of now is that it waits.
    end = state.get("terminated") or ("waiting" in state and status.get("lastState", {}).get("terminated")) or {}
    return end.get("message", "") if end.get("reason") == NOT_STARTED else None


def runs_once(spec: dict[str, Any]) -> dict[str, Any]:
    """The pod's program runs once, and its end is the pod's; the kubelet starts again what the runtime could not start.

    On cgroup v1 runc now and then cannot freeze a new container's cgroup within its time ("unable to freeze",
    https://github.com/kubernetes/kubernetes/issues/131087), mostly where many pods start at once. A pod of policy Never
    would have ended without having run. `spec` is changed and returned.
    """
    spec["restartPolicy"] = "Never"
    rule = {"action": "Restart", "exitCodes": {"operator": "In", "values": [NOT_STARTED_CODE]}}
    for container in [*spec["containers"], *spec.get("initContainers", [])]:
        container |= {"restartPolicy": "Never", "restartPolicyRules": [rule]}
    return spec


def run_client(stack: LiveStack, *args: str, percentage: float | None = None, memory: str | None = None) -> ClientEnd:
    """One client from its start to its end."""
    return Client.start(stack, *args, percentage=percentage, memory=memory).ended()


def deployment_pods(stack: LiveStack, name: str) -> list[dict[str, Any]]:
    """The pods of one of the stack's Deployments in the clients' namespace."""
    pods = stack.get("pods", namespace=CLIENTS, label_selector={"app": name})
    return [pod for pod in pods if "deletionTimestamp" not in pod["metadata"]]


def stack_client_count(stack: LiveStack) -> int:
    """Number of clients that the stack's own modules give the daemon of the first node."""
    # vLLM's server has one context, that of the process with the model.
    count = sum(len(deployment_pods(stack, name)) for name in ("clients", "limited", "vllm"))
    if "07" in stack.settings.modules and stack.settings.capacity_enforced:
        pods = stack.get("pods", namespace="shared")
        count += sum(pod["status"]["phase"] == "Running" for pod in pods)
    return count


@contextmanager
def outside_namespace(stack: LiveStack, uuid: str, labels: dict[str, str]) -> Iterator[Playground]:
    """A namespace whose pods have the shared GPU without being the stack's: by an admin claim of the same name."""
    with stack.playground({"resource.kubernetes.io/admin-access": "true", **labels}) as playground:
        cel = f'device.attributes["gpu.nvidia.com"].uuid == "{uuid}"'
        gpu: dict[str, Any] = {
            "deviceClassName": "gpu.nvidia.com",
            "adminAccess": True,
            "selectors": [{"cel": {"expression": cel}}],
        }
        if stack.settings.consumable_shares != "disabled":
            gpu["capacity"] = {"requests": {"memory": "1Mi"}}  # it has to fit, though it is not counted
        claim = {
            "apiVersion": "resource.k8s.io/v1",
            "kind": "ResourceClaim",
            "metadata": {"name": "shared-gpu", "namespace": playground.namespace},
            "spec": {"devices": {"requests": [{"name": "gpu", "exactly": gpu}]}},
        }
        stack.create(claim)
        yield playground


def shared_gpu(stack: LiveStack) -> str:
    """The UUID of the GPU that the stack's clients share."""
    pod = deployment_pods(stack, "clients")[0]["metadata"]["name"]
    (gpu,) = Playground(stack, CLIENTS).report(pod)["gpus"]
    return gpu["uuid"]


def model_of(stack: LiveStack) -> GpuModel | None:
    """The model of the GPU that the stack's clients share; of the host's the one of that product name, or None."""
    if model := stack.settings.gpu_model:
        return model
    uuid = shared_gpu(stack)
    (name,) = [values["productName"] for values in stack.devices().values() if values["uuid"] == uuid]
    return gpu_models.model_of(name)
