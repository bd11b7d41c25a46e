"""The workshop's modules: number, title, what each requires and what it builds.

The only place that knows their order. Components know no numbers, and a module that is switched off
registers nothing.
"""

import json
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import pulumi
from pulumi import Input, Output

import capacity
import changes
import host_gpus
import vllm_memory
from components.admin_access import AdminAccess
from components.cluster import Cluster, ExistingCluster
from components.consumable_capacity import SharedByMemory, SharedGpuPolicy, memory_quantity, mps_size
from components.dra_driver import DraDriver
from components.gpu_exporter import DCGM_EXPORTER_IMAGE, GpuExporter
from components.images import Images
from components.kind_cluster import KindCluster
from components.manifests import MANIFESTS
from components.mps_clients import Limits, MpsByClaim, MpsSharing
from components.mps_daemon import MpsDaemon
from components.mps_policy import MpsPolicy
from components.prometheus import GRAFANA_IMAGE, PROMETHEUS_IMAGE, Prometheus
from components.simulated_gpus import SimulatedGpus
from components.taint_keeper import TaintKeeper
from components.vllm import NODE_ENVIRONMENT, NODE_MODEL, VLLM_IMAGE, Environment, Model, Resources, VllmServer
from components.workload import Workload
from gpu_models import GpuModel, model_of
from host_driver import Mount
from host_gpus import HostGpu, HostGpus
from loadgen.plan import PROFILES
from mps_limits import VLLM_CLASS, context_mib, granted_multiprocessors, mib_quantity, quantity_mib

if TYPE_CHECKING:
    from settings import Settings
    from settings.blocks import Mps, MpsLimits

# Those that set-up makes none of; their components know which are meant.
UPSTREAM_IMAGES = ("dcgm_exporter", "prometheus", "grafana", "vllm")
DEFAULT = ("00", "01", "02", "03", "04", "05")


@dataclass
class Built:
    """What the modules so far have made; a module reads what it requires and adds its own."""

    images: Images
    cluster: Cluster | None = None
    gpus: SimulatedGpus | None = None
    driver: DraDriver | None = None
    exclusive: Workload | None = None
    sharing: MpsSharing | None = None
    shared: Workload | None = None
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

    @property
    def check_file(self) -> str:
        """The file of its checks in tests/e2e/."""
        return f"test_{re.sub('[-.]', '_', self.name)}.py"


def _check_prerequisites(settings: "Settings", built: Built) -> None:
    # Imported here: the checks call the tools that they check, and nothing else needs them.
    import prerequisites

    for finding in prerequisites.require(settings, built.images):
        pulumi.log.warn(f"{finding.name}: {finding.seen}; {finding.remedy}")


def host(settings: "Settings") -> HostGpus | None:
    """What this machine has of GPUs, where they are the stack's; None where they are simulated or other nodes'."""
    if settings.gpu.source != "host" or settings.cluster.provider != "kind":
        return None
    return host_gpus.discover(settings.gpu.driver_root, settings.gpu.devices)


def gpu_model(settings: "Settings") -> GpuModel | None:
    """The model of the first GPU node's GPUs, also of the host's where it is a known one."""
    found = host(settings)
    if found is None or not found.published:
        return settings.gpu_model
    return model_of(found.published[0].name)


