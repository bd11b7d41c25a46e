"""Set-up from an unpacked bundle: no network, no compiler, no package of the machine's.

`bundle-python` has compared the files with the manifest and made .venv from the bundle's wheels before this runs.
"""

import json
import os
import shutil
import subprocess
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.console import Console

from toolchain import engine, plan, source, versions
from toolchain.bundle.check import BUNDLE, MANIFEST
from toolchain.paths import BIN, CHECKOUT, SOURCE_FILE, STATE, TOOLS
from toolchain.progress import duration
from toolchain.steps import StepError

ENGINE = CHECKOUT / BUNDLE / "engine"


def here() -> bool:
    """True if this checkout was unpacked from a bundle."""
    return (CHECKOUT / MANIFEST).is_file()


def setup(console: Console, asked: frozenset[str]) -> None:
    """Bring up the engine, load the images that it lacks, lay the links. `asked` is what a stack needs beside them."""
    started = time.monotonic()
    manifest = json.loads((CHECKOUT / MANIFEST).read_text())
    if absent := sorted(asked - set(manifest["images"])):
        raise StepError(
            f"images: this bundle was made without {', '.join(absent)}; make one with `make bundle "
            f'WITH="{" ".join(absent)}"`'
        )
    way = manifest["source"]
    chosen = source.Source(
        way, f"this is an unpacked bundle of source {way}, made from commit {manifest['commit'][:12]}"
    )
    console.print(f"source: bundle of {way}, commit {manifest['commit'][:12]} (SOURCE=stock or SOURCE=built overrides)")
    STATE.mkdir(mode=0o700, exist_ok=True)
    # The links of an earlier set-up are on PATH only after `activate`.
    os.environ["PATH"] = f"{os.environ['PATH']}:{BIN}"
    own_client = _needs_client()
    links = {TOOLS / link: CHECKOUT / BUNDLE / "tools" / link for link in manifest["links"]}
    if own_client:
        links[BIN / "docker"] = ENGINE / "bin" / "docker"
    plan.lay_links(links, manifest["images"])
    docker = engine.find() or _start(console)
    loaded = _load(console, manifest)
    SOURCE_FILE.write_text(json.dumps(asdict(chosen)) + "\n")
    console.print(
        f"setup: {f'{loaded} images loaded' if loaded else 'everything is there'} in "
        f"{duration(time.monotonic() - started)}; Docker Engine {docker.version} (cgroup v{docker.cgroup_version}), "
        f"Kubernetes v{manifest['versions']['kubernetes']}, NVIDIA DRA driver v{versions.DRA_DRIVER}"
    )
    for substitution in manifest["substitutions"]:
        console.print(f"       DRA driver v{versions.DRA_DRIVER}: {substitution}")


def _needs_client() -> bool:
    """True if `docker` on PATH is the bundle's, or there is none."""
    client = shutil.which("docker")
    return client is None or Path(client).absolute() == BIN / "docker"


def _start(console: Console) -> engine.Engine:
    """Start the machine's own engine if one is installed, else the bundle's."""
    if os.geteuid() != 0:
        raise StepError(explain_no_root())
    installed = shutil.which("dockerd")
    # The bundle's own, on the PATH of somebody who put it there, needs the bundle's libraries all the same.
    if installed and Path(installed).absolute() != ENGINE / "bin" / "dockerd":
        # Engines before 23 need the wrapper, and an own one is not asked for its version before it runs.
        docker = engine.start(ENGINE / "bin" / "runc-bounded" if engine.needs_bounded_runtime() else None)
    else:
        env = engine_env(choose_iptables())
        os.environ["PATH"] = f"{ENGINE / 'bin'}:{os.environ['PATH']}"  # where dockerd itself is looked for
        docker = engine.start(ENGINE / "bin" / "runc-bounded" if engine.needs_bounded_runtime() else None, env)
    console.print(f"docker: started Docker Engine {docker.version}; `make stop-engine` stops it")
    return docker


def explain_no_root() -> str:
    """Message for a machine where no engine answers and this user cannot start one: cause and remedy."""
    if shutil.which("dockerd") or Path("/run/docker.sock").exists():
        return engine.explain_missing()
    return (
        "docker: no Docker Engine answers and this user is not root; run `make up` as root, which starts the engine "
        "that the bundle brings, or have Docker Engine 20.10 or newer installed and let this user use it"
    )


def choose_iptables() -> Path | None:
    """Folder of an iptables that this kernel takes; None if the machine has one of its own."""
    if shutil.which("iptables"):
        return None
    refusals = []
    for kind in ("nft", "legacy"):
        folder = ENGINE / "iptables" / kind
        command = [folder / "iptables", "--table", "nat", "--list", "--numeric"]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode == 0:
            return folder
        refusals.append(f"{kind}: {(done.stderr.strip().splitlines() or [f'exit {done.returncode}'])[-1]}")
    raise StepError(
        f"iptables: this kernel offers neither nf_tables nor iptables' own tables ({'; '.join(refusals)}); "
        "load them (`modprobe nf_tables nft_compat` or `modprobe iptable_nat`) or use a kernel that has them"
    )


def engine_env(iptables: Path | None) -> dict[str, str]:
    """Environment in which dockerd finds its own programs and libraries first, and the machine's for the rest."""
    folders = [ENGINE / "bin", *([iptables] if iptables else [])]
    path = [*map(str, folders), os.environ["PATH"], "/usr/sbin", "/sbin"]
    return {"PATH": ":".join(path), "LD_LIBRARY_PATH": str(ENGINE / "lib")}


def _load(console: Console, manifest: dict[str, Any]) -> int:
    """Load the images that the engine lacks; returns how many."""
    listing = ["docker", "image", "ls", "--format", "{{.Repository}}:{{.Tag}}"]
    present = set(subprocess.run(listing, capture_output=True, text=True, check=True).stdout.split())
    missing = {name: ref for name, ref in manifest["images"].items() if ref not in present}
    for name, ref in missing.items():
        console.print(f"images: loading {name}")
        archive = CHECKOUT / BUNDLE / "images" / f"{name}.tar"
        done = subprocess.run(
            ["docker", "load", "--quiet", "--input", archive], capture_output=True, text=True, check=False
        )
        if done.returncode or ref not in done.stdout:
            raise StepError(f"images: {archive} does not load as {ref}: {(done.stderr or done.stdout).strip()}")
    return len(missing)
