"""Set-up: the tools, plugins and images that a stack needs, made once and kept by content.

Owns what `make setup` and `make bundle` do. Knows nothing of stacks, modules or Pulumi programs.
"""
