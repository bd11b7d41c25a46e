"""Steps of the images: what goes into the build context of each Dockerfile in `images/`.

Images carry the key of their content in the tag, so a changed image has a new name and a stack that
runs the old one shows the difference in its preview.
"""

import json
import os
import platform
import re
import shutil
import subprocess
import tarfile
import tempfile
import time
from collections.abc import Callable
from functools import cache
from pathlib import Path

from toolchain import debian, elf, programs, pypi, versions
from toolchain.golang import Go
from toolchain.paths import IMAGES
from toolchain.steps import Step, StepError, Work

PREFIX = "localhost/dra-workshop"
CONTAINERD_SECONDS = 30
STOCK_AGENTS = IMAGES / "gpu-agents" / "stock.Dockerfile"
FROM = re.compile(r"^FROM (\S+)$", re.MULTILINE)
IMAGE_MIRROR = "DRA_WORKSHOP_IMAGE_MIRROR"
IMAGE_OVERRIDES = "DRA_WORKSHOP_IMAGES"
# https://pkg.go.dev/github.com/distribution/reference has the grammar; the engine has the last word.
REFERENCE = re.compile(r"[a-z0-9][a-zA-Z0-9._-]*(:\d+)?(/[a-z0-9._-]+)*(:[\w.-]+)?(@sha256:[0-9a-f]{64})?")
# The image below our agents is the one that their Dockerfile names.
STOCK = {
    "node": versions.STOCK_NODE_IMAGE,
    **{
        versions.of_driver("dra-driver", version): f"{versions.STOCK_DRA_DRIVER_REPOSITORY}:v{version}"
        for version in versions.DRA_DRIVERS
    },
    "python": FROM.findall(STOCK_AGENTS.read_text())[0],
    "kwok": versions.STOCK_KWOK_IMAGE,
}


def image_step(
    name: str,
    version: str,
    fill: Callable[[Work, Path], None],
    needs: tuple[Step, ...],
    expected_seconds: int,
    shared: tuple[Path, ...] = (),
    folder: str = "",
) -> Step:
    """Step of an image built from `images/<folder>/Dockerfile`.

    `fill` adds to the build context what the folder does not hold, and reads `shared`, files of other images.
    `folder` is the name, where it is not given.
    """
    source = IMAGES / (folder or name)
    separate = go_programs(source)

    def build(work: Work) -> None:
        context = work.scratch / "context"
        shutil.copytree(source, context, ignore=lambda at, names: {n for n in names if Path(at, n) in separate})
        fill(work, context)
        ref = f"{PREFIX}/{source.name}:{version}-{work.step.key}"
        _docker_build(work, context, context / "Dockerfile", ref)
        (work.out / "ref").write_text(ref)

    return Step(name, build, version, (source, *shared), needs, expected_seconds, present=is_there, without=separate)


def go_programs(folder: Path) -> tuple[Path, ...]:
    """Folders of Go programs beside a Dockerfile. Each is a step of its own, and the image gets its binary only."""
    return tuple(sorted(file.parent for file in folder.rglob("go.mod")))


def is_there(path: Path) -> bool:
    """True if the image that a step's folder names is in the engine."""
    return (path / "ref").is_file() and (path / "ref").read_text() in docker_images()


@cache
def docker_images() -> frozenset[str]:
    """Tags that the engine had when it was first asked."""
    listed = subprocess.run(
        ["docker", "image", "ls", "--format", "{{.Repository}}:{{.Tag}}"], capture_output=True, text=True, check=True
    )
    return frozenset(listed.stdout.split())


def _docker_build(work: Work, context: Path, dockerfile: Path, ref: str, *args: str) -> None:
    # An attestation makes an index of the image on containerd's store, which `docker save` and kind take for images of
    # further platforms. Only buildx reads this variable; the older builder knows no option for it.
    env = {"BUILDX_NO_DEFAULT_ATTESTATIONS": "1"}
    _let_all_read(context)
    work.run("docker", "build", "-t", ref, "-f", dockerfile, *args, context, env=env)


def _let_all_read(context: Path) -> None:
    """Let every user read a build context's files, and run its programs.

    An image has the modes that its context has, which in a checkout of a user with umask 077 are for that user only;
    containers run as users of their own.
    """
    for path in (context, *context.rglob("*")):
        if not path.is_symlink():
            mode = path.stat().st_mode
            path.chmod(mode | (0o555 if path.is_dir() or mode & 0o100 else 0o444))


