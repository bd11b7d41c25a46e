"""A checkout that takes everything from upstream, on a machine without the internet: the stock way.

Tools come by a mirror, images by a registry, both filled by source built. `make` runs as a person would run it, in a
copy of the checkout with tools and a store of its own. What upstream serves is shaped as upstream's:
`upstream_images.py` says how far.
"""

import json
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from checks.live import LiveStack
from machine import kind
from tests.e2e import upstream_images
from tests.e2e.workspace import Workspace
from toolchain import golang, plan, source, versions
from toolchain.paths import CHECKOUT, store_root
from toolchain.steps import Store

# What both ways make alike is not made again: the test is about what comes from upstream.
OURS = ("gpu-sim", "gpu-probe", "mps-daemon", "dra-driver-chart", "c-compiler")


@dataclass(frozen=True)
class Site:
    """A checkout whose shell names a mirror and a registry, and no way to anything else of upstream's."""

    workspace: Workspace
    served: upstream_images.Served
    stack: str

    def make(self, *words: str) -> str:
        """Run `make` for the stack as a person would; returns what it printed."""
        return self.workspace.make(self.stack, *words)

    @property
    def images(self) -> dict[str, str]:
        return json.loads((self.workspace.root / ".tools" / "images.json").read_text())


@contextmanager
def site(folder: Path, stack: str, config: str) -> Iterator[Site]:
    """Such a checkout, with a stack's config, not set up; the stack is taken down at the end."""
    with upstream_images.served(folder) as served:
        workspace = Workspace.copy(CHECKOUT, folder / "checkout")
        (workspace.root / ".tools").unlink()
        workspace.write_stack(stack, config)
        own, store = folder / "store", Store(store_root())
        own.mkdir()
        steps = plan.stock(golang.find(store)).steps
        for step in {*steps, *(needed for each in steps for needed in each.needs)}:
            if step.name.startswith(OURS) and store.has(step):
                (own / store.path(step).name).symlink_to(store.path(step))
        # Without this checkout's tools.
        path = [entry for entry in os.environ["PATH"].split(os.pathsep) if not Path(entry).is_relative_to(CHECKOUT)]
        shell = {**served.shell, "DRA_WORKSHOP_CACHE": str(own), "PATH": os.pathsep.join(path)}
        made = Site(replace(workspace, shell=shell), served, stack)
        try:
            yield made
        finally:
            if (workspace.root / ".state" / ".pulumi").exists():
                made.workspace.take_down(stack)
            if (workspace.root / ".tools" / "images.json").exists():  # set-up came to its end
                served.remove(made.images["gpu-agents"])


def set_up(site: Site) -> None:
    """Set up, and assert that everything came from the mirror and the registry, and nothing twice."""
    printed = site.make("setup", "WITH=all")
    print(printed)
    assert "source: stock, because SOURCE=stock asks for it" in printed
    plugins = [f"pulumi-resource-{name}-v" for name, _ in source.PLUGINS]
    for name in ("pulumi-v", "kind-linux-amd64", "kubectl", *plugins):
        assert re.search(rf"^ *{name}\S*: [\d.]+ MB, ", printed, re.M), name
    named = dict(site.served.references)
    del named["python"]  # which is below the image of the agents
    assert {name: site.images[name] for name in named} == named
    assert site.images["gpu-agents"].startswith("localhost/dra-workshop/gpu-agents:v1-")
    asked = list(site.served.upstream.asked)
    assert "setup: everything is there" in site.make("setup")
    assert site.served.upstream.asked == asked


def assert_shaped_as_upstream(live: LiveStack) -> None:
    """Nodes are kind's own, and the driver's image has no shell but bash."""
    for node in kind.node_containers(live.settings.cluster_name):
        assert live.in_node(node, "cat", "/usr/local/bin/entrypoint").count("KIND_EXPERIMENTAL_CONTAINERD_SNAPSHOTTER")
        assert live.in_node(node, "cat", "/kind/version") == f"v{versions.KUBERNETES}"
    plugin = ("exec", "-n", "dra-driver-nvidia-gpu", "daemonset/dra-driver-nvidia-gpu-kubelet-plugin", "-c", "gpus")
    assert "GNU bash" in live.kubectl(*plugin, "--", "bash", "--version")
    assert '"/bin/sh": ' in live.kubectl_fails(*plugin, "--", "/bin/sh", "-c", "true")
