"""Command that lists what a stack's state still has in its cluster, for a destroy that did not get through.

Usage: python -m components.commands.left_behind STACK. Reads Pulumi's state; asks no cluster.
"""

import json
import subprocess
import sys
from typing import Any

from toolchain.paths import CHECKOUT

# Pulumi's word for a Helm release's place and name in its inputs, and Kubernetes' for an object's.
RELEASE = "kubernetes:helm.sh/v3:Release"


def name_of(resource: dict[str, Any]) -> str:
    """Kind, namespace and name of one object of the state."""
    kind, inputs = resource["type"].rpartition(":")[2], resource.get("inputs", {})
    if resource["type"] == RELEASE:
        return f"Helm release {inputs.get('namespace')}/{inputs.get('name')}"
    if kind.endswith("Patch"):
        return f"labels of {kind.removesuffix('Patch')} {inputs.get('metadata', {}).get('name')}"
    metadata = inputs.get("metadata", {})
    place = f"{metadata['namespace']}/" if metadata.get("namespace") else ""
    return f"{kind} {place}{metadata.get('name')}"


def objects(deployment: dict[str, Any]) -> list[str]:
    """Objects in the cluster that a deployment, as `pulumi stack export` has it, still holds; last made first."""
    resources = deployment.get("resources", [])
    return [name_of(resource) for resource in reversed(resources) if resource["type"].startswith("kubernetes:")]


def left(stack: str) -> list[str]:
    """Objects in the cluster that the stack's state holds; none where there is no such state."""
    command = ["pulumi", "stack", "export", "--stack", stack]
    done = subprocess.run(command, cwd=CHECKOUT, capture_output=True, text=True, check=False)
    return objects(json.loads(done.stdout)["deployment"]) if done.returncode == 0 else []


def main() -> int:
    stack = sys.argv[1]
    if names := left(stack):
        print(f"still in the cluster, and in the state of stack {stack}:", file=sys.stderr)
        for name in names:
            print(f"  {name}", file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main())
