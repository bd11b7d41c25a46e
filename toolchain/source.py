"""Ways to what is not ours: stock (upstream's own builds) or built (everything from packages).

Chosen once and recorded with the reason. Both ways end in the same links under `.tools`, so nothing
outside this package knows which one it was, but for the versions that it prints.
"""

import json
import os
import platform
import shutil
import tarfile
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

from toolchain import download, versions
from toolchain.steps import Step, StepError, Work

Way = Literal["stock", "built"]
# The node image, the image below our agents, and NVIDIA's driver are pulled from these.
REGISTRIES = ("https://registry-1.docker.io/v2/", "https://registry.k8s.io/v2/")
PROBE_SECONDS = 4
PULUMI_SITE = "https://get.pulumi.com/releases/sdk"
PLUGINS = (
    ("kubernetes", versions.PULUMI_KUBERNETES_PROVIDER),
    ("command", versions.PULUMI_COMMAND_PROVIDER),
)
PULUMI_PROGRAMS = ("pulumi", "pulumi-language-python", "pulumi-language-python-exec")


@dataclass(frozen=True)
class Source:
    """Way that was chosen, with its reason."""

    way: Way
    reason: str


def choose(wanted: str | None, recorded: Path) -> Source:
    """Source that SOURCE asks for, else the one recorded, else what this machine and network allow (SOURCE=auto)."""
    if wanted in ("stock", "built"):
        source = Source("stock" if wanted == "stock" else "built", f"SOURCE={wanted} asks for it")
    elif wanted not in (None, "", "auto"):
        raise StepError(
            f'SOURCE: "{wanted}" is neither stock nor built; use SOURCE=stock, SOURCE=built, SOURCE=auto or none'
        )
    elif recorded.exists() and wanted != "auto":
        return Source(**json.loads(recorded.read_text()))
    else:
        source = _by_machine_and_network()
    recorded.parent.mkdir(parents=True, exist_ok=True)
    recorded.write_text(json.dumps(asdict(source)) + "\n")
    return source


def sites() -> tuple[str, ...]:
    """Addresses that stock needs an answer from: files, so that what they redirect to has to answer too."""
    plugins = (_plugin_url(*plugin) for plugin in PLUGINS)
    return (_pulumi_url(), _kind_url(), _kubectl_url(), *plugins, *REGISTRIES)


def _by_machine_and_network() -> Source:
    if cgroup_version() == 1:
        return Source(
            "built", "this machine has cgroup v1, on which upstream's node image starts some containers twice"
        )
    wanted = sites()
    with ThreadPoolExecutor(len(wanted)) as pool:
        failed = [reason for reason in pool.map(lambda url: download.answers(url, PROBE_SECONDS), wanted) if reason]
    if failed:
        return Source("built", f"{len(failed)} of {len(wanted)} addresses do not answer: {'; '.join(failed)}")
    return Source("stock", "upstream's sites and registries answer")


def cgroup_version(root: Path = Path("/sys/fs/cgroup")) -> int:
    """Version of this machine's cgroup hierarchy; a hybrid one is 1."""
    return 2 if (root / "cgroup.controllers").exists() else 1


def _download(work: Work, url: str, checksums_url: str) -> Path:
    """Fetch a file into the step's scratch folder and compare it with upstream's checksum, with progress."""
    target = work.scratch / url.rpartition("/")[2]
    progress, began = work.runner.progress, time.monotonic()
    download.fetch(
        url,
        checksums_url,
        target,
        download.Watcher(
            report=lambda received, expected, speed: progress.note(
                work.step.name, download.speed_text(received, expected, speed)
            ),
            interrupted=lambda: work.interrupted,
        ),
    )
    size, seconds = target.stat().st_size, time.monotonic() - began
    checked = f"SHA-256 as {download.address(checksums_url)} has it"
    work.log.write(f"{download.address(url)}: {size} bytes, {checked}\n".encode())
    progress.line(f"{target.name}: {download.speed_text(size, None, size / max(seconds, 1e-6))}")
    return target


