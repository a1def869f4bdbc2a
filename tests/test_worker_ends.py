"""Why a worker has ended, and which of its own lines are shown."""

import logging
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from engines_for_tests import Options
from hypothesis import given
from hypothesis import strategies as st
from pools_for_tests import Pools, ask
from waits_for_tests import GUARD

from lllms_core.errors import EngineDied, ModelLoadFailed
from lllms_core.worker import ends
from lllms_core.worker.child import Marked
from lllms_core.worker.ends import STACK_LINES, Kills, NativeLog, ended, known

pytestmark = pytest.mark.slow

STACK = """Fatal Python error: Aborted

Current thread 0x00007f0e (most recent call first):
  File "/usr/lib/python3.11/site-packages/llama_cpp/llama_cpp.py", line 12 in decode
{calls}
Extension modules: numpy.core._multiarray_umath, yaml._yaml (total: 16)
""".format(calls="\n".join(f'  File "/usr/lib/x.py", line {number} in call' for number in range(30)))

ASSERTION = "/project/vendor/llama.cpp/ggml/src/ggml.c:3207: GGML_ASSERT(ggml_can_mul_mat(a, b)) failed"


def told(text: str, *, at_work: bool = True) -> NativeLog:
    log = NativeLog("m")
    if at_work:
        log.serve()
    log.feed(text.encode())
    log.end()
    return log


@pytest.mark.parametrize(("line", "words"), [
    (ASSERTION, "ggml.c:3207: GGML_ASSERT(ggml_can_mul_mat(a, b)) failed"),
    ("GGML_ASSERT: /build dir/llama.cpp/ggml/src/ggml.c:20: a->ne[0] == b",
     "ggml.c:20: GGML_ASSERT(a->ne[0] == b) failed"),
    ("ggml-cpu.c:12: fatal error", "ggml-cpu.c:12: fatal error"),
    ("/x/llama-context.cpp:7: cannot do 'something secret'", "llama-context.cpp:7"),
    ("python3: /x/alloc.cpp:41: void* f(int): Assertion `size > 0' failed.",
     "alloc.cpp:41: void* f(int): Assertion `size > 0' failed."),
    ("terminate called after throwing an instance of 'std::length_error'",
     "terminate called after throwing an instance of 'std::length_error'"),
    ("thread '<unnamed>' (12) panicked at src/x.rs:10:5:", "thread '<unnamed>' (12) panicked at src/x.rs:10:5:"),
    ("  what():  something secret", None),
    ("main.c:12: error: something secret", None),
    ("note GGML_ASSERT(secret) failed", None),
    ("thread 'main' panicked at 'something secret', src/x.rs:1:2", None),
    ("my prompt", None),
])
def test_known_words(line: str, words: str | None) -> None:
    """Lines of crashing programs that name the cause and quote no request are recognised; others are not."""
    assert known(line) == words


@given(st.text(st.characters(exclude_characters="\r\n\x1e", exclude_categories=["Cs"]), min_size=1))
def test_lines_at_work_are_not_shown(text: str) -> None:
    """Lines that an engine prints while it serves are counted and not shown; earlier ones are shown."""
    line = f"he said: {text}."
    shown = line.rstrip()
    assert told(f"{line}\n").last_words == "(1 lines that may quote requests are not shown)"
    assert told(f"{line}\n", at_work=False).last_words == shown


def test_lines_before_work_do_not_explain_its_end() -> None:
    """Lines printed during the load are not the last words of a worker that served afterwards."""
    log = told("loading\n", at_work=False)
    assert log.last_words == "loading"
    log.serve()
    assert log.last_words == ""


def test_an_assertion_is_told_rather_than_stacks() -> None:
    """If a worker dies of an assertion, its line and a few calls are shown, rather than twenty lines of stacks."""
    log = told(f"{ASSERTION}\n{STACK}")
    assert log.cause == "ggml.c:3207: GGML_ASSERT(ggml_can_mul_mat(a, b)) failed"
    lines = log.last_words.splitlines()
    assert lines[0] == log.cause
    assert len(lines) == 3 + STACK_LINES
    assert "Extension modules" not in log.last_words
    reason = ended(-signal.SIGABRT, log.cause, starved=log.starved)
    assert reason == "the worker crashed (SIGABRT): ggml.c:3207: GGML_ASSERT(ggml_can_mul_mat(a, b)) failed"


