"""Stack that is up, as its checks use it: outputs, settings, an API client bound to its own cluster."""

import json
import subprocess
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

import httpx
import kr8s
import pytest
import yaml

from components.commands.kube import ask, connect
from gpus import fleet
from machine.gpus import driver_root
from settings import Settings
from toolchain.paths import CHECKOUT

T = TypeVar("T")
LOOK_SECONDS = 0.2
# What no waiting will mend.
# Not CreateContainerConfigError: a kubelet that has just started says it too, and tries again.
HOPELESS = ("ErrImagePull", "ImagePullBackOff", "ErrImageNeverPull", "InvalidImageName")
# The kubelet tries a claim that it could not prepare again after up to 90 s, where its syncFrequency is the default.
WAIT_SECONDS = 120
MANIFESTS = CHECKOUT / "manifests"
RESTRICTED = {"pod-security.kubernetes.io/enforce": "restricted"}
# Of what a check makes in a stack: an interrupted run leaves it, and the next one finds it by this label.
LABEL = "dra-workshop/check"


class CommandFailed(subprocess.CalledProcessError):
    """Error of a program that failed on a node, with its own words."""

    def __str__(self) -> str:
        return f"{super().__str__()} {self.stderr.strip()}"


class NotThisStack(Exception):
    """The stack is not up, or the cluster at its kubeconfig is another one."""


def wait_for(what: str, look: Callable[[], T | None], seconds: float = WAIT_SECONDS) -> T:
    """The first true answer of `look`; after `seconds` an AssertionError that says what was awaited."""
    deadline = time.monotonic() + seconds
    while not (answer := look()):
        if time.monotonic() > deadline:
            raise AssertionError(f"after {seconds} s still not so: {what}")
        time.sleep(LOOK_SECONDS)  # between two looks at a condition that is bounded above
    return answer


