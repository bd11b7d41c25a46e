"""Reader of a user's kubeconfig, for programs that are not told in which folder it lies.

A kubeconfig may name certificates, keys, tokens and a program that gets credentials relative to its own folder, as
kubectl reads it. What is handed on by content, to Pulumi's provider or to kr8s, has to name them in full.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

# Keys of a cluster or a user that name a file.
FILES = ("certificate-authority", "client-certificate", "client-key", "tokenFile")


class KubeconfigError(Exception):
    """A file that is no kubeconfig, or has no such context; the message is the cause."""


def read(path: Path) -> dict[str, Any]:
    """Content of a kubeconfig with every file and program in it named in full. Raises `KubeconfigError`."""
    try:
        content = yaml.safe_load(path.read_text())
        for entry in content["contexts"]:
            str(entry["name"])
        for holder, key in _names_of_files(content):
            holder[key] = str(path.parent / holder[key])
    except (OSError, UnicodeDecodeError, yaml.YAMLError, KeyError, TypeError, AttributeError) as error:
        cause = str(error).partition("\n")[0]
        raise KubeconfigError(f"{type(error).__name__}: {cause}") from error
    return content


def text(path: Path) -> str:
    """Text of a kubeconfig that means the same wherever it lies: the file's own where it names nothing relative.

    Files stay files: a renewed certificate is no change of the stack, and no key gets into its state. Raises
    `KubeconfigError`.
    """
    content = read(path)
    written = path.read_text()
    return written if yaml.safe_load(written) == content else yaml.safe_dump(content, sort_keys=False)


def entries(content: dict[str, Any], context: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """Cluster and user of a context; empty where the kubeconfig has none of that name.

    Raises `KubeconfigError` for a context that is not there.
    """
    contexts = {str(entry["name"]): entry.get("context") or {} for entry in content["contexts"]}
    if context not in contexts:
        raise KubeconfigError(f"has no context {context}, but {', '.join(contexts) or 'none'}")
    of_context = contexts[context]
    cluster = _named(content, "cluster", of_context.get("cluster"))
    return cluster, _named(content, "user", of_context.get("user"))


def missing_files(content: dict[str, Any], context: str) -> Iterator[tuple[str, str]]:
    """Key and path of each file of a context that is not there, or that this user may not read."""
    for holder in entries(content, context):
        for key in FILES:
            # Content in the kubeconfig stands above a file's.
            if key in holder and f"{key}-data" not in holder:
                try:
                    Path(holder[key]).read_bytes()
                except OSError:
                    yield key, holder[key]


def _named(content: dict[str, Any], kind: str, name: Any) -> dict[str, Any]:
    for entry in content.get(f"{kind}s") or []:
        if entry["name"] == name:
            return entry.get(kind) or {}
    return {}


def _names_of_files(content: dict[str, Any]) -> Iterator[tuple[dict[str, Any], str]]:
    """Each mapping with a key in it that names a file or, by a path, a program."""
    for kind in ("cluster", "user"):
        for entry in content.get(f"{kind}s") or []:
            holder = entry.get(kind) or {}
            yield from ((holder, key) for key in FILES if holder.get(key))
            program = holder.get("exec") or {}
            # A plain name is looked for on PATH.
            if "/" in program.get("command", ""):
                yield program, "command"
