"""Client for one context of one kubeconfig, never the current context; and one place for what goes wrong with it."""

import base64
import ipaddress
import json
import os
import ssl
import sys
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import kr8s
import yaml
from kr8s._async_utils import as_sync_func

from settings import kubeconfig as kubeconfigs

KINDS_OF_PROXY = ("http", "https")
PORTS = {"http": 80, "https": 443}
# A server that is paused, or behind a VPN that went down, takes connections or packets and says nothing.
ANSWER_SECONDS = 30


class ClusterError(Exception):
    """The cluster cannot be used; the message has value, rule and remedy."""


def connect(kubeconfig: str, context: str, answer_seconds: float | None = ANSWER_SECONDS) -> Any:
    """Client of the cluster. Raises `ClusterError` where none answers it, or with what was wrong with the kubeconfig.

    A request fails that had no answer for `answer_seconds`; None waits for ever.

    Proxies are those that kubectl and Pulumi's provider use: Go's rules, not httpx's, which knows no ranges of
    addresses in NO_PROXY, takes a proxy for 127.0.0.1, and fails on the schemes that it lacks.
    """
    cluster: dict[str, Any] = {}
    try:
        # By content: kr8s keeps a client for each kubeconfig, and a cluster that was made anew has the same file.
        content = kubeconfigs.read(Path(kubeconfig))
        cluster, _ = kubeconfigs.entries(content, context)
        for key, file in kubeconfigs.missing_files(content, context):
            raise ClusterError(
                f"{kubeconfig}: names the file {file} as {key} of context {context}, which is not there or not for you "
                "to read; put it there, or write the kubeconfig anew by the cluster's own tool"
            )
        _complete(content, context)
        with warnings.catch_warnings():
            # kr8s names the versions it was tested with; what is used here is plain REST.
            warnings.filterwarnings("ignore", message="Kubernetes version .* is not supported")
            # As kr8s.api does, which has no bound for its first request.
            api = kr8s.Api(bypass_factory=True, kubeconfig=content, context=context)
            api.timeout = answer_seconds
            api.reauthenticate()
            api.version()
            return api
    except ClusterError:
        raise
    except Exception as error:
        # Of any type: kr8s raises TypeError, KeyError and others for a kubeconfig that it does not understand.
        raise ClusterError(explain(error, kubeconfig, context, cluster.get("proxy-url"))) from error


def ask(api: Any, method: str, version: str, path: str, namespace: str | None = None, **options: Any) -> httpx.Response:
    """Answer to one request of a client, of which kr8s's synchronous one makes none by itself.

    `version` is an API's such as resource.k8s.io/v1, `options` are httpx's. Raises `kr8s.ServerError` for a refusal.
    """

    async def asked() -> httpx.Response:
        async with api.call_api(method, version=version, url=path, namespace=namespace, **options) as response:
            return response

    # In the loop of kr8s's own, which its connections belong to.
    return as_sync_func(asked)()


def reported(main: Callable[[], int]) -> int:
    """Exit status of a command. What its cluster, its kubeconfig or a program that it runs does wrong is one message.

    Environment: KUBECONFIG and KUBE_CONTEXT, to name them.
    """
    try:
        return main()
    except ClusterError as error:
        print(error, file=sys.stderr)
    except Exception as error:  # noqa: BLE001 - a person who runs `pulumi up` gets a message, whatever it was
        print(explain(error, os.environ.get("KUBECONFIG", ""), os.environ.get("KUBE_CONTEXT", "")), file=sys.stderr)
    return 1


def explain(error: BaseException, kubeconfig: str, context: str, proxy: str | None = None) -> str:
    """Message for an exception of kr8s, httpx, ssl, yaml or the machine: what was asked, what is wrong, what to do.

    `proxy` is the one that the cluster was asked through.
    """
    check = f"`kubectl --kubeconfig {kubeconfig} --context {context} get --raw /readyz`"
    where = f"context {context} of {kubeconfig}"
    causes = _chain(error)
    for cause in causes:
        words = " ".join(str(cause).split())
        match cause:
            case ssl.SSLError():
                return f"{where}: TLS fails ({words}); let its certificate-authority be the cluster's: try {check}"
            case kr8s.ServerError() if cause.response is not None and cause.response.status_code in (401, 403):
                code = cause.response.status_code
                rule = "the cluster does not know this user" if code == 401 else "this user may not do that"
                remedy = "renew the credentials" if code == 401 else "use credentials that may, as an administrator's"
                return f"{where}: {words} ({code}); {rule}: {remedy}, and try {check}"
            case kr8s.ServerError():
                return f"{where}: the API server refuses ({words}); try {check}"
            case httpx.ProxyError() | httpx.ConnectError() if proxy or isinstance(cause, httpx.ProxyError):
                return (
                    f"{where}: {proxy or 'the proxy'} does not let it through ({words}); name the API server's address "
                    "or range in NO_PROXY, or another proxy in HTTPS_PROXY or the kubeconfig's proxy-url"
                )
            case httpx.TimeoutException() | kr8s.APITimeoutError():
                return f"{where}: the API server does not answer in time; is the cluster up? try {check}"
            case httpx.HTTPError():
                return f"{where}: no API server answers ({words}); is the cluster up? try {check}"
            case kubeconfigs.KubeconfigError():
                return f"{kubeconfig}: cannot be used as a kubeconfig ({words}); check it with `kubectl config view`"
            case FileNotFoundError():
                name = cause.filename or words
                return f"{where}: {name} is not there, and is needed; name what is, or install it, and try {check}"
            case yaml.YAMLError():
                return f"{where}: is no YAML ({words}); check it with `kubectl config view`"
    words = f"{type(causes[0]).__name__}: {' '.join(str(causes[0]).split())}"
    return f"{where}: cannot be used ({words}); try {check}"


