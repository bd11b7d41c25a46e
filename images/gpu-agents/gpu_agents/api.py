"""The Kubernetes API as a pod's service account may use it."""

import json
import warnings
from typing import Any

import httpx
import kr8s
import kr8s.asyncio

RESOURCE = "resource.k8s.io/v1"
# What asking the API may raise: its refusals, no answer, no network, no credentials or an answer that is no JSON.
ERRORS = (kr8s.ServerError, kr8s.APITimeoutError, httpx.HTTPError, OSError, ValueError)

# kr8s names the versions it was tested with; what is used here is plain REST. For the whole process, since what is put
# back around one call is put back for those that run beside it.
warnings.filterwarnings("ignore", message="Kubernetes version .* is not supported")


async def connect() -> Any:
    """A client. Raises one of ERRORS where no API server answers."""
    return await kr8s.asyncio.api()


async def get(api: Any, version: str, path: str, namespace: str | None = None, **params: str) -> Any:
    """One object or one list. Raises one of ERRORS."""
    async with api.call_api("GET", version=version, namespace=namespace, url=path, params=params or None) as response:
        return response.json()


async def create(api: Any, version: str, path: str, document: dict[str, Any]) -> None:
    """Raises one of ERRORS."""
    async with api.call_api("POST", version=version, url=path, content=json.dumps(document)):
        pass


def status(error: BaseException) -> int | None:
    """The HTTP status of a refusal, None for any other error."""
    response = error.response if isinstance(error, kr8s.ServerError) else None
    return response.status_code if response is not None else None


def reason(error: BaseException) -> str:
    """What went wrong in one line; a time-out has no words of its own."""
    return str(error).partition("\n")[0] or type(error).__name__
