"""Ways to what is not ours: stock (upstream's own builds) or built (everything from packages).

Chosen once and recorded with the reason. Both ways end in the same links under `.tools`, so nothing
outside this package knows which one it was, but for the versions that it prints.
"""

import hashlib
import json
import platform
import shutil
import tarfile
import urllib.error
import urllib.request
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

from toolchain import versions
from toolchain.steps import Step, StepError, Work

Way = Literal["stock", "built"]
PROBES = (
    "https://get.pulumi.com/",
    "https://kind.sigs.k8s.io/",
    "https://dl.k8s.io/",
    "https://registry.k8s.io/v2/",
)
PROBE_SECONDS = 4


@dataclass(frozen=True)
class Source:
    """Way that was chosen, with its reason."""

    way: Way
    reason: str


def choose(wanted: str | None, recorded: Path) -> Source:
    """Source that SOURCE asks for, else the one recorded, else what this network allows."""
    if wanted:
        if wanted not in ("stock", "built"):
            raise StepError(f'SOURCE: "{wanted}" is neither stock nor built; use SOURCE=stock, SOURCE=built or none')
        source = Source("stock" if wanted == "stock" else "built", f"SOURCE={wanted} asks for it")
    elif recorded.exists():
        return Source(**json.loads(recorded.read_text()))
    else:
        source = _by_network()
    recorded.parent.mkdir(parents=True, exist_ok=True)
    recorded.write_text(json.dumps(asdict(source)) + "\n")
    return source


def _by_network() -> Source:
    for url in PROBES:
        try:
            urllib.request.urlopen(urllib.request.Request(url, method="HEAD"), timeout=PROBE_SECONDS).close()
        except urllib.error.HTTPError:
            continue  # it answered
        except (OSError, ValueError) as error:
            return Source("built", f"{url} cannot be reached ({getattr(error, 'reason', error)})")
    return Source("stock", "upstream's sites and registries answer")


def _download(work: Work, url: str, sha256_url: str, file_name: str = "") -> Path:
    """Fetch a file and compare it with the checksum that upstream publishes beside it."""
    target = work.scratch / (file_name or url.rpartition("/")[2])
    with urllib.request.urlopen(url, timeout=60) as answer, open(target, "wb") as out:
        shutil.copyfileobj(answer, out)
    with urllib.request.urlopen(sha256_url, timeout=60) as answer:
        lines = answer.read().decode().splitlines()
    listed = (line.split()[0] for line in lines if target.name in line or len(line.split()) == 1)
    if (expected := next(listed, None)) is None:
        raise StepError(f"{url}: upstream's {sha256_url} does not list it; try again later")
    actual = hashlib.sha256(target.read_bytes()).hexdigest()
    if actual != expected:
        raise StepError(f"{url}: its SHA-256 is {actual}, but upstream publishes {expected}; try again later")
    return target


def _architecture() -> tuple[str, str]:
    """This machine's architecture in the words of Go and of Pulumi."""
    machine = platform.machine()
    return {"x86_64": ("amd64", "x64"), "aarch64": ("arm64", "arm64")}.get(machine, (machine, machine))


def _binary(name: str, version: str, url: str) -> Step:
    def build(work: Work) -> None:
        binary = _download(work, url, f"{url}.sha256" if "k8s.io/release" in url else f"{url}.sha256sum", name)
        binary.chmod(0o755)
        shutil.move(binary, work.out / name)

    return Step(f"stock-{name}", build, f"{version} {url}", expected_seconds=10)


def stock_kind() -> Step:
    """Step of upstream's kind."""
    goarch, _ = _architecture()
    return _binary("kind", versions.KIND, f"https://kind.sigs.k8s.io/dl/v{versions.KIND}/kind-linux-{goarch}")


def stock_kubectl() -> Step:
    """Step of upstream's kubectl."""
    goarch, _ = _architecture()
    url = f"https://dl.k8s.io/release/v{versions.KUBERNETES}/bin/linux/{goarch}/kubectl"
    return _binary("kubectl", versions.KUBERNETES, url)


def stock_pulumi() -> Step:
    """Step of upstream's Pulumi CLI with its Python language host."""
    _, arch = _architecture()
    base = "https://get.pulumi.com/releases/sdk"

    def build(work: Work) -> None:
        archive = _download(
            work,
            f"{base}/pulumi-v{versions.PULUMI}-linux-{arch}.tar.gz",
            f"{base}/pulumi-{versions.PULUMI}-checksums.txt",
        )
        with tarfile.open(archive) as tar:
            tar.extractall(work.scratch, filter="data")
        for program in (work.scratch / "pulumi").iterdir():
            shutil.move(program, work.out / program.name)

    return Step("stock-pulumi", build, versions.PULUMI, expected_seconds=30)


def stock_plugin(name: str, version: str, pulumi: Step) -> Step:
    """Step of a provider plugin, installed by upstream's CLI."""

    def build(work: Work) -> None:
        cli = work.need(pulumi.name) / "pulumi"
        home = work.scratch / "home"
        work.run(cli, "plugin", "install", "resource", name, version, env={"PULUMI_HOME": str(home)})
        binary = home / "plugins" / f"resource-{name}-v{version}" / f"pulumi-resource-{name}"
        shutil.move(binary, work.out / binary.name)

    return Step(f"stock-pulumi-resource-{name}", build, version, needs=(pulumi,), expected_seconds=30)
