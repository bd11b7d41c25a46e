"""What `make verify` and `make measure` run against a stack that is up: one file of checks a module, and results."""
