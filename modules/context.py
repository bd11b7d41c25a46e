"""Results of the modules that were built so far."""

from dataclasses import dataclass, field
from typing import Any, TypeVar

from components.dra_driver import DraDriver
from components.mps_clients import Mps
from components.mps_daemon import MpsDaemon
from components.site import Site
from components.workload import Workload
from machine.images import Images

T = TypeVar("T")


@dataclass(frozen=True)
class SharedGpu:
    """GPU that pods share through MPS, and the pods that do."""

    mps: Mps
    workload: Workload
    daemon: MpsDaemon | None
    """Daemon of the nodes; None where NVIDIA's driver starts one for each claim."""


@dataclass(frozen=True)
class MigNamespace:
    """Namespace of the pods with MIG devices, which is the first object of the workload that has it."""

    workload: Workload


class MissingResultError(LookupError):
    """Request for a result of a module that is not required, or that comes later."""


@dataclass
class Context:
    """Images that the stack runs, its outputs, and one result of each type that a module has added.

    A result is a component or a small frozen dataclass; a module adds its own and gets those of the modules that it
    requires.
    """

    images: Images
    outputs: dict[str, Any] = field(default_factory=dict)
    _results: list[Any] = field(default_factory=list)

    def add(self, result: T) -> T:
        """Keep a result for the modules that come later; returns it."""
        self._results.append(result)
        return result

    def find(self, kind: type[T]) -> T | None:
        """Result of that type; None where its module is off, or has none in this stack."""
        return next((result for result in self._results if isinstance(result, kind)), None)

    def get(self, kind: type[T]) -> T:
        """Result of that type. Raises `MissingResultError` where there is none."""
        result = self.find(kind)
        if result is None:
            raise MissingResultError(
                f"{kind.__name__}: no module has added one yet; let the module that asks require the one that does"
            )
        return result

    @property
    def driver(self) -> DraDriver:
        """NVIDIA's driver, which publishes the GPUs."""
        return self.get(Site).driver
