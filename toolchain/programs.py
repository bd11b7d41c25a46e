"""Recipes of the programs that are built from Go modules: module folder, packages, flags, measured build time.

The modules' go.mod and go.sum pin everything. Versions that show in a program's own `--version` are
set by the linker, because a module that is a dependency carries none.

A folder in PINS names an upstream program and its dependencies, and holds no source. Our programs are beside PINS, or
in `images/` if they run in a node or pod.
"""

import json
import re
import shutil
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path

from packaging.version import Version

from toolchain import elf, versions
from toolchain.golang import Go
from toolchain.paths import CHECKOUT, IMAGES
from toolchain.steps import Step, StepError, Work

PROGRAMS = CHECKOUT / "toolchain" / "go"
PINS = PROGRAMS / "pins"
# The linker leaves out what debuggers read (-s -w), so the compiler need not write it: 8 % of a build's processor time.
# It changes nothing of a program, so no step's key has it.
COMPILER_FLAGS = "-gcflags=all=-dwarf=false"


@dataclass(frozen=True)
class Edit:
    """A module of upstream's with one file changed, which a program is built with in its place.

    Only `packages`, folders of the module, are taken of it. Each of `changes` is a pattern, which has to be found, and
    what stands instead. Raises StepError if it is not.
    """

    module: str
    packages: tuple[str, ...]
    file: str
    changes: tuple[tuple[str, str], ...]

    def lay(self, source: Path, target: Path) -> None:
        """Write what is taken of the module's folder `source`, changed, into the folder `target`."""
        target.mkdir(parents=True)
        for name in ("go.mod", "go.sum"):
            shutil.copyfile(source / name, target / name)
        for package in self.packages:
            (target / package).mkdir(parents=True, exist_ok=True)
            for file in (source / package).iterdir():
                if file.is_file():
                    shutil.copyfile(file, target / package / file.name)  # without its mode: the cache is read-only
        text = (target / self.file).read_text(encoding="utf-8")
        for pattern, instead in self.changes:
            text, found = re.subn(pattern, instead, text, flags=re.MULTILINE)
            if not found:
                raise StepError(f"{self.module}: {self.file} has nothing like {pattern}; was its version changed?")
        (target / self.file).write_text(text, encoding="utf-8")


@dataclass(frozen=True)
class Program:
    """A Go module folder and the binaries that come out of it.

    `replacements` are the folders outside it that its go.mod names in a `replace`; `edit` is a module that it is built
    with changed.
    """

    name: str
    folder: Path
    packages: tuple[str, ...] = (".",)
    variables: Mapping[str, str] = field(default_factory=dict)
    tags: str = ""
    ldflags: str = "-s -w"
    cgo: bool = False
    env: Mapping[str, str] = field(default_factory=dict)
    rename: Mapping[str, str] = field(default_factory=dict)
    prepare: Callable[[Path, Go], None] | None = None
    finish: Callable[[Path, Go], None] | None = None
    replacements: tuple[Path, ...] = ()
    edit: Edit | None = None
    expected_seconds: int = 5

    def step(self, go: Go) -> Step:
        """Step that builds it with `go`."""
        flags: list[object] = [
            *(self.packages, dict(self.variables), self.tags, self.ldflags, self.cgo, dict(self.env)),
            *((asdict(self.edit),) if self.edit else ()),
        ]
        return Step(
            name=self.name,
            recipe=json.dumps([*flags, dict(self.rename), go.version], sort_keys=True),
            files=(self.folder, *self.replacements),
            needs=(*go.needs, elf.compiler()) if self.cgo else go.needs,
            build=lambda work: self._build(work, go),
            expected_seconds=self.expected_seconds,
            compiles=True,
        )

    def _build(self, work: Work, go: Go) -> None:
        # In a copy, so that what a recipe adds to the folder never lands in the checkout. Paths are those of the
        # checkout, so that a `replace` finds its folder.
        for folder in (self.folder, *self.replacements):
            shutil.copytree(folder, work.scratch / folder.relative_to(CHECKOUT))
        module = work.scratch / self.folder.relative_to(CHECKOUT)
        if self.prepare:
            self.prepare(module, go)
        if self.edit:
            changed = work.scratch / "edited"
            self.edit.lay(go.dependency(module, self.edit.module), changed)
            work.run(go.program, "mod", "edit", "-replace", f"{self.edit.module}={changed}", cwd=module, env=go.env)
        ldflags = " ".join([self.ldflags, *(f"-X {name}={value}" for name, value in self.variables.items())])
        work.run(
            *(go.program, "build", "-trimpath", "-buildvcs=false", COMPILER_FLAGS, "-ldflags", ldflags),
            *(("-tags", self.tags) if self.tags else ()),
            *("-o", f"{work.out}/", *self.packages),
            cwd=module,
            env={**go.env, "CGO_ENABLED": "1" if self.cgo else "0", **self.env},
        )
        if self.cgo:
            where = f"the image that it runs in ({versions.DEBIAN})"
            elf.require_glibc(work.out, versions.DEBIAN_GLIBC, where)
        for old, new in self.rename.items():
            (work.out / old).rename(work.out / new)
        if self.finish:
            self.finish(work.out, go)


