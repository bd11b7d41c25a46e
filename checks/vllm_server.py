"""vLLM server of the stack, and Jobs like it: with other limits, or to call it."""

import json
import subprocess
import uuid
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from checks.live import LiveStack, wait_for
from checks.mps import CLIENTS, MEMORY, PERCENTAGE, deployment_pods
from components.mps_clients import WAIT_FIRST
from components.vllm import LOAD

NAME = "vllm"
CHECK = "vllm-check"
PROGRAMS = "/opt/load"
UTILIZATION = "--gpu-memory-utilization="
# A pod's pull, mounts and end beside what runs in it.
MORE_SECONDS = 120


def ready_pod(stack: LiveStack) -> dict[str, Any]:
    """The server's pod, once it is ready: another module's checks may have made it start again."""

    def look() -> dict[str, Any] | None:
        pods = deployment_pods(stack, NAME)
        states = [state for pod in pods for state in pod["status"].get("containerStatuses", [])]
        return pods[0] if len(pods) == 1 and states and all(state["ready"] for state in states) else None

    return wait_for("the pod of vLLM is ready", look, stack.settings.vllm.startup_seconds + MORE_SECONDS)


def template(stack: LiveStack) -> dict[str, Any]:
    """The spec of the server's pods, as the cluster has it."""
    return json.loads(json.dumps(stack.one("deployments.apps", NAME, CLIENTS)["spec"]["template"]["spec"]))


def program(stack: LiveStack) -> list[str]:
    """The server's command without the wait for the daemon before it."""
    words = template(stack)["containers"][0]["command"]
    return words[len(WAIT_FIRST) :] if tuple(words[: len(WAIT_FIRST)]) == WAIT_FIRST else words


def python(stack: LiveStack) -> str:
    """The Python that has vLLM, in its container."""
    return program(stack)[0]


def command(stack: LiveStack, utilization: str | None = None) -> list[str]:
    """Command line of the server; with another share of the GPU's memory, if one is given."""
    words = [*program(stack), *template(stack)["containers"][0]["args"]]
    if utilization is None:
        return words
    return [f"{UTILIZATION}{utilization}" if word.startswith(UTILIZATION) else word for word in words]


def server_like_job(stack: LiveStack, words: Sequence[str], env: Mapping[str, str], seconds: int) -> dict[str, Any]:
    """A Job whose pod is as the server's, but for what it runs and sets; given up after `seconds`."""
    spec = template(stack)
    (container,) = spec["containers"]
    first = container["command"][: -len(program(stack))]
    for key in ("startupProbe", "readinessProbe", "livenessProbe", "ports"):
        container.pop(key, None)
    container["command"], container["args"] = [*first, *words], []
    values = {"PYTHONPATH": PROGRAMS, **env}
    container["env"] = [entry for entry in container["env"] if entry["name"] not in values]
    container["env"] += [{"name": name, "value": value} for name, value in values.items()]
    container["volumeMounts"].append({"name": "load", "mountPath": f"{PROGRAMS}/loadgen", "readOnly": True})
    spec["volumes"].append({"name": "load", "configMap": {"name": LOAD}})
    spec["restartPolicy"] = "Never"
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {"name": f"{NAME}-{uuid.uuid4().hex[:8]}", "namespace": CLIENTS, "labels": {"app": CHECK}},
        "spec": {
            "backoffLimit": 0,
            "activeDeadlineSeconds": seconds,
            "template": {"metadata": {"labels": {"app": CHECK}}, "spec": spec},
        },
    }


def caller_job(stack: LiveStack, *words: str) -> dict[str, Any]:
    """A Job without a GPU and without MPS that runs one of our programs in the server's image."""
    asking = [python(stack), "-m", "loadgen", *words]
    job = server_like_job(stack, asking, {}, seconds=MORE_SECONDS)
    spec = job["spec"]["template"]["spec"]
    (container,) = spec["containers"]
    container["command"] = asking
    container["resources"] = {"requests": {"cpu": "100m", "memory": "128Mi"}, "limits": {"memory": "1Gi"}}
    container["env"] = [entry for entry in container["env"] if not entry["name"].startswith("CUDA_MPS_")]
    for key in ("initContainers", "resourceClaims"):
        spec.pop(key, None)
    left_out = {"mps-pipe", "shm", "wait", "model", "cache"}
    spec["volumes"] = [volume for volume in spec["volumes"] if volume["name"] not in left_out]
    container["volumeMounts"] = [mount for mount in container["volumeMounts"] if mount["name"] not in left_out]
    return job


def remove_left_over_jobs(stack: LiveStack) -> None:
    """Remove the Jobs of a run that was killed: they would go on and use the GPU beside the next."""
    words = ("delete", "jobs", "-n", CLIENTS, "-l", f"app={CHECK}", "--cascade=foreground", "--wait=true")
    stack.kubectl(*words)


class Job:
    """A Job of one pod, from its start to its end; removed with the block."""

    def __init__(self, stack: LiveStack, manifest: dict[str, Any]) -> None:
        self.stack, self.manifest, self.name = stack, manifest, manifest["metadata"]["name"]

    def __enter__(self) -> "Job":
        self.stack.create(self.manifest)
        return self

    def __exit__(self, *_: object) -> None:
        self.stack.kubectl("delete", "job", "-n", CLIENTS, self.name, "--cascade=foreground", "--wait=true")

    def pod(self) -> dict[str, Any] | None:
        pods = self.stack.get("pods", namespace=CLIENTS, label_selector={"job-name": self.name})
        return pods[0] if pods else None

    def state(self) -> dict[str, Any]:
        """Its container's state; nothing before there is one."""
        states = (self.pod() or {}).get("status", {}).get("containerStatuses", [])
        return states[0]["state"] if states else {}

    def ended(self, seconds: float) -> dict[str, Any]:
        """End of its container."""
        return wait_for(f"{self.name} ends", lambda: self.state().get("terminated"), seconds)

    def log(self) -> str:
        return self.stack.kubectl("logs", "-n", CLIENTS, f"job/{self.name}")

    def lines(self) -> Iterator[dict[str, Any]]:
        """The lines of JSON that it prints, as they come, to its end."""
        wait_for(f"{self.name} runs", lambda: {"running", "terminated"} & self.state().keys(), MORE_SECONDS)
        words = ["kubectl", "--kubeconfig", self.stack.kubeconfig, "--context", self.stack.settings.context]
        words += ["logs", "-n", CLIENTS, "-f", f"job/{self.name}"]
        with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as following:
            assert following.stdout is not None
            yield from (json.loads(line) for line in following.stdout if line.startswith("{"))


def limit_variables(percentage: int | None = None, memory: str | None = None) -> dict[str, str]:
    """Variables by which a pod limits itself; memory as MPS writes it."""
    variables = {PERCENTAGE: str(percentage)} if percentage else {}
    return variables | ({MEMORY: f"0={memory}"} if memory else {})
