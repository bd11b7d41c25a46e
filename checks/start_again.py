"""Ways in which Kubernetes starts a client of MPS, again or for the first time, while its daemon is away.

They are those of https://kubernetes.io/docs/concepts/workloads/pods/pod-lifecycle/, of controllers that make pods, and
of a node whose kubelet or runtime starts again. A node that starts again as a whole ends its daemon itself.
"""

import json
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

import yaml

from checks.live import LABEL, LiveStack, wait_for
from checks.mps import CLIENTS, WAITS, Client, Daemon
from components.mps_clients import WAIT_FIRST
from gpus.quantity import mib_quantity, quantity_mib

PROBE = "/usr/bin/gpu-probe"
HOLD = ("hold", "0", "--alloc", "16Mi")
# More than the stack's clients may have of the node's memory, after the context.
TOO_MUCH = (*HOLD, "--host", "1Gi")
OOM_KILLED, BACK_OFF = "OOMKilled", "CrashLoopBackOff"
# Phases of a pod that runs no more.
FINISHED = ("Failed", "Succeeded")
# As long as the kubelet may wait before it starts a container for the fourth time.
START_SECONDS = 180
# Its own limit is 2 s, in which a busy node ends no sandbox.
CRICTL_WAITS = "--timeout=60s"

Document = dict[str, Any]
Spec = dict[str, Any]


def always(_site: "Site") -> bool:
    """Condition that holds on every cluster."""
    return True


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
    end: str = ""
    """Reason of its client's last end where it ends by itself, again and again, while the daemon is there."""
    is_there: Callable[["Site"], bool] = always
    """Whether this cluster's Kubernetes has it."""
    on_kind: bool = False
    """True where it takes a node that is a container of Kind."""
    alone: bool = False
    """True where its node starts no container meanwhile: one that the kubelet was about to start fails, and that is its
    last end then. So all others wait before it."""


@dataclass(frozen=True)
class Most:
    """Most that a client of a class may have of its GPU."""

    sms: int
    memory_mib: int

    def allows(self, context: Document) -> bool:
        """True if the context of a client, as gpu-probe prints it, is within."""
        return context["sms"] <= self.sms and context["free_mib"] <= self.memory_mib


@dataclass
class Site:
    """One way on a stack that is up: its objects, which all have one label."""

    stack: LiveStack
    way: Way
    most: Most
    name: str = field(default_factory=lambda: f"again-{uuid.uuid4().hex[:8]}")
    known: set[str] = field(default_factory=set)
    """Ids of the containers that are not yet those of the way: most ran before the daemon went."""
    afterwards: ExitStack = field(default_factory=ExitStack)
    """What is to be undone on the nodes."""

    @property
    def labels(self) -> dict[str, str]:
        return {LABEL: self.name}

    def create(self) -> None:
        self.stack.create(self.way.build(self))

    def remove(self) -> None:
        kinds = "deployments,statefulsets,jobs,cronjobs,pods"
        words = ("delete", kinds, "-n", CLIENTS, "-l", f"{LABEL}={self.name}")
        self.stack.kubectl(*words, "--wait=false", "--grace-period=1")
        self.afterwards.close()

    def pods(self) -> list[Document]:
        return [pod for pod in self._there() if pod["status"]["phase"] not in FINISHED]

    def remove_finished(self) -> None:
        """Delete pods that a Job has done with.

        As long as one is there, and others have its claim, Kubernetes takes it into the claim's status.reservedFor and
        out again, up to 200 times a second (https://github.com/kubernetes/kubernetes/issues/141274).
        """
        for pod in self._there():
            if pod["status"]["phase"] in FINISHED:
                self.stack.delete("v1", f"pods/{pod['metadata']['name']}", CLIENTS, missing_ok=True)

    def _there(self) -> list[Document]:
        pods = self.stack.get("pods", namespace=CLIENTS, label_selector=self.labels)
        return [pod for pod in pods if "deletionTimestamp" not in pod["metadata"]]

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
        return self.stack.log(CLIENTS, pod, container, check=False).splitlines()

    def note(self) -> None:
        """Note the containers that are there, which are not yet those of the way."""
        self.known |= {status["containerID"] for _, status in self.containers()}

    def ran(self) -> bool:
        """True if each container had its context once."""
        self.note()
        contexts = [any('"sms"' in line for line in self.log(pod, status["name"])) for pod, status in self.containers()]
        return bool(contexts) and all(contexts)

    def backs_off(self) -> bool:
        """True if the kubelet lets each container wait before its next start, after an end as the way's are."""
        states = [
            status["state"].get("waiting", {}).get("reason") == BACK_OFF and last_end(status) == self.way.end
            for _, status in self.containers()
        ]
        return bool(states) and all(states)

    def is_of_the_way(self, status: Document) -> bool:
        """True if a container was started by the way, and not by the daemon's end alone."""
        new = status["containerID"] not in self.known and status["restartCount"] >= self.way.restarts
        return new and self.way.end in ("", last_end(status))

    def waits(self) -> bool:
        """True if each container is one of the way, and waits. AssertionError if one has more than its class."""
        return self._waits(self.is_of_the_way)

    def come_to_wait(self) -> None:
        """Return once each container waits, which the daemon's end is enough for; later ones are those of the way."""
        wait_for(f"{self.way.name}: its client waits", lambda: self._waits(lambda _: True), START_SECONDS)
        self.note()

    def _waits(self, counts: Callable[[Document], bool]) -> bool:
        states = []
        for pod, status in self.containers():
            lines = self.log(pod, status["name"])
            contexts = [json.loads(line) for line in lines if '"sms"' in line]
            more = [line for line in contexts if not self.most.allows(line)]
            assert not more, f"{self.way.name}: a client runs without the limits of its class: {more}"
            states.append(counts(status) and not contexts and bool(lines) and lines[-1].startswith(WAITS))
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