def _embed_provider_schema(module: Path, go: Go) -> None:
    # Upstream's release process makes these two files from two that its module holds: compact, version set.
    source = go.module("github.com/pulumi/pulumi-kubernetes/provider/v4", versions.PULUMI_KUBERNETES_PROVIDER_MODULE)
    for name in ("schema", "terraform-mapping"):
        content = json.loads((source / "cmd/pulumi-resource-kubernetes" / f"{name}.json").read_text())
        if name == "schema":
            content["version"] = versions.PULUMI_KUBERNETES_PROVIDER
        (module / f"{name}-embed.json").write_text(json.dumps(content, separators=(",", ":")))


# The provider registers the objects of a chart or of YAML through this package of Pulumi's Go SDK, which imports the
# SDK's types of every kind of every version of Kubernetes for it: two thirds of all that is compiled for the provider.
# Nothing looks at their fields, so here each kind is registered by the same name as a resource without any.
_KINDS_WITHOUT_TYPES = Edit(
    "github.com/pulumi/pulumi-kubernetes/sdk/v4",
    tuple(f"go/kubernetes{folder}" for folder in ("", "/utilities", "/yaml/v2", "/helm/v4")),
    "go/kubernetes/yaml/v2/kinds.go",
    (
        (r'^\t(?:\w+ )?"github\.com/pulumi/pulumi-kubernetes/sdk/v4/go/kubernetes/.*"\n', ""),
        (r"\bvar res \w+\.\w+$", "var res pulumi.CustomResourceState"),
    ),
)


def _add_language_exec(out: Path, go: Go) -> None:
    # The host starts this script with the interpreter; the SDK's own version of it speaks the CLI's protocol.
    sdk = go.module("github.com/pulumi/pulumi/sdk/v3", f"v{versions.PULUMI}")
    script = out / "pulumi-language-python-exec"
    shutil.copy(sdk / "python/cmd/pulumi-language-python-exec", script)
    script.chmod(0o755)


def _kubernetes_variables(version: str) -> dict[str, str]:
    release = Version(version)
    # kubeadm refuses a version of its own that it cannot parse.
    values = {
        "gitVersion": f"v{version}",
        "gitMajor": str(release.major),
        "gitMinor": str(release.minor),
        "gitTreeState": "clean",
        "gitCommit": "unknown",
        "buildDate": "1970-01-01T00:00:00Z",
    }
    packages = ("k8s.io/component-base/version", "k8s.io/client-go/pkg/version")
    return {f"{package}.{name}": value for package in packages for name, value in values.items()}


PULUMI = (
    Program(
        "pulumi",
        PINS / "pulumi",
        ("github.com/pulumi/pulumi/pkg/v3/cmd/pulumi",),
        {"github.com/pulumi/pulumi/sdk/v3/go/common/version.Version": f"v{versions.PULUMI}"},
        expected_seconds=237,
    ),
    Program(
        "pulumi-language-python",
        PINS / "pulumi-language-python",
        ("github.com/pulumi/pulumi/sdk/v3/python/cmd/pulumi-language-python",),
        {"github.com/pulumi/pulumi/sdk/v3/go/common/version.Version": f"v{versions.PULUMI_LANGUAGE_PYTHON}"},
        finish=_add_language_exec,
        expected_seconds=20,
    ),
    Program(
        "pulumi-resource-kubernetes",
        PROGRAMS / "pulumi-resource-kubernetes",
        variables={
            "github.com/pulumi/pulumi-kubernetes/provider/v4/pkg/version.Version": versions.PULUMI_KUBERNETES_PROVIDER
        },
        prepare=_embed_provider_schema,
        edit=_KINDS_WITHOUT_TYPES,
        expected_seconds=120,
    ),
    Program(
        "pulumi-resource-command",
        PROGRAMS / "pulumi-resource-command",
        variables={"main.version": versions.PULUMI_COMMAND_PROVIDER},
        expected_seconds=30,
    ),
)

KIND = Program("kind", PINS / "kind", ("sigs.k8s.io/kind",), expected_seconds=10)


def _kubernetes(version: str) -> Program:
    name = versions.of_kubernetes("kubernetes", version)
    return Program(
        name,
        PINS / name,
        tuple(
            f"k8s.io/kubernetes/cmd/{program}"
            for program in (
                "kube-apiserver",
                "kube-controller-manager",
                "kube-proxy",
                "kube-scheduler",
                "kubeadm",
                "kubectl",
                "kubelet",
            )
        ),
        _kubernetes_variables(version),
        expected_seconds=420,
    )


KUBERNETES = {version: _kubernetes(version) for version in (versions.KUBERNETES, *versions.OLDER_KUBERNETES.values())}

