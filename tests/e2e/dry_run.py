"""Dry run of every manifest on a live API server."""

import subprocess
from pathlib import Path

import yaml

from components.manifests import MANIFESTS


def namespaces() -> list[dict]:
    """Namespaces that the manifests make; those of examples are the reader's."""
    files = sorted(MANIFESTS.rglob("*.yaml"))
    documents = (document for file in files for document in yaml.safe_load_all(file.read_text()))
    return [document for document in documents if document and document["kind"] == "Namespace"]


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
            done = subprocess.run(apply, text=True, check=False, capture_output=True)
            if done.returncode:
                refused[str(file.relative_to(MANIFESTS))] = done.stderr
    finally:
        subprocess.run([*kubectl, "delete", "-f", "-"], input=made, text=True, check=True, capture_output=True)
    return refused
