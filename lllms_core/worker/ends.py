"""Why a worker has ended, found from its exit status, its last output, and the kernel's counters.

A worker's output may quote requests. Of the lines that it writes while it serves, only those that are known to quote
no request are shown, including those of crashing programs.
"""

import errno
import logging
import os
import re
import signal
import sys
from collections import deque

from attrs import frozen

from lllms_core.tracebacks import HEAD

LOG = logging.getLogger("lllms.worker")

MARK = "\x1e"
"""Starts a line with a record of the worker's `lllms` loggers, which quote no request: `LEVEL lllms.name: text`."""
LINE_END = "\x1f"
"""Stands for the end of a line within a record."""
LOG_TAIL = 20
"""The number of last lines of a worker's log that are kept, to explain its end."""
LONGEST_LINE = 1 << 14
LONGEST_KNOWN = 500
"""The characters of a line that are examined; no program's last words are longer."""
LONGEST_WORDS = 300
"""Characters of a line in an error message."""

OUT_OF_MEMORY = "ran out of memory"
WAY_OUT = (
    "lower options.context_length or slots, choose a smaller model or quantisation, let fewer run at once "
    "(server.max_instances), or give the server more memory"
)

_MEMORY = re.compile(
    r"\bMemoryError\b|std::bad_alloc|insufficient memory|out of memory|OutOf\w*Memory|cannot allocate memory"
    r"|memory allocation .*failed|(failed|unable) to allocate",
    re.IGNORECASE,
)
"""The messages of Python, C++, Rust, OpenBLAS, ggml and CUDA for a lack of memory."""
_SOURCE_LINE = re.compile(
    r"(?:[\w./-]+: )?(?:\S*/)?(?P<place>(?P<file>[\w.+-]+)\.(?:c|cc|cpp|cxx|h|hpp|cu|cuh|m|metal):\d+): (?P<words>.*)",
)
_OLD_ASSERTION = re.compile(r"GGML_ASSERT: (?:.*/)?(?P<place>[\w.+-]+\.(?:c|cpp|h|cu|cuh|m):\d+): (?P<words>.*)")
"""As gpt4all's ggml writes it."""
_ASSERTION = re.compile(r"GGML_ASSERT\(.*\) failed|fatal error|.*: Assertion `.*' failed\.")
_THROWN = re.compile(r"terminate called after throwing an instance of '[\w:<>, ]+'|terminate called without .*")
_PANIC = re.compile(r"thread '[^']*' (\(\d+\) )?panicked at \S+:\d+:\d+:")
_STACK = re.compile(
    r"Fatal Python error: [\w ]+|(Current thread|Thread) 0x\w+ .*\(most recent call first\):"
    r'|  File ".*", line \d+ in \S+'
    r"|Extension modules: .*|Stack \(most recent call first\):",
)
"""The output of `faulthandler`: places in the code, and no values."""
_CALL = re.compile(r'  File ".*')
_RECORD = re.compile(r"(?P<level>[A-Z]+) (?P<logger>lllms[\w.]*): ?(?P<text>.*)", re.DOTALL)
STACK_LINES = 6
"""The number of calls shown for a native crash."""


@frozen
class Kills:
    """How many processes the kernel has killed for lack of memory; None where it does not report that."""

    ours: int | None
    """In this process's control group."""
    all: int | None
    """On the machine."""

    @classmethod
    def count(cls) -> "Kills":
        """Read the kernel's counters."""
        return cls(_counted(_memory_events()), _counted("/proc/vmstat"))

    def since(self, before: "Kills") -> bool | None:
        """Whether there have been any since; None if that is unknown."""
        for now, then in ((self.ours, before.ours), (self.all, before.all)):
            if now is not None and then is not None:
                return now > then
        return None


class NativeLog:
    """The output of a worker on standard output and error."""

    def __init__(self, about: str) -> None:
        self.about = about
        """What the records are about: a model's name."""
        self.at_work = False
        """Whether the worker has received requests, which its lines may then quote."""
        self._rest = b""
        self._tail: deque[str] = deque(maxlen=LOG_TAIL)
        self._memory_was: int | None = None
        """The number of lines since one about a lack of memory."""
        self._calls = 0
        self._withheld = 0
        self.cause: str | None = None
        """The line of the assertion, exception or panic that ended the worker, if it wrote one."""

    def feed(self, data: bytes) -> None:
        """Read more of the output."""
        *lines, self._rest = (self._rest + data.replace(b"\r", b"\n")).split(b"\n")
        if len(self._rest) > LONGEST_LINE:
            lines.append(self._rest)
            self._rest = b""
        for line in lines:
            self._take(line.decode(errors="replace").rstrip())

    def end(self) -> None:
        """Read the last line, which has no line end."""
        self._take(self._rest.decode(errors="replace").rstrip())
        self._rest = b""

    def serve(self) -> None:
        """Expect requests in the lines from now on; drop earlier lines, which cannot explain how requests end."""
        if not self.at_work:
            self.at_work = True
            self._tail.clear()

    @property
    def starved(self) -> bool:
        """Whether its last lines report a lack of memory."""
        return self._memory_was is not None and self._memory_was < LOG_TAIL

    @property
    def last_words(self) -> str:
        """The last lines, without those that may not be shown."""
        hidden = [f"({self._withheld} lines that may quote requests are not shown)"] if self._withheld else []
        return "\n".join([*self._tail, *hidden])

    def _take(self, line: str) -> None:
        if not line:
            return
        if line.startswith(MARK):
            self._relay(line.removeprefix(MARK).replace(LINE_END, "\n"))
            return
        begin = line[:LONGEST_KNOWN]
        stack = bool(_STACK.fullmatch(begin))
        words = known(begin)
        self._look_for_memory(begin, stack=stack)
        if words is not None:
            self.cause = words
        if self.at_work and not (stack or words):
            self._withheld += 1
            return
        if stack and _CALL.match(line):
            self._calls += 1
        if stack and (self._calls > STACK_LINES or line.startswith("Extension modules")):
            return
        shown = (words or line)[:LONGEST_LINE]
        self._tail.append(shown)
        LOG.debug("%s: %s", self.about, shown)

    def _relay(self, told: str) -> None:
        """Log a record of the worker's loggers as a record of this process, with the model's name."""
        self._look_for_memory(told[:LONGEST_KNOWN])
        record = _RECORD.fullmatch(told)
        level = logging.getLevelNamesMapping().get(record["level"] if record else "", logging.DEBUG)
        text, _, rest = (record["text"] if record else told).partition("\n")
        logger = logging.getLogger(record["logger"]) if record else LOG
        # A repeated exception is recognised by its traceback.
        more = {"traceback": rest} if rest.startswith(HEAD) else None
        logger.log(level, "%s: %s%s", self.about, text, f"\n{rest}" if rest else "", extra=more)
        if not logger.isEnabledFor(level):
            self._tail.append(told)

    def _look_for_memory(self, line: str, *, stack: bool = False) -> None:
        if _MEMORY.search(line):
            self._memory_was = 0
        elif self._memory_was is not None and not stack:
            self._memory_was += 1


