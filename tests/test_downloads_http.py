import random
import tempfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from servers_for_tests import Answer, Ended, Handler, Site, drop, hang, instead, served, with_headers
from stores_for_tests import TINY, sha256
from waits_for_tests import GUARD

from lllms_core.builtin.downloaders import transfer
from lllms_core.builtin.downloaders.http import HttpDownloader
from lllms_core.builtin.downloaders.retry_policy import RetryPolicy
from lllms_core.errors import ChecksumMismatch, DownloadCancelled, InvalidSource, SourceUnavailable, WrongFile
from lllms_core.store import Download, Store

pytestmark = pytest.mark.slow

QUICK = RetryPolicy(connect=5, stall=5, pause=0.001, longest_pause=0.002, longest_wait=2)
DATA = random.Random(2).randbytes(300_000)


@pytest.fixture
def site() -> Iterator[Site]:
    """Serves DATA as /x."""
    with served({"/x": DATA}) as one:
        yield one


@pytest.fixture
def small_segments(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make downloads use segments that are small enough for tests."""
    monkeypatch.setattr(transfer, "SEGMENT", 20_000)


def store(tmp_path: Path, policy: RetryPolicy = QUICK) -> Store:
    return Store(tmp_path, [HttpDownloader(policy)])


def left_in(tmp_path: Path) -> list[str]:
    return sorted(path.name for path in (tmp_path / "models").rglob("*") if path.is_file())


def test_a_file_is_fetched(site: Site, tmp_path: Path) -> None:
    """A file is stored unchanged, under host and path, and a small one needs one request."""
    model = store(tmp_path).ensure(f"{site.url}/x", sha256(DATA))
    host = site.url.removeprefix("http://").replace(":", "%3A")
    assert model.path == tmp_path / "models" / host / "x"
    assert model.path.read_bytes() == DATA
    assert len(site.requests) == 1


def test_a_large_file_comes_over_several_connections(site: Site, tmp_path: Path, small_segments: None) -> None:
    """Segments are fetched concurrently, each byte once, and assembled in the right order."""
    together = threading.Barrier(transfer.CONNECTIONS)
    site.faults = [lambda *_: None] + [lambda *_: together.wait(GUARD)] * transfer.CONNECTIONS
    assert store(tmp_path).ensure(f"{site.url}/x").path.read_bytes() == DATA
    asked = sorted(int((part or "").removeprefix("bytes=").partition("-")[0]) for _, part in site.requests)
    assert asked == list(range(0, 300_000, 20_000))


def test_a_dropped_connection_is_taken_up(site: Site, tmp_path: Path) -> None:
    """After each drop only the rest is requested, if the file is still the same."""
    site.faults = [drop(100_000), drop(100_000)]
    assert store(tmp_path).ensure(f"{site.url}/x").path.read_bytes() == DATA
    assert [part for _, part in site.requests] == [
        "bytes=0-67108863", "bytes=100000-299999", "bytes=200000-299999",
    ]
    assert [headers.get("If-Range") for headers in site.seen] == [None, site.etag("/x"), site.etag("/x")]


def test_a_failed_download_goes_on_later(site: Site, tmp_path: Path) -> None:
    """The bytes that a failed download received are not fetched again by the next one."""
    site.faults = [drop(200_000)] + [drop(0)] * 5
    with pytest.raises(SourceUnavailable, match=r"6 times in a row\); the bytes received are kept"):
        store(tmp_path).ensure(f"{site.url}/x")
    site.requests.clear()
    assert store(tmp_path).ensure(f"{site.url}/x", sha256(DATA)).path.read_bytes() == DATA
    assert [part for _, part in site.requests] == ["bytes=200000-299999"]


@settings(max_examples=15, deadline=None)
@given(st.lists(st.integers(0, 70_000), max_size=12))
def test_any_drops(drops: list[int]) -> None:
    """Wherever connections break, even several at once, the file is right in the end."""
    with pytest.MonkeyPatch.context() as patch, tempfile.TemporaryDirectory() as folder, served({"/x": DATA}) as site:
        patch.setattr(transfer, "SEGMENT", 50_000)
        patch.setattr(transfer, "PROGRESS", 1)
        site.faults = [drop(after) for after in drops]
        kept = store(Path(folder), RetryPolicy(pause=0.0, longest_pause=0.0, attempts=14, first_attempts=14))
        assert kept.ensure(f"{site.url}/x").path.read_bytes() == DATA


def test_a_changed_file_starts_anew(site: Site, tmp_path: Path, small_segments: None) -> None:
    """A file that changes midway is fetched from the start: no bytes of the old one end up in the new one."""
    other = DATA[::-1]

    def change(*_: object) -> None:
        site.files["/x"] = other

    site.faults = [lambda *_: None] * 5 + [change]
    assert store(tmp_path).ensure(f"{site.url}/x").path.read_bytes() == other


def test_a_file_that_changed_between_attempts_starts_anew(site: Site, tmp_path: Path) -> None:
    """If-Range tells the server which file the bytes belong to; a different file is sent whole."""
    site.faults = [drop(200_000)] + [drop(0)] * 5
    with pytest.raises(SourceUnavailable):
        store(tmp_path).ensure(f"{site.url}/x")
    site.files["/x"] = other = DATA[::-1]
    assert store(tmp_path).ensure(f"{site.url}/x").path.read_bytes() == other


def test_a_file_that_never_stays_the_same_is_given_up(site: Site, tmp_path: Path, small_segments: None) -> None:
    """A server that sends a different file each time is reported, not asked for ever."""

    def change(handler, answer) -> None:
        del handler.headers["If-Range"]
        again = handler.answer("/x")
        answer.status, answer.body = again.status, again.body
        answer.headers = again.headers | {"ETag": f'"{len(site.requests)}"'}

    site.faults = [change] * 1000
    with pytest.raises(SourceUnavailable, match="is a different file each time"):
        store(tmp_path).ensure(f"{site.url}/x")


@pytest.mark.parametrize("modified", [None, "Sun, 22 Nov 2026 12:00:00 GMT"])
def test_a_server_without_ranges(site: Site, tmp_path: Path, modified: str | None) -> None:
    """A server that ignores Range sends the whole file again, and the file is still right."""
    site.ranges, site.modified = False, modified
    site.faults = [drop(200_000), drop(250_000)]
    assert store(tmp_path).ensure(f"{site.url}/x").path.read_bytes() == DATA


def test_a_server_without_ranges_that_always_drops_is_given_up(site: Site, tmp_path: Path) -> None:
    """Receiving the same bytes again is not progress."""
    site.ranges = False
    site.faults = [drop(200_000)] * 1000
    with pytest.raises(SourceUnavailable, match="6 times in a row"):
        store(tmp_path).ensure(f"{site.url}/x")
    assert len(site.requests) == 6


def test_bytes_without_a_version_are_not_taken_up(site: Site, tmp_path: Path) -> None:
    """Without ETag, Last-Modified and hash, the rest may belong to a different file: the download starts anew."""
    site.etags["/x"] = ""
    other = DATA[::-1]

    def change(*_: object) -> None:
        site.files["/x"] = other

    site.faults = [drop(200_000), change, drop(250_000)]
    assert store(tmp_path / "at-once").ensure(f"{site.url}/x").path.read_bytes() == other
    assert [part for _, part in site.requests] == ["bytes=0-67108863", "bytes=200000-299999", None, None]
    site.faults = [drop(200_000)] + [drop(0)] * 6
    with pytest.raises(SourceUnavailable):
        store(tmp_path / "later").ensure(f"{site.url}/x")
    site.files["/x"] = DATA
    assert store(tmp_path / "later").ensure(f"{site.url}/x").path.read_bytes() == DATA


def test_parts_without_a_version_are_not_put_together(site: Site, tmp_path: Path, small_segments: None) -> None:
    """A large file whose server gives no version comes over one connection, unless its hash is known."""
    site.etags["/x"] = ""
    assert store(tmp_path / "unknown").ensure(f"{site.url}/x").path.read_bytes() == DATA
    assert [part for _, part in site.requests] == ["bytes=0-19999", None]
    site.requests.clear()
    assert store(tmp_path / "known").ensure(f"{site.url}/x", sha256(DATA)).path.read_bytes() == DATA
    assert len(site.requests) == 15


def test_weak_versions_are_compared_not_sent(site: Site, tmp_path: Path) -> None:
    """A weak ETag is not sent as a condition for a range, but shows when the file is a different one."""
    site.etags["/x"] = 'W/"1"'
    site.faults = [drop(200_000)] + [drop(0)] * 5
    with pytest.raises(SourceUnavailable):
        store(tmp_path).ensure(f"{site.url}/x")
    site.files["/x"] = other = DATA[::-1]
    site.etags["/x"] = 'W/"2"'
    site.seen.clear()
    assert store(tmp_path).ensure(f"{site.url}/x").path.read_bytes() == other
    assert [headers.get("If-Range") for headers in site.seen] == [None] * len(site.seen)


@pytest.mark.parametrize("status", [429, 503, 500, 502, 408])
def test_a_busy_server_is_asked_again(site: Site, tmp_path: Path, status: int) -> None:
    """Temporary failures are retried."""
    site.faults = [instead(status, {"Retry-After": "0"}), instead(status)]
    assert store(tmp_path).ensure(f"{site.url}/x").path.read_bytes() == DATA


def test_a_server_that_asks_for_patience_gets_it(site: Site, tmp_path: Path) -> None:
    """A long Retry-After ends the attempt, and is passed on."""
    site.faults = [instead(429, {"Retry-After": "3600"})]
    with pytest.raises(SourceUnavailable, match="asks to retry in 3600 s") as caught:
        store(tmp_path).ensure(f"{site.url}/x")
    assert caught.value.retry_after == 3601


@pytest.mark.parametrize(
    ("status", "error", "message"),
    [
        (401, SourceUnavailable, "401 Unauthorized; it needs a login"),
        (403, SourceUnavailable, "it needs a login, or the link has expired"),
        (404, InvalidSource, "there is no such file, so check the address"),
        (410, InvalidSource, "there is no such file"),
        (400, SourceUnavailable, "the server answers 400"),
    ],
)
def test_a_refusal_is_told_at_once(
    site: Site, tmp_path: Path, status: int, error: type[Exception], message: str,
) -> None:
    """A permanent failure is not retried, and the message says what to do."""
    site.faults = [instead(status)] * 9
    with pytest.raises(error, match=message):
        store(tmp_path).ensure(f"{site.url}/x")
    assert len(site.requests) == 1


def test_a_file_that_became_shorter_starts_anew(site: Site, tmp_path: Path) -> None:
    """416 for the missing bytes means that the bytes received belong to a different file."""
    site.etags["/x"] = '"same"'
    site.faults = [drop(200_000)] + [drop(0)] * 5
    with pytest.raises(SourceUnavailable):
        store(tmp_path).ensure(f"{site.url}/x")
    site.files["/x"] = DATA[:100_000]
    assert store(tmp_path).ensure(f"{site.url}/x").path.read_bytes() == DATA[:100_000]


def test_a_server_that_announces_too_much(site: Site, tmp_path: Path) -> None:
    """A file that ends before its announced length is never committed."""
    site.ranges = False
    site.faults = [with_headers(Content_Length="300001")] * 20
    with pytest.raises(SourceUnavailable, match="times in a row"):
        store(tmp_path, RetryPolicy(stall=0.1, pause=0.001)).ensure(f"{site.url}/x")
    assert "x" not in left_in(tmp_path)


def unframed(stop_at: int) -> Callable[[Handler, Answer], None]:
    """Send this many bytes of the whole file like HTTP/1.0: the body ends where the connection ends."""

    def fault(handler: Handler, _: Answer) -> None:
        data = handler.site.files[handler.path]
        handler.give(Answer(200, {"Connection": "close"}, data), stop_at=stop_at)
        raise Ended

    return fault


def test_a_body_without_an_end(site: Site, tmp_path: Path) -> None:
    """If a broken connection looks like the end of the file, a hash or a header must decide; else it is refused."""
    site.faults = [unframed(len(DATA))]
    with pytest.raises(SourceUnavailable, match=r"does not send the file.s length.*give its sha256"):
        store(tmp_path).ensure(f"{site.url}/x")
    assert left_in(tmp_path) == []
    site.faults = [unframed(len(DATA) - 1)]
    with pytest.raises(ChecksumMismatch):
        store(tmp_path).ensure(f"{site.url}/x", sha256(DATA))
    site.faults = [unframed(len(DATA))]
    assert store(tmp_path).ensure(f"{site.url}/x", sha256(DATA)).path.read_bytes() == DATA
    site.files["/x.gguf"] = gguf = TINY.read_bytes()
    site.faults = [unframed(len(gguf) - 1)]
    with pytest.raises(WrongFile, match="truncated"):
        store(tmp_path).ensure(f"{site.url}/x.gguf")
    site.faults = [unframed(len(gguf))]
    assert store(tmp_path).ensure(f"{site.url}/x.gguf").path.read_bytes() == gguf


@pytest.mark.parametrize("whole", [True, False])
def test_a_body_in_chunks(site: Site, tmp_path: Path, whole: bool) -> None:
    """A body of unknown length whose end is marked is accepted once it is complete, and only then."""

    def chunked(handler: Handler, _: Answer) -> None:
        body = b"%x\r\n%b\r\n" % (len(DATA), DATA) + (b"0\r\n\r\n" if whole else b"")
        handler.give(Answer(200, {"Transfer-Encoding": "chunked"}, body))
        raise Ended

    site.faults = [chunked] * 6
    if whole:
        assert store(tmp_path).ensure(f"{site.url}/x").path.read_bytes() == DATA
    else:
        with pytest.raises(SourceUnavailable, match="6 times in a row"):
            store(tmp_path).ensure(f"{site.url}/x")
        assert "x" not in left_in(tmp_path)


def test_a_server_that_announces_too_little(tmp_path: Path) -> None:
    """A GGUF file that its announced length truncates is never committed: its header knows the real length."""
    data = TINY.read_bytes()
    with served({"/x.gguf": data}) as site:
        site.ranges = False
        site.faults = [with_headers(Content_Length=str(len(data) - 100))]
        with pytest.raises(WrongFile, match="truncated"):
            store(tmp_path).ensure(f"{site.url}/x.gguf")
        assert left_in(tmp_path) == []
        assert store(tmp_path).ensure(f"{site.url}/x.gguf").path.read_bytes() == data


@pytest.mark.parametrize(
    "extent", ["bytes 0-299999/*", "bytes 5-10/300000", "nonsense", "bytes 9-3/300000", "bytes 0-299999/12", ""],
)
def test_nonsense_about_ranges(site: Site, tmp_path: Path, extent: str) -> None:
    """If a server sends parts without saying which, the whole file is requested."""
    site.faults = [with_headers(Content_Range=extent)] * 3
    assert store(tmp_path).ensure(f"{site.url}/x").path.read_bytes() == DATA


def test_a_server_that_gives_less_than_asked(site: Site, tmp_path: Path) -> None:
    """If a server sends less than requested, the part is kept, and the rest is requested."""

    def shorter(_: object, answer) -> None:
        if answer.status == 206:
            start, size = 300_000 - len(answer.body), 300_000
            answer.body = answer.body[:70_000]
            answer.headers["Content-Length"] = str(len(answer.body))
            answer.headers["Content-Range"] = f"bytes {start}-{start + len(answer.body) - 1}/{size}"

    site.faults = [shorter] * 9
    assert store(tmp_path).ensure(f"{site.url}/x").path.read_bytes() == DATA


@pytest.mark.parametrize("kind", ["text/html; charset=utf-8", "application/octet-stream"])
def test_a_web_page_is_no_model(site: Site, tmp_path: Path, kind: str) -> None:
    """A web page, recognised by its type or its first bytes, is refused, and nothing of it is kept."""
    page = b"\n<!DOCTYPE html><html><body>Please log in</body></html>"
    site.faults = [instead(200, {"Content-Type": kind}, page)]
    with pytest.raises(WrongFile, match="gives a web page, not a model"):
        store(tmp_path).ensure(f"{site.url}/x")
    assert left_in(tmp_path) == []


def test_a_packed_answer_is_refused(site: Site, tmp_path: Path) -> None:
    """An answer that is compressed, although the request forbids it, is refused, not stored."""
    site.faults = [with_headers(Content_Encoding="gzip")]
    with pytest.raises(SourceUnavailable, match="compresses the file"):
        store(tmp_path).ensure(f"{site.url}/x")


def test_redirects_are_followed_without_the_credentials(site: Site, tmp_path: Path) -> None:
    """A redirect to another host gets no password; the messages and the status show none either."""
    with served({}) as other:
        other.faults = [instead(302, {"Location": f"{site.url}/x"})]
        url = f"{other.url.replace('//', '//me:secret@')}/x?key=hidden"
        download = Download(url)
        assert store(tmp_path).ensure(url, None, download).path.read_bytes() == DATA
        assert "Authorization" in other.seen[0]
        assert "Authorization" not in site.seen[0]
        assert download.status.source == f"{other.url}/x?..."
        with pytest.raises(InvalidSource) as caught:
            store(tmp_path).ensure(url + "2")
        assert "secret" not in str(caught.value)
        assert "hidden" not in str(caught.value)


def test_redirects_that_never_end(site: Site, tmp_path: Path) -> None:
    """A redirect loop is an error."""
    site.faults = [instead(302, {"Location": f"{site.url}/x"})] * 100
    with pytest.raises(SourceUnavailable, match="could not follow"):
        store(tmp_path).ensure(f"{site.url}/x")


def test_a_stalled_server_is_left(site: Site, tmp_path: Path) -> None:
    """A silent connection is abandoned, and another one resumes from its last byte."""
    site.faults = [hang(100_000)]
    policy = RetryPolicy(stall=0.2, pause=0.001)
    assert store(tmp_path, policy).ensure(f"{site.url}/x").path.read_bytes() == DATA
    assert [part for _, part in site.requests] == ["bytes=0-67108863", "bytes=100000-299999"]


def test_a_slow_server_is_borne(site: Site, tmp_path: Path) -> None:
    """The total time has no limit: a download that makes progress, however slowly, is not given up."""

    def trickle(handler: Handler, answer: Answer) -> None:
        handler.give(answer, stop_at=0)
        for at in range(0, len(DATA), len(DATA) // 10):
            handler.wfile.write(DATA[at : at + len(DATA) // 10])
            handler.wfile.flush()
            handler.site.release.wait(0.15)
        raise Ended

    site.faults = [trickle]
    assert store(tmp_path, RetryPolicy(stall=1.0, pause=0.001)).ensure(f"{site.url}/x").path.read_bytes() == DATA
    assert len(site.requests) == 1


def test_pauses_between_attempts_grow(site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each attempt without progress waits about twice as long as the one before, up to a limit."""
    pauses: list[float] = []

    async def sleep(seconds: float) -> None:
        pauses.append(seconds)

    monkeypatch.setattr(transfer.asyncio, "sleep", sleep)
    site.faults = [instead(503)] * 8
    policy = RetryPolicy(pause=1.0, longest_pause=4.0, attempts=9, first_attempts=9)
    assert store(tmp_path, policy).ensure(f"{site.url}/x").path.read_bytes() == DATA
    assert len(pauses) == 8
    assert all(0.75 <= got / meant <= 1.25 for got, meant in zip(pauses, [1, 2, 4, 4, 4, 4, 4, 4], strict=True))


def test_nobody_there(tmp_path: Path) -> None:
    """A port without a server soon gives an error that names the address."""
    with served({}) as site:
        url = site.url
    with pytest.raises(SourceUnavailable, match=rf"{url}/x: .*3 times in a row"):
        store(tmp_path).ensure(f"{url}/x")


def test_cancel_does_not_wait_for_the_server(site: Site, tmp_path: Path) -> None:
    """A download that waits for its server ends at once when cancelled, and keeps the bytes received."""
    site.faults = [hang(100_000)]
    download = Download(f"{site.url}/x")
    errors: list[BaseException] = []

    def ensure() -> None:
        try:
            store(tmp_path).ensure(download.source, None, download)
        except DownloadCancelled as error:
            errors.append(error)

    thread = threading.Thread(target=ensure)
    thread.start()
    assert site.reached.wait(GUARD)
    while download.status.done < 100_000:
        thread.join(0.001)
    download.cancel()
    thread.join(60)
    assert not thread.is_alive()
    assert len(errors) == 1
    site.requests.clear()
    store(tmp_path).ensure(f"{site.url}/x")
    assert [part for _, part in site.requests] == ["bytes=100000-299999"]


def test_a_split_model_is_fetched_whole(tmp_path: Path) -> None:
    """The address of one part means all parts; the engine loads the first."""
    parts = {f"/m-0000{number}-of-00003.gguf": TINY.read_bytes() for number in (1, 2, 3)}
    with served(dict(parts)) as site:
        model = store(tmp_path).ensure(f"{site.url}/m-00002-of-00003.gguf")
        assert [file.path.name for file in model.files] == [path[1:] for path in parts]
        assert model.path.name == "m-00001-of-00003.gguf"
        del site.files["/m-00003-of-00003.gguf"]
        with pytest.raises(InvalidSource, match=r"m-00003-of-00003\.gguf: the server answers 404"):
            store(tmp_path / "other").ensure(f"{site.url}/m-00001-of-00003.gguf")


def test_wrong_hashes_over_http(site: Site, tmp_path: Path) -> None:
    """A file with a wrong hash is never committed, and not resumed."""
    with pytest.raises(ChecksumMismatch):
        store(tmp_path).ensure(f"{site.url}/x", "0" * 64)
    assert left_in(tmp_path) == []
