"""Plan of what a checkout needs, by source: the steps to make and the links to lay once they are made."""

import os
import shutil
from dataclasses import dataclass
from pathlib import Path

from toolchain import filled_node, images, programs, source, versions
from toolchain.golang import Go
from toolchain.paths import BIN, CHART, IMAGES_FILE, PULUMI_HOME, TOOLS
from toolchain.steps import Step, Store, Work

KUBERNETES_PLUGIN, COMMAND_PLUGIN = source.PLUGINS


@dataclass(frozen=True)
class Plan:
    """Steps by what they are for."""

    tools: dict[Step, tuple[str, ...]]  # step -> the programs of it that go on PATH
    plugins: dict[tuple[str, str], Step]  # (name, version) -> step
    images: tuple[Step, ...]
    charts: dict[str, Step]  # version of NVIDIA's DRA driver -> step

    @property
    def steps(self) -> list[Step]:
        """All steps; those that only other steps need are not among them."""
        return [*self.tools, *self.plugins.values(), *self.images, *self.charts.values()]

    def links(self, store: Store) -> dict[Path, Path]:
        """Link -> target for everything but the images."""
        links = {
            CHART.with_name(versions.of_driver(CHART.name, version)): store.path(step) / "chart"
            for version, step in self.charts.items()
        }
        for step, names in self.tools.items():
            links |= {BIN / Path(name).name: store.path(step) / name for name in names}
        for (name, version), step in self.plugins.items():
            binary = f"pulumi-resource-{name}"
            links[PULUMI_HOME / "plugins" / f"resource-{name}-v{version}" / binary] = store.path(step) / binary
        return links

    def refs(self, store: Store) -> dict[str, str]:
        """Image name -> the reference that the engine knows it by."""
        return {step.name: (store.path(step) / "ref").read_text() for step in self.images}


def built(go: Go) -> Plan:
    """Plan of source built: everything from package registries."""
    cli, host, kubernetes, command = (program.step(go) for program in programs.PULUMI)
    base = images.base()
    node = images.node(go, base, versions.KUBERNETES)
    drivers = {version: images.dra_driver(go, base, version) for version in versions.DRA_DRIVERS}
    of_ours = (images.gpu_sim(go), images.gpu_probe(), images.mps_daemon(go), images.gpu_agents(images.python()))
    return Plan(
        tools={
            _beside_each_other("pulumi-with-host", (cli, host)): source.PULUMI_PROGRAMS,
            programs.KIND.step(go): ("kind",),
            programs.KUBERNETES[versions.KUBERNETES].step(go): ("kubectl",),
            **_go(go),
        },
        plugins={KUBERNETES_PLUGIN: kubernetes, COMMAND_PLUGIN: command},
        images=(
            node,
            *drivers.values(),
            *of_ours,
            images.kwok(go),
            images.prometheus(go),
            filled_node.step(node, (drivers[versions.DRA_DRIVER], *of_ours)),
        ),
        charts={version: images.chart(go, version) for version in versions.DRA_DRIVERS},
    )


def stock(go: Go) -> Plan:
    """Plan of source stock: upstream's tools, plugins and images; only our own images are built."""
    pulumi = source.stock_pulumi()
    return Plan(
        tools={
            pulumi: source.PULUMI_PROGRAMS,
            source.stock_kind(): ("kind",),
            source.stock_kubectl(): ("kubectl",),
            **_go(go),
        },
        plugins={plugin: source.stock_plugin(*plugin, pulumi) for plugin in (KUBERNETES_PLUGIN, COMMAND_PLUGIN)},
        images=(
            images.stock("node"),
            *(images.stock(versions.of_driver("dra-driver", version)) for version in versions.DRA_DRIVERS),
            images.gpu_sim(go),
            images.gpu_probe(),
            images.mps_daemon(go),
            images.gpu_agents(images.stock("python")),
            images.stock("kwok"),
        ),
        charts={version: images.chart(go, version) for version in versions.DRA_DRIVERS},
    )


def _beside_each_other(name: str, parts: tuple[Step, ...]) -> Step:
    """Step of several steps' programs in one folder: Pulumi looks for its language hosts beside its own file."""

    def build(work: Work) -> None:
        for part in parts:
            for program in work.need(part.name).iterdir():
                os.link(program, work.out / program.name)

    return Step(name, build, needs=parts)


def _go(go: Go) -> dict[Step, tuple[str, ...]]:
    """Tools of the plan where no Go was on PATH: ours goes there, since tests of our Go programs call it."""
    return dict.fromkeys(go.needs, ("go/bin/go",))


def lay(plan: Plan, store: Store) -> None:
    """Make `.tools` say what the plan says, and nothing else."""
    lay_links(plan.links(store), plan.refs(store))


def lay_links(links: dict[Path, Path], refs: dict[str, str]) -> None:
    """Make `.tools` hold these links (link -> target) and name these images (name -> reference), and nothing else."""
    for folder in (BIN, CHART.parent, PULUMI_HOME / "plugins"):
        for path in folder.rglob("*"):
            if path.is_symlink() and path not in links:
                path.unlink()
    for link, target in links.items():
        if link.is_symlink() and link.readlink() == target:
            continue
        link.parent.mkdir(parents=True, exist_ok=True)
        link.unlink(missing_ok=True)
        link.symlink_to(target)
    for plugin in (PULUMI_HOME / "plugins").glob("resource-*"):
        # Beside the folders, Pulumi keeps files that say when a plugin was last used.
        if plugin.is_dir() and not any(plugin.iterdir()):
            shutil.rmtree(plugin)
    TOOLS.mkdir(exist_ok=True)
    images.write_index(refs, IMAGES_FILE)
