"""Objects that an interrupted run of the checks left in a stack. They carry a label, and the next run removes them."""

import json

from checks.live import LABEL, LiveStack
from checks.mps import CLIENTS, NOWHERE, select_nodes
from components.mps_daemon import NAME, NAMESPACE

CONTROLLERS = "deployments,statefulsets,jobs,cronjobs,pods"
# Where each kind of object may be; a namespace takes with it what is in it.
PLACES = (
    (CONTROLLERS, ("-n", CLIENTS)),
    ("devicetaintrules.v1.resource.k8s.io", ()),
    ("namespaces", ()),
)


def remove(stack: LiveStack) -> list[str]:
    """Remove what checks have left, and return it as kind/name. A run that came to its end has left nothing."""
    removed = []
    for kinds, where in PLACES:
        # A cluster of an older Kubernetes does not know every kind.
        names = stack.kubectl("get", kinds, *where, "-l", LABEL, "-o", "name", check=False).split()
        if names:
            # What a controller keeps goes with it, so some names are gone by then.
            stack.kubectl("delete", *where, *names, "--grace-period=1", "--ignore-not-found")
        removed += names
    daemon = stack.kubectl("get", "daemonset", NAME, "-n", NAMESPACE, "-o", "json", "--ignore-not-found", check=False)
    if daemon and NOWHERE in (json.loads(daemon)["spec"]["template"]["spec"].get("nodeSelector") or {}):
        select_nodes(stack, None)
        removed.append(f"the node selector {NOWHERE} of daemonset/{NAME}")
    return removed
