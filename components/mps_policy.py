"""Policy on what pods may ask of MPS, by the class of their namespace."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import pulumi
from pulumi import Input, Output, Resource, ResourceOptions

from components.manifests import Document, by_kind, copied
from components.mps_clients import CLASS_LABEL, Mps
from components.objects import register
from components.site import Site
from gpus.mps import CAPACITY_CLASS, DEFAULT_CLASS

POLICY, CLAIM_POLICY, PIPE_POLICY = (f"dra-workshop-mps-{what}" for what in ("clients", "claims", "pipe"))
POLICY_KIND = "ValidatingAdmissionPolicy"
BINDING_KIND = f"{POLICY_KIND}Binding"
# Every namespace has it, with its own name.
NAME_LABEL = "kubernetes.io/metadata.name"


@dataclass(frozen=True)
class ClassParameters:
    """Parameters of the policy for one class, which are the data of the class's ConfigMap."""

    active_thread_percentage: int
    pinned_device_memory_limit_mib: Input[int]
    required: bool
    """True where a client must set both limits itself."""

    def data(self, daemon_image: str | None) -> Mapping[str, Input[str]]:
        """Data of the ConfigMap. Clients wait by the program of the daemon's image, whatever its tag.

        `daemon_image` is None where the driver mounts the pipe of a claim's daemon.
        """
        memory = self.pinned_device_memory_limit_mib
        return {
            "activeThreadPercentage": str(self.active_thread_percentage),
            "pinnedDeviceMemoryLimitMiB": str(memory)
            if isinstance(memory, int)
            else Output.from_input(memory).apply(str),
            "required": str(self.required).lower(),
            "pipe": "node" if daemon_image else "claim",
            "waitImage": repository(daemon_image or ""),
        }


def class_parameters(mps: Mps, most_memory_mib: Input[int] | None = None) -> dict[str, ClassParameters]:
    """Parameters of each class by its name; `default` has the limits of the daemon or claim itself.

    `most_memory_mib` is the daemon's own limit where it is above these, for clients of claims that request memory:
    their class is `consumable-capacity`.
    """
    most = (mps.limits.active_thread_percentage, mps.limits.memory_mib)
    parameters = {}
    for name, limits in {DEFAULT_CLASS: mps.limits, **mps.classes}.items():
        values = (limits.active_thread_percentage, limits.memory_mib)
        # Nothing but the client's own environment holds a limit below the daemon's.
        parameters[name] = ClassParameters(*values, required=values != most or most_memory_mib is not None)
    if most_memory_mib is not None:
        parameters[CAPACITY_CLASS] = ClassParameters(most[0], most_memory_mib, required=True)
    return parameters


class MpsPolicy(pulumi.ComponentResource):
    """Owns the admission policies, and for each class of clients its parameters and its bindings.

    A namespace has a class by its label; who may label namespaces may choose. Clients of the class `default` may leave
    their limits out, since those of the daemon or claim itself hold for whoever sets nothing.
    """

    def __init__(
        self,
        name: str,
        *,
        site: Site,
        documents: Sequence[Document],
        classes: Mapping[str, ClassParameters],
        daemon_image: str | None,
        pipe_namespaces: Sequence[str],
        opts: ResourceOptions | None = None,
    ) -> None:
        """`documents` are the policies, the binding of the pipe's, and a class's objects as the models of each class's.

        `daemon_image` is that of the node's daemon, whose pipe clients mount; None where the driver mounts a claim's.
        Pods of `pipe_namespaces` mount it without being clients.
        """
        super().__init__("dra-workshop:gpu:MpsPolicy", name, None, opts)
        self._name, self._site = name, site
        policies = {
            document["metadata"]["name"]: register(
                document, f"{name}-{document['metadata']['name'].removeprefix('dra-workshop-')}", site.inside(self)
            )
            for document in documents
            if document["kind"] == POLICY_KIND
        }
        bindings = {d["spec"]["policyName"]: d for d in documents if d["kind"] == BINDING_KIND}
        rest = by_kind(document for document in documents if document["kind"] in ("Namespace", "ConfigMap"))
        namespace = register(rest["Namespace"], f"{name}-namespace", site.inside(self))
        pipe_binding = pipe_binding_document(bindings[PIPE_POLICY], classes, pipe_namespaces)
        options = site.inside(self, [policies[PIPE_POLICY]])
        self.objects: list[Resource] = [register(pipe_binding, f"{name}-mps-pipe-binding", options)]
        """Resources that must exist before the policies hold."""
        for class_name, parameters in classes.items():
            config, class_bindings = class_documents(
                rest["ConfigMap"], [bindings[POLICY], bindings[CLAIM_POLICY]], class_name
            )
            config["data"] = parameters.data(daemon_image)
            config_map = register(config, f"{name}-class-{class_name}", site.inside(self, [namespace]))
            self.objects.append(config_map)
            for binding in class_bindings:
                policy = binding["spec"]["policyName"]
                options = site.inside(self, [policies[policy], config_map])
                kind = "" if policy == POLICY else "-claims"
                self.objects.append(register(binding, f"{name}-class-{class_name}{kind}-binding", options))
        self.register_outputs({"classes": sorted(set(classes) - {CAPACITY_CLASS})})


def repository(image: str) -> str:
    """Image reference without its tag and digest."""
    name, colon, tag = image.partition("@")[0].rpartition(":")
    return name if colon and "/" not in tag else image.partition("@")[0]


def class_documents(
    config: Document, bindings: Iterable[Document], class_name: str
) -> tuple[Document, Sequence[Document]]:
    """New ConfigMap and bindings of a class, from those of another one."""
    config, bindings = copied(config), [copied(binding) for binding in bindings]
    config["metadata"]["name"] = class_name
    for binding in bindings:
        binding["metadata"]["name"] = f"{binding['spec']['policyName']}-{class_name}"
        binding["spec"]["paramRef"]["name"] = class_name
        binding["spec"]["matchResources"]["namespaceSelector"]["matchLabels"][CLASS_LABEL] = class_name
    return config, bindings


def pipe_binding_document(binding: Document, classes: Iterable[str], namespaces: Iterable[str]) -> Document:
    """New binding of the pipe's policy to namespaces without one of these classes, but for those that are named."""
    binding = copied(binding)
    excepted = {CLASS_LABEL: sorted(classes), NAME_LABEL: sorted(namespaces)}
    for expression in binding["spec"]["matchResources"]["namespaceSelector"]["matchExpressions"]:
        expression["values"] = excepted[expression["key"]]
    return binding
