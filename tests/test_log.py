"""The log: what it shows of exceptions, and how often, and that nothing else gets through."""

import asyncio
import io
import json
import logging
import subprocess
import sys
from collections.abc import Callable, Iterator

import pytest
from waits_for_tests import GUARD

from lllms_core import log


@pytest.fixture(params=["console", "json"])
def written(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[io.StringIO]:
    """What the log writes, configured as a program configures it."""
    root, ours = logging.getLogger(), logging.getLogger("lllms")
    before = root.handlers, root.level, ours.level
    stream = io.StringIO()
    monkeypatch.setattr(sys, "stderr", stream)
    log.configure_logging("debug", request.param)
    yield stream
    root.handlers[0].close()
    root.handlers = before[0]
    root.setLevel(before[1])
    ours.setLevel(before[2])


def throw(error: Exception) -> None:
    raise error


def fail(text: str, logger: str = "lllms.x", kind: type[Exception] = ValueError) -> None:
    try:
        throw(kind(text))
    except kind:
        logging.getLogger(logger).exception("it failed")


def test_no_locals_and_no_messages(written: io.StringIO) -> None:
    """An exception costs one short traceback, without values, whichever logger gets it, and in whatever form."""
    for logger in ("lllms.x", "quart.app", "some.library"):
        fail("secret value", logger)
    error = ValueError("secret value")
    logging.getLogger("lllms.y").error("given", exc_info=error)
    logging.getLogger("lllms.z").error("none", exc_info=True)  # noqa: LOG014  # as careless code does
    text = written.getvalue()
    assert "secret value" not in text
    assert text.count("in fail") == 3
    assert text.count("ValueError") == 4
    assert len(text) < 3000


def test_what_asyncio_says_of_values_is_left_out(written: io.StringIO) -> None:
    """Messages of asyncio about unretrieved tasks and failed callbacks are shown without their reprs."""
    async def task(text: str) -> None:
        raise ValueError(text)

    def callback(text: str) -> None:
        raise KeyError(text)

    async def main() -> None:
        asyncio.get_running_loop().call_soon(callback, "secret value")
        failing = asyncio.create_task(task("secret value"))
        await asyncio.sleep(0)
        del failing
        await asyncio.sleep(0)
        asyncio.get_running_loop().call_exception_handler({"message": "lost: secret value", "future": "secret value"})

    asyncio.run(main())
    text = written.getvalue()
    assert "secret value" not in text
    assert "Task exception was never retrieved" in text
    assert "Exception in callback test_what_asyncio_says_of_values_is_left_out." in text
    assert "in callback" in text


def test_the_same_fault_is_counted(written: io.StringIO, monkeypatch: pytest.MonkeyPatch) -> None:
    """A fault repeated within a minute is only counted; the count is reported afterwards, then it is shown again."""
    class Timer:
        """Ends when the test says so."""

        def __init__(self, seconds: float, end: Callable[..., None], arguments: list[object]) -> None:
            self.seconds, self.end, self.arguments, self.daemon = seconds, end, arguments, False

        def start(self) -> None:
            assert self.daemon, "no program waits for it"
            timers.append(self)

    timers: list[Timer] = []
    monkeypatch.setattr(log.threading, "Timer", Timer)
    for number in range(10):
        fail(f"secret {number}")
    fail("another", kind=KeyError)
    assert written.getvalue().count("Traceback") == 2
    assert "more within" not in written.getvalue()
    [timer] = timers
    assert 0 < timer.seconds <= log.REPEAT_SECONDS
    timer.end(*timer.arguments)
    assert "it failed: the same exception 9 more within 60 s" in written.getvalue()
    fail("secret again")
    assert written.getvalue().count("Traceback") == 3


def test_counts_are_told_at_the_end(written: io.StringIO) -> None:
    """When the log is closed, pending counts are reported."""
    for _ in range(3):
        fail("x")
    assert "more within" not in written.getvalue()
    logging.getLogger().handlers[0].close()
    assert "it failed: the same exception 2 more within 60 s" in written.getvalue()


def test_few_faults_are_remembered(written: io.StringIO, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of many different faults the oldest is forgotten, and its count is reported."""
    monkeypatch.setattr(log, "MOST_FAULTS", 2)
    for kind in (ValueError, ValueError, KeyError, OSError, TypeError):
        fail("x", kind=kind)
    handler = logging.getLogger().handlers[0]
    assert isinstance(handler, log._Stderr)
    assert len(handler._faults) == 2
    assert "the same exception 1 more" in written.getvalue()


def test_tracebacks_of_workers_are_counted_too(written: io.StringIO) -> None:
    """Equal tracebacks count as the same fault when they come as texts, too."""
    for trace in ("Traceback a", "Traceback a", "Traceback b"):
        logging.getLogger("lllms.pool").error("m:1: it broke\n%s", trace, extra={"traceback": trace})
    assert written.getvalue().count("Traceback") == 2


def test_a_line_that_cannot_be_written_quotes_nothing(written: io.StringIO) -> None:
    """A wrong call of the log costs a line that names the logger, not its arguments."""
    record = logging.makeLogRecord({"name": "lllms.x", "msg": "%d", "args": ("secret value",)})
    logging.getLogger().handlers[0].handle(record)  # not through the logger, where pytest listens, too
    assert written.getvalue() == "a line of the log of lllms.x could not be written: TypeError\n"


def test_long_messages_are_cut(written: io.StringIO) -> None:
    """No message fills the log."""
    logging.getLogger("lllms.x").warning("x" * 1_000_000)
    assert log.LONGEST_TEXT < len(written.getvalue()) < log.LONGEST_TEXT + 200


UNCAUGHT = """
import sys, threading, logging
from lllms_core.log import configure_logging
configure_logging("info", sys.argv[1])
def fail(text):
    raise ValueError(text)
class Dying:
    def __del__(self):
        fail(sys.argv[2])
Dying()
thread = threading.Thread(target=fail, args=[sys.argv[2]])
thread.start()
thread.join()
thread = threading.Thread(target=sys.exit, args=[sys.argv[2]])
thread.start()
thread.join()
"""


@pytest.mark.parametrize("style", ["console", "json"])
def test_what_nobody_catches_is_logged_alike(style: str) -> None:
    """Exceptions of threads and destructors are lines of the log, without their messages."""
    done = subprocess.run(
        [sys.executable, "-c", UNCAUGHT, style, "secret value"], capture_output=True, text=True, timeout=GUARD,
        check=True,
    )
    assert "secret value" not in done.stderr
    assert "a thread has failed" in done.stderr
    assert "an exception was ignored" in done.stderr
    if style == "json":
        assert [json.loads(line)["level"] for line in done.stderr.splitlines()] == ["error", "error"]


@pytest.mark.parametrize(("terminal", "environ", "coloured"), [
    (True, {"TERM": "xterm"}, True), (False, {"TERM": "xterm"}, False), (True, {"TERM": "dumb"}, False),
    (True, {"TERM": "xterm", "NO_COLOR": "1"}, False), (True, {"TERM": "xterm", "NO_COLOR": ""}, True),
])
def test_colours_are_for_terminals_that_have_them(
    monkeypatch: pytest.MonkeyPatch, terminal: bool, environ: dict[str, str], coloured: bool,
) -> None:
    """Neither a pipe, nor a dumb terminal, nor a user who wants no colours gets escape sequences."""
    stream = io.StringIO()
    monkeypatch.setattr(stream, "isatty", lambda: terminal)
    assert log._has_colours(stream, environ) == coloured
