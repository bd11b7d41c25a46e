"""Facts about this machine: NVIDIA's driver and GPUs, Docker and Kind, images. Imports no Pulumi.

Only the command in `machine.kind` changes something: it creates and deletes a Kind cluster.
"""
