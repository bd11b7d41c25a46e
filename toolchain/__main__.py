"""Command line of the toolchain, for the Makefile: set-up, bundle, engine, store, helm, browser, images on request."""

import argparse
import os
import shutil
import sys
import time
from pathlib import Path

from rich.console import Console

from toolchain import debian, engine, golang, images, npm, optional, plan, programs, source, versions
from toolchain.bundle import archive, unpacked
from toolchain.paths import CHECKOUT, OPTIONAL_FILE, SOURCE_FILE, STATE, store_root
from toolchain.progress import Progress, duration
from toolchain.steps import Interrupted, Runner, StepError, Store

BROWSERS = ("chromium", "chromium-browser", "google-chrome")


def main() -> int:
    """Run the command that the arguments name; returns the exit code: 1 for a failed step, 130 for an interruption."""
    parser = argparse.ArgumentParser(prog="python -m toolchain", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    of_setup = commands.add_parser("setup", help="make or find what stacks need; does nothing the second time")
    commands.add_parser("stop-engine", help="stop the Docker Engine if `setup` started it")
    commands.add_parser("where", help="print where the shared store of finished steps is")
    commands.add_parser("vllm-image", help="make an image of vLLM from wheels, 8 GB, and print its name")
    of_node = commands.add_parser("node-image", help="make a node image with an older Kubernetes, and print its name")
    of_node.add_argument("kubernetes", choices=versions.OLDER_KUBERNETES, help="the version of Kubernetes")
    commands.add_parser("helm", help="build helm, for the benchmark, and print where it is")
    commands.add_parser(
        "browser", help="install a browser for the tests that look at report and diagrams, where that can be done"
    )
    bundle_options = commands.add_parser("bundle", help="write everything for a machine without a network to one file")
    bundle_options.add_argument("--out", type=Path, default=CHECKOUT / "dist", help="the folder to write to")
    bundle_options.add_argument("--piece-size", help="cut the file in pieces of so many bytes, such as 60M")
    for command in (of_setup, bundle_options):
        names = f"add what only some stacks run: {', '.join((*optional.NAMES, optional.ALL))}"
        command.add_argument("--with", dest="optional", action="append", default=[], help=names)
    bundle_options.add_argument("--level", type=int, default=archive.LEVEL, help="of Zstandard, 1 to 19")
    arguments = parser.parse_args()
    # What is made is read by other users: in images, in roots of mmdebstrap, in the bundle. Nothing of it is secret.
    os.umask(0o022)
    chosen = arguments.command
    console = Console(highlight=False, soft_wrap=True)
    try:
        if chosen == "setup":
            setup(console, arguments.optional)
        elif chosen == "bundle":
            make_bundle(console, arguments)
        elif chosen == "stop-engine":
            console.print(engine.stop())
        elif chosen == "browser":
            _browser(console)
        elif chosen == "vllm-image":
            instead = f"name upstream's image, {versions.VLLM_IMAGE}, which is the default where nodes can pull it"
            debian.require_root_filesystems("vllm-image", instead)
            store = Store(store_root())
            step = images.vllm()
            Runner(store, Progress(console)).run([step])
            console.print((store.path(step) / "ref").read_text())
        elif chosen == "node-image":
            console.print(node_image(console, arguments.kubernetes))
        elif chosen == "helm":
            store = Store(store_root())
            step = programs.HELM.step(golang.find(store))
            Runner(store, Progress(console)).run([step])
            console.print(str(store.path(step) / "helm"))
        else:
            console.print(str(store_root()))
    except (Interrupted, KeyboardInterrupt):
        console.print("interrupted: finished steps are kept, run the same command again to go on")
        return 130
    except StepError as error:
        console.print(f"[red]error:[/red] {error}", markup=True)
        return 1
    return 0


def setup(console: Console, words: list[str]) -> None:
    """Choose the source, bring up the engine, make what is missing, lay the links.

    `words` name what only some stacks run; it stays in this checkout.
    """
    started = time.monotonic()
    # SOURCE asks for another way than the bundle, on a machine that may have a network after all.
    if unpacked.here() and not os.environ.get("SOURCE"):
        unpacked.setup(console, optional.known(words))
        return
    _require_temporary_folder()
    store = Store(store_root())
    store.root.mkdir(parents=True, exist_ok=True)
    STATE.mkdir(mode=0o700, exist_ok=True)
    runner = Runner(store, Progress(console))
    asked = optional.recall(words, OPTIONAL_FILE)

    chosen = source.choose(os.environ.get("SOURCE"), SOURCE_FILE)
    overrides = "SOURCE=stock or SOURCE=built overrides, SOURCE=auto looks again"
    console.print(f"source: {chosen.way}, because {chosen.reason} ({overrides})")
    _require_packages(console, chosen.way, chosen.reason)
    go = golang.find(store)
    docker = _engine(console, runner, go)
    engine.refuse_snap(docker)
    if warning := engine.cgroup_warning(docker, chosen.way):
        console.print(f"[yellow]warning:[/yellow] {warning}", markup=True)

    wanted = optional.without(plan.stock(go) if chosen.way == "stock" else plan.built(go), asked)
    made = runner.run(wanted.steps)
    plan.lay(wanted, store)
    console.print(
        f"setup: {f'{len(made)} steps made' if made else 'everything is there'} in "
        f"{duration(time.monotonic() - started)}; Docker Engine {docker.version} (cgroup v{docker.cgroup_version}), "
        f"Kubernetes v{versions.NODE_KUBERNETES[chosen.way]}, NVIDIA DRA driver v{versions.DRA_DRIVER}"
    )
    for substitution in versions.SUBSTITUTIONS[chosen.way]:
        console.print(f"       DRA driver v{versions.DRA_DRIVER}: {substitution}")


def node_image(console: Console, kubernetes: str) -> str:
    """Make the node image with this one of OLDER_KUBERNETES, and return its reference."""
    debian.require_root_filesystems("node-image", f"kind's own is kindest/node:v{kubernetes}.<patch>")
    store = Store(store_root())
    step = images.node(golang.find(store), images.base(), versions.OLDER_KUBERNETES[kubernetes])
    Runner(store, Progress(console)).run([step])
    return (store.path(step) / "ref").read_text()


def make_bundle(console: Console, arguments: argparse.Namespace) -> None:
    """Make what is missing of a stack's needs and write the bundle; `make setup` has chosen the source before."""
    if unpacked.here():
        raise StepError("bundle: this is an unpacked bundle; make one from a checkout of the repository")
    piece_size = archive.parse_size(arguments.piece_size) if arguments.piece_size else None
    store = Store(store_root())
    go = golang.find(store)
    chosen = source.choose(None, SOURCE_FILE)
    debian.require_for_bundle()
    wanted = plan.stock(go) if chosen.way == "stock" else plan.built(go)
    wanted = optional.without(wanted, optional.known(arguments.optional))
    runner = Runner(store, Progress(console))
    runner.run(wanted.steps)
    archive.make(console, runner, go, wanted, chosen, archive.Shape(arguments.out, piece_size, arguments.level))


def _require_temporary_folder() -> None:
    """Refuse a TMPDIR that is not there: Python takes another folder then, Go and `mktemp` end in the middle."""
    folder = os.environ.get("TMPDIR", "")
    if folder and not os.access(folder, os.W_OK | os.X_OK):
        raise StepError(f"TMPDIR: {folder} is no folder that this user can write to; make it, or `unset TMPDIR`")


def _browser(console: Console) -> None:
    """Install Chromium, as root on Debian, and Mermaid for it, which draws the pages' diagrams.

    Elsewhere the tests that need a browser say so when they are skipped.
    """
    if unpacked.here():
        return
    if not any(map(shutil.which, BROWSERS)):
        if not (debian.is_debian() and os.geteuid() == 0):
            return
        console.print("browser: installing chromium, for the tests that look at report and diagrams")
        debian.install(["chromium"], store_root() / "logs" / "apt-browser.log")
    store = Store(store_root())
    Runner(store, Progress(console)).run([npm.mermaid(npm.find(store))])


def _require_packages(console: Console, way: source.Way, reason: str) -> None:
    """Install the compilers and packages that the steps call, or refuse with the names of all that are missing."""
    if way == "built" and not (debian.is_debian() and os.geteuid() == 0):
        raise StepError(
            f"source: built ({reason}) makes root filesystems of Debian packages, which needs root on Debian 12 or "
            "newer; run `make setup` there as root, or mend what is in the way of stock and look again (SOURCE=auto)"
        )
    if engine.debian_like():
        wanted = debian.BUILD_PACKAGES if way == "built" else debian.BUILD_PACKAGES[:3]
        if engine.to_install():
            wanted += engine.PACKAGES
        if not (missing := debian.missing_packages(wanted)):
            return
        if os.geteuid() != 0:
            raise StepError(f"packages: {', '.join(missing)} are missing; `sudo apt-get install {' '.join(missing)}`")
        console.print(f"packages: installing {', '.join(missing)}")
        debian.install(missing, store_root() / "logs" / "apt.log")
        return
    if lacking := debian.missing_for_compiling():
        raise StepError(f"packages: {', '.join(lacking)} missing; {debian.how_to_install_elsewhere()}")


def _engine(console: Console, runner: Runner, go: golang.Go) -> engine.Engine:
    """Find the Docker Engine, or start the installed one."""
    if docker := engine.find():
        return docker
    if os.geteuid() != 0 or not shutil.which("dockerd") or not engine.endpoint().is_default:
        raise StepError(engine.explain_missing())
    bounded: Path | None = None
    if engine.needs_bounded_runtime():
        step = programs.RUNC_BOUNDED.step(go)
        runner.run([step])
        bounded = runner.store.path(step) / "runc-bounded"
    docker = engine.start(bounded)
    console.print(f"docker: started Docker Engine {docker.version}; `make stop-engine` stops it")
    return docker


if __name__ == "__main__":
    # A pipe that closes early (`make setup | head`) is no failure of ours to explain with a traceback.
    try:
        sys.exit(main())
    except BrokenPipeError:
        sys.exit(1)
