"""The writer of the log: it keeps every line and its place, and nobody waits for the one who reads."""

import fcntl
import io
import json
import os
import re
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from http.client import HTTPConnection
from pathlib import Path
from typing import TextIO

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from programs_for_tests import address, serving
from waits_for_tests import GUARD, until

from lllms_core.log import line_writer
from lllms_core.log.line_writer import LineWriter

pytestmark = pytest.mark.slow

REQUESTS = 2000
PIPE = 1 << 16
"""Bytes that a pipe holds."""


@pytest.fixture
def pipe() -> Iterator[tuple[int, TextIO]]:
    """The end of a pipe to read from, and the stream that writes into it."""
    ours, theirs = os.pipe()
    fcntl.fcntl(ours, fcntl.F_SETPIPE_SZ, PIPE)
    with os.fdopen(theirs, "w", encoding="utf-8") as stream:
        yield ours, stream
        os.close(ours)


def missing(count: int) -> str:
    return f"missing {count}\n"


def drain(ours: int, writer: LineWriter) -> list[str]:
    """Read until the writer has nothing left, and return the lines."""
    os.set_blocking(ours, False)
    data = b""
    while True:
        ended = writer.flush(0.01)
        try:
            while piece := os.read(ours, PIPE):
                data += piece
        except BlockingIOError:
            if ended:
                return data.decode().splitlines()


def test_nobody_waits_for_the_reader(pipe: tuple[int, TextIO], monkeypatch: pytest.MonkeyPatch) -> None:
    """Lines for a full pipe are kept up to the limit, in order; the number of the others stands in their place."""
    ours, stream = pipe
    monkeypatch.setattr(line_writer, "MOST_CHARACTERS", 2 * PIPE)
    writer = LineWriter(stream, missing)
    filling = "x" * (PIPE - 1)  # one write: many short ones leave gaps in a pipe's pages
    writer.put(f"{filling}\n")
    assert writer.flush(GUARD)
    for number in range(60_000):
        writer.put(f"{number:015}\n")
    assert not writer.flush(0.05)
    first, *lines = drain(ours, writer)
    assert first == filling
    writer.put("next\n")
    lines += drain(ours, writer)
    kept = len(lines) - 2
    assert lines[:kept] == [f"{number:015}" for number in range(kept)]
    assert lines[kept:] == [f"missing {60_000 - kept}", "next"]
    assert PIPE + 16 * kept >= 3 * PIPE, "the pipe and the queue are full of lines"


@settings(max_examples=30, deadline=None)
@given(lengths=st.lists(st.integers(1, 60), max_size=60), limit=st.integers(1, 200))
def test_no_line_is_lost_without_being_counted(lengths: list[int], limit: int) -> None:
    """However long the lines are and however few may wait, each is written or counted, in order."""
    with tempfile.TemporaryFile("w+", encoding="utf-8") as stream, pytest.MonkeyPatch.context() as patch:
        patch.setattr(line_writer, "MOST_CHARACTERS", limit)
        writer = LineWriter(stream, missing)
        for index, length in enumerate(lengths):
            writer.put(f"{index:02}{'x' * length}\n")
        writer.close(GUARD)
        written = Path(f"/proc/self/fd/{stream.fileno()}").read_text(encoding="utf-8").splitlines()
    place = 0
    for line in written:
        if line.startswith("missing "):
            place += int(line.removeprefix("missing "))
        else:
            assert line == f"{place:02}{'x' * lengths[place]}"
            place += 1
    assert place == len(lengths)


async def test_a_closed_writer_has_no_thread(pipe: tuple[int, TextIO]) -> None:
    """`close` ends the thread after the last line; a later line is written all the same."""
    ours, stream = pipe
    before = threading.active_count()
    writer = LineWriter(stream, missing)
    writer.put("one\n")
    writer.close(GUARD)
    await until(lambda: threading.active_count() == before)
    writer.put("two\n")
    assert drain(ours, writer) == ["one", "two"]
    writer.close(GUARD)


def test_a_stream_in_memory_is_written_at_once() -> None:
    """Without a descriptor there is nothing to wait for: the line is there when `put` returns."""
    stream = io.StringIO()
    LineWriter(stream, missing).put("now\n")
    assert stream.getvalue() == "now\n"


def test_a_reader_who_has_left_costs_nothing() -> None:
    """When the reader is gone, lines are given up at once, and the program neither fails nor waits."""
    ours, theirs = os.pipe()
    os.close(ours)
    tries = 0

    def counted(count: int) -> str:
        nonlocal tries
        tries += 1
        return missing(count)

    with os.fdopen(theirs, "w", encoding="utf-8") as gone:
        writer = LineWriter(gone, counted)
        for number in range(100):
            writer.put(f"{number}\n")
            assert writer.flush(GUARD)
    assert tries == 99, "the count is tried again only with a new line"


def test_lines_that_could_not_be_written_are_counted(tmp_path: Path) -> None:
    """After a write has failed, the next line is preceded by the number of those that were lost."""
    file = tmp_path / "log"
    with file.open("w", encoding="utf-8") as stream, Path("/dev/full").open("w", encoding="utf-8") as broken:
        writer = LineWriter(broken, missing)
        for number in range(3):
            writer.put(f"{number}\n")
            assert writer.flush(GUARD)
        writer.stream = stream
        writer.put("again\n")
        assert writer.flush(GUARD)
    assert file.read_text() == "missing 3\nagain\n"


