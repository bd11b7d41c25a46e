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
    # What has to wait for a GPU comes last, or it would take the one that the others are to have.
    waiting = [found for found in objects if "pulumi.com/skipAwait" in found["metadata"]["annotations"]]
    others = [found for found in objects if found not in waiting]
    (folder / "objects.yaml").write_text(yaml.safe_dump_all(others))
    if waiting:
        (folder / "waiting.yaml").write_text(yaml.safe_dump_all(waiting))
    awaited = [
        f"{found['metadata']['namespace']} {found['kind'].lower()}/{found['metadata']['name']}\n"
        for found in others
        if found["kind"] in ROLLED_OUT
    ]
    (folder / "rollouts").write_text("".join(awaited))


def _shown(value: Any) -> Any:
    """Input as the program gave it, without what Pulumi's state has beside it."""
    if isinstance(value, dict):
        return {key: _shown(inner) for key, inner in value.items() if not key.startswith("__")}
    return [_shown(inner) for inner in value] if isinstance(value, list) else value
