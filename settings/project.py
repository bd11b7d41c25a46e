"""Names that a stack gets from the project."""

PROJECT = "dra-workshop"


def default_name(stack: str) -> str:
    """Name of a stack's Kind cluster unless its config has another."""
    return f"{PROJECT}-{stack}"
