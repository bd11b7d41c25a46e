"""Names in a fleet of nodes that are only objects."""

NODES_OF_A_RACK = 10
LABEL = "dra-workshop/fleet"
"""Label of its nodes and ResourceSlices, and key of the nodes' taint."""
RACK_LABEL = "dra-workshop/rack"
MIG = "/mig"
"""End of the name of a kind of nodes whose GPUs are published in parts, with counters; before it is the GPUs' model."""


def node_name(number: int) -> str:
    """Name of a node by its number, counted from 0."""
    return f"fleet-{number:04d}"


def rack_name(number: int) -> str:
    """Rack that the node of that number is in."""
    return f"rack-{number // NODES_OF_A_RACK:03d}"