def last_end(status: Document) -> str:
    """Reason of the end of a container's last run, by its status; empty where there was none."""
    return status.get("lastState", {}).get("terminated", {}).get("reason", "")


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


def has_rules(site: Site) -> bool:
    """Whether the API server takes the rule, and keeps it: it drops or refuses one whose gate is off."""
    words = ("create", "--dry-run=server", "--output=json", "-f", "-")
    made = site.stack.kubectl(*words, stdin=yaml.safe_dump(restarts_all(site)), check=False)
    return '"restartPolicyRules"' in made


def may_resize(site: Site) -> bool:
    """Whether a pod with a claim may be resized, asked for one of the stack's own.

    Before 1.37 the API server takes the claim for a resource that the change would remove, and refuses it. Source:
    `dropCPUMemoryResourcesFromContainer` in pkg/apis/core/validation of Kubernetes 1.36.3 and 1.37.2.
    """
    client = site.stack.get("pods", namespace=CLIENTS, label_selector={"app": "clients"})[0]
    refusal = site.stack.refusal(*resize(client), "--dry-run=server")
    return refusal is None or "only cpu and memory resources are mutable" not in refusal


def resizable(site: Site) -> Document:
    policy = [{"resourceName": "memory", "restartPolicy": "RestartContainer"}]
    return pod(site, client(site, resizePolicy=policy))


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
    site.stack.in_node(node, "crictl", CRICTL_WAITS, "stopp", sandbox)


def change_image(site: Site) -> None:
    """Gives the container an image of another name in place, by whose digest it is the same one."""
    site.come_to_wait()
    (found,) = site.pods()
    node, (container,) = found["spec"]["nodeName"], found["spec"]["containers"]
    another, of_kubernetes = f"localhost/{site.name}:v1", ("ctr", "--namespace", "k8s.io", "images")
    name = ("--output", "go-template", "--template", "{{index .status.repoTags 0}}")
    image = site.stack.in_node(node, "crictl", "inspecti", *name, container["image"]).strip()
    site.stack.in_node(node, *of_kubernetes, "tag", image, another)
    site.afterwards.callback(site.stack.in_node, node, *of_kubernetes, "rm", another)
    listed = ("crictl", "images", "--quiet", another)
    wait_for(f"{node} knows {another}", lambda: site.stack.in_node(node, *listed).strip())
    site.stack.kubectl(*patched(site.pod(), {"name": container["name"], "image": another}))


def change_resources(site: Site) -> None:
    """Gives the container more memory of the node, for which it asked to be started again."""
    site.come_to_wait()
    site.stack.kubectl(*resize(site.pods()[0]))


def resize(pod: Document) -> tuple[str, ...]:
    """Words of kubectl by which a client's pod has more memory of its node."""
    (container,) = pod["spec"]["containers"]
    more = mib_quantity(quantity_mib(container["resources"]["limits"]["memory"]) + 64)
    changed = {"name": container["name"], "resources": {"limits": {"memory": more}}}
    return (*patched(pod["metadata"]["name"], changed), "--subresource=resize")


