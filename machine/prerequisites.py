"""What must be true of the machine before a stack is made; every finding at once, each with its remedy.

Looks only: nothing is created, started or changed. Simulated GPUs ask for no driver.
"""

import json
import os
import platform
import shutil
import subprocess
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

from packaging.version import Version

from machine import gpus as host_gpus
from machine import host_prerequisites, shell
from machine import kind as kind_cluster
from machine.findings import Finding
from machine.images import Images
from machine.releases import is_at_least
from settings import Settings
from toolchain import versions

GIB = 2**30
MINIMUM_ENGINE = Version("20.10")
MINIMUM_KERNEL = Version("5.4")  # containerd's overlayfs and nftables' fib expressions as the node image uses them
MINIMUM_FREE_GIB = 5
# A node's systemd, kubelet and containerd each take some; kind's known issues name 512 as enough for some nodes.
MINIMUM_INOTIFY_INSTANCES = 128
MAX_LISTED_IMAGES = 50  # the kubelet's nodeStatusMaxImages
DRA_SINCE = Version("1.34")  # resource.k8s.io/v1


class PrerequisiteError(Exception):
    """The machine cannot run the stack; `findings` has all that fails."""

    def __init__(self, findings: list[Finding]) -> None:
        self.findings = findings
        count = "1 prerequisite is" if len(findings) == 1 else f"{len(findings)} prerequisites are"
        lines = (f"  {finding.name}: {finding.seen}; {finding.remedy}" for finding in findings)
        super().__init__(f"{count} not met:\n" + "\n".join(lines))


def require(settings: Settings, images: Images) -> list[Finding]:
    """The warnings. Raises `PrerequisiteError` with every finding that is not met."""
    findings = list(look(settings, images))
    if failed := [finding for finding in findings if not finding.ok]:
        raise PrerequisiteError(failed)
    return [finding for finding in findings if finding.warning]


def look(settings: Settings, images: Images | None) -> Iterator[Finding]:
    """Everything that this stack needs of the machine, met or not; `images` None: set-up has not made them yet."""
    images = images or Images("", {})
    yield from shell.look(settings)
    if settings.cluster.provider == "existing":
        yield from _together(_kind, _kubectl, partial(_existing_cluster, settings, images))
        return
    findings = _together(_kind, _kubectl, _machine, _engine)
    yield from findings
    if all(finding.ok for finding in findings if finding.name == "docker"):
        refs = [ref for ref in (settings.cluster.node_image or images.node, *images.to_load) if ref]
        yield from _gates(settings, images)
        yield from _together(*(partial(_image, ref) for ref in refs), lambda: [_cluster_name(settings)])
    if settings.gpu.source == "host":
        yield from host_prerequisites.look(settings, host_gpus.discover(settings.gpu.driver_root, settings.gpu.devices))


def _together(*looks: Callable[[], Iterable[Finding]]) -> list[Finding]:
    """The findings of all, in order; most of the time of each is a wait for another program."""
    with ThreadPoolExecutor(len(looks)) as pool:
        return [finding for found in pool.map(lambda look: list(look()), looks) for finding in found]


def _run(*argv: str) -> tuple[bool, str]:
    """Whether a command succeeded, and its output or the last line of its error."""
    try:
        done = subprocess.run(argv, capture_output=True, text=True, timeout=20, check=False)
    except (FileNotFoundError, subprocess.TimeoutExpired) as error:
        return False, str(error)
    if done.returncode:
        return False, (done.stderr.strip().splitlines() or [f"exit {done.returncode}"])[-1]
    return True, done.stdout.strip()


def _kind() -> Iterator[Finding]:
    yield _tool("kind", versions.KIND, "kind", "version")


def _kubectl() -> Iterator[Finding]:
    yield _tool("kubectl", versions.KUBERNETES, "kubectl", "version", "--client")


def _tool(name: str, wanted: str, *argv: str) -> Finding:
    ok, text = _run(*argv)
    seen = text.splitlines()[0] if text else "no output"
    return Finding(
        name, seen, ok and wanted in text, f"v{wanted} is needed; run `make setup`, then `source ./activate`"
    )


def _machine() -> Iterator[Finding]:
    kernel = platform.release()
    remedy = f"Linux {MINIMUM_KERNEL} or newer is needed"
    yield Finding("kernel", f"Linux {kernel}", is_at_least(kernel, MINIMUM_KERNEL), remedy)
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / GIB
    yield Finding("memory", f"{memory:.1f} GiB", memory >= 3, "at least 3 GiB are needed; use a larger machine")
    instances = int(Path("/proc/sys/fs/inotify/max_user_instances").read_text())
    command = f"`sysctl -w fs.inotify.max_user_instances={4 * MINIMUM_INOTIFY_INSTANCES}`"
    enough = instances >= MINIMUM_INOTIFY_INSTANCES
    yield Finding("inotify", f"{instances} instances a user", enough, f"{command} as root")


