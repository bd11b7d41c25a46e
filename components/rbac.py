"""What a pod's service account may do."""

from collections.abc import Sequence
from typing import Any

import pulumi_kubernetes as k8s
from pulumi import Resource

from components.cluster import Cluster

GROUP = "rbac.authorization.k8s.io"


def grant(
    name: str,
    *,
    cluster: Cluster,
    parent: Resource,
    role: str,
    rules: Sequence[Any],
    account: tuple[str, str],
    namespace: str | None = None,
    depends_on: Sequence[Resource] = (),
) -> Resource:
    """Register a role of these rules and its binding to an account (namespace, name); returns the binding.

    `namespace` is where the rules hold, None for the whole cluster.
    """
    kind = "ClusterRole" if namespace is None else "Role"
    role_class, binding_class = (getattr(k8s.rbac.v1, found) for found in (kind, f"{kind}Binding"))
    metadata = {"name": role, **({} if namespace is None else {"namespace": namespace})}
    made = role_class(name, metadata=metadata, rules=list(rules), opts=cluster.inside(parent, depends_on))
    return binding_class(
        f"{name}-binding",
        metadata=metadata,
        role_ref={"apiGroup": GROUP, "kind": kind, "name": role},
        subjects=[{"kind": "ServiceAccount", "namespace": account[0], "name": account[1]}],
        opts=cluster.inside(parent, [made, *depends_on]),
    )
