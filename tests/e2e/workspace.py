"""Copy of the checkout with stacks of its own, so that tests touch none of the user's."""

import os
import shutil
import signal
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from checks.live import LiveStack
from machine import kind
from settings import PROJECT
from tests.e2e import leftovers

# A bound, not an expectation: a minute or two where the machine is not busy.
UP_SECONDS = 900
MAKE_SECONDS = 1200  # every check of a stack, where other clusters are up
# What nobody is to see, whatever fails.
TRACEBACKS = ("Traceback (most recent call last)", "Exception ignored in", "was never awaited")
# What a shell may have for other projects; `activate` unsets it.
OTHER_PROJECTS = (
    *("PULUMI_BACKEND_URL", "PULUMI_STACK", "KIND_EXPERIMENTAL_PROVIDER", "DOCKER_DEFAULT_PLATFORM"),
    *("PYTHONSAFEPATH", "PYTHONOPTIMIZE"),
)


@dataclass(frozen=True)
class Workspace:
    """A folder with the project's files, linked to the checkout's tools and environment."""

    root: Path
    shell: Mapping[str, str] = field(default_factory=dict)
    """Variables of the shell that its programs run in, over this one's."""

    @classmethod
    def copy(cls, checkout: Path, folder: Path) -> "Workspace":
        """Copy what git would (tracked and new files) and link the rest."""
        listed = subprocess.run(
            ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"],
            cwd=checkout,
            capture_output=True,
            text=True,
            check=True,
        )
        for name in filter(None, listed.stdout.split("\0")):
            source = checkout / name
            if source.is_file():
                (folder / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(source, folder / name)
        for link in (".tools", ".venv"):
            (folder / link).symlink_to(checkout / link)
        (folder / ".state").mkdir(mode=0o700)
        leftovers.mark(folder / ".state")
        return cls(folder)

    def write_stack(self, name: str, config: str) -> None:
        """The stack's config file; the salt is that of the empty passphrase that `activate` sets."""
        (self.root / "stacks" / f"Pulumi.{name}.yaml").write_text(config)

    @property
    def env(self) -> dict[str, str]:
        """Environment as after `source ./activate`, whatever the caller's holds."""
        shell = {**os.environ, **self.shell}
        path = f"{self.root}/.tools/bin:{self.root}/.venv/bin:{shell['PATH']}"
        pulumi = {
            "PULUMI_HOME": f"{self.root}/.tools/pulumi",
            "PULUMI_PYTHON_CMD": f"{self.root}/toolchain/pulumi-python",
            "PULUMI_CONFIG_PASSPHRASE": "",
            "PULUMI_SKIP_UPDATE_CHECK": "true",
            "PULUMI_DISABLE_AUTOMATIC_PLUGIN_ACQUISITION": "true",
            "no_grpc_proxy": "127.0.0.1,localhost",
        }
        inherited = {name: value for name, value in shell.items() if name not in OTHER_PROJECTS}
        return {**inherited, **pulumi, "PYTHONUTF8": "1", "PATH": path}

    def start(self, *words: str, shell: Mapping[str, str] | None = None, umask: int = -1) -> subprocess.Popen[str]:
        """Start `pulumi` in a process group of its own, as a terminal would, with all output in one pipe.

        `shell` has variables and `umask` the mask of a shell that is unlike this one.
        """
        return subprocess.Popen(
            ["pulumi", *words, "--non-interactive"],
            cwd=self.root,
            env={**self.env, **(shell or {})},
            umask=umask,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )

    def pulumi(self, *words: str, fails: bool = False, shell: Mapping[str, str] | None = None, umask: int = -1) -> str:
        """Run `pulumi` to its end; returns what it printed.

        Fails if its exit is not as expected, and if a failure of Python's is in what it printed.
        """
        process = self.start(*words, shell=shell, umask=umask)
        try:
            output, _ = process.communicate(timeout=UP_SECONDS)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            output, _ = process.communicate()
            raise AssertionError(f"pulumi {' '.join(words)} took more than {UP_SECONDS} s:\n{output}") from None
        expected = "fail" if fails else "succeed"
        assert (process.returncode != 0) == fails, f"pulumi {' '.join(words)} did not {expected}:\n{output}"
        assert not [words for words in TRACEBACKS if words in output], output
        return output

    def run(self, *command: str) -> str:
        """Run a command in the workspace; returns what it printed. Fails if it does."""
        done = subprocess.run(command, cwd=self.root, env=self.env, capture_output=True, text=True, check=False)
        assert done.returncode == 0, f"{' '.join(command)} ended with {done.returncode}:\n{done.stdout}{done.stderr}"
        return done.stdout

    def make(self, stack: str, *words: str) -> str:
        """Run `make` for a stack as a person would, in a shell that nothing prepared; returns what it printed.

        Fails if it does, and if a failure of Python's is in what it printed.
        """
        done = subprocess.run(
            ["make", "--no-print-directory", *words, f"STACK={stack}"],
            cwd=self.root,
            env={**os.environ, **self.shell},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=MAKE_SECONDS,
            check=False,
        )
        assert not done.returncode, f"make {' '.join(words)} ended with {done.returncode}:\n{done.stdout}"
        assert not [words for words in TRACEBACKS if words in done.stdout], done.stdout
        return done.stdout

    def verify(self, stack: str, *modules: str, checks: Sequence[str] = ()) -> tuple[int, str]:
        """Exit status and output of the program behind `make verify`, for all modules or some.

        `checks` are words of names of checks; without them all checks run.
        """
        only = [word for module in modules for word in ("--module", module)]
        only += [word for check in checks for word in ("--check", check)]
        command = ["python", "-m", "checks.verify", "--stack", stack, *only]
        done = subprocess.run(command, cwd=self.root, env=self.env, capture_output=True, text=True, check=False)
        return done.returncode, done.stdout + done.stderr

    @contextmanager
    def up(self, stack: str) -> Iterator[LiveStack]:
        """The stack, up; destroyed at the end, whatever happens in between."""
        self.pulumi("stack", "init", stack)
        try:
            self.pulumi("up", "--yes", "--skip-preview", "--stack", stack)
            yield LiveStack.find(self.root, stack)
        finally:
            self.take_down(stack)

    def take_down(self, stack: str) -> None:
        """Destroy the stack; where that fails, its cluster goes all the same, since later tests need the room."""
        try:
            self.pulumi("cancel", "--yes", "--stack", stack)  # a run that was ended has left its lock
            self.pulumi("destroy", "--yes", "--skip-preview", "--stack", stack)
        except AssertionError:
            cluster = kind.KindCluster(f"{PROJECT}-{stack}", self.root / ".state" / stack)
            leftovers.remove(cluster.name, cluster.network if cluster.network_owner() == cluster.owner else None)
            raise
