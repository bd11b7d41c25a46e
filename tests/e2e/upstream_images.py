"""Images shaped as upstream's, made of what source built makes, and a registry of this machine that serves them.

- **node**: kind's own files for its node image, from kind's Go module, over the Debian that kind's image has, with our
  programs, as kind's Dockerfile puts them together. Of our node image it has no file but the network's and the storage
  class's manifest, since no registry of packages has kindnetd and the local path provisioner.
- **dra-driver**: NVIDIA's programs as upstream's Dockerfile lays them: no shell but a static bash, busybox in a folder
  of its own, and the C library.
- **python**: Python 3.11 below /usr/local, with a shell.
- **kwok**: one program.

Each is one layer that is not compressed, since compressing takes longer than everything else here.
"""

import hashlib
import http.client
import io
import json
import re
import subprocess
import tarfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

import pytest
from rich.console import Console

from tests.unit.upstream import Upstream, of_this_checkout
from toolchain import debian, download, golang, images, programs, versions
from toolchain.golang import Go
from toolchain.paths import IMAGES, SOURCE_FILE, store_root
from toolchain.progress import Progress
from toolchain.steps import Runner, Step, Store, Work

LISTENS_SECONDS = 30
LISTENING = re.compile(r"listening on (127\.0\.0\.1:\d+)")
CONFIGURATION = """\
version: 0.1
log: {{accesslog: {{disabled: true}}}}
storage: {{filesystem: {{rootdirectory: "{folder}"}}, maintenance: {{readonly: {{enabled: {readonly}}}}}}}
http: {{addr: "127.0.0.1:0"}}
"""
# What kind's Dockerfile takes away of the units that systemd starts by itself.
UNWANTED = re.compile(
    r"usr/lib/systemd/system/(sysinit\.target\.wants/systemd-tmpfiles-setup\.service"
    r"|(multi-user|local-fs|basic)\.target\.wants/.+|sockets\.target\.wants/.*(udev|initctl).*)"
    r"|etc/systemd/system/.*\.wants/.+"
)
SANDBOX_IMAGE = re.compile(r'(?<=sandbox_image = ")(registry\.k8s\.io/pause:)[\d.]+')
CAP_SYS_RESOURCE = 24
# As kind's Dockerfile for v0.33.0 has it, but for what only storage and snapshotters that are not used here call.
NODE_DEBIAN = "trixie"
NODE_PACKAGES = (
    *("systemd", "conntrack", "iptables", "nftables", "iproute2", "ethtool", "util-linux", "mount", "kmod"),
    *("libseccomp2", "pigz", "e2fsprogs", "bash", "ca-certificates", "curl", "jq", "procps"),
)
# A static shell, the programs that scripts call, and the libraries below a program of C++.
DISTROLESS_PACKAGES = ("libc6", "libgcc-s1", "libstdc++6", "bash-static", "busybox-static")
NAMES = {
    "node": f"kindest/node:v{versions.KUBERNETES}",
    **{
        versions.of_driver("dra-driver", version): f"dra-driver-nvidia/dra-driver-nvidia-gpu:v{version}"
        for version in versions.DRA_DRIVERS
    },
    "python": f"library/python:{versions.DEBIAN_PYTHON}",
    "kwok": f"kwok/kwok:v{versions.KWOK}",
}


