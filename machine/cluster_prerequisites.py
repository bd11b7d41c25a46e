"""What must be true of an existing cluster before a stack is put into it: asked of the cluster, not guessed.

Looks only. What an API server can do is told by its discovery and by a dry run of a claim: the same version may have a
feature gate off, and another one's number may be emulated.
"""

import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

from machine.findings import Finding
from machine.images import Images
from machine.programs import Answer, run
from settings import Settings
from settings.blocks import GPU_TOLERATION
from settings.catalog import ApiFeature, Module

MAX_LISTED_IMAGES = 50  # the kubelet's nodeStatusMaxImages
DRA_SINCE = "1.34"  # resource.k8s.io/v1
DRA_GROUP = "resource.k8s.io/v1"
DRA_RESOURCES = {"deviceclasses", "resourceclaims", "resourceclaimtemplates", "resourceslices"}
EXTENDED_RESOURCE = "nvidia.com/gpu"
DEVICE_CLASS = "gpu.nvidia.com"
# Helm release of the driver that a stack makes, and the namespace of the same name: components/dra_driver.py.
RELEASE = "dra-driver-nvidia-gpu"
# Our nodes have it while a stack is up: components/cluster.py.
OUR_LABEL = "dra-workshop/gpus"
PRESENT_LABEL = "nvidia.com/gpu.present"
# NVIDIA's chart, its GPU operator and the clouds' own manifests name the images and labels so.
DEVICE_PLUGIN = re.compile(r"k8s-device-plugin|nvidia-device-plugin|nvidia-gpu-device-plugin")
DRA_PLUGIN = re.compile(r"k8s-dra-driver-gpu|dra-driver-nvidia-gpu|nvidia-dra-driver-gpu")
PROBE = "dra-workshop-probe"


class _Cluster:
    """Cluster of the settings, asked by kubectl."""

    def __init__(self, settings: Settings) -> None:
        self.words = ("kubectl", "--kubeconfig", str(settings.kubeconfig), "--context", settings.context)

    def ask(self, *words: str, stdin: str = "") -> Answer:
        return run(*self.words, *words, stdin=stdin)

    def failed(self, name: str, answer: Answer, *words: str) -> Finding:
        """Finding that a question had no answer, with the command that asks it again."""
        return Finding(name, answer.complaint, False, f"check it with `{' '.join((*self.words, *words))}`")


def look(settings: Settings, images: Images) -> Iterator[Finding]:
    """Everything that the stack needs of its existing cluster, met or not."""
    cluster = _Cluster(settings)
    answer = cluster.ask("version", "--output=json", "--request-timeout=10s")
    if not answer.ok:
        yield cluster.failed("cluster", answer, "version")
        return
    looks: list[Callable[[], Iterable[Finding]]] = [
        partial(_dra, cluster, settings, json.loads(answer.out)["serverVersion"]),
        partial(_features, cluster, settings),
        partial(_nodes, cluster, settings, images),
    ]
    with ThreadPoolExecutor(len(looks)) as pool:
        for findings in pool.map(lambda look: list(look()), looks):
            yield from findings


def _served(cluster: _Cluster, group_version: str) -> set[str]:
    """Plural names that the API server serves of a group and version; none where it does not know it."""
    answer = cluster.ask("get", "--raw", f"/apis/{group_version}")
    return {resource["name"] for resource in json.loads(answer.out)["resources"]} if answer.ok else set()


def _dra(cluster: _Cluster, settings: Settings, server: Mapping[str, str]) -> Iterator[Finding]:
    emulated = server.get("emulationMinor", server["minor"])
    told = server["gitVersion"] + ("" if emulated == server["minor"] else f" as {server['major']}.{emulated}")
    missing = sorted(DRA_RESOURCES - _served(cluster, DRA_GROUP))
    seen = f"Kubernetes {told} at context {settings.context}" + (
        f", which does not serve {', '.join(missing)} of {DRA_GROUP}" if missing else ""
    )
    remedy = f"Kubernetes serves them from v{DRA_SINCE} on, unless its gate DynamicResourceAllocation is off"
    yield Finding("cluster", seen, not missing, f"{remedy}; upgrade the cluster, or switch it on")