def patched(pod: str, container: Document) -> tuple[str, ...]:
    """Words of kubectl that change a container of a client's pod."""
    patch = json.dumps({"spec": {"containers": [container]}})
    return ("patch", "pod", "-n", CLIENTS, pod, f"--patch={patch}")


@contextmanager
def stopped(stack: LiveStack, node: str, service: str) -> Iterator[None]:
    """A service of a node's, stopped, and started afterwards."""
    stack.in_node(node, "systemctl", "stop", service)
    try:
        yield
    finally:
        stack.in_node(node, "systemctl", "start", service)


def end_while_stopped(service: str) -> Callable[[Site], None]:
    """Trigger: the client ends while a service of its node is away, which finds that when it starts again."""

    def trigger(site: Site) -> None:
        site.come_to_wait()
        (found,), ((_, status),) = site.pods(), site.containers()
        stack, node = site.stack, found["spec"]["nodeName"]
        identity = status["containerID"].rpartition("/")[2]
        pid_only = ("--output", "go-template", "--template", "{{.info.pid}}")
        pid = stack.in_node(node, "crictl", "inspect", *pid_only, identity).strip()
        with stopped(stack, node, service):
            stack.in_node(node, "kill", "-KILL", pid)
            alive = ("sh", "-c", '[ ! -e "/proc/$1" ] || echo alive', "sh", pid)
            wait_for(f"{site.way.name}: its client ended", lambda: not stack.in_node(node, *alive))

    return trigger


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
    Way("rule RestartAllContainers", restarts_all, is_there=has_rules),
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
    Way("end by the kernel (OOM)", lambda site: pod(site, client(site, TOO_MUCH)), end=OOM_KILLED),
    Way("image changed in place", pod, change_image, on_kind=True),
    Way("resources changed in place", resizable, change_resources, is_there=may_resize),
    Way("kubelet that starts again", pod, end_while_stopped("kubelet"), on_kind=True, alone=True),
    Way("containerd that starts again", pod, end_while_stopped("containerd"), on_kind=True, alone=True),
)


def await_waiting(sites: Sequence[Site]) -> None:
    """Wait until every way has come to a client that waits; none may run meanwhile."""
    left = {site.way.name: site for site in sites}

    def look() -> bool:
        for name, site in list(left.items()):
            site.remove_finished()
            if site.waits():
                del left[name]
        return not left

    try:
        wait_for("every client waits", look, START_SECONDS)
    except AssertionError as error:
        raise AssertionError(f"{error}; not yet: {', '.join(left)}") from None


def together(sites: Sequence[Site]) -> Iterator[list[Site]]:
    """Groups of ways that may happen at the same time, one after the other."""
    yield [site for site in sites if not site.way.alone]
    yield from ([site] for site in sites if site.way.alone)


def try_all(stack: LiveStack, daemon: Daemon, most: Most, ways: Sequence[Way] = WAYS) -> dict[str, list[Document]]:
    """Name of each way that is there -> contexts that its clients have under the next daemon, after each of them waited
    for it.
    """
    on_kind = stack.settings.cluster.provider == "kind"
    sites = [Site(stack, way, most) for way in ways if on_kind or not way.on_kind]
    sites = [site for site in sites if site.way.is_there(site)]
    # Those whose clients end by themselves come last: the daemon goes while the kubelet waits before it starts them.
    lasting, ending = [site for site in sites if not site.way.end], [site for site in sites if site.way.end]
    try:
        for site in lasting:
            if site.way.before or site.way.trigger:
                site.create()
        for site in lasting:
            if site.way.before:
                wait_for(f"{site.way.name}: its client has its context", site.ran, START_SECONDS)
        for site in ending:
            site.create()
            what = f"{site.way.name}: its client had its context, and ended with {site.way.end}"
            wait_for(what, lambda site=site: site.ran() and site.backs_off(), START_SECONDS)
        with daemon.away():
            for group in together(sites):
                for site in group:
                    if site.way.trigger:
                        site.way.trigger(site)
                    elif not site.way.before:
                        site.create()
                await_waiting(group)
        return {site.way.name: site.contexts() for site in sites}
    finally:
        for site in sites:
            site.remove()