NODE = (
    Program("etcd", PINS / "etcd", ("go.etcd.io/etcd/server/v3",), rename={"server": "etcd"}, expected_seconds=20),
    Program(
        "containerd",
        PINS / "containerd",
        tuple(
            f"github.com/containerd/containerd/v2/cmd/{name}"
            for name in ("containerd", "containerd-shim-runc-v2", "ctr")
        ),
        {"github.com/containerd/containerd/v2/version.Version": versions.CONTAINERD},
        tags="no_btrfs,no_devmapper,no_zfs,no_aufs,netgo,osusergo,static_build",
        expected_seconds=90,
    ),
    Program(
        "runc",
        PINS / "runc",
        ("github.com/opencontainers/runc",),
        {"main.version": versions.RUNC},
        tags="seccomp,netgo,osusergo",
        ldflags="-s -w -linkmode external -extldflags -static",
        cgo=True,
        expected_seconds=30,
    ),
    Program(
        "cni-plugins",
        PINS / "cni-plugins",
        tuple(
            f"github.com/containernetworking/plugins/plugins/{name}"
            for name in ("ipam/host-local", "main/bridge", "main/loopback", "main/ptp", "meta/portmap")
        ),
        {"github.com/containernetworking/plugins/pkg/utils/buildversion.BuildVersion": f"v{versions.CNI_PLUGINS}"},
        expected_seconds=10,
    ),
    Program(
        "cri-tools",
        PINS / "cri-tools",
        ("sigs.k8s.io/cri-tools/cmd/crictl",),
        {"sigs.k8s.io/cri-tools/pkg/version.Version": f"v{versions.CRICTL}"},
        expected_seconds=60,
    ),
    Program("coredns", IMAGES / "node" / "coredns", expected_seconds=60),
    Program("nodenet", IMAGES / "node" / "nodenet", expected_seconds=30),
    Program("pause", IMAGES / "node" / "pause", expected_seconds=3),
)


def _dra_driver(version: str, expected_seconds: int, replacements: tuple[Path, ...] = ()) -> Program:
    # ComputeDomains and the webhook are off, so only what runs is compiled.
    name = versions.of_driver("dra-driver-nvidia-gpu", version)
    return Program(
        name,
        PINS / name,
        (
            "sigs.k8s.io/dra-driver-nvidia-gpu/cmd/gpu-kubelet-plugin",
            "github.com/NVIDIA/nvidia-container-toolkit/cmd/nvidia-cdi-hook",
        ),
        {"sigs.k8s.io/dra-driver-nvidia-gpu/internal/info.version": f"v{version}"},
        cgo=True,
        # go-nvml leaves NVML's symbols to be found at run time, in the driver of the node.
        env={"CGO_CFLAGS": "-w", "CGO_LDFLAGS_ALLOW": "-Wl,--unresolved-symbols=ignore-in-object-files"},
        replacements=replacements,
        expected_seconds=expected_seconds,
    )


DRA_DRIVERS = {
    versions.DRA_DRIVER: _dra_driver(
        versions.DRA_DRIVER, expected_seconds=115, replacements=(PROGRAMS / "go-nvfm-stub",)
    ),
    versions.DRA_DRIVER_BEFORE: _dra_driver(versions.DRA_DRIVER_BEFORE, expected_seconds=110),
}

# The image's step has the name without an ending.
MPS_DAEMON = Program(
    "mps-daemon-program", IMAGES / "mps-daemon" / "src", variables={"main.version": "v1"}, expected_seconds=5
)

# Runs in the cluster: it lets nodes that are only objects be ready, and their pods run.
KWOK = Program(
    "kwok-program",
    PINS / "kwok",
    ("sigs.k8s.io/kwok/cmd/kwok",),
    {"sigs.k8s.io/kwok/pkg/consts.Version": f"v{versions.KWOK}"},
    expected_seconds=60,
)

# Runs in the cluster. Of the ways to find what to scrape it has the one that its configuration uses; the others bring
# the clients of a dozen clouds. Debian's package has no such program: it lacks that one.
PROMETHEUS = Program(
    "prometheus-program",
    PINS / "prometheus",
    ("github.com/prometheus/prometheus/cmd/prometheus",),
    {"github.com/prometheus/common/version.Version": versions.PROMETHEUS},
    tags="remove_all_sd,enable_kubernetes_sd",
    expected_seconds=120,
)

RUNC_BOUNDED = Program("runc-bounded", PROGRAMS / "runc-bounded", expected_seconds=3)

# Travels beside the bundle, for machines without zstd.
UNZSTD = Program("unzstd", PROGRAMS / "unzstd", expected_seconds=3)

# For the benchmark only: nothing else calls helm.
HELM = Program("helm", PINS / "helm", ("helm.sh/helm/v3/cmd/helm",), expected_seconds=120)

# For the end-to-end test of the stock way only: upstream's images come from it.
REGISTRY = Program("registry", PROGRAMS / "registry", expected_seconds=60)
