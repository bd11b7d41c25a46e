"""Requests of ResourceClaims and their templates."""

from dataclasses import dataclass
from typing import Any

from pulumi import Input, Output

from components.manifests import Document

ATTRIBUTES = 'device.attributes["gpu.nvidia.com"]'
CLAIM_KINDS = ("ResourceClaim", "ResourceClaimTemplate")
# What a request of a claim must not lack where claims share GPUs by consumable capacity, and the least there is of it.
LEAST_MEMORY = "1Mi"


def devices(claim: Document) -> dict[str, Any]:
    """Part of a claim's or a claim template's spec that asks for devices."""
    return claim["spec"].get("spec", claim["spec"])["devices"]


def request_memory(claim: Document, memory: Input[str]) -> None:
    """Let every request of a claim take only that much of its GPU's memory, a quantity of whole MiB."""
    for request in devices(claim)["requests"]:
        request["exactly"]["capacity"] = {"requests": {"memory": memory}}


def request_least_memory(claim: Document) -> None:
    """Let an admin claim ask for as little as it can of GPUs that are shared by memory.

    Kubernetes 1.37 does not count what an admin claim consumes, but allocates it only where that would fit: without a
    request it would need a GPU that nobody uses.
    """
    request_memory(claim, LEAST_MEMORY)


def select_gpu(claim: Document, uuid: Input[str]) -> None:
    """Let every request of a claim take the GPU with that UUID."""
    expression = Output.concat('device.attributes["gpu.nvidia.com"].uuid == "', uuid, '"')
    if isinstance(uuid, str):
        expression = f'device.attributes["gpu.nvidia.com"].uuid == "{uuid}"'
    for request in devices(claim)["requests"]:
        request["exactly"]["selectors"] = [{"cel": {"expression": expression}}]


@dataclass(frozen=True)
class MigDevice:
    """MIG device for a claim: one of that profile of the GPU with that UUID, on a node.

    Not by its own UUID, which nobody knows before it is made.
    """

    node: str
    profile: str
    parent_uuid: str


def select_mig_device(claim: Document, device: MigDevice) -> None:
    """Let every request of a claim take such a MIG device."""
    expression = f'{ATTRIBUTES}.profile == "{device.profile}" && {ATTRIBUTES}.parentUUID == "{device.parent_uuid}"'
    for request in devices(claim)["requests"]:
        request["exactly"]["selectors"] = [{"cel": {"expression": expression}}]