def _features(cluster: _Cluster, settings: Settings) -> Iterator[Finding]:
    """Findings on what the modules need of the API beyond DRA itself, one for each feature that is missing."""
    needed = settings.api_features
    asked = {gate: feature for gate, (feature, _) in needed.items() if feature.request or feature.device}
    answer = Answer(0, "", "")
    if asked:
        answer = cluster.ask("create", "--dry-run=server", "--output=json", "-f", "-", stdin=_probes(asked.values()))
    kept = _kept(answer.out)
    for gate, (feature, modules) in needed.items():
        if feature.resource:
            group_version, _, plural = feature.resource.rpartition("/")
            if plural not in _served(cluster, group_version):
                yield missing_feature(feature, modules, "is not served by this API server")
        if gate not in asked:
            continue
        fields = kept.get(_probe_name(feature))
        # An API server that knows adminAccess refuses it outside of a namespace with a label, and drops it otherwise.
        if fields is None and (_refused_for_its_label(feature, answer.error) or "no matches for kind" in answer.error):
            continue  # nor is it a finding of its own where there is no DRA at all
        if fields is None and _refused_as_invalid(feature, answer.error):
            yield missing_feature(feature, modules, "has an older form in this cluster's API server")
        elif fields is None:
            kind = "ResourceSlices" if feature.device else "ResourceClaims"
            yield Finding("api", f"{gate}: {answer.complaint}", False, f"ask for the right to create {kind}")
        elif not {*feature.request, *feature.device} <= fields.keys():
            yield missing_feature(feature, modules, "is off in this cluster's API server")


def missing_feature(feature: ApiFeature, modules: Iterable[Module], how: str) -> Finding:
    """Finding on a feature that modules need and that is not there."""
    rows = list(modules)
    names = ", ".join(f"{row.number} ({row.title})" for row in rows)
    need = "modules {} need it" if len(rows) > 1 else "module {} needs it"
    seen = f"{feature.gate} ({feature.what}) {how}, and {need.format(names)}"
    numbers = " and ".join(row.number for row in rows)
    remedy = (
        f"it is on from Kubernetes {feature.since} on unless its gate is switched off; or drop {numbers} from modules"
    )
    return Finding("api", seen, False, remedy)


def _probe_name(feature: ApiFeature) -> str:
    return f"{PROBE}-{feature.gate.lower()}"


def _probes(features: Iterable[ApiFeature]) -> str:
    """Objects for a dry run, each with the fields of one feature: a claim, or a slice with one device."""
    return "\n---\n".join(json.dumps(_slice(feature) if feature.device else _claim(feature)) for feature in features)


def _claim(feature: ApiFeature) -> dict[str, Any]:
    exactly = {"deviceClassName": DEVICE_CLASS, **feature.request}
    return {
        "apiVersion": DRA_GROUP,
        "kind": "ResourceClaim",
        "metadata": {"name": _probe_name(feature), "namespace": "default"},
        "spec": {"devices": {"requests": [{"name": "gpu", "exactly": exactly}]}},
    }


def _slice(feature: ApiFeature) -> dict[str, Any]:
    name = _probe_name(feature)
    return {
        "apiVersion": DRA_GROUP,
        "kind": "ResourceSlice",
        "metadata": {"name": name},
        "spec": {
            "driver": DEVICE_CLASS,
            "nodeName": name,
            "pool": {"name": name, "generation": 1, "resourceSliceCount": 1},
            "devices": [{"name": "gpu", **feature.device}],
        },
    }


