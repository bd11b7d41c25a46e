"""Look at whether the API server of a stack's Kind cluster answers, while its nodes run.

Pulumi's Kubernetes provider asks a server that does not answer for minutes, and then takes what is in the state for
what is there: an update of a broken cluster would end with "unchanged".
"""

import base64
import binascii
import http.client
import ssl
import time
from pathlib import Path
from urllib.parse import urlsplit

import yaml

from machine.findings import Finding

NODES_SECONDS = 60
"""For how long a server may be silent: that of nodes that were just started is."""
REQUEST_SECONDS = 5
LOOK_SECONDS = 0.5


def silent(cluster_name: str, kubeconfig: Path, seconds: float = NODES_SECONDS) -> Finding | None:
    """Finding of a server that was not ready within `seconds`; None where it is, or there is no kubeconfig to tell."""
    deadline = time.monotonic() + seconds
    while complaint := _complaint(kubeconfig):
        if time.monotonic() > deadline:
            seen = f"{cluster_name}: its nodes run, and its API server does not answer ({complaint})"
            node = f"{cluster_name}-control-plane"
            remedy = (
                f"`docker restart {node}` starts it again and `docker exec {node} journalctl -u kubelet` says what is "
                "wrong; `make down` and `make up` with this STACK make it anew"
            )
            return Finding("cluster", seen, False, remedy)
        time.sleep(LOOK_SECONDS)  # between two looks at a condition that is bounded above
    return None


def _complaint(kubeconfig: Path) -> str:
    """What keeps the server from being ready, or nothing. Anybody may ask for it, so no key is read."""
    try:
        (cluster,) = yaml.safe_load(kubeconfig.read_text())["clusters"]
        server = urlsplit(cluster["cluster"]["server"])
        authority = base64.b64decode(cluster["cluster"]["certificate-authority-data"]).decode()
        context = ssl.create_default_context(cadata=authority)
    except (OSError, yaml.YAMLError, KeyError, TypeError, ValueError, binascii.Error, ssl.SSLError):
        return ""  # a file that tells nothing is a matter of those who use it
    connection = http.client.HTTPSConnection(
        server.hostname or "", server.port, timeout=REQUEST_SECONDS, context=context
    )
    try:
        connection.request("GET", "/readyz")
        answer = connection.getresponse()
        content = answer.read().decode(errors="replace")
    except ssl.SSLEOFError:
        return "it closes connections"  # Docker's proxy does, for a container in which nobody listens
    except (OSError, http.client.HTTPException) as error:
        return str(error) or type(error).__name__
    finally:
        connection.close()
    failed = [line for line in content.splitlines() if line.startswith("[-]")]
    return (failed[0] if failed else f"status {answer.status}") if answer.status >= 500 else ""
