"""What must be true of the machine before a stack is made; every finding at once, each with its remedy.

Looks only: nothing is created, started or changed. Simulated GPUs ask for no driver.
"""

import os
import platform
import re
import shutil
import subprocess
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

from packaging.version import Version

from machine import cluster_prerequisites, host_prerequisites
from machine import gpus as host_gpus
from machine import kind as kind_cluster
from machine.cluster_prerequisites import DRA_SINCE
from machine.findings import Finding
from machine.images import Images
from machine.releases import is_at_least
from settings import Settings
from toolchain import versions

GIB = 2**30
MINIMUM_ENGINE = Version("20.10")
MINIMUM_KERNEL = Version("5.4")  # containerd's overlayfs and nftables' fib expressions as the node image uses them
MINIMUM_FREE_GIB = 5
# What a control plane, each worker and all else on the machine take, measured with every module on: 28 instances and
# 251 watches, 14 and 249. Linux allows 128 instances; 8192 watches before 5.11, and by the memory since.
INOTIFY = {"instances": (30, 16, 50), "watches": (300, 300, 4096)}
PROC = Path("/proc")
# 1.34.0 of kindest/node:v1.34.0@sha256:... and of our own. An image of another name may have a version of its own.
NODE_TAG = re.compile(r"(?:^|/)node:v?([0-9]+\.[0-9]+(?:\.[0-9]+)?)")


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
    if settings.cluster.provider == "existing":
        yield from _together(_kind, _kubectl, partial(cluster_prerequisites.look, settings, images))
        return
    findings = _together(_kind, _kubectl, partial(_machine, settings), _engine)
    yield from findings
    if all(finding.ok for finding in findings if finding.name == "docker"):
        refs = [ref for ref in (settings.cluster.node_image or images.node, *images.to_load) if ref]
        yield from _gates(settings, images)
        if settings.cluster.node_image:
            yield from _node_kubernetes(settings, settings.cluster.node_image)
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


def _machine(settings: Settings) -> Iterator[Finding]:
    kernel = platform.release()
    remedy = f"Linux {MINIMUM_KERNEL} or newer is needed"
    yield Finding("kernel", f"Linux {kernel}", is_at_least(kernel, MINIMUM_KERNEL), remedy)
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / GIB
    yield Finding("memory", f"{memory:.1f} GiB", memory >= 3, "at least 3 GiB are needed; use a larger machine")
    yield from _inotify(settings)


def _inotify(settings: Settings) -> Iterator[Finding]:
    """Findings on what the nodes' programs watch files with: root's, in all containers of an engine together."""
    workers = settings.cluster.workers
    nodes = f"{workers + 1} node{'s' if workers else ''}"
    for name, (control_plane, worker, others) in INOTIFY.items():
        there = int((PROC / f"sys/fs/inotify/max_user_{name}").read_text())
        needed = control_plane + worker * workers + others
        seen = f"{there} {name} a user, {nodes} and this machine's own programs need {needed}"
        remedy = f"`sysctl -w fs.inotify.max_user_{name}={4 * needed}` as root"
        yield Finding("inotify", seen, there >= needed, f"{remedy}, or fewer cluster.workers")


def _node_kubernetes(settings: Settings, ref: str) -> Iterator[Finding]:
    """Findings on the Kubernetes of a node image that set-up did not make: there is no API server to be asked yet."""
    ok, version = True, "".join(NODE_TAG.findall(ref))
    if not version:
        # Kind's node images name their version in this file.
        alone = ("--rm", "--pull=never", "--network=none")
        ok, version = _run("docker", "run", *alone, "--entrypoint=cat", ref, "/kind/version")
        version = version.removeprefix("v")
    if not ok:
        yield Finding("node image", f"{ref}: {version}", False, "use a node image of kind, such as kindest/node")
        return
    seen = f"{ref} has Kubernetes {version}"
    remedy = f"name one of {DRA_SINCE} or newer in cluster.nodeImage, or drop it for the one that set-up made"
    served = is_at_least(version, Version(DRA_SINCE))
    yield Finding("node image", seen + ("" if served else ", which has no resource.k8s.io/v1"), served, remedy)
    for feature, modules in settings.api_features.values() if served else ():
        if not is_at_least(version, Version(feature.since)):
            yield cluster_prerequisites.missing_feature(feature, modules, f"is missing or off in Kubernetes {version}")


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
