"""Downloads against a server that fails in every way that one meets: what is said, what is tried again, what stays."""

import ssl
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.unit import upstream
from tests.unit.upstream import Answer, Upstream, dies, drips, good, page, redirect, sha256, stalls, status, truncated
from toolchain import download
from toolchain.download import DownloadError, Watcher, address, fetch
from toolchain.steps import Interrupted, StepError

URL = "https://site.example.com/releases/program"
PATH = "/site.example.com/releases/program"
CONTENT = b"program " * 40_000
BUILT = "SOURCE=built builds everything from package registries"


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Upstream]:
    monkeypatch.setattr(download, "PAUSE_SECONDS", 0.01)
    monkeypatch.setattr(download, "STALL_SECONDS", 0.3)
    with Upstream() as made:
        monkeypatch.setenv(download.MIRROR, f"{made.address}/")
        made.serve({PATH: CONTENT, f"{PATH}.sha256": sha256(CONTENT).encode()})
        yield made


def get(folder: Path, watcher: Watcher = download.UNWATCHED) -> Path:
    fetch(URL, f"{URL}.sha256", folder / "program", watcher)
    return folder / "program"


def test_file_is_what_the_checksum_says_and_nothing_lies_beside_it(server: Upstream, tmp_path: Path):
    assert get(tmp_path).read_bytes() == CONTENT
    assert [path.name for path in tmp_path.iterdir()] == ["program"]
    assert server.asked == [f"GET {PATH}.sha256", f"GET {PATH}"]


def test_redirect_is_followed_to_what_the_mirror_has(server: Upstream, tmp_path: Path):
    server.answers |= {PATH: redirect("/cdn.example.com/it"), "/cdn.example.com/it": good(CONTENT)}
    assert get(tmp_path).read_bytes() == CONTENT


WRONG = CONTENT[:-1] + b"X"
FAILURES: dict[str, tuple[Answer, int, str, str]] = {
    "404": (status(404), 1, "HTTP 404 Not Found", "the mirror lacks it"),
    "403": (status(403), 1, "HTTP 403 Forbidden", "wants a log-in or refuses"),
    "503": (status(503), 3, "HTTP 503 Service Unavailable, 3 times in a row", "try again later"),
    "page": (page, 1, "an HTML page came in place of the file", "open it in a browser and log in"),
    "truncated": (truncated(CONTENT), 3, f"ended after {len(CONTENT) // 2} of {len(CONTENT)} bytes", "steadier"),
    "stalls": (stalls(CONTENT), 3, "nothing or next to nothing came for 0.3 s, 3 times", "look at the mirror"),
    "drips": (drips, 3, "nothing or next to nothing came for 0.3 s, 3 times", "look at the mirror"),
    "wrong": (
        good(WRONG),
        1,
        f"its SHA-256 is {sha256(WRONG)}, but upstream publishes {sha256(CONTENT)}",
        "nothing of",
    ),
    "dies": (dies(CONTENT), 3, "the connection broke (", "try again later"),
}


@pytest.mark.parametrize(("answer", "attempts", "seen", "remedy"), FAILURES.values(), ids=FAILURES)
def test_failure_names_url_cause_and_remedy_is_bounded_and_leaves_nothing(
    server: Upstream, tmp_path: Path, answer: Answer, attempts: int, seen: str, remedy: str
):
    server.answers[PATH] = answer
    with pytest.raises(DownloadError) as caught:
        get(tmp_path)
    text = str(caught.value)
    assert text.startswith(f"{server.address}{PATH}: ") and seen in text and remedy in text
    assert server.asked.count(f"GET {PATH}") == attempts
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("answer", [status(404), status(403), page, truncated(CONTENT), stalls(CONTENT)])
def test_checksums_that_cannot_be_had_stop_before_the_file(server: Upstream, tmp_path: Path, answer: Answer):
    server.answers[f"{PATH}.sha256"] = answer
    with pytest.raises(DownloadError, match=r"/site\.example\.com/releases/program\.sha256: "):
        get(tmp_path)
    assert f"GET {PATH}" not in server.asked and list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "checksums",
    [f"{'0' * 64}  another\n", "", "not a checksum", f"{'0' * 64}\n{'1' * 64}\n", f"{'0' * 64}  program.exe\n"],
)
def test_list_that_does_not_name_the_file_is_refused(server: Upstream, tmp_path: Path, checksums: str):
    server.serve({f"{PATH}.sha256": checksums.encode()})
    with pytest.raises(DownloadError, match=f"no SHA-256 of program is in it; .*{BUILT}"):
        get(tmp_path)


@pytest.mark.parametrize(
    "checksums",
    [
        "{}",
        "{}\n",
        "{}  program\n",
        "{} *program\n",
        "{}  ./program\n",
        f"{'0' * 64}  other-program\n{{}}  program\n",
    ],
)
def test_every_way_to_write_a_checksum_is_read(server: Upstream, tmp_path: Path, checksums: str):
    for digest in (sha256(CONTENT), sha256(CONTENT).upper()):
        server.serve({f"{PATH}.sha256": checksums.format(digest).encode()})
        assert get(tmp_path).read_bytes() == CONTENT


