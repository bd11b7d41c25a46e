"""Kubernetes provider of source `built`, which is compiled without the SDK's types: objects of YAML by it.

It renders them to a folder, so no cluster is needed. Of source `stock` the provider is upstream's, and does the same.
"""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.e2e.workspace import Workspace
from toolchain import versions
from toolchain.paths import CHECKOUT

# Pulumi asks for the plugin of the SDK's version unless told of another.
PROGRAM = f"""
import pulumi
from pulumi_kubernetes import Provider
from pulumi_kubernetes.yaml.v2 import ConfigGroup

version = "{versions.PULUMI_KUBERNETES_PROVIDER}"
provider = Provider("rendered", render_yaml_to_directory="rendered", opts=pulumi.ResourceOptions(version=version))
group = pulumi.ResourceOptions(provider=provider, version=version)
ConfigGroup("group", yaml=open("objects.yaml").read(), opts=group)
"""
OBJECTS: list[dict[str, Any]] = [
    {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "limits", "namespace": "one"}, "data": {"a": "1"}},
    {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {"name": "token", "namespace": "one"},
        "stringData": {"word": "never shown"},
    },
    {
        "apiVersion": "rbac.authorization.k8s.io/v1",
        "kind": "ClusterRole",
        "metadata": {"name": "reader"},
        "rules": [{"apiGroups": ["resource.k8s.io"], "resources": ["resourceslices"], "verbs": ["get"]}],
    },
    {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": "lessons.workshop.example"},
        "spec": {
            "group": "workshop.example",
            "names": {"kind": "Lesson", "plural": "lessons"},
            "scope": "Namespaced",
            "versions": [
                {"name": "v1", "served": True, "storage": True, "schema": {"openAPIV3Schema": {"type": "object"}}}
            ],
        },
    },
    {"apiVersion": "workshop.example/v1", "kind": "Lesson", "metadata": {"name": "first", "namespace": "one"}},
]


@pytest.fixture
def project(tmp_path: Path) -> Workspace:
    for link in (".tools", ".venv", "toolchain"):
        (tmp_path / link).symlink_to(CHECKOUT / link)
    (tmp_path / "Pulumi.yaml").write_text(
        json.dumps({"name": "rendering", "runtime": "python", "backend": {"url": f"file://{tmp_path}"}})
    )
    (tmp_path / "__main__.py").write_text(PROGRAM)
    (tmp_path / "objects.yaml").write_text(yaml.safe_dump_all(OBJECTS))
    return Workspace(tmp_path, {"KUBECONFIG": ""})  # a cluster's would contradict the folder


def test_objects_of_yaml_have_the_names_of_their_kinds_and_secrets_stay_secret(project: Workspace) -> None:
    project.pulumi("stack", "init", "try")
    output = project.pulumi("up", "--yes", "--skip-preview", "--stack", "try")
    assert "never shown" not in output
    written = (yaml.safe_load(file.read_text()) for file in (project.root / "rendered").rglob("*.yaml"))
    rendered = {document["kind"]: document for document in written}
    assert {kind: document["metadata"]["name"] for kind, document in rendered.items()} == {
        document["kind"]: document["metadata"]["name"] for document in OBJECTS
    }
    assert rendered["ClusterRole"]["rules"] == OBJECTS[2]["rules"]
    exported = project.pulumi("stack", "export", "--stack", "try")
    assert "never shown" not in exported
    kinds = [f"kubernetes:{_group(document)}:{document['kind']}" for document in OBJECTS]
    types = {resource["type"] for resource in json.loads(exported)["deployment"]["resources"]}
    assert types >= set(kinds)


def _group(document: dict) -> str:
    """Version of an object as Pulumi's types have it: the core's has a name."""
    version = document["apiVersion"]
    return version if "/" in version else f"core/{version}"
