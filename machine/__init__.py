"""What this machine has: NVIDIA's driver and GPUs, Docker and Kind, images. Looks only, and imports no Pulumi."""
