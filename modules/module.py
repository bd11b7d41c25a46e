"""What a module is, and what the modules have built so far."""

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from components.cluster import Cluster
from components.dra_driver import DraDriver
from components.mps_clients import MpsSharing
from components.simulated_gpus import SimulatedGpus
from components.workload import Workload
from machine.images import Images

if TYPE_CHECKING:
    from settings import Settings


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
    build: Callable[["Module", "Settings", Built], None]

    @property
    def name(self) -> str:
        """Its folder in manifests/ and its page in docs/."""
        return f"{self.number}-{self.slug}"

    @property
    def check_file(self) -> str:
        """The file of its checks in checks/."""
        return f"test_{re.sub('[-.]', '_', self.name)}.py"