@dataclass
class Layer:
    """Layer of an image in the making; what was added first stays."""

    tar: tarfile.TarFile
    names: set[str] = field(default_factory=set)

    def member(self, info: tarfile.TarInfo, content: IO[bytes] | None = None) -> None:
        """Add a member unless its name is there."""
        info.name = info.name.removeprefix("./").lstrip("/")
        if info.name in self.names:
            return
        self.names.add(info.name)
        info.uid = info.gid = 0
        info.uname = info.gname = ""
        self.tar.addfile(info, content)

    def text(self, name: str, text: str, mode: int = 0o644) -> None:
        info = tarfile.TarInfo(name)
        info.size, info.mode = len(text.encode()), mode
        self.member(info, io.BytesIO(text.encode()))

    def link(self, name: str, target: str) -> None:
        info = tarfile.TarInfo(name)
        info.type, info.linkname = tarfile.SYMTYPE, target
        self.member(info)

    def folder(self, name: str) -> None:
        info = tarfile.TarInfo(name)
        info.type, info.mode = tarfile.DIRTYPE, 0o755
        self.member(info)

    def file(self, source: Path, name: str, mode: int = 0o755) -> None:
        info = tarfile.TarInfo(name)
        info.size, info.mode = source.stat().st_size, mode
        with open(source, "rb") as content:
            self.member(info, content)

    def tree(self, source: Path, name: str) -> None:
        """Add a folder with all below it, with the modes that they have."""
        for path in (source, *sorted(source.rglob("*"))):
            info = self.tar.gettarinfo(path, str(Path(name, path.relative_to(source))))
            if info.isreg():
                with open(path, "rb") as content:
                    self.member(info, content)
            else:
                self.member(info)

    def archive(self, file: Path, without: re.Pattern[str] | None = None, only: str = "") -> None:
        """Add what an archive has, but for the names that `without` matches; `only` is how the others start."""
        with tarfile.open(file) as archive:
            for info in archive:
                name = info.name.removeprefix("./")
                if not name.startswith(only) or (without and without.fullmatch(name)):
                    continue
                self.member(info, archive.extractfile(info) if info.isreg() else None)


def step(go: Go, base: Step) -> Step:
    """Step of a registry's files with all images of NAMES."""
    node = images.node(go, base, versions.KUBERNETES)
    drivers = [images.dra_driver(go, base, version) for version in versions.DRA_DRIVERS]
    needs = {
        needed.name: needed
        for needed in (
            *node.needs,
            *(needed for driver in drivers for needed in driver.needs),
            debian.root_filesystem("rootfs-kind-node", NODE_PACKAGES, expected_seconds=40, suite=NODE_DEBIAN),
            debian.root_filesystem("rootfs-distroless", DISTROLESS_PACKAGES, expected_seconds=10, only_extract=True),
            images.python(),
            programs.KWOK.step(go),
            programs.REGISTRY.step(go),
        )
    }
    manifests = IMAGES / "node" / "files" / "kind" / "manifests"
    restricted = may_not_lower_oom_scores()

    def build(work: Work) -> None:
        kind, files = go.module("sigs.k8s.io/kind", f"v{versions.KIND}"), work.out / "registry"
        with registry(work.need("registry") / "registry", files, work.scratch) as address:
            with Image(work.scratch, NAMES["node"], NODE_CONFIGURATION).pushed(address) as layer:
                _node(work, layer, kind / "images/base/files", manifests, restricted)
            for version in versions.DRA_DRIVERS:
                image = Image(work.scratch, NAMES[versions.of_driver("dra-driver", version)], DRIVER_CONFIGURATION)
                with image.pushed(address) as layer:
                    _driver(work, layer, go.module("sigs.k8s.io/dra-driver-nvidia-gpu", f"v{version}"), version)
            with Image(work.scratch, NAMES["python"], PYTHON_CONFIGURATION).pushed(address) as layer:
                _python(work, layer)
            with Image(work.scratch, NAMES["kwok"], KWOK_CONFIGURATION).pushed(address) as layer:
                layer.file(work.need(programs.KWOK.name) / "kwok", KWOK_CONFIGURATION["Entrypoint"][0].lstrip("/"))

    return Step(
        "upstream-images",
        build,
        f"{versions.KIND} {versions.DRA_DRIVERS} restricted={restricted}",
        (Path(__file__), manifests),
        tuple(needs.values()),
        expected_seconds=60,
    )


def may_not_lower_oom_scores() -> bool:
    """Whether this machine's processes lack CAP_SYS_RESOURCE for good, so that containerd in a node does too.

    kind's own entrypoint changes containerd's configuration for that in a user namespace only.
    """
    (bounding,) = re.findall(r"^CapBnd:\s*(\w+)$", Path("/proc/self/status").read_text(), re.MULTILINE)
    return not int(bounding, 16) >> CAP_SYS_RESOURCE & 1


