"""Timeline of pods that start: when each stage was reached, by the events of one watch on pods.

Times are those of the client: of its monotonic clock when a create call returns and when an event arrives. The API's
own timestamps are whole seconds, which is as much as a pod takes. The kubelet looks at its containers once a second, so
any pod is seen to run up to a second late.
"""

import base64
import http.client
import json
import ssl
import tempfile
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import yaml

from checks.live import HOPELESS

# The stages of a pod's start, in order; a pod without a claim has none of the first.
STAGES = ("claim made", "scheduled", "started")
RUN_SECONDS = 600
# Some pod goes on more often than this, however many there are.
SILENT_SECONDS = 120
CLAIM_TEMPLATE = "part"  # the name of the ResourceClaimTemplate that a pod with a claim uses


@dataclass
class Moments:
    """Times at which a pod reached each stage, by the client's monotonic clock; None is not yet, or never."""

    created: float | None = None
    claimed: float | None = None
    scheduled: float | None = None
    running: float | None = None

    @property
    def total(self) -> float:
        """Seconds from created to running."""
        assert self.created is not None and self.running is not None, f"the pod was not seen to run: {self}"
        return self.running - self.created

    @property
    def stages(self) -> tuple[float, float, float]:
        """Seconds that each of `STAGES` took; they add up to `total`.

        Under load the first may be below 0: the controller can make a claim before the answer to the pod's creation
        is with the client.
        """
        assert self.created is not None and self.scheduled is not None and self.running is not None, f"{self}"
        claimed = self.created if self.claimed is None else self.claimed
        return claimed - self.created, self.scheduled - claimed, self.running - self.scheduled


class Timeline:
    """The moments of pods, by the events of a watch."""

    def __init__(self, names: Iterable[str]) -> None:
        self.moments = {name: Moments() for name in names}

    @property
    def awaited(self) -> list[str]:
        """Pods that do not run yet, or whose create call has not returned."""
        return [name for name, at in self.moments.items() if at.running is None or at.created is None]

    def created(self, name: str, at: float) -> None:
        """The call that creates the pod has returned."""
        self.moments[name].created = at

    def note(self, at: float, event: Mapping[str, Any]) -> None:
        """Take in an event that arrived at `at`. AssertionError for a pod that will not run, and a watch's error."""
        assert event["type"] != "ERROR", f"the watch on pods broke: {event['object']}"
        pod = event["object"]
        moments = self.moments.get(pod["metadata"]["name"])
        if moments is None or event["type"] == "BOOKMARK":
            return
        status = pod.get("status", {})
        if moments.claimed is None and status.get("resourceClaimStatuses"):
            moments.claimed = at
        if moments.scheduled is None and pod["spec"].get("nodeName"):
            moments.scheduled = at
        states = [container["state"] for container in status.get("containerStatuses", [])]
        if moments.running is None and states and all("running" in state for state in states):
            moments.running = at
        for state in states:
            broken = "terminated" in state or state.get("waiting", {}).get("reason") in HOPELESS
            assert not broken or moments.running is not None, f"pod {pod['metadata']['name']} does not run: {state}"