def _chain(error: BaseException) -> list[BaseException]:
    """Exception and what caused it: httpx wraps what ssl raises, kr8s what httpx raises. TLS errors come first."""
    causes: list[BaseException] = []
    next_one: BaseException | None = error
    while next_one is not None and next_one not in causes:
        causes.append(next_one)
        next_one = next_one.__cause__ or next_one.__context__
    return sorted(causes, key=lambda cause: not isinstance(cause, ssl.SSLError))


def _complete(content: dict[str, Any], context: str) -> None:
    """Add to a kubeconfig what kr8s, other than kubectl, does not find out itself. Raises `ClusterError`."""
    cluster, user = kubeconfigs.entries(content, context)
    content["current-context"] = context
    if user.get("tokenFile") and "token" not in user:
        user["token"] = Path(user["tokenFile"]).read_text().strip()
    if program := user.get("exec"):
        # https://kubernetes.io/docs/reference/access-authn-authz/authentication/#client-go-credential-plugins
        spec: dict[str, Any] = {"interactive": False}
        if program.get("provideClusterInfo"):
            spec["cluster"] = _for_program(cluster)
        info = {"kind": "ExecCredential", "apiVersion": program["apiVersion"], "spec": spec}
        own = {entry["name"]: entry["value"] for entry in program.get("env") or []}
        own = {"KUBERNETES_EXEC_INFO": json.dumps(info), **_no_proxy_of_programs(), **own}
        program["env"] = [{"name": name, "value": value} for name, value in own.items()]
    if not cluster.get("proxy-url"):
        cluster.pop("proxy-url", None)
        if proxy := proxy_for(cluster.get("server", ""), os.environ):
            cluster["proxy-url"] = proxy
        else:
            _ignore_proxies(urlsplit(cluster.get("server", "")).hostname or "")
    proxy = cluster.get("proxy-url")
    if proxy and urlsplit(proxy).scheme not in KINDS_OF_PROXY:
        raise ClusterError(
            f"{proxy}: is the proxy of {cluster.get('server')}, and only http and https proxies are spoken here; name "
            "another one in HTTPS_PROXY or the kubeconfig's proxy-url, or the API server in NO_PROXY"
        )


def _for_program(cluster: dict[str, Any]) -> dict[str, Any]:
    """What a program that gets credentials is told of the cluster."""
    told = {key: value for key, value in cluster.items() if key not in ("certificate-authority", "extensions")}
    if "certificate-authority" in cluster and "certificate-authority-data" not in cluster:
        content = Path(cluster["certificate-authority"]).read_bytes()
        told["certificate-authority-data"] = base64.b64encode(content).decode()
    for extension in cluster.get("extensions") or []:
        if extension["name"] == "client.authentication.k8s.io/exec":
            told["config"] = extension["extension"]
    return told


def _no_proxy_of_programs() -> dict[str, str]:
    """Rules for proxies as they are for this process's programs, before `_ignore_proxies`."""
    if not any(name.lower().endswith("_proxy") for name in os.environ):
        return {}
    rules = _variable(os.environ, "NO_PROXY")
    return {"NO_PROXY": rules, "no_proxy": rules}


def _ignore_proxies(host: str) -> None:
    """Let httpx, which asks the environment each time that it connects anew, take no proxy in this process.

    It reads the lower-case name first; programs in Go, such as kubectl, the other, and that keeps what it says.
    """
    if any(name.lower().endswith("_proxy") for name in os.environ):
        os.environ["NO_PROXY"] = _variable(os.environ, "NO_PROXY") or host
        os.environ["no_proxy"] = "*"


def proxy_for(server: str, environment: Mapping[str, str]) -> str | None:
    """Proxy for a server by the environment, None for a direct way: the rules of Go's golang.org/x/net/http/httpproxy.

    ALL_PROXY is not one of its variables. This machine itself never needs a proxy.
    """
    url = urlsplit(server)
    host, port = url.hostname or "", url.port or PORTS.get(url.scheme, 443)
    proxy = _variable(environment, f"{url.scheme.upper()}_PROXY")
    if not proxy or host == "localhost":
        return None
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        address = None
    if address is not None and address.is_loopback:
        return None
    rules = [rule.strip().lower() for rule in _variable(environment, "NO_PROXY").split(",")]
    if any(rule and _is_meant(rule, host.lower(), port, address) for rule in rules):
        return None
    return proxy if "://" in proxy else f"http://{proxy}"


def _is_meant(rule: str, host: str, port: int, address: Any) -> bool:
    """Whether an entry of NO_PROXY means a host: *, a range of addresses, an address or a domain, the last two
    perhaps with a port."""
    if rule == "*":
        return True
    if "/" in rule:
        try:
            return address is not None and address in ipaddress.ip_network(rule, strict=False)
        except ValueError:
            return False
    name, _, number = rule.rpartition(":") if rule.count(":") == 1 or "]:" in rule else (rule, "", "")
    if number and number != str(port):
        return False
    name = name.strip("[]")
    if address is not None:
        return name == str(address)
    if name.startswith("*."):
        name = name[1:]
    return host.endswith(name) if name.startswith(".") else host == name or host.endswith(f".{name}")


def _variable(environment: Mapping[str, str], name: str) -> str:
    """Value of a variable; Go takes the upper-case name first."""
    return environment.get(name) or environment.get(name.lower()) or ""
