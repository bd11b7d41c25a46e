"""How often each source of the exporter has failed."""

from collections.abc import Iterable
from threading import Lock

from gpu_agents import log

SOURCES = ("nvml", "pod-resources", "mps", "api")


class Failures:
    """Counts by source since the start. The same failure again is counted, but not logged again."""

    def __init__(self, sources: Iterable[str] = SOURCES) -> None:
        self._lock = Lock()
        self._counts = dict.fromkeys(sources, 0)
        self._last: dict[str, str] = {}

    def add(self, source: str, reason: object, **fields: object) -> None:
        with self._lock:
            self._counts[source] += 1
            known = self._last.get(source) == str(reason)
            self._last[source] = str(reason)
        if not known:
            log.error("a source failed; its metrics are missing or incomplete", source=source, reason=reason, **fields)

    @property
    def counts(self) -> dict[str, int]:
        with self._lock:
            return dict(self._counts)
