"""End of the program after the engine has said why: nothing of Python's after it, and everything else as ever."""

import subprocess
import sys

import pytest

from toolchain.paths import CHECKOUT

SCRIPT = """
import asyncio, gc
import pulumi
from modules import ending
ending.say_nothing_twice()
{body}
"""
CLOSED_LATE = """
async def run():
    try:
        await asyncio.get_running_loop().create_future()
    finally:
        asyncio.get_running_loop().create_task(asyncio.sleep(0))
loop = asyncio.new_event_loop()
task = loop.create_task(run())
task._log_destroy_pending = False
loop.run_until_complete(asyncio.sleep(0))
loop.close()
del task
"""


def printed(body: str) -> str:
    command = [sys.executable, "-W", "default", "-c", SCRIPT.format(body=body)]
    return subprocess.run(command, cwd=CHECKOUT, capture_output=True, text=True, check=False).stderr


@pytest.mark.parametrize(
    "body",
    [
        "raise KeyboardInterrupt",
        "raise pulumi.RunError('Resource monitor has terminated, shutting down')",
        "async def never(): pass\nnever()",
        CLOSED_LATE,
    ],
)
def test_end_by_the_engine_or_by_ctrl_c_prints_nothing(body: str):
    assert printed(body) == ""


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ("raise ValueError('a mistake')", "ValueError: a mistake"),
        ("class A:\n    def __del__(self): raise ValueError('a mistake')\nA()", "ValueError: a mistake"),
        ("raise pulumi.RunError('another')", "another"),
    ],
)
def test_every_other_failure_is_shown(body: str, words: str):
    assert words in printed(body)


def test_commands_end_by_ctrl_c_without_a_traceback():
    program = "import os, signal; os.kill(os.getpid(), signal.SIGINT)"
    package = "import sys; sys.argv = ['-m']; import components.commands"
    done = subprocess.run(
        [sys.executable, "-c", f"{package}; {program}"], cwd=CHECKOUT, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (-2, "")
