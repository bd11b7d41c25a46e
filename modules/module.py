"""Row of the table of modules."""

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from modules.context import Context

if TYPE_CHECKING:
    from settings import Settings


Built = Context


@dataclass(frozen=True)
class Module:
    """One module of the workshop."""

    number: str
    slug: str
    title: str
    requires: tuple[str, ...]
    build: Callable[["Module", "Settings", Context], None]

    @property
    def name(self) -> str:
        """Its folder in manifests/ and its page in docs/."""
        return f"{self.number}-{self.slug}"

    @property
    def check_file(self) -> str:
        """The file of its checks in checks/."""
        return f"test_{re.sub('[-.]', '_', self.name)}.py"
