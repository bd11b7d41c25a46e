"""What a stack's running cluster proves of this machine, so that no update of the stack has to look at it again."""

import hashlib
import json
import shutil
from dataclasses import dataclass
from pathlib import Path

from machine import kind
from machine.images import Images
from machine.programs import run
from settings import Settings
from toolchain import versions

FILE = "prerequisites"
"""Beside a Kind cluster's other files: digest of what was looked at when every prerequisite was met."""


@dataclass(frozen=True)
class Proof:
    """Record of prerequisites that were met, which holds while the cluster that was made of them runs.

    It goes with the cluster's folder. Real GPUs change under a stack, and an existing cluster is somebody else's: for
    neither is there one.
    """

    file: Path
    digest: str
    cluster: kind.KindCluster
    nodes: int

    @classmethod
    def of(cls, settings: Settings, images: Images) -> "Proof | None":
        """Record for a stack as it is configured; None for a stack that has to be looked at each time."""
        if settings.cluster.provider != "kind" or settings.gpu.source != "simulated":
            return None
        tools = [str(Path(found).resolve()) for name in ("kind", "kubectl") if (found := shutil.which(name))]
        looked_at = [
            *(versions.KIND, versions.KUBERNETES, tools, settings.cluster.workers, settings.cluster.node_image),
            *(images.node, images.to_load, settings.driver.feature_gates, sorted(settings.api_features)),
        ]
        digest = hashlib.sha256(json.dumps(looked_at).encode()).hexdigest()
        folder = settings.state_folder
        return cls(folder / FILE, digest, kind.KindCluster(settings.cluster_name, folder), settings.cluster.workers + 1)

    def holds(self) -> bool:
        """True where the same was met before, and every node of the cluster that came of it runs in this engine."""
        if not self.file.exists() or self.file.read_text() != self.digest:
            return False
        ours = (f"label=io.x-k8s.kind.cluster={self.cluster.name}", f"network={self.cluster.network}")
        filters = [word for value in ours for word in ("--filter", value)]
        running = run("docker", "ps", *filters, "--format", "{{.Names}}")
        return running.ok and len(running.out.split()) == self.nodes

    def keep(self) -> None:
        """Note that everything is met."""
        self.file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.file.write_text(self.digest)
