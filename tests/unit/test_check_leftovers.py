"""What an interrupted run of the checks left in a stack, and its removal by the next one."""

import json
from dataclasses import dataclass, field
from typing import Any

from checks import leftovers
from checks.live import LABEL

LEFT = {
    leftovers.CONTROLLERS: "cronjob.batch/again-1 pod/again-2 pod/client-3",
    "namespaces": "namespace/check-4",
}


@dataclass
class FakeStack:
    """Stack whose kubectl answers `get` with what was left."""

    left: dict[str, str]
    selector: dict[str, str] | None = None
    daemon: bool = True
    ran: list[tuple[str, ...]] = field(default_factory=list)

    def kubectl(self, *words: str, check: bool = True) -> str:
        self.ran.append(words)
        if words[:2] == ("get", "daemonset"):
            spec: dict[str, Any] = {"nodeSelector": self.selector} if self.selector else {}
            return json.dumps({"spec": {"template": {"spec": spec}}}) if self.daemon else ""
        if words[0] == "get":
            assert words[words.index("-l") + 1] == LABEL
            # A kind that the cluster does not know, or a namespace that is not there: an error, and no output.
            assert not check
            return self.left.get(words[1], "")
        return ""

    @property
    def changes(self) -> list[tuple[str, ...]]:
        return [words for words in self.ran if words[0] != "get"]


def test_what_bears_the_label_is_removed_and_named():
    stack: Any = FakeStack(LEFT)
    removed = leftovers.remove(stack)
    assert removed == ["cronjob.batch/again-1", "pod/again-2", "pod/client-3", "namespace/check-4"]
    pods, namespaces = stack.changes
    assert pods[:6] == ("delete", "-n", "mps", "cronjob.batch/again-1", "pod/again-2", "pod/client-3")
    assert namespaces[:2] == ("delete", "namespace/check-4")


def test_daemon_that_was_sent_away_comes_back():
    stack: Any = FakeStack({}, {leftovers.NOWHERE: "true", "kubernetes.io/os": "linux"})
    removed = leftovers.remove(stack)
    assert removed == ["the node selector nowhere of daemonset/mps-daemon"]
    ((verb, *_, patch),) = stack.changes
    assert verb == "patch"
    assert json.loads(patch) == {"spec": {"template": {"spec": {"nodeSelector": {"nowhere": None}}}}}


def test_nothing_is_done_where_nothing_was_left():
    stacks: list[Any] = [FakeStack({}), FakeStack({}, {"kubernetes.io/os": "linux"}), FakeStack({}, daemon=False)]
    for stack in stacks:
        assert leftovers.remove(stack) == []
        assert stack.changes == []
