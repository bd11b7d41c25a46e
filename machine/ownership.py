"""Objects of a cluster that a stack made, and pods of others that hold GPUs through its driver.

Asks the API server by kubectl, for one context of one kubeconfig, each request for a bounded time.
"""

import json
import os
import subprocess
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

OWNER_ANNOTATION = "dra-workshop/stack"
"""Annotation of every object that a stack makes; its value is the stack's name. Pods have it by what made them."""
FORCE = "DRA_WORKSHOP_DESTROY"
"""Environment variable: `force` takes NVIDIA's driver from under pods of others."""
CONSEQUENCE = "without NVIDIA's plugin they cannot be deleted and stay Terminating, with their namespaces"
DRIVER = "gpu.nvidia.com"
REQUEST_SECONDS = 10
# kubectl tries no request twice, but may start a program of the kubeconfig's to get a token.
KUBECTL_SECONDS = 60
# Controllers that a stack's manifests have. Kubernetes copies a Deployment's annotations to its ReplicaSets.
CONTROLLERS = {"ReplicaSet": "replicasets", "DaemonSet": "daemonsets"}


class UnreachableError(Exception):
    """The API server did not answer; the message is what kubectl said."""


def is_forced() -> bool:
    """Whether this shell asks for it."""
    return os.environ.get(FORCE) == "force"


@dataclass(frozen=True)
class Holder:
    """Pod that holds a GPU by a claim."""

    namespace: str
    pod: str
    claim: str
    devices: tuple[str, ...]
    """Node and device of each that the claim has, such as node-1/gpu-0."""

    def __str__(self) -> str:
        return f"{self.namespace}/{self.pod} (claim {self.claim}: {', '.join(self.devices)})"


@dataclass(frozen=True)
class ApiServer:
    """API server at a context of a kubeconfig."""

    kubeconfig: str
    context: str

    def get(self, path: str) -> dict[str, Any]:
        """Object or list at a path. Raises `UnreachableError` where there is no answer."""
        options = ["--kubeconfig", self.kubeconfig, "--context", self.context, f"--request-timeout={REQUEST_SECONDS}s"]
        command = ["kubectl", *options, "get", "--raw", path]
        try:
            done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=KUBECTL_SECONDS)
        except subprocess.TimeoutExpired:
            raise UnreachableError(f"no answer in {KUBECTL_SECONDS} s") from None
        if done.returncode:
            raise UnreachableError((done.stderr.strip().splitlines() or [f"kubectl ended with {done.returncode}"])[-1])
        return json.loads(done.stdout)

    def holders(self) -> Iterator[Holder]:
        """Pods that hold devices of NVIDIA's driver by a claim. Raises `UnreachableError`."""
        for claim in self.get("/apis/resource.k8s.io/v1/resourceclaims")["items"]:
            status, metadata = claim.get("status", {}), claim["metadata"]
            results = status.get("allocation", {}).get("devices", {}).get("results", [])
            devices = tuple(f"{result['pool']}/{result['device']}" for result in results if result["driver"] == DRIVER)
            for consumer in status.get("reservedFor", []) if devices else []:
                if consumer["resource"] == "pods":
                    yield Holder(metadata["namespace"], consumer["name"], metadata["name"], devices)

    def strangers(self, stack: str) -> list[Holder]:
        """Holders whose pods the stack did not make. Raises `UnreachableError`."""
        listed = cache(self._listed)
        return sorted(
            (holder for holder in self.holders() if not _is_of(stack, holder, listed)),
            key=lambda holder: (holder.namespace, holder.pod),
        )

    def _listed(self, namespace: str, kind: str) -> dict[str, dict[str, Any]]:
        group = "/api/v1" if kind == "pods" else "/apis/apps/v1"
        items = self.get(f"{group}/namespaces/{namespace}/{kind}")["items"]
        return {item["metadata"]["name"]: item["metadata"] for item in items}


def _is_of(stack: str, holder: Holder, listed: Any) -> bool:
    pod: Mapping[str, Any] = listed(holder.namespace, "pods").get(holder.pod, {})
    makers = [pod]
    for owner in pod.get("ownerReferences", []):
        if owner.get("controller") and owner["kind"] in CONTROLLERS:
            makers.append(listed(holder.namespace, CONTROLLERS[owner["kind"]]).get(owner["name"], {}))
    return any(maker.get("annotations", {}).get(OWNER_ANNOTATION) == stack for maker in makers)