def _kept(out: str) -> dict[str, Mapping[str, Any]]:
    """What the API server kept of each probe's request or device, by its name.

    kubectl writes one object after another.
    """
    decoder, rest, kept = json.JSONDecoder(), out.lstrip(), {}
    while rest:
        document, end = decoder.raw_decode(rest)
        for probe in document.get("items", [document]):
            devices = probe["spec"]["devices"]
            of_claim = probe["kind"] == "ResourceClaim"
            kept[probe["metadata"]["name"]] = devices["requests"][0]["exactly"] if of_claim else devices[0]
        rest = rest[end:].lstrip()
    return kept


def _refused_for_its_label(feature: ApiFeature, error: str) -> bool:
    return any(_probe_name(feature) in line and "adminAccess: Forbidden" in line for line in error.splitlines())


def _refused_as_invalid(feature: ApiFeature, error: str) -> bool:
    return any(f'"{_probe_name(feature)}" is invalid' in line for line in error.splitlines())


def _nodes(cluster: _Cluster, settings: Settings, images: Images) -> Iterator[Finding]:
    answer = cluster.ask("get", "nodes", "--output=json")
    if not answer.ok:
        yield cluster.failed("nodes", answer, "get nodes")
        return
    nodes = {node["metadata"]["name"]: node for node in json.loads(answer.out)["items"]}
    is_up = any(OUR_LABEL in node["metadata"].get("labels", {}) for node in nodes.values())
    for wanted in settings.gpu_nodes:
        node = nodes.get(wanted.node)
        seen = wanted.node if node else f"{wanted.node} is no node"
        yield Finding("nodes", seen, node is not None, f"gpu.nodes must be some of {', '.join(sorted(nodes))}")
        if node is not None:
            yield from _taints(node, settings)
            yield from _extended_resource(node)
            yield from _node_images(wanted.node, node["status"].get("images", []), images)
    yield from _others(cluster, {node.node for node in settings.gpu_nodes}, is_up)


def _taints(node: Mapping[str, Any], settings: Settings) -> Iterator[Finding]:
    """Findings on taints of a node that keep the stack's pods from it."""
    name, tolerations = node["metadata"]["name"], (GPU_TOLERATION, *settings.gpu.tolerations)
    for taint in node["spec"].get("taints") or []:
        if taint["effect"] == "PreferNoSchedule" or any(toleration.tolerates(taint) for toleration in tolerations):
            continue
        value = f"={taint['value']}" if taint.get("value") else ""
        seen = f"{name} has the taint {taint['key']}{value}:{taint['effect']}, which no pod of the stack tolerates"
        remedy = f"add {{key: {taint['key']}, operator: Exists, effect: {taint['effect']}}} to gpu.tolerations"
        if taint["key"] == "node.kubernetes.io/unschedulable":
            remedy = f"`kubectl uncordon {name}`"
        elif taint["key"].startswith("node.kubernetes.io/"):
            remedy = f"Kubernetes itself set it: `kubectl describe node {name}` says why"
        yield Finding("taints", seen, False, f"{remedy}, or name other nodes in gpu.nodes")


def _extended_resource(node: Mapping[str, Any]) -> Iterator[Finding]:
    """Finding on GPUs that a device plugin counts on a node."""
    count = node["status"].get("capacity", {}).get(EXTENDED_RESOURCE, "0")
    if count != "0":
        seen = f"{node['metadata']['name']} offers {EXTENDED_RESOURCE}: {count}, so a device plugin gives its GPUs out"
        remedy = "remove NVIDIA's device plugin from it, since every GPU would be given out twice, or name other nodes"
        yield Finding("device plugin", seen, False, f"{remedy} in gpu.nodes")


