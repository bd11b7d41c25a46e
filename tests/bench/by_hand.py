"""Files from which by-hand.sh does what a stack does: the very objects that the stack has registered.

A person would write the same, and apply a part of it, wait, and go on. The parts are the stack's components in the
order in which it made them.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from components.dra_driver import CHART
from toolchain.paths import CHECKOUT

RELEASE = "kubernetes:helm.sh/v3:Release"
ROLLED_OUT = ("DaemonSet", "Deployment")


def write(folder: Path, exported: Mapping[str, Any]) -> None:
    """Write what by-hand.sh reads into `folder`, from what `pulumi stack export` printed of a stack that is up."""
    resources = exported["deployment"]["resources"]
    kind = next(resource for resource in resources if resource["urn"].endswith("::cluster-kind"))
    (folder / "kind.yaml").write_text(kind["inputs"]["stdin"])
    images = json.loads(kind["inputs"]["environment"]["CLUSTER_IMAGES"])["images"]
    (folder / "images").write_text("".join(f"{image}\n" for image in images))
    (folder / "chart").symlink_to(CHECKOUT / CHART)
    steps: dict[str, list[Mapping[str, Any]]] = {}
    for resource in resources:
        if resource["type"] == RELEASE:
            steps[resource["urn"]] = [resource]
        elif resource["type"].startswith("kubernetes:"):
            steps.setdefault(resource["parent"], []).append(resource)
    for number, step in enumerate(steps.values()):
        _write_step(folder / "steps" / f"{number:02}", step)


def _write_step(folder: Path, resources: list[Mapping[str, Any]]) -> None:
    folder.mkdir(parents=True)
    if resources[0]["type"] == RELEASE:
        (folder / "values.yaml").write_text(yaml.safe_dump(_shown(resources[0]["inputs"]["values"])))
        return
    objects = [_shown(resource["inputs"]) for resource in resources]
    (folder / "objects.yaml").write_text(yaml.safe_dump_all(objects))
    awaited = [
        f"{found['metadata']['namespace']} {found['kind'].lower()}/{found['metadata']['name']}\n"
        for found in objects
        # What has to wait for a GPU is not waited for.
        if found["kind"] in ROLLED_OUT and "pulumi.com/skipAwait" not in found["metadata"]["annotations"]
    ]
    (folder / "rollouts").write_text("".join(awaited))


def _shown(value: Any) -> Any:
    """Input as the program gave it, without what Pulumi's state has beside it."""
    if isinstance(value, dict):
        return {key: _shown(inner) for key, inner in value.items() if not key.startswith("__")}
    return [_shown(inner) for inner in value] if isinstance(value, list) else value
