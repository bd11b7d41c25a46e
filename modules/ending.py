"""End of the program where the engine has already said why: no traceback of Python's after it.

After a resource failed, or after Ctrl-C, the engine ends the program in the middle of its coroutines. The SDK and
Python would each print that end as an error of its own.
"""

import sys
import warnings
from types import TracebackType
from typing import Any

import pulumi

# What the SDK's coroutines meet when Python closes them after the loop: `run_in_stack` asks for a loop once more.
CLOSED_LATE = "no running event loop"


def say_nothing_twice() -> None:
    """Install the hooks. Everything else that is raised is shown as Python shows it."""
    sys.excepthook = _uncaught
    sys.unraisablehook = _unraisable
    warnings.filterwarnings("ignore", message="coroutine '.*' was never awaited", category=RuntimeWarning)


def _is_end(error: BaseException | None) -> bool:
    """Whether the engine, or a person by Ctrl-C, ended the program."""
    while error is not None:
        if isinstance(error, KeyboardInterrupt):
            return True
        if isinstance(error, pulumi.RunError) and "monitor has terminated" in str(error):
            return True
        error = error.__cause__ or error.__context__
    return False


def _uncaught(kind: type[BaseException], error: BaseException, traceback: TracebackType | None) -> None:
    if not _is_end(error):
        sys.__excepthook__(kind, error, traceback)


def _unraisable(event: Any) -> None:
    error = event.exc_value
    closed_late = isinstance(error, RuntimeError) and str(error) == CLOSED_LATE
    if not closed_late and not _is_end(error):
        sys.__unraisablehook__(event)
