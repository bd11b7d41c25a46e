"""Order in which workers take files of tests, where several run side by side.

Most of an end-to-end test is a wait, so several clusters are up at once, and one worker more, the last, takes the files
that need none meanwhile. Two clusters are what 128 inotify instances hold, which many distributions give a user; three
are what two cores hold.
"""

from collections.abc import Iterable

from xdist.scheduler.loadfile import LoadFileScheduling
from xdist.workermanage import WorkerController

# Those that bring clusters up, and one that measures milliseconds, which a busy machine does not give.
NOT_BESIDE_CLUSTERS = ("tests/e2e/", "tests/unit/test_loadgen.py")


def has_clusters(worker: str, workers: int) -> bool:
    """Whether a worker may bring clusters up: all but the last of several, and those that replace one that crashed."""
    return workers < 2 or worker != f"gw{workers - 1}"


def next_file(waiting: Iterable[str], worker: str, workers: int) -> str | None:
    """File that a worker takes next of those that wait, in their order; None if it may have none of them."""
    files = list(waiting)
    if has_clusters(worker, workers):
        return files[0] if files else None
    return next((file for file in files if not file.startswith(NOT_BESIDE_CLUSTERS)), None)


class FilesSideBySide(LoadFileScheduling):
    """Scheduler of files for workers, of which only some bring clusters up."""

    def _assign_work_unit(self, node: WorkerController) -> None:
        file = next_file(self.workqueue, node.gateway.id, self.config.getvalue("numprocesses") or 1)
        if file is None:
            return  # it ends with the others, when the queue is empty
        self.workqueue.move_to_end(file, last=False)
        super()._assign_work_unit(node)