def _copy(sources: list[Path], folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for source in sources:
        shutil.copy(source, folder)


def node(go: Go, base: Step, version: str) -> Step:
    """Step of the node image with this version of Kubernetes: systemd, the kubelet, containerd, and the control plane's
    images in its store.

    Etcd, CoreDNS and what else is no part of Kubernetes are the same for every version.
    """
    kubernetes, control_plane = programs.KUBERNETES[version].step(go), _control_plane(go, base, version)
    rootfs = debian.root_filesystem("rootfs-node", debian.NODE_PACKAGES, expected_seconds=35)
    needs = (kubernetes, *(p.step(go) for p in programs.NODE), rootfs, control_plane)

    def fill(work: Work, context: Path) -> None:
        of_kubernetes, containerd = work.need(kubernetes.name), work.need("containerd")
        shutil.copy(work.need("rootfs-node") / "rootfs.tar", context)
        _copy([of_kubernetes / name for name in ("kubeadm", "kubelet", "kubectl")], context / "bin")
        _copy([*containerd.iterdir(), work.need("runc") / "runc"], context / "local-bin")
        _copy([work.need("cri-tools") / "crictl"], context / "local-bin")
        _copy(list(work.need("cni-plugins").iterdir()), context / "cni")
        shutil.copytree(work.need(control_plane.name) / "containerd", context / "containerd")
        config = context / "files/etc/containerd/config.toml"
        config.write_text(config.read_text().replace("@PAUSE@", versions.PAUSE[version]))
        wants = context / "files/etc/systemd/system/multi-user.target.wants"
        wants.mkdir()
        for unit in ("containerd.service", "kubelet.service"):
            (wants / unit).symlink_to(f"/etc/systemd/system/{unit}")
        (context / "files/etc/systemd/system/default.target").symlink_to("/lib/systemd/system/multi-user.target")
        # A container has no hardware to settle, no logins and no package updates of its own.
        for unit in ("systemd-udevd.service", "systemd-logind.service", "getty.target", "apt-daily.timer"):
            (context / "files/etc/systemd/system" / unit).symlink_to("/dev/null")
        (context / "files/kind/version").write_text(f"v{version}\n")

    name = versions.of_kubernetes("node", version)
    return image_step(name, f"v{version}", fill, needs, expected_seconds=30, folder="node")


def _control_plane(go: Go, base: Step, version: str) -> Step:
    """Step of a containerd store with the images that kubeadm starts in a node, so that no node has to pull them."""
    components, kubernetes = IMAGES / "node" / "components", programs.KUBERNETES[version].step(go)

    def build(work: Work) -> None:
        refs = _control_plane_refs(work, work.need(kubernetes.name) / "kubeadm", version)
        shutil.copytree(components, work.scratch / "components")
        archive = _save_components(work, work.scratch / "components", work.need(kubernetes.name), refs)
        _import(work, work.need("containerd"), archive, work.out / "containerd", refs)

    wanted = ("etcd", "containerd", "coredns", "nodenet", "pause")
    needs = (kubernetes, *(p.step(go) for p in programs.NODE if p.name in wanted), base)
    name = versions.of_kubernetes("control-plane-images", version)
    return Step(name, build, PREFIX, (components,), needs, expected_seconds=25)


def _control_plane_refs(work: Work, kubeadm: Path, version: str) -> dict[str, str]:
    """References that kubeadm will ask the node's runtime for, by the image's last path element."""
    listed = work.run(kubeadm, "config", "images", "list", f"--kubernetes-version=v{version}")
    refs = {ref.rpartition(":")[0].rpartition("/")[2]: ref for ref in listed.decode().split()}
    pause = versions.PAUSE[version]
    if not refs["pause"].endswith(f":{pause}"):
        raise StepError(
            f"node: kubeadm {version} asks for {refs['pause']}, but versions.PAUSE has {pause} for it; set it to that"
        )
    refs["nodenet"] = f"{PREFIX}/nodenet:v1"
    return refs


def _save_components(work: Work, folder: Path, kubernetes: Path, refs: dict[str, str]) -> Path:
    """Build the images that run inside a node and save them to one archive; no tag of theirs stays behind."""
    sources = {name: kubernetes / name for name in refs if name.startswith("kube-")}
    sources |= {name: work.need(name) / name for name in ("etcd", "coredns", "pause", "nodenet")}
    shutil.copy(work.need("rootfs-base") / "rootfs.tar", folder)
    tags = []
    for name, source in sources.items():
        shutil.copy(source, folder)
        own = folder / f"{name}.Dockerfile"
        tags.append(_component_tag(name))
        dockerfile = own if own.exists() else folder / "control-plane.Dockerfile"
        _docker_build(work, folder, dockerfile, tags[-1], "--build-arg", f"PROGRAM={name}")
        (folder / source.name).unlink()
    archive = work.scratch / "components.tar"
    work.run("docker", "save", "-o", archive, *tags)
    work.run("docker", "image", "rm", *tags)
    shutil.rmtree(folder)
    return archive


def _component_tag(name: str) -> str:
    return f"{PREFIX}/build/{name}:latest"


def _import(work: Work, binaries: Path, archive: Path, root: Path, refs: dict[str, str]) -> None:
    """Put the archive's images into a containerd store at `root`, under the names that kubeadm uses."""
    with tempfile.TemporaryDirectory(prefix="containerd-") as short:  # a socket's path has to be short
        config, socket = Path(short) / "config.toml", Path(short) / "c.sock"
        config.write_text(
            f'version = 3\nroot = "{root}"\nstate = "{short}/state"\n'
            'disabled_plugins = ["io.containerd.cri.v1.images", "io.containerd.cri.v1.runtime", '
            '"io.containerd.grpc.v1.cri", "io.containerd.nri.v1.nri"]\n'
            f'[grpc]\n  address = "{socket}"\n'
        )
        server = subprocess.Popen(
            [binaries / "containerd", "--config", config], stdout=work.log, stderr=work.log, start_new_session=True
        )
        with work.runner.watching(server):
            try:
                ctr = (binaries / "ctr", "--address", socket, "--namespace", "k8s.io")
                _wait_for(socket, server)
                pinned = "io.cri-containerd.pinned=pinned"  # the kubelet's image collector must leave them
                work.run(*ctr, "images", "import", "--no-unpack", f"--label={pinned}", archive)
                for name, ref in refs.items():
                    work.run(*ctr, "images", "tag", _component_tag(name), ref)
                work.run(*ctr, "images", "rm", *(_component_tag(name) for name in refs))
            finally:
                server.terminate()
                server.wait()
    archive.unlink()


def _wait_for(socket: Path, server: subprocess.Popen) -> None:
    deadline = time.monotonic() + CONTAINERD_SECONDS
    while not socket.exists():
        if server.poll() is not None or time.monotonic() > deadline:
            raise StepError("node: the containerd that fills the image's store did not start; see the step's log")
        time.sleep(0.1)  # between two looks at a condition that is bounded above


def dra_driver(go: Go, base: Step, version: str) -> Step:
    """Step of the image of NVIDIA's DRA driver, built from its Go module, with its own templates and start script."""
    program = programs.DRA_DRIVERS[version].step(go)
    busybox = debian.root_filesystem("rootfs-busybox", debian.BUSYBOX_PACKAGES, expected_seconds=10, only_extract=True)

    def fill(work: Work, context: Path) -> None:
        module = go.module("sigs.k8s.io/dra-driver-nvidia-gpu", f"v{version}")
        shutil.copy(work.need("rootfs-base") / "rootfs.tar", context)
        _copy(list(work.need(program.name).iterdir()), context / "bin")
        with tarfile.open(work.need("rootfs-busybox") / "rootfs.tar") as archive:
            member = archive.extractfile("./bin/busybox")
            assert member is not None  # a file, not a folder
            # By this name it is no other of its programs.
            (context / "bin" / "wget").write_bytes(member.read())
        (context / "bin" / "wget").chmod(0o755)
        _copy([module / "hack/kubelet-plugin-prestart.sh"], context)
        _copy(list((module / "templates").iterdir()), context / "templates")

    name = versions.of_driver("dra-driver", version)
    return image_step(name, f"v{version}", fill, (program, base, busybox), expected_seconds=10, folder="dra-driver")


def gpu_sim(go: Go) -> Step:
    """Step of the image of the simulated driver root and of the program that installs it on a node."""

    def fill(work: Work, context: Path) -> None:
        header = go.module("github.com/NVIDIA/go-nvml", versions.GO_NVML) / "pkg/nvml"
        options = (f"NVML_INCLUDE={header}", f"DRIVER_VERSION={versions.SIMULATED_DRIVER}")
        _make_in_place(work, context, *options)
        # The dynamic ones are mounted into containers, among them those of NVIDIA's driver and of our agents.
        elf.require_glibc(context / "root", versions.DEBIAN_GLIBC, f"the images that they run in ({versions.DEBIAN})")

    version = f"{versions.SIMULATED_DRIVER}-simulated"
    return image_step("gpu-sim", version, fill, (*go.needs, elf.compiler()), expected_seconds=10)


def gpu_probe() -> Step:
    """Step of the workload image, which reports what a container can see of its GPUs."""

    def fill(work: Work, context: Path) -> None:
        _make_in_place(work, context)
        # It has a copy of the C library that it was linked with.
        elf.require_glibc(context / "root", elf.own_glibc(), "its image, by this machine's own C library,")

    return image_step("gpu-probe", "v1", fill, (elf.compiler(),), expected_seconds=5)


def mps_daemon(go: Go) -> Step:
    """Step of the image of the MPS daemon's supervisor, on what NVIDIA's programs need of a root filesystem."""
    program = programs.MPS_DAEMON.step(go)
    probe = IMAGES / "gpu-probe"

    def fill(work: Work, context: Path) -> None:
        _make_in_place(work, context, f"PROBE={probe}")
        _copy([work.need(program.name) / "mps-daemon"], context / "root/usr/bin")
        elf.require_glibc(context / "root", elf.own_glibc(), "its image, by this machine's own C library,")

    version = programs.MPS_DAEMON.variables["main.version"]
    needs = (program, elf.compiler())
    return image_step("mps-daemon", version, fill, needs, expected_seconds=5, shared=(probe / "Makefile",))


def kwok(go: Go) -> Step:
    """Step of the image of KWOK, from its Go module."""
    program = programs.KWOK.step(go)

    def fill(work: Work, context: Path) -> None:
        _copy([work.need(program.name) / "kwok"], context)

    return image_step("kwok", f"v{versions.KWOK}", fill, (program,), expected_seconds=5)


def gpu_agents(python: Step) -> Step:
    """Step of the image of gpu-exporter, taint-keeper and gpu-holders, on `python`: a root filesystem, or upstream's
    image of Python.
    """

    def fill(work: Work, context: Path) -> None:
        base = work.need(python.name)
        if (base / "rootfs.tar").is_file():
            shutil.copy(base / "rootfs.tar", context)
        else:
            text = (context / STOCK_AGENTS.name).read_text()
            (context / "Dockerfile").write_text(FROM.sub(f"FROM {(base / 'ref').read_text()}", text))
        for compiled in (_install_wheels(work, context) / "box").glob("*.so"):
            compiled.unlink()  # 26 MB with their debug information; the same modules lie beside them in Python

    return image_step("gpu-agents", "v1", fill, (python,), expected_seconds=30)


def prometheus(go: Go) -> Step:
    """Step of the image of Prometheus, from its Go module: its API, without the pages that npm makes."""
    program = programs.PROMETHEUS.step(go)

    def fill(work: Work, context: Path) -> None:
        _copy([work.need(program.name) / "prometheus"], context)

    return image_step("prometheus", f"v{versions.PROMETHEUS}", fill, (program,), expected_seconds=5)


def vllm() -> Step:
    """Step of the image of vLLM from wheels, with CUDA's libraries as wheels too, and Triton's C compiler. 8 GB."""
    base = debian.root_filesystem("rootfs-vllm", debian.VLLM_PACKAGES, expected_seconds=60, only_extract=True)

    def fill(work: Work, context: Path) -> None:
        shutil.copy(work.need(base.name) / "rootfs.tar", context)
        _install_wheels(work, context)

    return image_step("vllm", versions.VLLM, fill, (base,), expected_seconds=540)


def _install_wheels(work: Work, context: Path) -> Path:
    """Fill the context's folder `packages` with the wheels of its requirements.lock, for the image's own Python."""
    packages = context / "packages"
    pypi.install(
        *(work, "--target", packages),
        *("--python-version", versions.DEBIAN_PYTHON, "--python-platform", f"{platform.machine()}-manylinux_2_36"),
        *("--only-binary", ":all:", "--no-deps", "--require-hashes", "--requirements", context / "requirements.lock"),
    )
    return packages


def _make_in_place(work: Work, context: Path, *options: str) -> None:
    work.run("make", "-C", context, f"OUT={work.scratch / 'made'}", *options)
    shutil.copytree(work.scratch / "made", context, dirs_exist_ok=True, symlinks=True)


def chart(go: Go, version: str) -> Step:
    """Step of the Helm chart of NVIDIA's DRA driver, from the driver's own Go module."""

    def build(work: Work) -> None:
        module = go.module("sigs.k8s.io/dra-driver-nvidia-gpu", f"v{version}")
        source = module / "deployments/helm/dra-driver-nvidia-gpu"
        shutil.copytree(source, work.out / "chart", copy_function=shutil.copyfile)

    name = versions.of_driver("dra-driver-chart", version)
    return Step(name, build, version, needs=go.needs, expected_seconds=3)


def overrides() -> dict[str, str]:
    """References that DRA_WORKSHOP_IMAGES names in place of upstream's, by the names of their steps.

    Raises `StepError` for anything but words such as node=registry.example.com/node:tag.
    """
    chosen = {}
    for word in os.environ.get(IMAGE_OVERRIDES, "").split():
        name, _, reference = word.partition("=")
        if name not in STOCK:
            raise StepError(f'{IMAGE_OVERRIDES}: "{word}" names none of {", ".join(STOCK)}; write <name>=<reference>')
        if not REFERENCE.fullmatch(reference):
            raise StepError(
                f'{IMAGE_OVERRIDES}: "{reference}" of {name} is no image reference; write registry/repository:tag, '
                "or a digest in place of the tag"
            )
        chosen[name] = reference
    return chosen


def stock(name: str) -> Step:
    """Step of the image of upstream's of this name in STOCK, by the reference that the environment gives it."""
    return pulled(name, overrides().get(name) or mirrored(STOCK[name]))


def mirrored(reference: str) -> str:
    """Reference that an upstream image is pulled by: its own, or that of a mirror with a path for each registry.

    Raises `StepError` for a mirror that is no start of a reference.
    """
    mirror = os.environ.get(IMAGE_MIRROR, "").rstrip("/")
    if not mirror:
        return reference
    if not re.fullmatch(r"[a-z0-9.-]+(:\d+)?(/[a-z0-9._-]+)*", mirror):
        raise StepError(
            f'{IMAGE_MIRROR}: "{mirror}" is no start of an image reference; write a registry and perhaps a path, such '
            "as registry.example.com/mirror"
        )
    registry = reference.partition("/")[0]
    # Docker's own rule: a first part without a dot or a colon is a path on Docker Hub.
    has_registry = "/" in reference and (registry == "localhost" or "." in registry or ":" in registry)
    return f"{mirror}/{reference if has_registry else f'docker.io/{reference}'}"


def pulled(name: str, reference: str) -> Step:
    """Step of an upstream image, pulled by the Docker Engine."""

    def build(work: Work) -> None:
        try:
            work.run("docker", "pull", reference)
        except subprocess.CalledProcessError as error:
            words = Path(work.log.name).read_text(errors="replace").strip().splitlines()
            raise StepError(
                f"{reference}: the Docker Engine cannot pull it ({words[-1] if words else error}); the engine has "
                "proxies, mirrors and authorities of its own, as docs/reference/how-it-is-built.md says; "
                f"set those, or {IMAGE_MIRROR}, or {IMAGE_OVERRIDES}, or use SOURCE=built"
            ) from error
        (work.out / "ref").write_text(reference)
        # A tag can be moved; this is what it was when it was pulled.
        digests = work.run("docker", "image", "inspect", "--format", '{{join .RepoDigests "\\n"}}', reference)
        (work.out / "digest").write_bytes(digests)

    def present(path: Path) -> bool:
        if not (path / "digest").is_file():
            return False
        inspect = ["docker", "image", "inspect", "--format", '{{join .RepoDigests "\\n"}}', reference]
        told = subprocess.run(inspect, capture_output=True, check=False)
        # Another digest under the same tag is another image, and set-up says so by making the step again.
        return told.returncode == 0 and told.stdout.split() == (path / "digest").read_bytes().split()

    return Step(name, build, reference, expected_seconds=60, present=present)


def base() -> Step:
    """Step of the small Debian below kube-proxy and NVIDIA's driver."""
    return debian.root_filesystem("rootfs-base", debian.BASE_PACKAGES, expected_seconds=40)


def python() -> Step:
    """Step of the Python below our own programs in the cluster."""
    return debian.root_filesystem(
        "rootfs-python", debian.PYTHON_PACKAGES, expected_seconds=15, only_extract=True, more_hooks=debian.PYTHON_HOOKS
    )


def write_index(refs: dict[str, str], file: Path) -> None:
    """Record which image the stack is to use for each name."""
    file.write_text(json.dumps(refs, indent=2, sort_keys=True) + "\n")