def _extract(archive: Path, folder: str, out: Path) -> None:
    """Copy the regular files right below `folder` of a tar archive; links, devices and other paths are left aside.

    Python knows `extractall(filter=...)` since 3.11.4, and Debian 12's own is 3.11.2.
    """
    with tarfile.open(archive) as tar:
        for member in tar:
            path = Path(member.name)
            content = tar.extractfile(member) if member.isreg() else None
            if content is None or path.parent != Path(folder):
                continue
            with content, open(out / path.name, "wb") as target:
                shutil.copyfileobj(content, target)
            (out / path.name).chmod(0o755 if member.mode & 0o100 else 0o644)


def _architecture() -> tuple[str, str]:
    """This machine's architecture in the words of Go and of Pulumi."""
    machine = platform.machine()
    return {"x86_64": ("amd64", "x64"), "aarch64": ("arm64", "arm64")}.get(machine, (machine, machine))


def _binary(name: str, version: str, url: str, checksum_ending: str) -> Step:
    def build(work: Work) -> None:
        binary = _download(work, url, f"{url}{checksum_ending}")
        binary.chmod(0o755)
        shutil.move(binary, work.out / name)

    return Step(f"stock-{name}", build, f"{version} {url}", expected_seconds=10)


def _kind_url() -> str:
    goarch, _ = _architecture()
    return f"https://kind.sigs.k8s.io/dl/v{versions.KIND}/kind-linux-{goarch}"


def stock_kind() -> Step:
    """Step of upstream's kind."""
    return _binary("kind", versions.KIND, _kind_url(), ".sha256sum")


def _kubectl_url() -> str:
    goarch, _ = _architecture()
    return f"https://dl.k8s.io/release/v{versions.KUBERNETES}/bin/linux/{goarch}/kubectl"


def stock_kubectl() -> Step:
    """Step of upstream's kubectl."""
    return _binary("kubectl", versions.KUBERNETES, _kubectl_url(), ".sha256")


def _pulumi_url() -> str:
    _, arch = _architecture()
    return f"{PULUMI_SITE}/pulumi-v{versions.PULUMI}-linux-{arch}.tar.gz"


def stock_pulumi() -> Step:
    """Step of upstream's Pulumi CLI with its Python language host."""

    def build(work: Work) -> None:
        archive = _download(work, _pulumi_url(), f"{PULUMI_SITE}/pulumi-{versions.PULUMI}-checksums.txt")
        _extract(archive, "pulumi", work.out)
        for name in PULUMI_PROGRAMS:
            if not os.access(work.out / name, os.X_OK):
                raise StepError(
                    f"{_pulumi_url()}: pulumi/{name} is not in the archive; upstream has changed its layout, so use "
                    "SOURCE=built or the version before"
                )

    return Step("stock-pulumi", build, f"{versions.PULUMI} {_pulumi_url()}", expected_seconds=30)


def _plugin_url(name: str, version: str) -> str:
    """Address of a plugin's archive, the first that Pulumi's own CLI asks for a plugin of upstream's."""
    goarch, _ = _architecture()
    file = f"pulumi-resource-{name}-v{version}-linux-{goarch}.tar.gz"
    return f"https://github.com/pulumi/pulumi-{name}/releases/download/v{version}/{file}"


def stock_plugin(name: str, version: str, pulumi: Step) -> Step:
    """Step of a provider plugin, installed by upstream's CLI from the archive of its release.

    The CLI could download it by itself, but waits for ever for a server that stalls, and takes what it gets unless it
    is told a checksum.
    """
    url = _plugin_url(name, version)

    def build(work: Work) -> None:
        archive = _download(work, url, f"{url.rpartition('/')[0]}/pulumi-{name}_{version}_checksums.txt")
        cli = work.need(pulumi.name) / "pulumi"
        home = work.scratch / "home"
        env = {"PULUMI_HOME": str(home), "PULUMI_SKIP_UPDATE_CHECK": "true"}
        work.run(cli, "plugin", "install", "resource", name, version, "--file", archive, env=env)
        binary = home / "plugins" / f"resource-{name}-v{version}" / f"pulumi-resource-{name}"
        if not binary.is_file():
            raise StepError(f"{url}: {binary.name} is not in the archive; use SOURCE=built or the version before")
        shutil.move(binary, work.out / binary.name)

    return Step(f"stock-pulumi-resource-{name}", build, f"{version} {url}", needs=(pulumi,), expected_seconds=30)
