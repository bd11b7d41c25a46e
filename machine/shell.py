"""State of the shell that a stack is brought up from: variables that would take it to another place or program.

Looks only. `activate` unsets or sets what it can; this is for plain `pulumi` in a shell that was not prepared.
"""

import locale
import os
import sys
import tempfile
from collections.abc import Iterator

from machine import docker_engine
from machine.findings import Finding
from settings import Settings
from toolchain.paths import STATE

NAME = "shell"
# Values with which `docker` trusts what is not signed: those of Go's strconv.ParseBool that are false.
NO_TRUST = ("", "0", "f", "false")
# Switch of the provider -> what it would do to a stack on a cluster of somebody else.
PROVIDER_SWITCHES = {
    "PULUMI_K8S_DELETE_UNREACHABLE": (
        "would stay with the stack",
        "it is for one `pulumi destroy` of a cluster that is gone for good",
    ),
    "PULUMI_K8S_SKIP_UPDATE_UNREACHABLE": ("would stay with the stack", "an `up` then fails where it has to"),
    "PULUMI_K8S_ENABLE_PATCH_FORCE": (
        "would take labels of nodes from whoever set them",
        "the stack forces fields of its own objects only",
    ),
    "PULUMI_K8S_HELM_DRIVER": (
        "would keep Helm's release where a shell without it finds none",
        "the release is kept in Secrets, as Helm does",
    ),
}


def look(settings: Settings) -> Iterator[Finding]:
    """Findings that are not met; none in a shell in order."""
    yield from _backend()
    yield from _text()
    if settings.cluster.provider == "existing":
        for name, (consequence, why) in PROVIDER_SWITCHES.items():
            if value := os.environ.get(name):
                yield Finding(NAME, f"{name} is {value}, and {consequence}", False, f"`unset {name}`; {why}")
        return
    provider = os.environ.get("KIND_EXPERIMENTAL_PROVIDER", "")
    if provider not in ("", "docker"):
        seen = f"KIND_EXPERIMENTAL_PROVIDER is {provider}, and the nodes are Docker's"
        yield Finding(NAME, seen, False, "`unset KIND_EXPERIMENTAL_PROVIDER`, or source ./activate again")
    yield from _docker()
    if problem := docker_engine.engine_problem(settings.state_folder):
        yield problem


def _backend() -> Iterator[Finding]:
    """The state belongs into this checkout: `make clean` looks there for what is still up."""
    url = os.environ.get("PULUMI_BACKEND_URL", "")
    ours = {"", "file://./.state", f"file://{STATE}"}
    if url.rstrip("/") not in ours:
        remedy = "`unset PULUMI_BACKEND_URL`, or source ./activate again"
        yield Finding(NAME, f"PULUMI_BACKEND_URL is {url}, and stacks are kept in {STATE}", False, remedy)


def _docker() -> Iterator[Finding]:
    """Variables with which `docker run`, which makes the nodes, does not take the image that is there."""
    platform = os.environ.get("DOCKER_DEFAULT_PLATFORM", "")
    if platform not in ("", docker_engine.PLATFORM):
        seen = f"DOCKER_DEFAULT_PLATFORM is {platform}, and nodes are {docker_engine.PLATFORM}"
        yield Finding(NAME, seen, False, "`unset DOCKER_DEFAULT_PLATFORM`, or source ./activate again")
    trust = os.environ.get("DOCKER_CONTENT_TRUST", "")
    if trust.lower() not in NO_TRUST:
        seen = f"DOCKER_CONTENT_TRUST is {trust}, and images that set-up made are signed by nobody"
        remedy = "`unset DOCKER_CONTENT_TRUST` in this shell; docs/reference/security.md has how each image is pinned"
        yield Finding(NAME, seen, False, remedy)


def _text() -> Iterator[Finding]:
    if not sys.flags.utf8_mode and locale.getpreferredencoding(False).upper().replace("-", "") != "UTF8":
        seen = f"the locale's encoding is {locale.getpreferredencoding(False)}, and files here are UTF-8"
        yield Finding(NAME, seen, False, "`export PYTHONUTF8=1`, or source ./activate again")
    folder = os.environ.get("TMPDIR", "")
    if folder and not os.access(folder, os.W_OK | os.X_OK):
        seen = f"TMPDIR is {folder}, which is no folder that this user can write to"
        remedy = f"make it, or `unset TMPDIR`: kind and Docker write there, Python uses {tempfile.gettempdir()}"
        yield Finding(NAME, seen, False, remedy)