class Api:
    """The cluster's API by bare HTTPS: what a full client does with every answer would show in the times."""

    def __init__(self, kubeconfig: Path, context: str) -> None:
        """Reads the certificates that Kind writes into a kubeconfig."""
        config: Any = yaml.safe_load(kubeconfig.read_text())
        (names,) = [entry["context"] for entry in config["contexts"] if entry["name"] == context]
        (cluster,) = [entry["cluster"] for entry in config["clusters"] if entry["name"] == names["cluster"]]
        (user,) = [entry["user"] for entry in config["users"] if entry["name"] == names["user"]]
        self.server = urlsplit(cluster["server"])
        self.tls = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        self.tls.load_verify_locations(cadata=base64.b64decode(cluster["certificate-authority-data"]).decode())
        with tempfile.NamedTemporaryFile() as file:  # readable by this user only
            for key in ("client-certificate-data", "client-key-data"):
                file.write(base64.b64decode(user[key]))
            file.flush()
            self.tls.load_cert_chain(file.name)

    def connect(self) -> http.client.HTTPSConnection:
        assert self.server.hostname
        return http.client.HTTPSConnection(
            self.server.hostname, self.server.port, timeout=SILENT_SECONDS, context=self.tls
        )

    @contextmanager
    def pod_events(self, namespace: str) -> Iterator[Iterator[tuple[float, dict[str, Any]]]]:
        """All that happens to pods from now on, each event with the time of its arrival.

        The watch is open once the block begins. An AssertionError ends it when `RUN_SECONDS` are over, a TimeoutError
        when nothing has happened for `SILENT_SECONDS`.
        """
        path = f"/api/v1/namespaces/{namespace}/pods"
        connection = self.connect()
        try:
            version = _answer(connection, "GET", path)["metadata"]["resourceVersion"]
            connection.request("GET", f"{path}?watch=1&resourceVersion={version}&timeoutSeconds={10 * RUN_SECONDS}")
            response = connection.getresponse()
            assert response.status == 200, f"GET {path}: {response.status} {response.read().decode()}"
            yield _events(response)
        finally:
            connection.close()

    def create_pods(self, manifests: Sequence[dict[str, Any]], timeline: Timeline) -> None:
        """One after another, noting when each call has returned."""
        connection = self.connect()
        try:
            for manifest in manifests:
                metadata = manifest["metadata"]
                _answer(connection, "POST", f"/api/v1/namespaces/{metadata['namespace']}/pods", manifest)
                timeline.created(metadata["name"], time.monotonic())
        finally:
            connection.close()


def _answer(connection: http.client.HTTPSConnection, method: str, path: str, body: Any = None) -> dict[str, Any]:
    text = None if body is None else json.dumps(body)
    connection.request(method, path, text, {"Content-Type": "application/json"} if text else {})
    response = connection.getresponse()
    answer = response.read()
    assert response.status in (200, 201), f"{method} {path}: {response.status} {answer.decode()}"
    return json.loads(answer)


def _events(response: http.client.HTTPResponse) -> Iterator[tuple[float, dict[str, Any]]]:
    deadline = time.monotonic() + RUN_SECONDS
    while line := response.readline():
        at = time.monotonic()
        assert at < deadline, f"after {RUN_SECONDS} s not every pod runs"
        yield at, json.loads(line)
    raise AssertionError("the API ended the watch on pods before every pod ran")


def pod_manifest(name: str, namespace: str, image: str, *, claim: bool) -> dict[str, Any]:
    """A pod that prints a line and waits; both kinds are the same but for the claim."""
    resources: dict[str, Any] = {"requests": {"cpu": "1m", "memory": "8Mi"}, "limits": {"memory": "64Mi"}}
    spec: dict[str, Any] = {
        "automountServiceAccountToken": False,
        "terminationGracePeriodSeconds": 1,
        "securityContext": {
            "runAsNonRoot": True,
            "runAsUser": 65532,
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "containers": [
            {
                "name": "probe",
                "image": image,
                "imagePullPolicy": "IfNotPresent",
                "args": ["hold"],
                "securityContext": {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}},
                "resources": resources,
            }
        ],
    }
    if claim:
        resources["claims"] = [{"name": "gpu"}]
        spec["resourceClaims"] = [{"name": "gpu", "resourceClaimTemplateName": CLAIM_TEMPLATE}]
    return {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "namespace": namespace}, "spec": spec}


def follow(timeline: Timeline, events: Iterator[tuple[float, dict[str, Any]]], created: Sequence[Future[None]]) -> None:
    """Take in events until every pod runs. AssertionError with the reason if one does not."""
    try:
        while timeline.awaited:
            timeline.note(*next(events))
            raise_failed(created)
            if all(at.running is not None for at in timeline.moments.values()):
                # The last call may return after the watch has told of its pod.
                for future in created:
                    future.result(SILENT_SECONDS)
    except (TimeoutError, AssertionError) as error:
        # A pod that could not be created is the reason, whatever the watch has or has not said since.
        raise_failed(created)
        raise AssertionError(f"{error}; still awaited: {', '.join(timeline.awaited)}") from error


def raise_failed(created: Sequence[Future[None]]) -> None:
    for future in created:
        if future.done():
            future.result()