def _build_cluster(settings: "Settings", built: Built) -> None:
    nodes, found = settings.gpu_nodes, host(settings)
    if found:
        # Module 00 may be off, and a node without a driver would only be found out by the plugin.
        found.require()
        built.outputs["host"] = found.outputs
    if settings.cluster.provider == "kind":
        cluster: Cluster = KindCluster(
            "cluster",
            cluster_name=settings.cluster_name,
            workers=settings.cluster.workers,
            gpu_nodes=[node.node for node in nodes],
            node_image=settings.cluster.node_image or built.images.node,
            kubeconfig_file=settings.kubeconfig,
            load_images=[*built.images.to_load, *_vllm_to_load(settings)],
            timeout_seconds=settings.timeouts.cluster,
            mounts=[*(found.mounts if found else ()), *_vllm_mounts(settings)],
            hidden_devices=found.hidden_devices if found else (),
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
    found = host(settings)
    count = len(found.published) if found else 0
    built.driver = DraDriver(
        "dra-driver",
        cluster=built.cluster,
        gpus=built.gpus,
        image=built.images.dra_driver,
        driver_root=driver_root(settings),
        version=settings.driver.version,
        feature_gates=feature_gates(settings),
        consumable_shares=None if settings.consumable_shares == "disabled" else settings.consumable_shares,
        log_verbosity=settings.driver.log_verbosity,
        expected_gpus={node.node: node.count or count for node in settings.gpu_nodes},
        timeout_seconds=settings.timeouts.driver,
        only_gpus=[gpu.uuid for gpu in found.chosen] if found and found.others else [],
    )
    built.outputs |= {
        "gpus": built.driver.gpus,
        "clusterUid": built.driver.cluster_uid,
        "driver": {"version": settings.driver.version, "consumableShares": settings.consumable_shares},
    }


def feature_gates(settings: "Settings") -> dict[str, bool]:
    """The gates of NVIDIA's driver: those that the modules need, and the stack's own choices over them."""
    gates = {}
    if "04" in settings.modules:
        # MPS by claim keeps the driver from dynamic MIG and consumable shares, so it is on only where it is used.
        gates = {"MPSSupport": True} if settings.mps.mode == "claim" else {}
        # Whenever a claim ends, it sets compute mode and time slice of the claim's GPUs, whoever set them otherwise.
        if settings.gpu.source == "simulated" or settings.gpu.allow_compute_mode_change:
            gates["TimeSlicingSettings"] = True
    if settings.consumable_shares != "disabled":
        gates["ConsumableShares"] = True
    if "09" in settings.modules:
        gates["NVMLDeviceHealthCheck"] = True
    return {**gates, **settings.driver.feature_gates}


def driver_root(settings: "Settings") -> str:
    """Where NVIDIA's driver is on a node."""
    if settings.gpu.source == "simulated":
        return SimulatedGpus.driver_root
    if found := host(settings):
        return found.driver.node_root
    return settings.gpu.driver_root or "/"


def _gpu(settings: "Settings", built: Built, module: str) -> Input[str]:
    """The UUID of the first node's GPU that a module uses."""
    assert built.driver, "GPUs are published by module 02"
    number, known = settings.place(module), _host_gpu(settings, module)
    if known:
        return known.uuid
    return settings.gpu_uuid(number) or built.driver.uuid(settings.gpu_nodes[0].node, number)


def _host_gpu(settings: "Settings", module: str) -> HostGpu | None:
    """The GPU of the host that a module uses; None where it is not known before it is published."""
    found = host(settings)
    # By the names that NVIDIA's driver gives them.
    gpus = sorted(found.published, key=lambda gpu: f"gpu-{gpu.minor}") if found else []
    return gpus[settings.place(module)] if settings.place(module) < len(gpus) else None


def _build_workloads(settings: "Settings", built: Built) -> None:
    assert built.cluster, "module 03 requires 01"
    assert built.driver, "module 03 requires 02"
    built.exclusive = Workload(
        "exclusive-gpu",
        manifests=MODULES["03"].name,
        cluster=built.cluster,
        driver=built.driver,
        image=built.images.gpu_probe,
        # Both want the same GPU, so that the second waits for what the first holds, whatever else is free.
        node=settings.gpu_nodes[0].node,
        gpu=_gpu(settings, built, "03"),
        timeout_seconds=settings.timeouts.workload,
    )


def _limits(block: "Mps | MpsLimits") -> Limits:
    per_device = getattr(block, "per_device_pinned_memory_limit", {})
    return Limits(block.active_thread_percentage, block.pinned_device_memory_limit, per_device)


def _build_mps(settings: "Settings", built: Built) -> None:
    assert built.cluster, "module 04 requires 01"
    assert built.driver, "module 04 requires 02"
    limits = _limits(settings.mps)
    classes = {name: _limits(own) for name, own in settings.mps.classes.items()}
    if "06" in settings.modules:
        classes[VLLM_CLASS] = Limits(settings.vllm.active_thread_percentage, settings.vllm_limit)
    if settings.mps.mode == "daemon":
        built.sharing = MpsDaemon(
            "mps-daemon",
            cluster=built.cluster,
            driver=built.driver,
            image=built.images.mps_daemon,
            limits=limits,
            classes=classes,
            nodes=[node.node for node in settings.gpu_nodes],
            simulated=built.gpus.digest if built.gpus else None,
            most_memory=None if (most := _most_memory_mib(settings, built)) is None else mps_size(most),
            manifests=MODULES["04"].name if settings.cluster.provider == "kind" else None,
            claimed_memory=mib_quantity(settings.shared_claim_mib) if settings.shared_claim_mib else None,
            timeout_seconds=settings.timeouts.workload,
        )
    else:
        built.sharing = MpsByClaim(limits, classes, simulated=settings.gpu.source == "simulated")
        if settings.gpu.source == "host":
            pulumi.log.warn(changes.COMPUTE_MODE)
    built.shared = Workload(
        "shared-gpu",
        manifests=MODULES["04"].name,
        cluster=built.cluster,
        driver=built.driver,
        image=built.images.gpu_probe,
        node=settings.gpu_nodes[0].node,
        gpu=_gpu(settings, built, "04"),
        sharing=built.sharing,
        timeout_seconds=settings.timeouts.workload,
    )
    built.outputs["mps"] = mps_outputs(settings)


def mps_outputs(settings: "Settings") -> dict[str, Any]:
    """What the limits mean on the first node's GPU model; a preview shows how they change."""
    mps, model = settings.mps, gpu_model(settings)
    outputs: dict[str, Any] = {
        "mode": mps.mode,
        "activeThreadPercentage": mps.active_thread_percentage,
        "pinnedDeviceMemoryLimit": mps.effective_memory_limit,
        "classes": {name: _limits(own).words for name, own in sorted(mps.classes.items())},
    }
    if model is not None:
        granted = granted_multiprocessors(model, mps.active_thread_percentage)
        context = context_mib(granted)
        free = quantity_mib(mps.effective_memory_limit) - context
        outputs["grantedMultiprocessors"] = f"{granted} of {model.multiprocessors} ({model.key})"
        outputs["memoryLeftForAClient"] = f"{free} MiB, after the {context} MiB of its context"
    return outputs


def _build_mps_limits(settings: "Settings", built: Built) -> None:
    assert built.cluster, "module 05 requires 01"
    assert built.driver, "module 05 requires 02"
    assert built.sharing and built.shared, "module 05 requires 04"
    policy = MpsPolicy(
        "mps-policy",
        cluster=built.cluster,
        manifests=MODULES["05"].name,
        limits=built.sharing.limits,
        classes=built.sharing.classes,
        pipe="node" if settings.mps.mode == "daemon" else "claim",
        most_memory_mib=_most_memory_mib(settings, built),
    )
    Workload(
        "limited-client",
        manifests=MODULES["05"].name,
        cluster=built.cluster,
        driver=built.driver,
        image=built.images.gpu_probe,
        node=settings.gpu_nodes[0].node,
        sharing=built.sharing,
        after=[built.shared],
        depends_on=policy.objects,
        timeout_seconds=settings.timeouts.workload,
    )


def _requests(settings: "Settings", built: Built) -> dict[str, Input[int]]:
    """MiB that each claim of module 07 requests. Another cluster's GPU is known once it is published."""
    assert built.driver, "GPUs are published by module 02"
    texts = settings.consumable_capacity.requests.model_dump(exclude_none=True)
    chosen = {name: quantity_mib(text) for name, text in texts.items()}
    taken = settings.shared_claim_mib or 0
    known = settings.gpu_model or _host_gpu(settings, "07")
    if known and known.memory_mib:
        return dict(capacity.requests(chosen, known.memory_mib - taken))
    memory = built.driver.memory_mib(settings.gpu_nodes[0].node, settings.place("07"))
    found = memory.apply(lambda mib: capacity.requests(chosen, mib - taken))
    return {name: found.apply(lambda sizes, name=name: sizes[name]) for name in capacity.EIGHTHS}


def _most_memory_mib(settings: "Settings", built: Built) -> Input[int] | None:
    """The most memory that a client of MPS may get where some get what they request; None elsewhere."""
    if "07" not in settings.modules or not settings.capacity_enforced:
        return None
    sizes = [quantity_mib(settings.mps.pinned_device_memory_limit), *_requests(settings, built).values()]
    known = [size for size in sizes if isinstance(size, int)]
    return max(known) if len(known) == len(sizes) else Output.all(*sizes).apply(max)


def _build_capacity(settings: "Settings", built: Built) -> None:
    assert built.cluster, "module 07 requires 01"
    assert built.driver, "module 07 requires 02"
    requests = _requests(settings, built)
    daemon = built.sharing if isinstance(built.sharing, MpsDaemon) and settings.capacity_enforced else None
    # Without consumable shares a claim has the whole GPU, whatever it requests: the others wait.
    waiting = ("waiting",) if settings.consumable_shares != "disabled" else ("medium", "large", "waiting")
    policy = SharedGpuPolicy("shared-gpus-policy", cluster=built.cluster, manifests=MODULES["07"].name)
    Workload(
        "shared-gpus",
        manifests=MODULES["07"].name,
        cluster=built.cluster,
        driver=built.driver,
        image=built.images.gpu_probe,
        node=settings.gpu_nodes[0].node,
        gpu=_gpu(settings, built, "07"),
        sharing=SharedByMemory(requests, daemon, waiting),
        # The one that waits must not be there before module 04's clients have their part.
        after=[built.shared] if built.shared else [],
        depends_on=policy.objects,
        timeout_seconds=settings.timeouts.workload,
    )
    built.outputs["consumableCapacity"] = {
        "consumableShares": settings.consumable_shares,
        "enforcement": "mps" if daemon else "none",
        "requests": {name: memory_quantity(size) for name, size in requests.items()},
    }


def vllm_image(settings: "Settings") -> str:
    """The image for the GPU's compute capability where the stack has one, else the one for any."""
    model = gpu_model(settings)
    found = settings.vllm.images.get(model.cuda_compute_capability) if model else None
    return found or settings.images.vllm or VLLM_IMAGE


def _vllm_to_load(settings: "Settings") -> list[str]:
    """vLLM's image, where a Kind cluster cannot pull it, since it is only on this machine."""
    image = vllm_image(settings) if "06" in settings.modules else ""
    return [image] if image.startswith("localhost/") else []


def _vllm_mounts(settings: "Settings") -> list[Mount]:
    """The folders of this machine that vLLM reads, for the GPU nodes of a Kind cluster."""
    folders = ((settings.vllm.model.path, NODE_MODEL), (settings.vllm.python_environment, NODE_ENVIRONMENT))
    return [Mount(path, node) for path, node in folders if path and "06" in settings.modules]


def _vllm_utilization(settings: "Settings", built: Built) -> Input[str]:
    """gpu_memory_utilization under the limit of MPS. Another cluster's GPU is known once it is published."""
    assert built.driver, "GPUs are published by module 02"
    limit, model = quantity_mib(settings.vllm_limit), gpu_model(settings)
    if model:
        granted = granted_multiprocessors(model, settings.vllm.active_thread_percentage)
        return vllm_memory.utilization(limit, granted, model.memory_mib - model.reserved_memory_mib)
    memory = built.driver.memory_mib(settings.gpu_nodes[0].node, settings.place("04"))
    return memory.apply(lambda total: vllm_memory.utilization(limit, None, total))


def _build_vllm(settings: "Settings", built: Built) -> None:
    assert built.cluster, "module 06 requires 01"
    assert built.sharing and built.shared, "module 06 requires 04"
    vllm, chosen, on_kind = settings.vllm, settings.vllm.model, settings.cluster.provider == "kind"
    folder = vllm.python_environment
    model = Model(
        served_name=settings.vllm_model_name,
        dummy=json.dumps(settings.vllm_dummy, indent=2) + "\n" if settings.vllm_dummy else None,
        path=NODE_MODEL if chosen.path and on_kind else chosen.path,
        claim=chosen.claim,
        hub=chosen.hub,
        revision=chosen.revision,
    )
    utilization = _vllm_utilization(settings, built)
    VllmServer(
        "vllm",
        manifests=MODULES["06"].name,
        cluster=built.cluster,
        image=vllm_image(settings),
        node=settings.gpu_nodes[0].node,
        sharing=built.sharing,
        model=model,
        utilization=utilization,
        max_model_len=vllm.max_model_len,
        resources=Resources(vllm.cpu, vllm.memory, vllm.startup_seconds),
        extra_args=vllm.extra_args,
        claims=built.shared.claims,
        depends_on=built.shared.objects,
        environment=Environment(folder, NODE_ENVIRONMENT if on_kind else folder) if folder else None,
        cache_claim=vllm.cache_claim,
        timeout_seconds=settings.timeouts.workload,
    )
    built.outputs["vllm"] = {
        "model": model.served_name,
        # Random weights: what it writes means nothing, and the one who reads its figures has to know.
        "weights": "dummy" if model.dummy else "real",
        "activeThreadPercentage": vllm.active_thread_percentage,
        "pinnedDeviceMemoryLimit": settings.vllm_limit,
        "gpuMemoryUtilization": utilization,
        "service": "vllm.mps.svc.cluster.local:8000",
    }


def _build_vllm_sweep(settings: "Settings", built: Built) -> None:
    """Nothing lasts of it: the checks make the Job that measures."""
    assert built.outputs["vllm"], "module 06.5 requires 06"
    sweep = settings.vllm.sweep
    plan = PROFILES[sweep.profile]
    built.outputs["vllmExperiment"] = {
        "profile": sweep.profile,
        "percentages": list(sweep.percentages or plan.alone),
        "repeats": sweep.repeats or plan.repeats,
    }


def _build_observability(settings: "Settings", built: Built) -> None:
    assert built.cluster, "module 08 requires 01"
    assert built.driver, "module 08 requires 02"
    simulated = built.gpus.digest if built.gpus else None
    AdminAccess(
        "admin-access",
        manifests=MODULES["08"].name,
        cluster=built.cluster,
        driver=built.driver,
        image=built.images.gpu_probe,
        node=settings.gpu_nodes[0].node,
        simulated=simulated,
        timeout_seconds=settings.timeouts.workload,
    )
    dcgm = settings.images.dcgm_exporter or DCGM_EXPORTER_IMAGE
    exporter = GpuExporter(
        "gpu-exporter",
        cluster=built.cluster,
        driver=built.driver,
        image=dcgm if settings.observability.exporter == "dcgm" else built.images.gpu_agents,
        exporter=settings.observability.exporter,
        sharing=built.sharing if isinstance(built.sharing, MpsDaemon) else None,
        simulated=simulated,
        timeout_seconds=settings.timeouts.workload,
    )
    if settings.observability.prometheus:
        Prometheus(
            "prometheus",
            cluster=built.cluster,
            prometheus_image=settings.images.prometheus or PROMETHEUS_IMAGE,
            grafana_image=settings.images.grafana or GRAFANA_IMAGE,
            dashboard=(MANIFESTS / MODULES["08"].name / "dashboard.json").read_text(),
            exporter=exporter,
            timeout_seconds=settings.timeouts.workload,
        )
    built.outputs["observability"] = {
        "exporter": settings.observability.exporter,
        "prometheus": settings.observability.prometheus,
    }


def _build_resilience(settings: "Settings", built: Built) -> None:
    assert built.cluster, "module 09 requires 01"
    assert built.driver, "module 09 requires 02"
    TaintKeeper(
        "taint-keeper",
        cluster=built.cluster,
        driver=built.driver,
        image=built.images.gpu_agents,
        timeout_seconds=settings.timeouts.workload,
    )


MODULES = {
    module.number: module
    for module in (
        Module("00", "prerequisites", "Prerequisites", (), _check_prerequisites),
        Module("01", "cluster", "Cluster and GPUs", (), _build_cluster),
        Module("02", "dra-driver", "NVIDIA's DRA driver", ("01",), _build_driver),
        Module("03", "workloads", "Exclusive GPUs by claim", ("01", "02"), _build_workloads),
        Module("04", "mps", "Two pods on one GPU by MPS", ("01", "02"), _build_mps),
        Module("05", "mps-limits", "Limits of MPS, and who wins", ("01", "02", "04"), _build_mps_limits),
        Module("06", "vllm", "vLLM under a limit", ("01", "02", "04"), _build_vllm),
        Module("06.5", "vllm-experiment", "vLLM by thread percentage", ("01", "02", "04", "06"), _build_vllm_sweep),
        Module("07", "consumable-capacity", "One GPU for many claims", ("01", "02"), _build_capacity),
        Module("08", "observability", "Admin access and metrics", ("01", "02"), _build_observability),
        Module("09", "resilience", "Faults and what survives them", ("01", "02"), _build_resilience),
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
    overrides = settings.images.model_dump(exclude_none=True, exclude=set(UPSTREAM_IMAGES))
    if settings.gpu.source == "host":
        overrides["gpu_sim"] = ""  # nothing runs it, so nothing has to load it
    if "04" not in settings.modules or settings.mps.mode == "claim":
        overrides["mps_daemon"] = ""  # NVIDIA's driver runs its own
    if "09" not in settings.modules and ("08" not in settings.modules or settings.observability.exporter == "dcgm"):
        overrides["gpu_agents"] = ""
    return Images.made_by_setup(overrides, settings.driver.version)


def build(settings: "Settings", images: Images) -> dict[str, Any]:
    """Build the modules that are on, each after what it requires; returns the stack's outputs."""
    built = Built(images)
    for module in known(settings.modules):
        pulumi.log.debug(f"module {module.number}: {module.title}")
        module.build(settings, built)
    stack = "" if settings.stack == "phase1" else f" STACK={settings.stack}"
    return {**built.outputs, "modules": list(settings.modules), "next": f"make verify{stack}"}