@dataclass(frozen=True)
class LiveStack:
    """One stack of one checkout, up."""

    checkout: Path
    name: str
    outputs: dict[str, Any]
    settings: Settings

    @classmethod
    def find(cls, checkout: Path, name: str) -> "LiveStack":
        """Read the stack's outputs and config. Raises `NotThisStack` with the remedy."""
        command = ["pulumi", "stack", "output", "--json", "--show-secrets", "--stack", name]
        done = subprocess.run(command, cwd=checkout, capture_output=True, text=True, check=False)
        outputs = json.loads(done.stdout) if done.returncode == 0 else {}
        if not outputs:
            reason = done.stderr.strip() or "it has no outputs"
            raise NotThisStack(f"stack {name} is not up ({reason}); run `make up STACK={name}`")
        return cls(checkout, name, outputs, Settings.of_stack(name, checkout))

    @property
    def kubeconfig(self) -> str:
        return self.outputs["kubeconfig"]

    @property
    def tolerations(self) -> list[dict[str, str]]:
        """Tolerations that a pod needs beside those of the examples in manifests/, to be on the stack's GPU nodes."""
        return [toleration.for_kubernetes for toleration in self.settings.gpu.tolerations]

    @cached_property
    def api(self) -> Any:
        """A client for the stack's cluster. Raises `NotThisStack` if another one answers there."""
        api = connect(self.kubeconfig, self.settings.context, answer_seconds=None)  # some checks stop the API server
        (system,) = list[Any](api.get("namespaces", "kube-system"))
        uid, wanted = system.raw["metadata"]["uid"], self.outputs.get("clusterUid")
        if wanted and uid != wanted:
            raise NotThisStack(
                f"the cluster at {self.kubeconfig} is not the one that stack {self.name} made "
                f"(kube-system has uid {uid}, the stack's has {wanted}); run `make up STACK={self.name}`"
            )
        return api

    @cached_property
    def kubernetes(self) -> tuple[int, int]:
        """Major and minor version of the API server."""
        told = self.api.version()
        return int(told["major"]), int(told["minor"].rstrip("+"))

    def get(self, kind: str, name: str = "", namespace: str | None = None, **options: Any) -> list[dict[str, Any]]:
        """Objects as plain data."""
        words = (kind, name) if name else (kind,)
        return [item.raw.to_dict() for item in self.api.get(*words, namespace=namespace, **options)]

    def one(self, kind: str, name: str, namespace: str | None = None) -> dict[str, Any]:
        (item,) = self.get(kind, name, namespace)
        return item

    def create(self, *documents: Mapping[str, Any], namespace: str | None = None) -> None:
        """Create objects one after the other; those without a namespace go to the one that is given.

        Raises `kr8s.ServerError` for what the API server refuses, fields that it does not know among it.
        """
        for document in documents:
            _, plural, namespaced = self.api.lookup_kind(f"{document['kind']}.{document['apiVersion']}")
            place = document["metadata"].get("namespace", namespace) if namespaced else None
            options = {"json": document, "params": {"fieldValidation": "Strict"}}
            ask(self.api, "POST", document["apiVersion"], plural, place, **options)

    def delete(
        self,
        version: str,
        path: str,
        namespace: str | None = None,
        grace_seconds: int | None = None,
        *,
        missing_ok: bool = False,
    ) -> None:
        """Delete an object, or all of a kind, such as `pods/name` and `pods`; returns before they are gone.

        Raises `kr8s.ServerError`, without `missing_ok` also where there is no such object.
        """
        grace = {} if grace_seconds is None else {"gracePeriodSeconds": grace_seconds}
        try:
            ask(self.api, "DELETE", version, path, namespace, json={"propagationPolicy": "Background", **grace})
        except kr8s.ServerError as error:
            gone = error.response is not None and error.response.status_code == httpx.codes.NOT_FOUND
            if not (missing_ok and gone):
                raise

    def log(
        self, namespace: str, pod: str, container: str | None = None, *, check: bool = True, **parameters: str
    ) -> str:
        """Log of a container, by default the pod's first; `parameters` are the API's, such as `timestamps="true"`.

        Raises `kr8s.ServerError` where there is none; without `check` it is empty then.
        """
        try:
            named = container or self.one("pods", pod, namespace)["spec"]["containers"][0]["name"]
            return ask(
                self.api, "GET", "v1", f"pods/{pod}/log", namespace, params={"container": named, **parameters}
            ).text
        except kr8s.ServerError:
            if check:
                raise
            return ""

    def kubectl(self, *words: str, stdin: str = "", check: bool = True) -> str:
        """Output of kubectl, for commands that a person would type: scale, exec, describe. It takes 0.1 s to start."""
        command = ["kubectl", "--kubeconfig", self.kubeconfig, "--context", self.settings.context, *words]
        return subprocess.run(command, input=stdin, capture_output=True, text=True, check=check).stdout

    def kubectl_fails(self, *words: str, stdin: str = "") -> str:
        """Message of a kubectl that has to fail."""
        message = self.refusal(*words, stdin=stdin)
        assert message is not None, f"kubectl {' '.join(words)} was to fail, and did not"
        return message

    def refusal(self, *words: str, stdin: str = "") -> str | None:
        """Message of kubectl if it fails; None if it does not."""
        command = ["kubectl", "--kubeconfig", self.kubeconfig, "--context", self.settings.context, *words]
        done = subprocess.run(command, input=stdin, capture_output=True, text=True, check=False)
        return done.stdout + done.stderr if done.returncode else None

    def in_node(self, node: str, *words: str) -> str:
        """Run a program on a node: in Kind's container, or in the driver's plugin on a cluster of somebody else.

        Raises `CommandFailed` in the first case.
        """
        if self.settings.cluster.provider == "kind":
            command = ["docker", "exec", node, *words]
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            if done.returncode:
                raise CommandFailed(done.returncode, command, done.stdout, done.stderr)
            return done.stdout
        plugin = {"dra-driver-nvidia-gpu-component": "kubelet-plugin"}
        pods = self.get("pods", namespace="dra-driver-nvidia-gpu", label_selector=plugin)
        (pod,) = [pod["metadata"]["name"] for pod in pods if pod["spec"]["nodeName"] == node]
        root = driver_root(self.settings).rstrip("/")
        inside = [
            f"/driver-root{word.removeprefix(root)}" if f"{word}/".startswith(f"{root}/") else word for word in words
        ]
        return self.kubectl("exec", "-n", "dra-driver-nvidia-gpu", pod, "--", *inside)

    def skip_without_extended_resources(self) -> None:
        """Skip where the API server has dropped the extended resource of NVIDIA's DeviceClass."""
        spec = self.one("deviceclasses.v1.resource.k8s.io", DRIVER)["spec"]
        if "extendedResourceName" not in spec:
            pytest.skip(
                "the API server has no extended resources by DRA (DRAExtendedResource, on from Kubernetes 1.36)"
            )

    def nodes(self) -> list[dict[str, Any]]:
        """Nodes that are machines or containers; those of a fleet are only objects."""
        return [node for node in self.get("nodes") if fleet.LABEL not in node["metadata"]["labels"]]

    def slices(self) -> list[dict[str, Any]]:
        """The driver's ResourceSlices; those of a fleet are nobody's."""
        return [
            slice_
            for slice_ in self.get("resourceslices.v1.resource.k8s.io")
            if slice_["spec"]["driver"] == DRIVER and fleet.LABEL not in slice_["metadata"].get("labels", {})
        ]

    def devices(self) -> dict[tuple[str, str], dict[str, Any]]:
        """(node, device name) -> attributes and capacity by their short names, values unpacked."""
        values_by_device = {}
        for slice_ in self.slices():
            for device in slice_["spec"].get("devices", []):
                values = {key.rpartition("/")[2]: next(iter(v.values())) for key, v in device["attributes"].items()}
                values |= {key: value["value"] for key, value in device.get("capacity", {}).items()}
                values_by_device[slice_["spec"]["nodeName"], device["name"]] = values
        return values_by_device

    def allocations(self, namespace: str | None = None) -> list[tuple[str, str]]:
        """(node, device) of everything that a claim holds for itself; an admin claim only looks on."""
        claims = self.get("resourceclaims.v1.resource.k8s.io", namespace=namespace or kr8s.ALL)
        results = [
            result
            for claim in claims
            for result in claim.get("status", {}).get("allocation", {}).get("devices", {}).get("results", [])
            if not result.get("adminAccess")
        ]
        return [(result["pool"], result["device"]) for result in results]

    @contextmanager
    def free_gpu(self) -> Iterator[None]:
        """Block with at least one free GPU: where all are taken, module 03's workload makes room meanwhile."""
        if len(set(self.allocations())) < len(self.devices()):
            yield
            return
        if "03" not in self.settings.modules:
            pytest.skip("every GPU is taken, and without module 03 there is no workload that may make room")
        taken = len(set(self.allocations()))
        try:
            self.scale("waiter", 0)
            self.scale("holder", 0)
            wait_for("the holder's GPU is free", lambda: len(set(self.allocations())) < taken)
            yield
        finally:
            # The holder first, or the waiter would have the GPU.
            self.scale("holder", 1)
            self.scale("waiter", 1)

    def scale(self, name: str, replicas: int) -> None:
        """Scale a Deployment of module 03; returns once the holder is ready, if it is to be."""
        self.kubectl("scale", "-n", "workloads", f"deployment/{name}", f"--replicas={replicas}")
        if replicas and name == "holder":
            self.wait_deployed("workloads", name)

    def wait_deployed(self, namespace: str, name: str, seconds: float = WAIT_SECONDS) -> None:
        """Wait until the pods of a Deployment are ready. AssertionError with their warnings if they are not."""

        def ready() -> bool:
            deployment = self.one("deployments.apps", name, namespace)
            return deployment["status"].get("readyReplicas", 0) == deployment["spec"]["replicas"]

        try:
            wait_for(f"deployment {namespace}/{name} is ready", ready, seconds)
        except AssertionError as error:
            events = self.kubectl("get", "events", "-n", namespace, "--field-selector", "type=Warning")
            raise AssertionError(f"{error}; warnings there:\n{events}") from None

    @contextmanager
    def playground(self, labels: dict[str, str] | None = None) -> Iterator["Playground"]:
        """A namespace of its own for one check, gone afterwards with all its claims."""
        name = f"check-{uuid.uuid4().hex[:8]}"
        manifest = {
            "apiVersion": "v1",
            "kind": "Namespace",
            "metadata": {"name": name, "labels": {**(labels or RESTRICTED), LABEL: ""}},
        }
        self.create(manifest)
        try:
            # Without it the API server refuses pods, after two seconds.
            wait_for(f"{name} has its ServiceAccount", lambda: self.get("serviceaccounts", namespace=name))
            yield Playground(self, name)
        finally:
            # Of its own accord Kubernetes looks at what is in a deleted namespace only after five seconds.
            self.delete("v1", "pods", name)
            self.delete("resource.k8s.io/v1", "resourceclaims", name)
            self.delete("v1", f"namespaces/{name}", missing_ok=True)  # a check may have removed it itself
            # The namespace itself takes five seconds more; what it held of GPUs is what the next check could meet.
            kinds = ("pods", "resourceclaims.v1.resource.k8s.io")
            wait_for(f"pods and claims of {name} are gone", lambda: not any(self.get(kind, "", name) for kind in kinds))


