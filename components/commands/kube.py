"""A client for one context of one kubeconfig; never the current context."""

import warnings
from typing import Any

import kr8s


def connect(kubeconfig: str, context: str) -> Any:
    """Raises what kr8s raises where no cluster answers."""
    with warnings.catch_warnings():
        # kr8s names the versions it was tested with; what is used here is plain REST.
        warnings.filterwarnings("ignore", message="Kubernetes version .* is not supported")
        return kr8s.api(kubeconfig=kubeconfig, context=context)
