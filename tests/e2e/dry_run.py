"""Dry run of every manifest on a live API server."""

import subprocess
from pathlib import Path

import yaml

from components.manifests import MANIFESTS

# What names no namespace goes into one of the reader's, who may look on at devices in use as module 08 shows.
READER = {
    "apiVersion": "v1",
    "kind": "Namespace",
    "metadata": {"name": "reader", "labels": {"resource.kubernetes.io/admin-access": "true"}},
}


def documents(file: Path) -> list[dict]:
    return [document for document in yaml.safe_load_all(file.read_text()) if document]


def namespaces() -> list[dict]:
    """Namespaces that the manifests make, each with what any of them says of it, and the reader's."""
    made = {READER["metadata"]["name"]: READER}
    for file in sorted(MANIFESTS.rglob("*.yaml")):
        for document in documents(file):
            if document["kind"] == "Namespace":
                known = made.setdefault(document["metadata"]["name"], document)
                known["metadata"].setdefault("labels", {}).update(document["metadata"].get("labels", {}))
    return list(made.values())


def refused_manifests(kubeconfig: Path) -> dict[str, str]:
    """Files that the API server does not take, and what it says of them.

    Makes the namespaces that the manifests name, since a dry run makes none, and deletes them.
    """
    kubectl = ["kubectl", "--kubeconfig", str(kubeconfig)]
    made = yaml.safe_dump_all(namespaces())
    refused = {}
    try:
        subprocess.run([*kubectl, "create", "-f", "-"], input=made, text=True, check=True, capture_output=True)
        for file in sorted(MANIFESTS.rglob("*.yaml")):
            # The server looks for unknown and repeated fields, as for every `kubectl apply`.
            apply = [*kubectl, "apply", "--dry-run=server", "--validate=strict", "-f", str(file)]
            if not any("namespace" in document["metadata"] for document in documents(file)):
                apply.append(f"--namespace={READER['metadata']['name']}")
            done = subprocess.run(apply, text=True, check=False, capture_output=True)
            if done.returncode:
                refused[str(file.relative_to(MANIFESTS))] = done.stderr
    finally:
        subprocess.run([*kubectl, "delete", "-f", "-"], input=made, text=True, check=True, capture_output=True)
    return refused
