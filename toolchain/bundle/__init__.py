"""The air-gap bundle: made from a checkout (`archive`), compared (`check`) and set up (`unpacked`) where it is used.

Imports nothing, so that `check.py` needs no package on a machine that has none yet.
"""