@pytest.mark.parametrize("line", [
    "MemoryError", "numpy.core._exceptions._ArrayMemoryError: Unable to allocate 2. GiB",
    "  what():  std::bad_alloc", "memory allocation of 1048576 bytes failed",
    "OpenBLAS error: Memory allocation still failed after 10 retries, giving up.",
    f"{ends.MARK}WARNING lllms.llamacpp: ggml_aligned_malloc: insufficient memory (attempted to allocate   5.00 MB)",
    "ggml_backend_cpu_buffer_type_alloc_buffer: failed to allocate buffer of size 5242880",
    "CUDA error: out of memory", "libllama.so: cannot map: Cannot allocate memory",
])
def test_no_memory_is_named(line: str) -> None:
    """Messages of programs without memory are understood, under any stack, and reported with the way out."""
    log = told(f"{line}\n{STACK}")
    assert log.starved
    for status, how in ((-signal.SIGSEGV, "crashed (SIGSEGV)"), (1, "ended with status 1")):
        reason = ended(status, log.cause, starved=True)
        assert f"the worker ran out of memory, and {how}; lower options.context_length" in reason
    assert not told(f"{line}\n" + "later\n" * ends.LOG_TAIL).starved


@pytest.mark.parametrize(("status", "kernel", "reason"), [
    (None, None, "the worker ended"), (0, None, "the worker ended"), (7, None, "the worker ended with status 7"),
    (-11, None, "the worker crashed (SIGSEGV)"),
    (-9, None, "the worker was killed (SIGKILL; the machine may be out of memory)"),
    (-9, False, "the worker was killed (SIGKILL; not by the kernel for memory)"),
    (-9, True, f"the worker ran out of memory: the kernel killed it (SIGKILL); {ends.WAY_OUT}"),
])
def test_reasons(status: int | None, kernel: bool | None, reason: str) -> None:
    """The end of a process is described in words, including whether the kernel killed it for memory."""
    assert ended(status, kernel=kernel) == reason


@pytest.mark.parametrize(("before", "after", "since"), [
    (Kills(1, 5), Kills(2, 6), True), (Kills(1, 5), Kills(1, 6), False), (Kills(None, 5), Kills(None, 6), True),
    (Kills(None, 5), Kills(None, 5), False), (Kills(None, None), Kills(None, None), None),
    (Kills(1, None), Kills(None, None), None),
])
def test_kills(before: Kills, after: Kills, since: bool | None) -> None:
    """Kills in the worker's control group count; if those are unknown, those on the machine."""
    assert after.since(before) is since


@pytest.mark.parametrize(("prompt", "reason"), [
    ("no-memory", r"the worker ran out of memory \(MemoryError\); lower options"),
    ("open no-memory", r"the worker ran out of memory \(MemoryError\); lower options"),
    ("bad-alloc", r"the worker ran out of memory, and crashed \(SIGABRT\); lower options"),
    ("assert", r"the worker crashed \(SIGABRT\): ggml.c:12: GGML_ASSERT\(it works\) failed"),
])
async def test_cause_of_a_death_at_work(
    pools: Pools, caplog: pytest.LogCaptureFixture, prompt: str, reason: str,
) -> None:
    """A MemoryError, C++'s bad_alloc and an assertion of ggml are named, with a few lines in the log."""
    pool = await pools.start(isolation="process")
    with pytest.raises(EngineDied, match=reason):
        await pool.submit(ask(prompt)).gather()
    assert len(caplog.text.splitlines()) < 25


async def test_a_load_without_memory_is_named(pools: Pools) -> None:
    """A load without memory says so, with the way out."""
    pool = await pools.start(Options(load="no-memory"), isolation="process")
    with pytest.raises(ModelLoadFailed, match=r"ran out of memory \(MemoryError\); lower options.context_length"):
        await pool.submit(ask("count")).gather()


async def test_engines_log_at_work_is_shown(pools: Pools, caplog: pytest.LogCaptureFixture) -> None:
    """An engine's records from a logger of lllms are shown; its prints while it serves are not."""
    pool = await pools.start(isolation="process")
    with pytest.raises(EngineDied):
        await pool.submit(ask("log")).gather()
    assert ("lllms.scripted", logging.WARNING, "scripted: a state of 7 bytes was lost") in caplog.record_tuples
    assert "printed" not in caplog.text


