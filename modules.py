"""The workshop's modules: number, title, what each requires and what it builds.

The only place that knows their order. Components know no numbers, and a module that is switched off
registers nothing.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import pulumi

from components.cluster import Cluster, ExistingCluster
from components.dra_driver import DraDriver
from components.images import Images
from components.kind_cluster import NODE_DRIVER_ROOT, KindCluster
from components.simulated_gpus import SimulatedGpus
from components.workload import Workload

if TYPE_CHECKING:
    from settings import Settings

DEFAULT = ("00", "01", "02", "03")


@dataclass
class Built:
    """What the modules so far have made; a module reads what it requires and adds its own."""

    images: Images
    cluster: Cluster | None = None
    gpus: SimulatedGpus | None = None
    driver: DraDriver | None = None
    outputs: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Module:
    """One module of the workshop."""

    number: str
    slug: str
    title: str
    requires: tuple[str, ...]
    build: Callable[["Settings", Built], None]

    @property
    def name(self) -> str:
        """Its folder in manifests/ and its page in docs/."""
        return f"{self.number}-{self.slug}"


def _check_prerequisites(settings: "Settings", built: Built) -> None:
    # Imported here: the checks call the tools that they check, and nothing else needs them.
    import prerequisites

    prerequisites.require(settings, built.images)


def _build_cluster(settings: "Settings", built: Built) -> None:
    nodes = settings.gpu_nodes
    if settings.cluster.provider == "kind":
        cluster: Cluster = KindCluster(
            "cluster",
            cluster_name=settings.cluster_name,
            workers=settings.cluster.workers,
            gpu_nodes=[node.node for node in nodes],
            node_image=settings.cluster.node_image or built.images.node,
            kubeconfig_file=settings.kubeconfig,
            load_images=built.images.to_load,
            driver_root=settings.gpu.driver_root if settings.gpu.source == "host" else None,
            timeout_seconds=settings.timeouts.cluster,
        )
    else:
        cluster = ExistingCluster(
            "cluster",
            kubeconfig_file=settings.kubeconfig,
            context=settings.context,
            gpu_nodes=[node.node for node in nodes],
        )
    built.cluster = cluster
    if settings.gpu.source == "simulated":
        counts = {node.node: (node.model or "", node.count or 0) for node in nodes}
        built.gpus = SimulatedGpus("simulated-gpus", cluster=cluster, image=built.images.gpu_sim, gpus=counts)
    built.outputs |= {"cluster": settings.cluster_name, "kubeconfig": str(settings.kubeconfig)}


def _build_driver(settings: "Settings", built: Built) -> None:
    assert built.cluster, "module 02 requires 01"
    built.driver = DraDriver(
        "dra-driver",
        cluster=built.cluster,
        gpus=built.gpus,
        image=built.images.dra_driver,
        driver_root=driver_root(settings),
        feature_gates=settings.driver.feature_gates,
        log_verbosity=settings.driver.log_verbosity,
        expected_gpus={node.node: node.count or 0 for node in settings.gpu_nodes},
        timeout_seconds=settings.timeouts.driver,
    )
    built.outputs |= {"gpus": built.driver.gpus, "clusterUid": built.driver.cluster_uid}


def driver_root(settings: "Settings") -> str:
    """Where NVIDIA's driver is on a node."""
    if settings.gpu.source == "simulated":
        return SimulatedGpus.driver_root
    if settings.cluster.provider == "kind":
        return NODE_DRIVER_ROOT
    return settings.gpu.driver_root or "/"


def _build_workloads(settings: "Settings", built: Built) -> None:
    assert built.cluster, "module 03 requires 01"
    assert built.driver, "module 03 requires 02"
    Workload(
        "exclusive-gpu",
        manifests=MODULES["03"].name,
        cluster=built.cluster,
        driver=built.driver,
        image=built.images.gpu_probe,
        # Both on one node, so that the second waits for what the first holds, whatever other nodes have.
        node=settings.gpu_nodes[0].node,
        timeout_seconds=settings.timeouts.workload,
    )


MODULES = {
    module.number: module
    for module in (
        Module("00", "prerequisites", "Prerequisites", (), _check_prerequisites),
        Module("01", "cluster", "Cluster and GPUs", (), _build_cluster),
        Module("02", "dra-driver", "NVIDIA's DRA driver", ("01",), _build_driver),
        Module("03", "workloads", "Exclusive GPUs by claim", ("01", "02"), _build_workloads),
    )
}


def known(numbers: Iterable[str]) -> list[Module]:
    """The modules of `numbers`, in order, without what is no module."""
    wanted = set(numbers)
    return [module for number, module in MODULES.items() if number in wanted]


def in_order(numbers: Iterable[str]) -> tuple[str, ...]:
    """`numbers` in the order in which they are built."""
    return tuple(module.number for module in known(numbers))


def images_of(settings: "Settings") -> Images:
    """The images that the stack runs: those that set-up made, but for its own choices."""
    overrides = settings.images.model_dump(exclude_none=True)
    if settings.gpu.source == "host":
        overrides["gpu_sim"] = ""  # nothing runs it, so nothing has to load it
    return Images.made_by_setup(overrides)


def build(settings: "Settings", images: Images) -> dict[str, Any]:
    """Build the modules that are on, each after what it requires; returns the stack's outputs."""
    built = Built(images)
    for module in known(settings.modules):
        pulumi.log.debug(f"module {module.number}: {module.title}")
        module.build(settings, built)
    stack = "" if settings.stack == "phase1" else f" STACK={settings.stack}"
    return {**built.outputs, "modules": list(settings.modules), "next": f"make verify{stack}"}