# kind's Dockerfile has these.
NODE_CONFIGURATION = {
    "Env": ["container=docker"],
    "Entrypoint": ["/usr/local/bin/entrypoint", "/sbin/init"],
    "StopSignal": "SIGRTMIN+3",
}


def _node(work: Work, layer: Layer, files: Path, manifests: Path, restricted: bool) -> None:
    """Put together what kind's Dockerfile and `kind build node-image` do."""
    for path in sorted(files.rglob("*")):
        name = path.relative_to(files)
        if path.is_dir() or name.parts[0] == "LICENSES":
            continue
        text = path.read_text()
        if name.name == "config.toml":
            # kind's node image holds the pause image of this line. Ours has the one that kubeadm names.
            pause = versions.PAUSE[versions.KUBERNETES]
            text, changed = re.subn(r'(sandbox_image = "registry.k8s.io/pause:)[\d.]+"', rf'\g<1>{pause}"', text)
            assert changed == 1, text
            if restricted:
                assert text.count("restrict_oom_score_adj = false") == 1, text
                text = text.replace("restrict_oom_score_adj = false", "restrict_oom_score_adj = true")
        layer.text(str(name), text, 0o755 if {"bin"} & set(name.parts) else 0o644)
    for unit in ("kubelet", "containerd", "undo-mount-hacks"):
        wanted = f"etc/systemd/system/multi-user.target.wants/{unit}.service"
        layer.link(wanted, f"/etc/systemd/system/{unit}.service")
    layer.link("etc/systemd/system/systemd-binfmt.service", "/dev/null")
    layer.link("usr/sbin/init", "/usr/lib/systemd/systemd")
    layer.folder("etc/kubernetes/manifests")
    _ = [layer.file(work.need("kubernetes") / name, f"usr/bin/{name}") for name in ("kubeadm", "kubelet", "kubectl")]
    for path in work.need("containerd").iterdir():
        layer.file(path, f"usr/local/bin/{path.name}")
    layer.file(work.need("runc") / "runc", "usr/local/sbin/runc")
    layer.file(work.need("cri-tools") / "crictl", "usr/local/bin/crictl")
    for name in ("host-local", "loopback", "ptp", "portmap"):
        layer.file(work.need("cni-plugins") / name, f"opt/cni/bin/{name}")
    specification = json.loads(work.run(work.need("containerd") / "ctr", "oci", "spec"))
    hooks = specification.setdefault("hooks", {}).setdefault("createContainer", [])
    hooks.append({"path": "/kind/bin/mount-product-files.sh"})
    specification["process"].pop("rlimits", None)
    layer.text("etc/containerd/cri-base.json", json.dumps(specification))
    layer.text("kind/version", f"v{versions.KUBERNETES}")
    layer.tree(manifests, "kind/manifests")
    layer.tree(work.need("control-plane-images") / "containerd", "var/lib/containerd")
    rootfs = work.need("rootfs-kind-node") / "rootfs.tar"
    with tarfile.open(rootfs) as archive:
        member = archive.extractfile("./etc/systemd/journald.conf")
        assert member is not None  # a file, not a folder
        layer.text("etc/systemd/journald.conf", f"{member.read().decode()}ReadKMsg=no\n")
    layer.archive(rootfs, without=UNWANTED)


PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
# As upstream's Dockerfile for it, and the image below, have them.
DRIVER_CONFIGURATION = {
    "Env": [
        f"PATH={PATH}:/busybox",
        "NVIDIA_DISABLE_REQUIRE=true",
        "NVIDIA_VISIBLE_DEVICES=all",
        "NVIDIA_DRIVER_CAPABILITIES=utility",
    ],
    "User": "root:root",
}