def known(line: str) -> str | None:
    """Return the part of a crashing program's line that names the cause and quotes no request; None for other lines."""
    if old := _OLD_ASSERTION.fullmatch(line):
        return f"{old['place']}: GGML_ASSERT({old['words']}) failed"[:LONGEST_WORDS]
    told = _SOURCE_LINE.fullmatch(line)
    if told is not None and _ASSERTION.fullmatch(told["words"]):
        return f"{told['place']}: {told['words']}"[:LONGEST_WORDS]
    if told is not None and told["file"].startswith(("ggml", "llama")):
        return told["place"]  # their other words may contain values
    if _THROWN.fullmatch(line) or _PANIC.fullmatch(line):
        return line[:LONGEST_WORDS]
    return None


def ended(status: int | None, cause: str | None = None, *, starved: bool = False, kernel: bool | None = None) -> str:
    """Describe, for people, how a process ended.

    `cause` is its own last line about it, `starved` whether it reported a lack of memory, `kernel` whether the kernel
    has killed processes for lack of memory meanwhile (None: unknown).
    """
    if not status:
        return "the worker ended"
    how = f"ended with status {status}" if status > 0 else f"crashed ({signal.Signals(-status).name})"
    if -status == signal.SIGKILL:
        if kernel:
            return f"the worker {OUT_OF_MEMORY}: the kernel killed it (SIGKILL); {WAY_OUT}"
        doubt = "the machine may be out of memory" if kernel is None else "not by the kernel for memory"
        return f"the worker was killed (SIGKILL; {doubt})"
    if starved:
        return f"the worker {OUT_OF_MEMORY}, and {how}; {WAY_OUT}"
    limit = address_space()
    if limit is not None and cause is None:
        return f"the worker {how}; perhaps it {OUT_OF_MEMORY}: this server's limit on address space is {limit} bytes"
    return f"the worker {how}" + (f": {cause}" if cause else "")


def for_memory(status: int | None, *, starved: bool, kernel: bool | None) -> bool:
    """Whether a process that was not killed by this one ended for lack of memory, as far as is known; see `ended`."""
    return starved or (status == -signal.SIGKILL and kernel is not False)


def raised(error: BaseException) -> str | None:
    """Describe an exception that means a lack of memory; None for any other."""
    number = error.errno if isinstance(error, OSError) else None
    limited = isinstance(error, ImportError | OSError) and address_space() is not None
    unmapped = limited and "failed to map segment" in str(error)
    if isinstance(error, MemoryError) or number == errno.ENOMEM or unmapped:
        return f"the worker {OUT_OF_MEMORY} ({type(error).__name__}); {WAY_OUT}"
    return None


def address_space() -> int | None:
    """Return this process's limit on address space (`ulimit -v`) in bytes, which workers inherit; None without one."""
    if sys.platform == "win32":
        return None
    import resource

    soft, _ = resource.getrlimit(resource.RLIMIT_AS)
    return None if soft == resource.RLIM_INFINITY else soft


def _memory_events() -> str | None:
    """Return the file with the kernel's counters for this process's control group, of version 2 or else 1."""
    lines = _text_of("/proc/self/cgroup").splitlines()
    for number, controllers, path in (line.split(":", 2) for line in lines if line.count(":") >= 2):
        if number == "0" and not controllers:
            files = [f"/sys/fs/cgroup{path}/memory.events", "/sys/fs/cgroup/memory.events"]
        elif "memory" in controllers.split(","):
            files = [f"/sys/fs/cgroup/memory{path}/memory.oom_control", "/sys/fs/cgroup/memory/memory.oom_control"]
        else:
            continue
        # The first is its place on a host; inside a container only the second exists.
        for file in files:
            if os.path.isfile(file):  # noqa: PTH113  # a `Path` interns its parts, again at each end of a worker
                return file
    return None


def _counted(file: str | None) -> int | None:
    """Return the counter `oom_kill` in a file of the kernel."""
    match = re.search(r"^oom_kill (\d+)$", "" if file is None else _text_of(file), re.MULTILINE)
    return int(match[1]) if match else None


def _text_of(file: str) -> str:
    """Return the text of a file of the kernel; empty if there is no such file."""
    try:
        with open(file, encoding="utf-8") as opened:  # noqa: PTH123  # see above
            return opened.read()
    except OSError:
        return ""
