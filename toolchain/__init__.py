"""Makes the tools, plugins and images that the stack needs, once, and keeps them by content.

Owns what `make setup` does. Knows nothing of stacks, modules or Pulumi programs.
"""
