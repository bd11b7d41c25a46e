"""Downloads from upstream's sites or a mirror of them: bounded in time, compared with a checksum, whole or not at all.

Every file that set-up takes from a web site comes through here. `DRA_WORKSHOP_MIRROR=https://mirror.example.com/path`
takes `https://host/file` from `https://mirror.example.com/path/host/file` instead. Proxies are those of `HTTPS_PROXY`,
`HTTP_PROXY` and `NO_PROXY`, and authorities those of `SSL_CERT_FILE`, as Python reads them.
"""

import hashlib
import http.client
import os
import re
import ssl
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from toolchain.steps import Interrupted, StepError

MIRROR = "DRA_WORKSHOP_MIRROR"
ATTEMPTS = 3
PAUSE_SECONDS = 2.0  # before the second attempt; doubled before each further one
STALL_SECONDS = 30.0
MINIMUM_BYTES = 1024  # in STALL_SECONDS; less is a stall, or a server that drips
CHUNK = 1 << 16
T = TypeVar("T")
MEGABYTE = 10**6
CHECKSUM_LINE = re.compile(r"(?P<sha256>[0-9a-fA-F]{64})(?:\s+\*?(?P<name>\S+))?")
# Answers that another attempt may change: https://www.rfc-editor.org/rfc/rfc9110#section-15
PASSING = (408, 425, 429, 500, 502, 503, 504)
ELSEWHERE = "SOURCE=built builds everything from package registries, as root on Debian 12 or newer"


class DownloadError(StepError):
    """Error of a download: its URL, what came instead of what was expected, the remedy."""

    def __init__(self, url: str, seen: str, remedy: str, passing: bool = False) -> None:
        super().__init__(f"{url}: {seen}; {remedy}")
        self.url, self.seen, self.remedy, self.passing = url, seen, remedy, passing


def never() -> bool:
    """Answer of a download that nobody interrupts."""
    return False


def untold(received: int, expected: int | None, speed: float) -> None:
    """Report of a download that nobody watches."""


@dataclass(frozen=True)
class Watcher:
    """Onlooker of a download, who may end it.

    `report` gets the bytes so far, all bytes or None where the server does not say, and bytes a second.
    """

    report: Callable[[int, int | None, float], None] = untold
    interrupted: Callable[[], bool] = never


UNWATCHED = Watcher()


def address(url: str) -> str:
    """Address that a file is taken from, upstream's or the mirror's. Raises `StepError` if the mirror is no URL."""
    mirror = os.environ.get(MIRROR, "").rstrip("/")
    if not mirror:
        return url
    parts = urllib.parse.urlsplit(mirror)
    if parts.scheme not in ("http", "https") or not parts.netloc or parts.query or parts.fragment:
        raise StepError(
            f'{MIRROR}: "{mirror}" is no address of a mirror; it has to be http:// or https:// with a host and perhaps '
            "a path, such as https://mirror.example.com/upstream"
        )
    return f"{mirror}/{url.partition('://')[2]}"


def fetch(url: str, checksums_url: str, target: Path, watcher: Watcher = UNWATCHED) -> None:
    """Write the file at `url` to `target` once it has the SHA-256 that upstream publishes at `checksums_url`.

    Raises `DownloadError`; then nothing is at `target`.
    """
    part = target.with_name(f"{target.name}.part")
    try:
        expected = published(checksums_url, url.rpartition("/")[2], watcher)
        _with_attempts(address(url), watcher, lambda: _receive(address(url), part, expected, watcher))
        part.rename(target)
    finally:
        part.unlink(missing_ok=True)


def published(checksums_url: str, name: str, watcher: Watcher = UNWATCHED) -> str:
    """SHA-256 of the file `name`, from a list of `<sha256>  <name>` or a file that holds one and nothing else."""
    url = address(checksums_url)
    lines = _with_attempts(url, watcher, lambda: _read(url)).decode(errors="replace").splitlines()
    matches = [match for line in lines if (match := CHECKSUM_LINE.fullmatch(line.strip()))]
    for match in matches:
        if match["name"] and Path(match["name"]).name == name:
            return match["sha256"].lower()
    if len(matches) == 1 and not matches[0]["name"]:
        return matches[0]["sha256"].lower()
    first = next((line.strip() for line in lines if line.strip()), "")
    raise DownloadError(
        url,
        f"no SHA-256 of {name} is in it; its first line is {first[:80]!r}",
        f"it has to be upstream's list of checksums; {_who_answers()}, or {ELSEWHERE}",
    )


def speed_text(received: int, expected: int | None, speed: float) -> str:
    """Words for a download's progress: `12.3 of 88.1 MB, 4.2 MB/s`."""
    total = f" of {expected / MEGABYTE:.1f}" if expected is not None else ""
    return f"{received / MEGABYTE:.1f}{total} MB, {speed / MEGABYTE:.1f} MB/s"


def answers(url: str, seconds: float) -> str | None:
    """Reason why the file at `url` cannot be had from here, or None; follows redirects and reads no content.

    Signed addresses that GitHub redirects to may be for GET only, so HEAD would be refused where GET is not. Of a
    registry (`https://host/v2/`), which asks who one is, any answer will do.
    """
    registry = url.endswith("/v2/")
    wanted = url if registry else address(url)
    try:
        with urllib.request.urlopen(wanted, timeout=seconds) as answer:
            kind = answer.headers.get_content_type()
    except urllib.error.HTTPError as error:
        return None if registry and error.code < 500 else f"{wanted}: HTTP {error.code} {error.reason}"
    except (OSError, http.client.HTTPException, ValueError) as error:
        return f"{wanted}: {_cause(error)}"
    if kind == "text/html" and not registry:
        return f"{wanted}: an HTML page in place of the file"
    return None


