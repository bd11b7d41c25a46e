"""Comparison of the release numbers that a kernel, an engine or a driver writes, whatever text follows them."""

import re

from packaging.version import Version

# What a distribution adds is no part of a version for Python: 6.1.0-18-amd64, 20.10.24+dfsg1.
_RELEASE = re.compile(r"[0-9]+(?:\.[0-9]+)*")


def is_at_least(text: str, minimum: Version) -> bool:
    """Comparison of the dotted number at the start of a text with a minimum; False where the text starts with none."""
    release = _RELEASE.match(text)
    return release is not None and Version(release[0]) >= minimum