def _others(cluster: _Cluster, gpu_nodes: set[str], is_up: bool) -> Iterator[Finding]:
    """Findings on others who give GPUs out: a device plugin, or another installation of NVIDIA's DRA driver."""
    every = ("--all-namespaces", "--output=json")
    workloads = [("get", "daemonsets.apps", *every)]
    # Node by node: of a large cluster nobody wants every pod.
    workloads += [("get", "pods", f"--field-selector=spec.nodeName={node}", *every) for node in sorted(gpu_nodes)]
    classes = ("get", "deviceclasses", "--output=json")
    with ThreadPoolExecutor(len(workloads) + 1) as pool:
        *answers, of_classes = pool.map(lambda words: cluster.ask(*words), [*workloads, classes])
    for words, answer in zip(workloads, answers, strict=True):
        if answer.ok:
            yield from _other_plugins(json.loads(answer.out)["items"], is_up)
        else:
            yield cluster.failed("device plugin", answer, *words)
    if of_classes.ok:  # else DRA is not served, which is a finding of its own
        yield from _other_release(json.loads(of_classes.out)["items"], is_up)


def _other_plugins(items: Iterable[Mapping[str, Any]], is_up: bool) -> Iterator[Finding]:
    """Findings on pods of the GPU nodes, and on DaemonSets that would come there."""
    for item in items:
        is_pod, place = item["kind"] == "Pod", f"{item['metadata']['namespace']}/{item['metadata']['name']}"
        spec = item["spec"] if is_pod else item["spec"]["template"]["spec"]
        labels = item["metadata"].get("labels") or {}
        words = " ".join([*(container["image"] for container in spec["containers"]), *labels.values()])
        # The label that stacks give their nodes, as NVIDIA's chart looks for it, brings such a DaemonSet along.
        if not is_pod and PRESENT_LABEL not in json.dumps([spec.get("nodeSelector"), spec.get("affinity")]):
            continue
        where = f"on {spec['nodeName']}" if is_pod else f"comes to nodes with the label {PRESENT_LABEL}"
        if DEVICE_PLUGIN.search(words):
            seen = f"{item['kind']} {place}, NVIDIA's device plugin, {where}"
            remedy = "remove it there, since every GPU would be given out twice, or name other nodes in gpu.nodes"
            yield Finding("device plugin", seen, False, remedy)
        elif is_pod and DRA_PLUGIN.search(words) and not (is_up and item["metadata"]["namespace"] == RELEASE):
            seen = f"Pod {place}, another installation of NVIDIA's DRA driver, {where}"
            remedy = "uninstall it, since two drivers of one name exclude each other, or use another cluster"
            yield Finding("dra driver", seen, False, remedy)


def _other_release(classes: Iterable[Mapping[str, Any]], is_up: bool) -> Iterator[Finding]:
    for device_class in classes:
        if device_class["metadata"]["name"] != DEVICE_CLASS:
            continue
        annotations = device_class["metadata"].get("annotations") or {}
        release = annotations.get("meta.helm.sh/release-name")
        namespace = annotations.get("meta.helm.sh/release-namespace")
        if (release, namespace) == (RELEASE, RELEASE) and is_up:
            continue
        whose = f"of Helm's release {namespace}/{release}" if release else "of no Helm release"
        seen = f"DeviceClass {DEVICE_CLASS} {whose} is there, and no stack is up on this cluster"
        if is_up:
            seen = f"DeviceClass {DEVICE_CLASS} {whose} is there, and is not the stack's"
        undo = (
            f"`helm uninstall --namespace {namespace} {release}`"
            if release
            else f"`kubectl delete deviceclass {DEVICE_CLASS}`"
        )
        yield Finding("dra driver", seen, False, f"{undo} if nobody needs it, or use another cluster")


def _node_images(node: str, listed: list[dict[str, list[str]]], images: Images) -> Iterator[Finding]:
    """Images that only this machine has must be on the node already, since no registry serves them."""
    if len(listed) >= MAX_LISTED_IMAGES:
        return  # the kubelet lists the largest only, so a missing name says nothing
    names = {name for image in listed for name in image.get("names", [])}
    for ref in images.only_here:
        remedy = "load it (`docker save | ctr -n k8s.io images import -`), or push it and name it under images"
        yield Finding("image", f"{ref} on {node}" if ref in names else f"{ref} is not on {node}", ref in names, remedy)
