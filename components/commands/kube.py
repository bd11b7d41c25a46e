"""Client for one context of one kubeconfig; never the current context."""

import warnings
from pathlib import Path
from typing import Any

import kr8s
import yaml


def connect(kubeconfig: str, context: str) -> Any:
    """Raises what kr8s raises where no cluster answers."""
    # By content: kr8s keeps a client for each kubeconfig, and a cluster that was made anew has the same file.
    content: Any = yaml.safe_load(Path(kubeconfig).read_text())
    with warnings.catch_warnings():
        # kr8s names the versions it was tested with; what is used here is plain REST.
        warnings.filterwarnings("ignore", message="Kubernetes version .* is not supported")
        return kr8s.api(kubeconfig=content, context=context)