def _engine() -> Iterator[Finding]:
    fields = "{{.ServerVersion}}|{{.CgroupVersion}}|{{.Driver}}|{{.DockerRootDir}}"
    ok, text = _run("docker", "info", "--format", fields)
    version, *rest = text.split("|")
    if not ok or len(rest) != 3 or not version:
        yield Finding("docker", text or "no engine answers", False, "run `make setup`, which starts or explains it")
        return
    cgroup, storage, root = rest
    seen = f"Docker Engine {version}, cgroup v{cgroup}, {storage}"
    remedy = f"Docker Engine {MINIMUM_ENGINE} or newer is needed"
    yield Finding("docker", seen, is_at_least(version, MINIMUM_ENGINE), remedy)
    if Path(root).is_dir():
        free = shutil.disk_usage(root).free / GIB
        remedy = f"{MINIMUM_FREE_GIB} GiB are needed for the nodes; `docker system df` shows what takes space"
        yield Finding("disk", f"{free:.1f} GiB free in {root}", free >= MINIMUM_FREE_GIB, remedy)


def _image(ref: str) -> Iterator[Finding]:
    ok, _ = _run("docker", "image", "inspect", "--format", "{{.Id}}", ref)
    remedy = "run `make setup`" if ref.startswith("localhost/") else f"`docker pull {ref}`"
    yield Finding("image", ref if ok else f"{ref} is not in the engine", ok, remedy)


def _gates(settings: Settings, images: Images) -> Iterator[Finding]:
    if settings.driver.feature_gates.get("FabricManagerPartitioning"):
        ours = images.references.get("dra-driver", "").startswith("localhost/")
        seen = "FabricManagerPartitioning is on" + (", but go-nvfm is a stub in the driver built here" if ours else "")
        yield Finding("gates", seen, not ours, "drop it from driver.featureGates, or name upstream's images.draDriver")


def _cluster_name(settings: Settings) -> Finding:
    folder = settings.kubeconfig.parent
    cluster = kind_cluster.KindCluster(settings.cluster_name, folder)
    nodes, owner = kind_cluster.node_containers(cluster.name), cluster.found_owner()
    if cluster.strangers() or (owner is not None and owner != cluster.owner):
        what = f"a cluster named {cluster.name} exists that this checkout did not create"
        return Finding(
            "cluster", what, False, f"set another cluster.name or `kind delete cluster --name {cluster.name}`"
        )
    stopped = kind_cluster.stopped_containers(cluster.name)
    if stopped and (folder / "incarnation").exists():
        return Finding("cluster", f"{', '.join(stopped)} stopped", False, f"`docker start {' '.join(stopped)}`")
    return Finding("cluster", f"{cluster.name}: {f'{len(nodes)} nodes of ours' if nodes else 'name is free'}", True)


def _existing_cluster(settings: Settings, images: Images) -> Iterator[Finding]:
    kubectl = ("kubectl", "--kubeconfig", str(settings.kubeconfig), "--context", settings.context)
    ok, text = _run(*kubectl, "version", "--output=json", "--request-timeout=10s")
    if not ok:
        yield Finding("cluster", text, False, f"check it with `{' '.join(kubectl)} version`")
        return
    server = json.loads(text)["serverVersion"]
    seen = f"Kubernetes {server['gitVersion']} at context {settings.context}"
    # Some providers' minor numbers end with a plus: 34+.
    served = is_at_least(f"{server['major']}.{server['minor']}", DRA_SINCE)
    yield Finding("cluster", seen, served, f"resource.k8s.io/v1 is served from v{DRA_SINCE} on; upgrade the cluster")
    ok, text = _run(*kubectl, "get", "nodes", "--output=json")
    if not ok:
        yield Finding("nodes", text, False, f"check it with `{' '.join(kubectl)} get nodes`")
        return
    nodes = {node["metadata"]["name"]: node["status"] for node in json.loads(text)["items"]}
    for wanted in settings.gpu_nodes:
        remedy = f"gpu.nodes must be some of {', '.join(sorted(nodes))}"
        yield Finding(
            "nodes", f"{wanted.node}" + ("" if wanted.node in nodes else " is no node"), wanted.node in nodes, remedy
        )
        if wanted.node in nodes:
            yield from _node_images(wanted.node, nodes[wanted.node].get("images", []), images)


def _node_images(node: str, listed: list[dict[str, list[str]]], images: Images) -> Iterator[Finding]:
    """Images that only this machine has must be on the node already, since no registry serves them."""
    if len(listed) >= MAX_LISTED_IMAGES:
        return  # the kubelet lists the largest only, so a missing name says nothing
    names = {name for image in listed for name in image.get("names", [])}
    for ref in images.to_load:
        remedy = "load it (`docker save | ctr -n k8s.io images import -`), or push it and name it under images"
        yield Finding("image", f"{ref} on {node}" if ref in names else f"{ref} is not on {node}", ref in names, remedy)