def _driver(work: Work, layer: Layer, module: Path, version: str) -> None:
    distroless = work.need("rootfs-distroless") / "rootfs.tar"
    with tarfile.open(distroless) as archive:
        for name, to in (("bash-static", "bin/bash"), ("busybox", "busybox/busybox")):
            (found,) = (info for info in archive if re.fullmatch(rf"\./(usr/)?bin/{name}", info.name))
            content = archive.extractfile(found)
            assert content is not None  # a file, not a folder
            (work.scratch / name).write_bytes(content.read())
            (work.scratch / name).chmod(0o755)
            layer.file(work.scratch / name, to)
    for applet in work.run(work.scratch / "busybox", "--list").decode().split():
        layer.link(f"busybox/{applet}", "/busybox/busybox")
    for path in work.need(versions.of_driver("dra-driver-nvidia-gpu", version)).iterdir():
        layer.file(path, f"usr/bin/{path.name}")
    layer.file(module / "hack/kubelet-plugin-prestart.sh", "usr/bin/kubelet-plugin-prestart.sh")
    layer.tree(module / "templates", "templates")
    layer.text("etc/passwd", "root:x:0:0:root:/root:/sbin/nologin\nnobody:x:65534:65534:nobody:/:/sbin/nologin\n")
    layer.text("etc/group", "root:x:0:\nnobody:x:65534:\n")
    layer.folder("tmp")
    for start in ("lib", "usr/lib", "etc/ld.so"):
        layer.archive(distroless, only=start)


KWOK_CONFIGURATION = {"Entrypoint": ["/usr/local/bin/kwok"]}
PYTHON_CONFIGURATION = {"Env": [f"PATH=/usr/local/bin:{PATH}"], "Cmd": ["python3"]}


def _python(work: Work, layer: Layer) -> None:
    with tarfile.open(work.need("rootfs-busybox") / "rootfs.tar") as archive:
        member = archive.extractfile("./bin/busybox")
        assert member is not None  # a file, not a folder
        (work.scratch / "shell").write_bytes(member.read())
    layer.file(work.scratch / "shell", "bin/busybox")
    for name in ("sh", "ln"):
        layer.link(f"bin/{name}", "/bin/busybox")
    # By this file Debian's Python takes /usr/local for its own, and looks for packages there.
    layer.text("usr/local/pyvenv.cfg", "home = /usr/bin\ninclude-system-site-packages = false\n")
    layer.link("usr/local/bin/python3", f"/usr/bin/python{versions.DEBIAN_PYTHON}")
    layer.folder(f"usr/local/lib/python{versions.DEBIAN_PYTHON}/site-packages")
    layer.archive(work.need("rootfs-python") / "rootfs.tar", without=re.compile("usr/bin/python3"))


@contextmanager
def registry(program: Path, files: Path, scratch: Path, *, readonly: bool = False) -> Iterator[str]:
    """Registry on a port of this machine with images in `files`; its address."""
    configuration, log = scratch / "registry.yaml", scratch / "registry.log"
    configuration.write_text(CONFIGURATION.format(folder=files, readonly=str(readonly).lower()))
    with open(log, "wb") as out:
        process = subprocess.Popen([program, "serve", configuration], stdout=out, stderr=subprocess.STDOUT)
    try:
        deadline = time.monotonic() + LISTENS_SECONDS
        while not (listening := LISTENING.search(log.read_text())):
            assert process.poll() is None and time.monotonic() < deadline, log.read_text()
            time.sleep(0.05)  # between two looks at a condition that is bounded above
        yield listening[1]
    finally:
        process.terminate()
        process.wait()


@dataclass(frozen=True)
class Served:
    """Upstream's sites and images on this machine; `shell` has the variables that lead there."""

    upstream: Upstream
    references: Mapping[str, str]

    @property
    def shell(self) -> dict[str, str]:
        named = " ".join(f"{name}={reference}" for name, reference in self.references.items())
        return {"SOURCE": "stock", download.MIRROR: self.upstream.address, images.IMAGE_OVERRIDES: named}

    def remove(self, *more: str) -> None:
        """Remove what was pulled from the engine, and more; what is not there is no error."""
        names = [*self.references.values(), *more]
        subprocess.run(["docker", "image", "rm", *names], capture_output=True, check=False)