DRIVER = "gpu.nvidia.com"


@dataclass(frozen=True)
class Playground:
    """A namespace in which one check makes and removes what it wants."""

    stack: LiveStack
    namespace: str

    def create(self, example: str, **replaced: str) -> list[str]:
        """Create the objects of an example manifest with our probe image; returns the names of its pods.

        `replaced` maps words of the manifest to what fits this stack.
        """
        folder, _, name = example.rpartition("/")
        text = (MANIFESTS / (folder or "03-workloads") / "examples" / f"{name}.yaml").read_text()
        for old, new in replaced.items():
            assert old in text, f"{example}.yaml has no {old}"
            text = text.replace(old, new)
        pods, documents = [], list(yaml.safe_load_all(text))
        for document in documents:
            document["metadata"]["namespace"] = self.namespace
            if document["kind"] == "Pod":
                pods.append(document["metadata"]["name"])
                tolerations = document["spec"].get("tolerations", [])
                document["spec"]["tolerations"] = [*tolerations, *self.stack.tolerations]
                for container in document["spec"]["containers"]:
                    container["image"] = self.stack.settings.images.get("gpu-probe") or container["image"]
        self.stack.create(*documents)
        return pods

    def pod(self, name: str) -> dict[str, Any]:
        return self.stack.one("pods", name, self.namespace)

    def delete_pod(self, name: str) -> None:
        (pod,) = list[Any](self.stack.api.get("pods", name, namespace=self.namespace))
        pod.delete()

    def wait_running(self, name: str, seconds: float = WAIT_SECONDS) -> dict[str, Any]:
        """The pod once all its containers are ready."""

        def running() -> dict[str, Any] | None:
            pod = self.pod(name)
            states = pod["status"].get("containerStatuses", [])
            for state in states:
                waiting = state["state"].get("waiting", {})
                assert waiting.get("reason") not in HOPELESS, f"pod {name}: {waiting}"
            return pod if states and all(state["ready"] for state in states) else None

        return wait_for(f"pod {name} is Running", running, seconds)

    def wait_gone(self, name: str) -> None:
        selector = f"metadata.name={name}"
        wait_for(
            f"pod {name} is gone",
            lambda: not self.stack.get("pods", namespace=self.namespace, field_selector=selector),
        )

    def wait_unschedulable(self, name: str) -> str:
        """The scheduler's reason, once it has looked at the pod and could not place it."""

        def reason() -> str | None:
            pod = self.pod(name)
            assert pod["status"]["phase"] == "Pending", f"{name} is {pod['status']['phase']}, not Pending"
            for condition in pod["status"].get("conditions", []):
                if condition["type"] == "PodScheduled" and condition.get("reason") == "Unschedulable":
                    # Behind it follows, for each node once more, that evicting others would not help.
                    return condition["message"].partition(" preemption: ")[0].rstrip(".")
            return None

        return wait_for(f"the scheduler refused pod {name}", reason)

    def report(self, name: str, container: str = "probe") -> dict[str, Any]:
        """Report of the probe in a running pod: its first line of output, after what a wait for MPS may have said."""
        self.wait_running(name)

        def reports() -> list[str]:
            log = self.stack.log(self.namespace, name, container)
            return [line for line in log.splitlines() if line.startswith("{")]

        return json.loads(wait_for(f"{name} reports", reports)[0])

    def life(self, name: str) -> tuple[str, int]:
        """The pod's uid, and how often its containers were started again."""
        pod = self.pod(name)
        return pod["metadata"]["uid"], sum(state["restartCount"] for state in pod["status"]["containerStatuses"])

    def sees(self, name: str) -> list[str]:
        """The UUIDs of the GPUs that a process started now in the pod sees."""
        inside = ("exec", "-n", self.namespace, name, "-c", "probe", "--", "gpu-probe", "info")
        return [gpu["uuid"] for gpu in json.loads(self.stack.kubectl(*inside).splitlines()[0])["gpus"]]

    def messages(self, name: str, reason: str) -> list[str]:
        """Messages of the pod's events of that reason."""
        selector = f"involvedObject.name={name},reason={reason}"
        events = self.stack.get("events", namespace=self.namespace, field_selector=selector)
        return [event["message"] for event in events if event.get("message")]

    def allocated(self, pod: str) -> list[dict[str, Any]]:
        """The devices that the pod's claims name in their status, with the attributes that the driver published."""
        status = self.pod(pod)["status"]
        names = [entry["resourceClaimName"] for entry in status.get("resourceClaimStatuses", [])]
        if extended := status.get("extendedResourceClaimStatus"):
            names.append(extended["resourceClaimName"])
        spec_claims = self.pod(pod)["spec"].get("resourceClaims", [])
        names += [entry["resourceClaimName"] for entry in spec_claims if "resourceClaimName" in entry]
        devices, allocated_devices = self.stack.devices(), []
        for name in dict.fromkeys(names):
            claim = self.stack.one("resourceclaims.v1.resource.k8s.io", name, self.namespace)
            for result in claim["status"]["allocation"]["devices"]["results"]:
                allocated_devices.append({**result, **devices[result["pool"], result["device"]]})
        return allocated_devices
