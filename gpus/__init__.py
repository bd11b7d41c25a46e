"""Arithmetic of GPUs: models, grants and limits of MPS, shares of memory, quantities. Looks at no machine."""