def _with_attempts(url: str, watcher: Watcher, action: Callable[[], T]) -> T:
    """Result of `action`, tried again where another attempt may help. Raises the last attempt's `DownloadError`."""
    last: DownloadError | None = None
    for attempt in range(1, ATTEMPTS + 1):
        try:
            return action()
        except DownloadError as error:
            last = error
        except (OSError, http.client.HTTPException) as error:
            last = _explained(url, error)
        if not last.passing:
            raise last
        if attempt < ATTEMPTS:
            _pause(PAUSE_SECONDS * 2 ** (attempt - 1), watcher)
    assert last
    raise DownloadError(url, f"{last.seen}, {ATTEMPTS} times in a row", last.remedy)


def _pause(seconds: float, watcher: Watcher) -> None:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if watcher.interrupted():
            raise Interrupted
        time.sleep(min(0.1, seconds))  # between two looks at a condition that is bounded above


def _receive(url: str, part: Path, expected_sha256: str, watcher: Watcher) -> None:
    """Write the answer's content to `part` and compare it with its length and checksum."""
    with urllib.request.urlopen(url, timeout=STALL_SECONDS) as answer, open(part, "wb") as out:
        _refuse_page(url, answer)
        length = answer.headers.get("Content-Length")
        expected = int(length) if length and length.isdecimal() else None
        received, digest = _copy(url, answer, out.write, expected, watcher)
    if expected is not None and received != expected:
        raise DownloadError(
            url,
            f"the answer ended after {received} of {expected} bytes",
            f"run this again where the network is steadier; {ELSEWHERE}",
            passing=True,
        )
    if digest != expected_sha256:
        raise DownloadError(
            url,
            f"its SHA-256 is {digest}, but upstream publishes {expected_sha256}",
            f"nothing of it is used; {_who_answers()}, or try again later",
        )


def _copy(
    url: str,
    answer: http.client.HTTPResponse,
    write: Callable[[bytes], object],
    expected: int | None,
    watcher: Watcher,
) -> tuple[int, str]:
    """Copy until the answer's end; returns bytes and SHA-256. Less than MINIMUM_BYTES in STALL_SECONDS is an error."""
    digest, received = hashlib.sha256(), 0
    began = since = time.monotonic()
    before = 0
    while block := answer.read1(CHUNK):
        write(block)
        digest.update(block)
        received += len(block)
        now = time.monotonic()
        watcher.report(received, expected, received / max(now - began, 1e-6))
        if watcher.interrupted():
            raise Interrupted
        if now - since >= STALL_SECONDS:
            if received - before < MINIMUM_BYTES:
                raise _stalled(url)
            since, before = now, received
    return received, digest.hexdigest()


def _read(url: str) -> bytes:
    """Content of a small file: checksums."""
    with urllib.request.urlopen(url, timeout=STALL_SECONDS) as answer:
        _refuse_page(url, answer)
        return answer.read(1 << 20)


def _refuse_page(url: str, answer: http.client.HTTPResponse) -> None:
    if answer.headers.get_content_type() == "text/html":
        raise DownloadError(
            url,
            "an HTML page came in place of the file, as from a log-in page or a proxy that refuses",
            f"open it in a browser and log in, or {_who_answers()}; {ELSEWHERE}",
        )


def _stalled(url: str) -> DownloadError:
    return DownloadError(
        url,
        f"nothing or next to nothing came for {STALL_SECONDS:g} s",
        f"{_who_answers()}, or try again later; {ELSEWHERE}",
        passing=True,
    )


def _explained(url: str, error: Exception) -> DownloadError:
    """Error of urllib in this project's words."""
    if isinstance(error, urllib.error.HTTPError):
        seen = f"HTTP {error.code} {error.reason}"
        if error.code == 404:
            where = f"the mirror lacks it: {MIRROR} names the folder that holds a folder for each host"
            gone = "upstream has no such file; say so in an issue, with the version that toolchain/versions.py has"
            return DownloadError(url, seen, f"{where if os.environ.get(MIRROR) else gone}; {ELSEWHERE}")
        if error.code in (401, 403, 407):
            return DownloadError(url, seen, f"{_who_answers()}: it wants a log-in or refuses; {ELSEWHERE}")
        return DownloadError(url, seen, f"try again later; {ELSEWHERE}", passing=error.code in PASSING)
    if isinstance(error, TimeoutError) or isinstance(getattr(error, "reason", None), TimeoutError):
        return _stalled(url)
    if isinstance(getattr(error, "reason", error), ssl.SSLCertVerificationError):
        remedy = "name your company's authorities in SSL_CERT_FILE (a file in PEM format), or use a mirror"
        return DownloadError(url, _cause(error), f"{remedy} ({MIRROR})")
    # A full disk is not the network's fault, and another attempt writes no more.
    if isinstance(error, OSError) and error.filename:
        raise error
    return DownloadError(
        url,
        f"the connection broke ({_cause(error)})",
        f"{_who_answers()}, or try again later; {ELSEWHERE}",
        passing=True,
    )


def _cause(error: Exception) -> str:
    reason = getattr(error, "reason", None)
    return str(reason or error) or type(error).__name__


def _who_answers() -> str:
    mirror = os.environ.get(MIRROR)
    return f"look at the mirror ({MIRROR}={mirror})" if mirror else "look at what answers there, such as a proxy"