@pytest.mark.parametrize("first", [status(503), truncated(CONTENT), stalls(CONTENT), dies(CONTENT)])
def test_passing_failure_is_tried_again(server: Upstream, tmp_path: Path, first: Answer):
    server.answers[PATH] = [first, good(CONTENT)]
    assert get(tmp_path).read_bytes() == CONTENT
    assert server.asked.count(f"GET {PATH}") == 2


def test_mirror_that_is_down_is_named(server: Upstream, tmp_path: Path):
    server.__exit__()
    with pytest.raises(DownloadError, match=r"Connection refused.*3 times in a row; look at the mirror"):
        get(tmp_path)


def test_interruption_ends_a_download_and_leaves_nothing(server: Upstream, tmp_path: Path):
    seen: list[int] = []
    with pytest.raises(Interrupted):
        get(tmp_path, Watcher(lambda received, expected, speed: seen.append(received), lambda: bool(seen)))
    assert list(tmp_path.iterdir()) == []


def test_interruption_ends_the_wait_before_the_next_attempt(
    server: Upstream, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(download, "PAUSE_SECONDS", 60)
    server.answers[PATH] = status(503)
    began = time.monotonic()
    with pytest.raises(Interrupted):
        get(tmp_path, Watcher(interrupted=lambda: True))
    assert time.monotonic() - began < 30


def test_progress_tells_all_bytes_and_a_speed(server: Upstream, tmp_path: Path):
    seen: list[tuple[int, int | None, float]] = []
    get(tmp_path, Watcher(lambda received, expected, speed: seen.append((received, expected, speed))))
    received, expected, speed = seen[-1]
    assert received == expected == len(CONTENT) and speed > 0
    assert download.speed_text(12_300_000, 88_100_000, 4_200_000) == "12.3 of 88.1 MB, 4.2 MB/s"
    assert download.speed_text(12_300_000, None, 4_200_000) == "12.3 MB, 4.2 MB/s"


def test_full_disk_is_not_called_a_fault_of_the_network(server: Upstream, tmp_path: Path):
    with pytest.raises(FileNotFoundError):
        get(tmp_path / "no folder")
    assert server.asked.count(f"GET {PATH}") == 1


@pytest.mark.parametrize(
    ("mirror", "wanted"),
    [
        ("", URL),
        ("https://mirror.example.com", f"https://mirror.example.com{PATH}"),
        ("https://mirror.example.com/raw/upstream/", f"https://mirror.example.com/raw/upstream{PATH}"),
    ],
)
def test_mirror_has_a_folder_for_each_host(monkeypatch: pytest.MonkeyPatch, mirror: str, wanted: str):
    monkeypatch.setenv(download.MIRROR, mirror)
    assert address(URL) == wanted


@pytest.mark.parametrize("mirror", ["mirror.example.com", "file:///srv", "https://", "https://a/?b=c", "ftp://a"])
def test_mirror_that_is_no_address_is_refused(monkeypatch: pytest.MonkeyPatch, mirror: str):
    monkeypatch.setenv(download.MIRROR, mirror)
    with pytest.raises(StepError, match=r"DRA_WORKSHOP_MIRROR: .*is no address of a mirror; it has to be http"):
        address(URL)


def test_unknown_authority_tells_where_to_name_it():
    error = download._explained(URL, ssl.SSLCertVerificationError("unable to get local issuer certificate"))
    assert "SSL_CERT_FILE" in str(error) and not error.passing


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (good(b"x"), None),
        (redirect("/elsewhere"), None),
        (redirect("/nowhere"), "HTTP 404 Not Found"),
        (status(403), "HTTP 403 Forbidden"),
        (page, "an HTML page in place of the file"),
    ],
)
def test_site_answers_only_if_it_would_give_the_file(server: Upstream, answer: Answer, reason: str | None):
    server.answers |= {PATH: answer, "/elsewhere": good(b"x")}
    wanted = f"{server.address}{PATH}: {reason}" if reason else None
    assert download.answers(URL, 5) == wanted


@pytest.mark.parametrize(("answer", "fails"), [(status(401), False), (status(403), False), (status(502), True)])
def test_registry_that_asks_for_a_log_in_answers(server: Upstream, answer: Answer, fails: bool):
    server.answers["/v2/"] = answer
    assert bool(download.answers(f"{server.address}/v2/", 5)) == fails


def test_site_that_takes_too_long_does_not_answer(server: Upstream):
    def silent(request: upstream.Request) -> None:
        request.over.wait()

    server.answers[PATH] = silent
    began = time.monotonic()
    assert "timed out" in (download.answers(URL, 0.2) or "")
    assert time.monotonic() - began < 10
