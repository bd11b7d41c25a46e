"""Prerequisites of a stack on this machine or on an existing cluster; all findings at once, each with its remedy.

Nothing is created, started or changed. Simulated GPUs need no driver.
"""

import contextlib
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

from machine import cluster_prerequisites, host_prerequisites, kind_api, shell
from machine import gpus as host_gpus
from machine import kind as kind_cluster
from machine.cluster_prerequisites import DRA_SINCE
from machine.findings import Finding
from machine.images import LOCAL, Images
from machine.proved import Proof
from machine.releases import is_at_least
from settings import Settings
from toolchain import versions

GIB = 2**30
MINIMUM_ENGINE = Version("20.10")
MINIMUM_KERNEL = Version("5.4")  # containerd's overlayfs and nftables' fib expressions as the node image uses them
# For a new cluster; nodes that are there have their images already.
MINIMUM_FREE_GIB, MINIMUM_FREE_GIB_OF_A_CLUSTER = 5, 1
# What a control plane, each worker and all else on the machine take, measured with every module on: 28 instances and
# 251 watches, 14 and 249. Linux allows 128 instances; 8192 watches before 5.11, and by the memory since. See also
# https://kind.sigs.k8s.io/docs/user/known-issues/#pod-errors-due-to-too-many-open-files.
INOTIFY = {"instances": (30, 16, 50), "watches": (300, 300, 4096)}
ROOT = 0
INOTIFY_FILE = "anon_inode:inotify"
PROC = Path("/proc")
# 1.34.0 of kindest/node:v1.34.0@sha256:... and of our own. An image of another name may have a version of its own.
NODE_TAG = re.compile(r"(?:^|/)node:v?([0-9]+\.[0-9]+(?:\.[0-9]+)?)")


class PrerequisiteError(Exception):
    """Error of a machine that cannot run the stack; `findings` has every prerequisite that is not met."""

    def __init__(self, findings: list[Finding]) -> None:
        self.findings = findings
        count = "1 prerequisite is" if len(findings) == 1 else f"{len(findings)} prerequisites are"
        lines = (f"  {finding.name}: {finding.observed}; {finding.remedy}" for finding in findings)
        super().__init__(f"{count} not met:\n" + "\n".join(lines))


def require(settings: Settings, images: Images, *, keep: bool = False) -> list[Finding]:
    """Warnings of a machine that can run the stack. Raises `PrerequisiteError` with every finding that is not met.

    Looks at nothing where the stack's cluster runs on what was met before; `keep` notes that it is met now.
    """
    proof = Proof.of(settings, images)
    if proof and proof.holds():
        if problem := kind_api.silent(settings.cluster_name, settings.kubeconfig):
            raise PrerequisiteError([problem])
        return []
    findings = list(look(settings, images))
    if failed := [finding for finding in findings if not finding.ok]:
        raise PrerequisiteError(failed)
    warnings = [finding for finding in findings if finding.warning]
    if proof and keep and not warnings:
        proof.keep()
    return warnings


def look(settings: Settings, images: Images | None) -> Iterator[Finding]:
    """Findings on everything that the stack needs, met or not; `images` None: set-up has not made them yet."""
    images = images or Images("", {})
    yield from shell.look(settings)
    if settings.cluster.provider == "existing":
        yield from _in_parallel(_kind, _kubectl, partial(cluster_prerequisites.look, settings, images))
        return
    node_image = settings.cluster.node_image or images.node
    findings = _in_parallel(_kind, _kubectl, partial(_host, settings), partial(_engine, settings, node_image))
    yield from findings
    if all(finding.ok for finding in findings if finding.name == "docker"):
        references = [ref for ref in (node_image, *images.to_load) if ref]
        yield from _feature_gates(settings, images)
        if settings.cluster.node_image:
            yield from _node_kubernetes(settings, settings.cluster.node_image)
        yield from _in_parallel(*(partial(_image, ref) for ref in references), lambda: [_cluster_name(settings)])
    if settings.gpu.source == "host":
        yield from host_prerequisites.look(settings, host_gpus.discover(settings.gpu.driver_root, settings.gpu.devices))


def _in_parallel(*checks: Callable[[], Iterable[Finding]]) -> list[Finding]:
    """Findings of all checks, in order; a check takes most of its time to wait for another program."""
    with ThreadPoolExecutor(len(checks)) as pool:
        return [finding for findings in pool.map(lambda check: list(check()), checks) for finding in findings]


def _run(*argv: str) -> tuple[bool, str]:
    """Success of a command, and its output or the last line of its error."""
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


def _tool(name: str, version: str, *argv: str) -> Finding:
    ok, text = _run(*argv)
    observed = text.splitlines()[0] if text else "no output"
    remedy = f"v{version} is needed; run `make setup`, then `source ./activate`"
    return Finding(name, observed, ok and version in text, remedy)


def _host(settings: Settings) -> Iterator[Finding]:
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
        enough = there >= needed
        if enough and name == "instances" and (taken := _instances_taken(settings)) is not None:
            needed = control_plane + worker * workers
            seen = f"{there} {name} a user, of which {taken} are taken; {nodes} need {needed}"
            enough = there - taken >= needed
            remedy += ", or take down another cluster (`docker ps` lists their nodes)"
        yield Finding("inotify", seen, enough, f"{remedy}, or fewer cluster.workers")


def _instances_taken(settings: Settings) -> int | None:
    """Number of inotify instances that root's programs have, at least; None where it cannot be seen, or tells nothing.

    Those of the stack's own nodes are among them, so it tells nothing once they are there.
    """
    return None if kind_cluster.node_containers(settings.cluster_name) else inotify_instances_of_root()