def test_a_descriptor_that_does_not_block_loses_nothing(pipe: tuple[int, TextIO]) -> None:
    """If another program has made the shared descriptor non-blocking, all lines arrive as the reader reads."""
    ours, stream = pipe
    os.set_blocking(stream.fileno(), False)
    writer = LineWriter(stream, missing)
    lines = [f"{number:0100}" for number in range(2000)]
    for line in lines:
        writer.put(f"{line}\n")
    assert drain(ours, writer) == lines


PROGRAM = """
import logging, os, sys
from lllms_core.log import configure_logging
configure_logging("info", "json")
log = logging.getLogger("lllms.x")
for number in range(int(sys.argv[1])):
    log.info("line %s", number)
"""
AGAIN = """
import time
begun = time.monotonic()
configure_logging("debug", "json")
assert time.monotonic() - begun < 1, "a program that is served meanwhile waits for nobody"
"""
FORKING = """
logging.getLogger().handlers[0].flush()
child = os.fork()
log.info("child" if child == 0 else "parent")
if child == 0:
    sys.exit()
os.waitpid(child, 0)
"""
CRASHING = """
import faulthandler
faulthandler.enable()
faulthandler._sigsegv()
"""


CHANGING = """
import threading
for number in range(3):
    configure_logging("info", "json")
    log.info("again %s", number)
log.info("%s writers", sum(one.name == "lllms log" for one in threading.enumerate()))
"""


def events(text: str) -> list[str]:
    return [json.loads(line)["event"] for line in text.splitlines()]


def test_the_last_lines_are_written_at_the_end() -> None:
    """A program that ends just after it has logged has logged everything."""
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, "500"], capture_output=True, text=True, timeout=GUARD, check=True,
    )
    assert events(done.stderr) == [f"line {number}" for number in range(500)]


def test_another_configuration_keeps_the_writer() -> None:
    """All lines come in their order, by one thread, however often the log gets other settings."""
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM + CHANGING, "50"], capture_output=True, text=True, timeout=GUARD, check=True,
    )
    again = [f"again {number}" for number in range(3)]
    assert events(done.stderr) == [*(f"line {number}" for number in range(50)), *again, "1 writers"]


def test_a_program_ends_though_nobody_reads() -> None:
    """At its end a program waits for a reader of its log for a moment only, and ends without a fault."""
    with subprocess.Popen([sys.executable, "-c", PROGRAM, "3000"], stderr=subprocess.PIPE) as process:
        assert process.wait(timeout=GUARD) == 0
        assert process.stderr is not None
        assert len(process.stderr.read()) <= PIPE


def test_a_new_configuration_of_the_log_waits_for_nobody() -> None:
    """While lines wait for a reader, the log can be configured anew at once, as a reload does."""
    with subprocess.Popen([sys.executable, "-c", PROGRAM + AGAIN, "3000"], stderr=subprocess.PIPE) as process:
        assert process.wait(timeout=GUARD) == 0


def test_a_forked_process_writes_its_own_lines() -> None:
    """After a fork both processes log, and no line comes twice."""
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM + FORKING, "3"], capture_output=True, text=True, timeout=GUARD, check=True,
    )
    assert sorted(events(done.stderr)) == ["child", "line 0", "line 1", "line 2", "parent"]


def test_a_crash_is_told_although_nobody_has_read_the_log() -> None:
    """The report of a crash takes no detour: it is on stderr even while the log waits for its reader."""
    with subprocess.Popen(
        [sys.executable, "-X", "faulthandler", "-c", PROGRAM + CRASHING, "100"], stderr=subprocess.PIPE, text=True,
    ) as process:
        _, told = process.communicate(timeout=GUARD)
    assert process.returncode < 0
    assert "Fatal Python error: Segmentation fault" in told


def test_a_server_whose_log_nobody_reads_answers(tmp_path: Path) -> None:
    """A server whose stderr is a pipe that nobody reads answers 2,000 requests, each with its line in the log."""
    with serving(tmp_path, "--model", "mock") as (process, printed):
        with ThreadPoolExecutor(4) as threads:
            answers = threads.map(ask, [address(printed)] * 4, [REQUESTS // 4] * 4)
        assert [status for part in answers for status in part] == [200] * REQUESTS
        process.terminate()
        told = process.communicate(timeout=GUARD)[1]
    lines = len(re.findall(r"^\S+ \[info *\] request", told, re.MULTILINE))
    assert lines > 100
    assert process.returncode == 0


def ask(url: str, count: int) -> list[int]:
    """Send requests one after the other, and return the statuses."""
    body = json.dumps({"model": "mock", "messages": [{"role": "user", "content": "Hi!"}], "max_tokens": 1})
    connection = HTTPConnection(url.removeprefix("http://"), timeout=GUARD)
    statuses = []
    for _ in range(count):
        connection.request("POST", "/v1/chat/completions", body, {"Content-Type": "application/json"})
        response = connection.getresponse()
        statuses.append(response.status)
        response.read()
    connection.close()
    return statuses