@given(st.text(st.characters(exclude_characters="\r\x1e\x1f", exclude_categories=["Cs"])))
def test_records_of_a_worker_arrive_as_they_were_logged(text: str) -> None:
    """A record of a worker, even of several lines, is one record of the server, with its level, logger and model."""
    seen: list[logging.LogRecord] = []
    logger = logging.getLogger("lllms.of_a_worker")
    logger.addFilter(lambda record: seen.append(record) is not None)
    logger.setLevel(logging.INFO)
    try:
        record = logger.makeRecord(logger.name, logging.INFO, "x.py", 1, text, (), None)
        log = told(Marked("%(levelname)s %(name)s: %(message)s").format(record) + "\n")
    finally:
        logger.filters.clear()
    assert [(one.levelno, one.getMessage()) for one in seen] == [(logging.INFO, f"m: {text.rstrip()}")]
    assert log.last_words == ""


async def test_debugging_a_worker(pools: Pools, caplog: pytest.LogCaptureFixture) -> None:
    """An engine's debug records reach the log of a server at debug level, and no other."""
    for level, count in ((logging.INFO, 0), (logging.DEBUG, 1)):
        caplog.set_level(level, "lllms")
        pool = await pools.start(isolation="process")
        with pytest.raises(EngineDied):
            await pool.submit(ask("log")).gather()
        told = [record for record in caplog.records if record.getMessage() == "scripted: a detail"]
        assert len(told) == count


async def test_workers_are_killed_before_the_server(pools: Pools) -> None:
    """Without memory the kernel kills workers first, and the programs that they start."""
    pool = await pools.start(isolation="process")
    await pool.submit(ask("echo x")).gather()
    [instance] = pool.status().instances
    assert oom_score(instance.pid or 0) == min(1000, oom_score(os.getpid()) + 500)


def oom_score(pid: int) -> int:
    return int(Path(f"/proc/{pid}/oom_score_adj").read_text(encoding="ascii"))


SCRIPT = """
import asyncio, sys
sys.path.insert(0, {tests!r})
from pools_for_tests import Pools, ask

async def main():
    pools = Pools()
    pool = await pools.start(isolation="process")
    await pool.submit(ask("echo x")).gather()
    try:
        await pool.submit(ask("eat")).gather()
    except Exception as error:
        print(error)
    print((await pool.submit(ask("echo alive")).gather()).text)
    await pools.close()

asyncio.run(main())
"""


@pytest.fixture
def control_group() -> Iterator[Path]:
    """A control group with 200 MB of memory, if this user may create one."""
    for root, limit in (("/sys/fs/cgroup/memory", "memory.limit_in_bytes"), ("/sys/fs/cgroup", "memory.max")):
        group = Path(root) / f"lllms-test-{os.getpid()}"
        try:
            group.mkdir()
        except OSError:
            continue
        try:
            (group / limit).write_text(str(200 << 20), encoding="ascii")
        except OSError:
            group.rmdir()
            continue
        yield group
        group.rmdir()
        return
    pytest.skip("no control group can be made here")


def test_killed_by_the_kernel(control_group: Path) -> None:
    """A worker that the kernel kills for memory is reported as such; the server survives, and reloads it."""
    joined = f"import os; open({str(control_group / 'cgroup.procs')!r}, 'w').write(str(os.getpid()))\n"
    script = joined + SCRIPT.format(tests=str(Path(__file__).parent))
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=GUARD, check=False,
    )
    assert "the worker ran out of memory: the kernel killed it (SIGKILL); lower options" in done.stdout, done.stderr
    assert done.stdout.endswith("alive\n")


def test_a_limit_on_address_space_is_suspected() -> None:
    """Under `ulimit -v` a silent crash is reported together with the limit."""
    limited = (
        "import resource\nresource.setrlimit(resource.RLIMIT_AS, (1 << 40, 1 << 40))\n"
        "from lllms_core.worker.ends import ended\nprint(ended(-11))"
    )
    done = subprocess.run([sys.executable, "-c", limited], capture_output=True, text=True, timeout=GUARD, check=True)
    assert done.stdout == (
        "the worker crashed (SIGSEGV); perhaps it ran out of memory: this server's limit on address space is "
        "1099511627776 bytes\n"
    )