def inotify_instances_of_root() -> int | None:
    """Number of inotify instances that root's programs have, at least; None for another user, who cannot see them."""
    if os.geteuid() != ROOT:
        return None
    taken = 0
    for process in PROC.glob("[0-9]*"):
        # A process may end while it is looked at, and then has none. In a container root may not look at all of them.
        with contextlib.suppress(FileNotFoundError, ProcessLookupError, PermissionError):
            if process.stat().st_uid == ROOT:
                taken += sum(str(file.readlink()) == INOTIFY_FILE for file in (process / "fd").iterdir())
    return taken


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


def _engine(settings: Settings, node_image: str) -> Iterator[Finding]:
    fields = "{{.ServerVersion}}|{{.CgroupVersion}}|{{.Driver}}|{{.DockerRootDir}}|{{.SecurityOptions}}"
    ok, text = _run("docker", "info", "--format", fields)
    version, *rest = text.split("|")
    if not ok or len(rest) != 4 or not version:
        yield Finding("docker", text or "no engine answers", False, "run `make setup`, which starts or explains it")
        return
    cgroup, storage, root, security = rest
    observed = f"Docker Engine {version}, cgroup v{cgroup}, {storage}"
    remedy = f"Docker Engine {MINIMUM_ENGINE} or newer is needed"
    yield Finding("docker", observed, is_at_least(version, MINIMUM_ENGINE), remedy)
    yield _device_nodes(security)
    if cgroup == "1" and node_image and not node_image.startswith(LOCAL):
        yield _foreign_node_on_cgroup_v1(node_image)
    if Path(root).is_dir():
        free = shutil.disk_usage(root).free / GIB
        there = kind_cluster.node_containers(settings.cluster_name)
        needed = MINIMUM_FREE_GIB_OF_A_CLUSTER if there else MINIMUM_FREE_GIB
        remedy = f"{needed} GiB are needed for the nodes; `docker system df` shows what takes space"
        yield Finding("disk", f"{free:.1f} GiB free in {root}", free >= needed, remedy)


def _device_nodes(security: str) -> Finding:
    """Finding on an engine whose containers make no device nodes, which GPUs are: mknod fails in a user namespace.

    `security` is what `docker info` tells of the engine: https://docs.docker.com/engine/security/rootless/ and
    https://docs.docker.com/engine/security/userns-remap/.
    """
    names = {word.partition(",")[0].removeprefix("name=") for word in security.strip("[]").split()}
    rootless = "rootless" in names
    observed = "rootless" if rootless else "userns-remap is on" if "userns" in names else "possible"
    remedy = "take userns-remap out of /etc/docker/daemon.json and restart the engine"
    if rootless:
        remedy = "use the engine that runs as root: `docker context use default`, or unset DOCKER_HOST"
    remedy = f"containers of this engine cannot make device nodes, which GPUs are; {remedy}"
    return Finding("device nodes", observed, observed == "possible", remedy)


def _foreign_node_on_cgroup_v1(node_image: str) -> Finding:
    """Finding on a node image that is not ours: kind's own has the cgroup driver systemd, with which runc freezes.

    systemd 257 of Debian 13, which kind's image has, uses the cgroup v1 of its host inside a container: kind's own
    files on it were run so, see tests/e2e/upstream_images.py. 258 has cgroup v1 no more
    (https://github.com/systemd/systemd/blob/v258/NEWS).
    """
    remedy = (
        "some containers are started twice there (`unable to freeze`), and systemd 258 or newer does not start; "
        "start the host with cgroup v2 (`systemd.unified_cgroup_hierarchy=1` on its kernel's command line), or use our "
        "node image (`SOURCE=built make setup`)"
    )
    return Finding("cgroup", f"{node_image} on cgroup v1", True, remedy, warning=True)


def _image(reference: str) -> Iterator[Finding]:
    ok, _ = _run("docker", "image", "inspect", "--format", "{{.Id}}", reference)
    remedy = "run `make setup`" if reference.startswith(LOCAL) else f"`docker pull {reference}`"
    yield Finding("image", reference if ok else f"{reference} is not in the engine", ok, remedy)


def _feature_gates(settings: Settings, images: Images) -> Iterator[Finding]:
    if settings.driver.feature_gates.get("FabricManagerPartitioning"):
        built_here = images.references.get("dra-driver", "").startswith(LOCAL)
        observed = "FabricManagerPartitioning is on"
        if built_here:
            observed += ", but go-nvfm is a stub in the driver built here"
        yield Finding(
            "gates", observed, not built_here, "drop it from driver.featureGates, or name upstream's images.draDriver"
        )


def _cluster_name(settings: Settings) -> Finding:
    folder = settings.kubeconfig.parent
    cluster = kind_cluster.KindCluster(settings.cluster_name, folder)
    nodes, owner = kind_cluster.node_containers(cluster.name), cluster.network_owner()
    if cluster.foreign_containers() or (owner is not None and owner != cluster.owner):
        taken = f"a cluster named {cluster.name}" if nodes else f"a Docker network named {cluster.network}"
        observed = f"{taken} exists that this checkout did not create"
        remedy = f"set another cluster.name or {cluster.freed_by()}"
        return Finding("cluster", observed, False, remedy)
    stopped = kind_cluster.stopped_containers(cluster.name)
    if stopped and (folder / "incarnation").exists():
        return Finding("cluster", f"{', '.join(stopped)} stopped", False, f"`docker start {' '.join(stopped)}`")
    if nodes and (problem := kind_api.silent(cluster.name, settings.kubeconfig)):
        return problem
    return Finding("cluster", f"{cluster.name}: {f'{len(nodes)} nodes of ours' if nodes else 'name is free'}", True)
