"""What a module is, and what the modules have built so far."""

from dataclasses import dataclass, field
from typing import Any

from components.cluster import Cluster
from components.dra_driver import DraDriver
from components.mps_clients import MpsSharing
from components.simulated_gpus import SimulatedGpus
from components.workload import Workload
from machine.images import Images
from settings.catalog import Module


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


__all__ = ["Built", "Module"]
