"""Ways in which Kubernetes starts a client of MPS, again or for the first time, while its daemon is away.

They are those of https://kubernetes.io/docs/concepts/workloads/pods/pod-lifecycle/ and of controllers that make pods.
Left out are those that start a container by the same call of the kubelet as a failure does: an image or resources that
are changed in place, a container that the kernel killed, a node whose kubelet starts again.
"""

import json
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import yaml

from checks.live import LiveStack, wait_for
from checks.mps import CLIENTS, WAITS, Client, Daemon
from components.mps_clients import WAIT_FIRST

LABEL = "check"
PROBE = "/usr/bin/gpu-probe"
HOLD = ("hold", "0", "--alloc", "16Mi")
# As long as the kubelet may wait before it starts a container for the fourth time.
START_SECONDS = 180

Document = dict[str, Any]
Spec = dict[str, Any]


@dataclass(frozen=True)
class Way:
    """Way in which a client's container starts; `trigger` makes it happen where the daemon's end does not."""

    name: str
    build: Callable[["Site"], Document]
    trigger: Callable[["Site"], object] | None = None
    before: bool = True
    """True where a client of it runs before the daemon goes."""
    restarts: int = 0
    """Number of restarts after which it counts."""
    on_kind: bool = False
    """True where it takes a node that is a container of Kind."""


@dataclass
class Site:
    """One way on a stack that is up: its objects, which all have one label."""

    stack: LiveStack
    way: Way
    sms: int
    """Most multiprocessors that a client of the class may have."""
    name: str = field(default_factory=lambda: f"again-{uuid.uuid4().hex[:8]}")
    known: set[str] = field(default_factory=set)
    """Ids of the containers that ran before the daemon went."""

    @property
    def labels(self) -> dict[str, str]:
        return {LABEL: self.name}

    def create(self) -> None:
        self.stack.kubectl("create", "-f", "-", stdin=yaml.safe_dump(self.way.build(self)))

    def remove(self) -> None:
        kinds = "deployments,statefulsets,jobs,cronjobs,pods"
        words = ("delete", kinds, "-n", CLIENTS, "-l", f"{LABEL}={self.name}")
        self.stack.kubectl(*words, "--wait=false", "--grace-period=1")

    def pods(self) -> list[Document]:
        pods = self.stack.get("pods", namespace=CLIENTS, label_selector=self.labels)
        return [
            pod
            for pod in pods
            if "deletionTimestamp" not in pod["metadata"] and pod["status"]["phase"] not in ("Failed", "Succeeded")
        ]

    def pod(self) -> str:
        (pod,) = self.pods()
        return pod["metadata"]["name"]

    def containers(self) -> list[tuple[str, Document]]:
        """(pod, status) of every container that has the GPU and was created."""
        return [
            (pod["metadata"]["name"], status)
            for pod in self.pods()
            for kind in ("initContainerStatuses", "containerStatuses")
            for status in pod["status"].get(kind, [])
            if status["name"] != "install-wait" and status.get("containerID")
        ]

    def log(self, pod: str, container: str) -> list[str]:
        words = ("logs", "-n", CLIENTS, pod, "-c", container)
        return self.stack.kubectl(*words, check=False).splitlines()

    def note(self) -> None:
        """Note the containers that are there, which are not yet those of the way."""
        self.known |= {status["containerID"] for _, status in self.containers()}

    def ran(self) -> bool:
        """True if each container had its context once."""
        self.note()
        contexts = [any('"sms"' in line for line in self.log(pod, status["name"])) for pod, status in self.containers()]
        return bool(contexts) and all(contexts)

    def waits(self) -> bool:
        """True if each container is a new one that waits. AssertionError if one has more than its class."""
        states = []
        for pod, status in self.containers():
            lines = self.log(pod, status["name"])
            contexts = [json.loads(line) for line in lines if '"sms"' in line]
            more = [line for line in contexts if line["sms"] > self.sms]
            assert not more, f"{self.way.name}: a client runs without the limits of its class: {more}"
            new = status["containerID"] not in self.known and status["restartCount"] >= self.way.restarts
            states.append(new and not contexts and bool(lines) and lines[-1].startswith(WAITS))
        return bool(states) and all(states)

    def contexts(self) -> list[Document]:
        """Lines of the contexts of every container, once each has one."""

        def look() -> list[Document] | None:
            lines = [
                [json.loads(line) for line in self.log(pod, status["name"]) if '"sms"' in line]
                for pod, status in self.containers()
            ]
            contexts = [next((line for line in container if "sms" in line), None) for container in lines]
            return [one for one in contexts if one] if contexts and all(contexts) else None

        return wait_for(f"{self.way.name}: its clients are back", look, START_SECONDS)


def client(site: Site, args: Sequence[str] = HOLD, **changed: Any) -> Spec:
    """Pod spec of a client as the stack's own are, which starts again; `changed` are fields of its container."""
    spec = Client.manifest(site.stack, args, {})["spec"]
    for container in [*spec["containers"], *spec["initContainers"]]:
        for key in ("restartPolicy", "restartPolicyRules"):
            container.pop(key)
    spec["containers"][0] |= changed
    return {**spec, "restartPolicy": "Always", "terminationGracePeriodSeconds": 1}


def document(site: Site, kind: str, api_version: str, spec: Mapping[str, Any]) -> Document:
    metadata = {"name": site.name, "namespace": CLIENTS, "labels": site.labels}
    return {"apiVersion": api_version, "kind": kind, "metadata": metadata, "spec": spec}


def pod(site: Site, spec: Spec | None = None) -> Document:
    return document(site, "Pod", "v1", spec or client(site))


