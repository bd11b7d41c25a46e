"""Checks of a stack that is up, one file for each module, and the programs behind `make verify` and `make measure`."""
