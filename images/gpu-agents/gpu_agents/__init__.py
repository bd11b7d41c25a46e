"""Programs of the workshop that run in its cluster: `gpu-exporter`, `taint-keeper` and `gpu-holders`."""
