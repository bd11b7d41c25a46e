"""Which containers hold which devices of NVIDIA's DRA driver, as the kubelet's pod-resources API (v1) tells."""

from dataclasses import dataclass
from typing import Any

import grpc
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

DRIVER = "gpu.nvidia.com"
LIST = "/v1.PodResourcesLister/List"
SECONDS = 2
# The kubelet sends the devices of every pod in one message.
MAX_BYTES = 16 * 2**20

# What is used of k8s.io/kubelet/pkg/apis/podresources/v1: message -> field -> (number, type). A message's name as
# type means a list of it. What is not named here is skipped when a message is read.
MESSAGES = {
    "ListPodResourcesRequest": {},
    "ListPodResourcesResponse": {"pod_resources": (1, "PodResources")},
    "PodResources": {"name": (1, "string"), "namespace": (2, "string"), "containers": (3, "ContainerResources")},
    "ContainerResources": {"name": (1, "string"), "dynamic_resources": (5, "DynamicResource")},
    "DynamicResource": {
        "claim_name": (2, "string"),
        "claim_namespace": (3, "string"),
        "claim_resources": (4, "ClaimResource"),
    },
    "ClaimResource": {"driver_name": (2, "string"), "pool_name": (3, "string"), "device_name": (4, "string")},
}


def message_classes() -> dict[str, Any]:
    """The classes of MESSAGES, by name."""
    file = descriptor_pb2.FileDescriptorProto(name="pod_resources.proto", package="v1", syntax="proto3")
    for name, fields in MESSAGES.items():
        message = file.message_type.add(name=name)
        for field, (number, kind) in fields.items():
            added = message.field.add(name=field, number=number)
            if kind == "string":
                added.type, added.label = added.TYPE_STRING, added.LABEL_OPTIONAL
            else:
                added.type, added.label, added.type_name = added.TYPE_MESSAGE, added.LABEL_REPEATED, f".v1.{kind}"
    # A pool of its own: the default one may know the package's names from elsewhere.
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return {name: message_factory.GetMessageClass(pool.FindMessageTypeByName(f"v1.{name}")) for name in MESSAGES}


CLASSES = message_classes()


@dataclass(frozen=True)
class Holder:
    """A container that holds a device by a claim."""

    namespace: str
    pod: str
    container: str
    claim_namespace: str
    claim: str
    pool: str
    device: str


def holders(socket: str) -> list[Holder]:
    """Every container of this node with a device of NVIDIA's driver, once. Raises grpc.RpcError after SECONDS."""
    options = (
        # gRPC would send the socket's path, which a server in Go refuses as a host's name.
        ("grpc.default_authority", "localhost"),
        ("grpc.max_receive_message_length", MAX_BYTES),
    )
    with grpc.insecure_channel(f"unix://{socket}", options=options) as channel:
        call = channel.unary_unary(
            LIST,
            request_serializer=CLASSES["ListPodResourcesRequest"].SerializeToString,
            response_deserializer=CLASSES["ListPodResourcesResponse"].FromString,
        )
        answer = call(CLASSES["ListPodResourcesRequest"](), timeout=SECONDS)
    found = (
        Holder(
            namespace=pod.namespace,
            pod=pod.name,
            container=container.name,
            claim_namespace=claim.claim_namespace,
            claim=claim.claim_name,
            pool=result.pool_name,
            device=result.device_name,
        )
        for pod in answer.pod_resources
        for container in pod.containers
        for claim in container.dynamic_resources
        for result in claim.claim_resources
        if result.driver_name == DRIVER
    )
    # A claim may have two shares of one GPU.
    return list(dict.fromkeys(found))
