"""Pinned versions: all in `toolchain/versions.py`, and the same as in the go.mod files and in the bootstrap script."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

from settings import catalog
from toolchain import versions
from toolchain.paths import CHECKOUT
from toolchain.programs import PINS

FOLDERS = ("toolchain", "components", "machine", "settings", "modules")
VERSIONS = Path("toolchain/versions.py")
NUMBER = r"(?:0|[1-9]\d*)"  # without a leading zero: "06.5" is a module
# A release of three or more numbers anywhere in a text, or a text that is a release of two.
RELEASE = re.compile(rf"(?<![\w.])v?{NUMBER}(?:\.{NUMBER}){{2,}}(?!\w)|\Av?{NUMBER}\.{NUMBER}(?:[-+][\w.]+)?\Z")
IMAGE = re.compile(r"(?:[\w.-]+/)+[\w.-]+(?::v?\d[\w.-]*|@sha256:)")
# (file, what its text holds) -> why that is no pin
ALLOWED = {
    ("machine/prerequisites.py", "20.10"): "the least Docker Engine that works",
    ("machine/prerequisites.py", "5.4"): "the least kernel that works",
    ("machine/cluster_prerequisites.py", "1.34"): "the release of Kubernetes that serves resource.k8s.io/v1 first",
    **{
        ("settings/catalog.py", since): "the release of Kubernetes that has a feature first"
        for since in ("1.34", "1.36", "1.37")
    },
    **{("settings/catalog.py", number): "the number of a module" for number in catalog.MODULES},
    ("toolchain/bundle/sbom.py", "1.6"): "the edition of CycloneDX that the document follows",
}


def texts(source: str) -> list[tuple[int, str]]:
    """(line, value) of every string constant but docstrings."""
    tree = ast.parse(source)
    blocks = (n for n in ast.walk(tree) if isinstance(n, ast.Module | ast.ClassDef | ast.FunctionDef))
    docstrings = {id(n.body[0].value) for n in blocks if n.body and isinstance(n.body[0], ast.Expr)}
    constants = (n for n in ast.walk(tree) if isinstance(n, ast.Constant) and id(n) not in docstrings)
    return [(n.lineno, n.value) for n in constants if isinstance(n.value, str)]


def pins(source: str) -> list[tuple[int, str]]:
    """(line, release or image reference) of everything in a Python source that looks like a pin."""
    return [
        (line, match[0]) for line, text in texts(source) for look in (RELEASE, IMAGE) for match in look.finditer(text)
    ]


def test_versions_are_pinned_in_one_file():
    misplaced = []
    for folder in FOLDERS:
        for file in sorted((CHECKOUT / folder).rglob("*.py")):
            name = file.relative_to(CHECKOUT)
            found = pins(file.read_text()) if name != VERSIONS else []
            misplaced += [f"{name}:{line}: {pin}" for line, pin in found if (str(name), pin) not in ALLOWED]
    assert misplaced == [], "a pinned version belongs into toolchain/versions.py; ALLOWED is for what is no pin"


@pytest.mark.parametrize(
    ("source", "pin"),
    [
        ('X = "4.25.0"', "4.25.0"),
        ('X = "v0.26.0"', "v0.26.0"),
        ('X = "26.3"', "26.3"),
        ('X = f"driver-{x} 0.5.0"', "0.5.0"),
        ('X = "docker.io/grafana/grafana:13.2"', "docker.io/grafana/grafana:13.2"),
        ('X = "python@sha256:"', None),
        ('X = "registry.k8s.io/pause@sha256:ab"', "registry.k8s.io/pause@sha256:"),
        ('X = "06.5"', None),
        ('X = "write registry/repository:tag"', None),
        ('X = "the licence Apache-2.0"', None),
        ('"""Since 4.8.3 it tells holders."""', None),
    ],
)
def test_pin_is_known_by_its_looks(source: str, pin: str | None):
    assert [found for _, found in pins(source)] == ([pin] if pin else [])


@pytest.mark.parametrize(
    ("folder", "module", "version"),
    [
        (PINS / "pulumi", "github.com/pulumi/pulumi/pkg/v3", versions.PULUMI),
        (PINS / "pulumi-language-python", "github.com/pulumi/pulumi/sdk/v3", versions.PULUMI_LANGUAGE_PYTHON),
        (PINS / "kind", "sigs.k8s.io/kind", versions.KIND),
        (PINS / "kubernetes", "k8s.io/kubernetes", versions.KUBERNETES),
        *(
            (PINS / versions.of_kubernetes("kubernetes", version), "k8s.io/kubernetes", version)
            for version in versions.OLDER_KUBERNETES.values()
        ),
        (PINS / "etcd", "go.etcd.io/etcd/server/v3", versions.ETCD),
        (PINS / "containerd", "github.com/containerd/containerd/v2", versions.CONTAINERD),
        (PINS / "runc", "github.com/opencontainers/runc", versions.RUNC),
        (PINS / "cni-plugins", "github.com/containernetworking/plugins", versions.CNI_PLUGINS),
        (PINS / "cri-tools", "sigs.k8s.io/cri-tools", versions.CRICTL),
        (PINS / "kwok", "sigs.k8s.io/kwok", versions.KWOK),
        # As a module its first number is 0, and the second has the first two: v0.313.5 is 3.13.5.
        (PINS / "prometheus", "github.com/prometheus/prometheus", f"0.{versions.PROMETHEUS.replace('.', '', 1)}"),
        (CHECKOUT / "images/node/coredns", "github.com/coredns/coredns", versions.COREDNS),
    ],
    ids=lambda value: value.name if isinstance(value, Path) else "",
)
def test_go_mod_asks_for_the_version_that_is_shown(folder: Path, module: str, version: str):
    lines = (folder / "go.mod").read_text().splitlines()
    words = (line.removeprefix("require").split() for line in lines if "=>" not in line)
    assert [line[1] for line in words if line[:1] == [module]] == [f"v{version}"]


def test_bootstrap_reads_the_version_of_uv():
    (line,) = (line for line in (CHECKOUT / "toolchain/bootstrap").read_text().splitlines() if "uv_version=" in line)
    command = f'{line}\nprintf %s "$uv_version"'
    done = subprocess.run(["sh", "-eu", "-c", command], cwd=CHECKOUT, capture_output=True, text=True, check=True)
    assert done.stdout == versions.UV


def test_every_version_of_the_driver_has_its_feature_gates():
    assert tuple(versions.DRA_DRIVER_FEATURE_GATES) == versions.DRA_DRIVERS
    for gates in versions.DRA_DRIVER_FEATURE_GATES.values():
        assert list(gates) == sorted(set(gates))


def test_versions_need_no_package():
    subprocess.run([sys.executable, "-I", "-S", CHECKOUT / VERSIONS], check=True)


@pytest.mark.parametrize("version", versions.DRA_DRIVERS)
def test_rules_of_the_drivers_gates_are_those_of_its_source(version: str):
    cache = subprocess.run(["go", "env", "GOMODCACHE"], capture_output=True, text=True, check=False).stdout.strip()
    source = Path(cache, f"sigs.k8s.io/dra-driver-nvidia-gpu@v{version}", "pkg/featuregates/featuregates.go")
    if not cache or not source.exists():
        pytest.skip("the driver's source is not in Go's module cache: source is stock")
    text = source.read_text()
    exclusive = re.findall(r"Enabled\((\w+)\) && Enabled\((\w+)\)", text)
    assert set(map(frozenset, exclusive)) == set(map(frozenset, versions.DRA_DRIVER_EXCLUSIVE_GATES))
    assert dict(re.findall(r"Enabled\((\w+)\) && !Enabled\((\w+)\)", text)) == versions.DRA_DRIVER_REQUIRED_GATES
    gates = dict(re.findall(r"^\t(\w+): \{\n\t\t\{\n\t\t\tDefault: +(\w+)", text, re.M))
    assert tuple(sorted(gates)) == versions.DRA_DRIVER_FEATURE_GATES[version]
    on = {gate for gate, default in gates.items() if default == "true"}
    assert on == set(versions.DRA_DRIVER_DEFAULT_GATES) & gates.keys()