def kept(site: Site, kind: str) -> Document:
    """One pod that a controller keeps."""
    template = {"metadata": {"labels": site.labels}, "spec": client(site)}
    spec: Document = {"replicas": 1, "selector": {"matchLabels": site.labels}, "template": template}
    return document(site, kind, "apps/v1", {**spec, **({"serviceName": site.name} if kind == "StatefulSet" else {})})


def job_template(site: Site, policy: str) -> Document:
    template = {"metadata": {"labels": site.labels}, "spec": {**client(site), "restartPolicy": policy}}
    return {"backoffLimit": 6, "template": template}


def cron_job(site: Site) -> Document:
    # Never by itself: the check makes a Job of it, as the controller does.
    template = {"metadata": {"labels": site.labels}, "spec": job_template(site, "OnFailure")}
    return document(site, "CronJob", "batch/v1", {"schedule": "0 0 31 2 *", "suspend": True, "jobTemplate": template})


def sidecar(site: Site) -> Document:
    spec = client(site)
    (main,) = spec["containers"]
    spec["initContainers"].append({**main, "name": "sidecar", "restartPolicy": "Always"})
    return pod(site, spec)


def with_liveness(site: Site) -> Document:
    # Answers while the daemon does, and waits for it otherwise; so the kubelet ends even a client that waits.
    command = [*WAIT_FIRST, PROBE, "info"]
    probe = {"exec": {"command": command}, "timeoutSeconds": 5, "periodSeconds": 1, "failureThreshold": 2}
    return pod(site, client(site, livenessProbe=probe))


def restarts_all(site: Site) -> Document:
    rule = {"action": "RestartAllContainers", "exitCodes": {"operator": "NotIn", "values": [0]}}
    return pod(site, client(site, restartPolicy="Always", restartPolicyRules=[rule]))


def delete_pod(site: Site) -> None:
    site.stack.kubectl("delete", "pod", "-n", CLIENTS, site.pod(), "--wait=false")


def evict_pod(site: Site) -> None:
    name = site.pod()
    eviction = {"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": name, "namespace": CLIENTS}}
    path = f"/api/v1/namespaces/{CLIENTS}/pods/{name}/eviction"
    site.stack.kubectl("create", "--raw", path, "-f", "-", stdin=json.dumps(eviction))


def end_sandbox(site: Site) -> None:
    """Ends the pod's sandbox under the kubelet, as a node's restart does to all of them."""
    (found,) = site.pods()
    site.note()
    node, words = found["spec"]["nodeName"], ("--name", site.name, "--quiet")
    (sandbox,) = site.stack.in_node(node, "crictl", "pods", *words, "--state", "ready").split()
    site.stack.in_node(node, "crictl", "stopp", sandbox)


def run_cron_job(site: Site) -> None:
    """A Job as the controller makes one of the template."""
    site.stack.kubectl("create", "job", "-n", CLIENTS, f"{site.name}-1", f"--from=cronjob/{site.name}")


def copy_pod(site: Site) -> None:
    """`kubectl debug` with a copy of the pod, which would leave its labels out."""
    image = site.stack.one("pods", site.name, CLIENTS)["spec"]["containers"][0]["image"]
    words = (site.name, f"--copy-to={site.name}-copy", f"--set-image=probe={image}", "--keep-labels")
    site.stack.kubectl("debug", "-n", CLIENTS, *words)


WAYS = (
    Way("container that ends with 0", lambda site: pod(site, client(site, ["info", "--context"]))),
    Way("container that fails", pod),
    Way("rule RestartAllContainers", restarts_all),
    Way("liveness probe", with_liveness, restarts=2),
    Way("sidecar", sidecar),
    Way("Job, OnFailure", lambda site: document(site, "Job", "batch/v1", job_template(site, "OnFailure"))),
    Way("Job, Never", lambda site: document(site, "Job", "batch/v1", job_template(site, "Never"))),
    Way("CronJob", cron_job, run_cron_job, before=False),
    Way("pod of a Deployment evicted", lambda site: kept(site, "Deployment"), evict_pod),
    Way("pod of a StatefulSet deleted", lambda site: kept(site, "StatefulSet"), delete_pod),
    Way("sandbox of a pod ended", pod, end_sandbox, on_kind=True),
    Way("pod copied by kubectl debug", pod, copy_pod),
    Way("pod made meanwhile", pod, before=False),
)


def await_waiting(sites: Sequence[Site]) -> None:
    """Wait until every way has come to a client that waits; none may run meanwhile."""
    left = {site.way.name: site for site in sites}

    def look() -> bool:
        for name, site in list(left.items()):
            if site.waits():
                del left[name]
        return not left

    try:
        wait_for("every client waits", look, START_SECONDS)
    except AssertionError as error:
        raise AssertionError(f"{error}; not yet: {', '.join(left)}") from None


def try_all(stack: LiveStack, daemon: Daemon, sms: int, ways: Sequence[Way] = WAYS) -> dict[str, list[Document]]:
    """Name of each way -> contexts that its clients have under the next daemon, after each of them waited for it."""
    on_kind = stack.settings.cluster.provider == "kind"
    sites = [Site(stack, way, sms) for way in ways if on_kind or not way.on_kind]
    try:
        for site in sites:
            if site.way.before or site.way.trigger:
                site.create()
        for site in sites:
            if site.way.before:
                wait_for(f"{site.way.name}: its client has its context", site.ran, START_SECONDS)
        with daemon.away():
            for site in sites:
                if site.way.trigger:
                    site.way.trigger(site)
                elif not site.way.before:
                    site.create()
            await_waiting(sites)
        return {site.way.name: site.contexts() for site in sites}
    finally:
        for site in sites:
            site.remove()
