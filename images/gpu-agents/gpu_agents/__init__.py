"""Programs of the workshop that run in its cluster: `gpu-exporter` and `taint-keeper`."""
