"""Arithmetic of GPUs: models, what MPS grants and limits, shares of memory, quantities. Imports nothing of ours."""