def can_be_served() -> bool:
    """Whether this checkout has what is served: it is made of what source built makes."""
    return SOURCE_FILE.exists() and json.loads(SOURCE_FILE.read_text())["way"] == "built"


@contextmanager
def served(folder: Path) -> Iterator[Served]:
    """All that the stock way takes from upstream; skips the test where this checkout's own source is not built."""
    if not can_be_served():
        pytest.skip("what is served is made of what source built makes, and this checkout has another source")
    store = Store(store_root())
    go = golang.find(store)
    made, program = step(go, images.base()), programs.REGISTRY.step(go)
    Runner(store, Progress(Console())).run([made, program])
    files = store.path(made) / "registry"
    with (
        of_this_checkout() as upstream,
        registry(store.path(program) / "registry", files, folder, readonly=True) as address,
    ):
        yield Served(upstream, {name: f"{address}/{image}" for name, image in NAMES.items()})


@dataclass(frozen=True)
class Image:
    """Image of one layer, to be made in `scratch` and pushed as `name`; `configuration` is what its containers get."""

    scratch: Path
    name: str
    configuration: Mapping[str, object]

    @contextmanager
    def pushed(self, address: str) -> Iterator[Layer]:
        """Layer to be filled, which is then pushed to the registry at `address` with all that makes an image of it."""
        file = self.scratch / "layer.tar"
        with tarfile.open(file, "w") as tar:
            yield Layer(tar)
        repository, _, tag = self.name.rpartition(":")
        connection = http.client.HTTPConnection(address, timeout=60)
        layer = _push(connection, repository, file)
        image = {
            "architecture": "amd64",
            "os": "linux",
            "config": self.configuration,
            "rootfs": {"type": "layers", "diff_ids": [layer["digest"]]},
            "history": [{"created_by": Path(__file__).name}],
        }
        described = self.scratch / "image.json"
        described.write_text(json.dumps(image))
        media = "application/vnd.docker"
        manifest = {
            "schemaVersion": 2,
            "mediaType": f"{media}.distribution.manifest.v2+json",
            "config": {"mediaType": f"{media}.container.image.v1+json", **_push(connection, repository, described)},
            "layers": [{"mediaType": f"{media}.image.rootfs.diff.tar", **layer}],
        }
        headers = {"Content-Type": f"{media}.distribution.manifest.v2+json"}
        _ask(connection, "PUT", f"/v2/{repository}/manifests/{tag}", json.dumps(manifest).encode(), headers)
        file.unlink()


def _push(connection: http.client.HTTPConnection, repository: str, file: Path) -> dict[str, str | int]:
    """Push a blob. https://distribution.github.io/distribution/spec/api/#pushing-an-image"""
    with open(file, "rb") as content:
        digest = f"sha256:{hashlib.file_digest(content, 'sha256').hexdigest()}"
    started = _ask(connection, "POST", f"/v2/{repository}/blobs/uploads/")
    where = started.removeprefix(f"http://{connection.host}:{connection.port}")
    size = file.stat().st_size
    with open(file, "rb") as content:
        headers = {"Content-Length": str(size), "Content-Type": "application/octet-stream"}
        _ask(connection, "PUT", f"{where}{'&' if '?' in where else '?'}digest={digest}", content, headers)
    return {"size": size, "digest": digest}


def _ask(
    connection: http.client.HTTPConnection,
    method: str,
    path: str,
    body: bytes | IO[bytes] | None = None,
    headers: Mapping[str, str] | None = None,
) -> str:
    """Ask the registry; returns the answer's Location."""
    connection.request(method, path, body, dict(headers or {}))
    answer = connection.getresponse()
    text = answer.read().decode()
    assert 200 <= answer.status < 300, f"{method} {path}: {answer.status} {text}"
    return answer.headers.get("Location", "")
