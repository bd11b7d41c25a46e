"""Order in which workers take files of tests, where several run side by side.

Most of an end-to-end test is a wait, and two clusters at once are what a machine of two cores and 128 inotify instances
holds. So a third worker takes the files that need no cluster, while the first two wait for theirs.
"""

from collections.abc import Iterable

from xdist.scheduler.loadfile import LoadFileScheduling
from xdist.workermanage import WorkerController

WORKERS_WITH_CLUSTERS = ("gw0", "gw1")
# Those that bring clusters up, and one that measures milliseconds, which a busy machine does not give.
NOT_BESIDE_CLUSTERS = ("tests/e2e/", "tests/unit/test_loadgen.py")


def next_file(waiting: Iterable[str], worker: str) -> str | None:
    """File that a worker takes next of those that wait, in their order; None if it may have none of them."""
    files = list(waiting)
    if worker in WORKERS_WITH_CLUSTERS:
        return files[0] if files else None
    return next((file for file in files if not file.startswith(NOT_BESIDE_CLUSTERS)), None)


class FilesSideBySide(LoadFileScheduling):
    """Scheduler of files for workers, of which only some bring clusters up."""

    def _assign_work_unit(self, node: WorkerController) -> None:
        file = next_file(self.workqueue, node.gateway.id)
        if file is None:
            return  # it ends with the others, when the queue is empty
        self.workqueue.move_to_end(file, last=False)
        super()._assign_work_unit(node)
