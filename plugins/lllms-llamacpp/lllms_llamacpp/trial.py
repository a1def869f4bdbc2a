"""Tries a grammar in a process of its own, which ends if that takes too long: some grammars compile for ever.

This file is also the program of that process. It imports nothing of ours, so as to start quickly.
"""

import contextlib
import json
import subprocess
import sys
from threading import Event, Lock, Timer
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from llguidance import LLMatcher, LLParserLimits

SECONDS = 3
"""Processor time that a grammar may take to compile."""
PATIENCE = 20.0
"""Seconds that it may take by the clock, on a machine that is busy with other things."""
MEMORY = 2 << 30
STEPS = 16
"""So far a compiled grammar is followed, for some fail only then."""


class Trial:
    """Tells whether grammars can be compiled; the process starts with the first of them."""

    def __init__(self, seconds: int = SECONDS, patience: float = PATIENCE) -> None:
        self._seconds = seconds
        self._patience = patience
        self._process: subprocess.Popen[bytes] | None = None
        self._lock = Lock()
        self._closed = False

    def run(self, grammar: str) -> str:
        """Return what is wrong with a grammar, "" if nothing is. Raises `OSError` if no process can be started."""
        with self._lock:
            return self._ask(grammar)

    def close(self) -> None:
        """End the process; nothing more is tried."""
        self._closed = True
        if self._process is not None:
            self._process.kill()  # whoever waits for its answer gets none
        with self._lock:
            process, self._process = self._process, None
            if process is not None:
                process.kill()
                process.communicate()

    def _ask(self, grammar: str) -> str:
        if self._closed:
            raise OSError("the model is being closed")
        process = self._process
        if process is None or process.poll() is not None:
            process = self._process = subprocess.Popen(  # noqa: S603  # our own program
                [sys.executable, "-P", __file__, str(self._seconds)], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            )
        assert process.stdin is not None  # noqa: S101  # as asked for above
        assert process.stdout is not None  # noqa: S101
        late = Event()

        def end() -> None:
            late.set()
            process.kill()

        guard = Timer(self._patience, end)
        guard.start()
        try:
            with contextlib.suppress(BrokenPipeError):  # then it has ended, and says nothing below
                process.stdin.write(json.dumps(grammar).encode() + b"\n")
                process.stdin.flush()
            answer = process.stdout.readline()
        finally:
            guard.cancel()
        if not answer:
            self._process = None
            _, code = process.communicate(), process.returncode
            if code > 0 and not late.is_set():
                raise OSError(f"it ended with code {code}")
            return f"it takes more than {self._seconds} seconds, or too much memory, to compile; simplify it"
        text: str = json.loads(answer)
        return text


def limits() -> "LLParserLimits":
    """Bounds on the work of compiling a grammar, and of each step after it, which take some 10 ms at most."""
    from llguidance import LLParserLimits

    return LLParserLimits(step_lexer_fuel=100_000, step_max_items=20_000, max_lexer_states=50_000, verbose_errors=False)


def main() -> None:
    """Read a grammar per line, and answer each with what is wrong with it; both as JSON."""
    from llguidance import LLMatcher, LLTokenizer

    tokenizer, bounds = LLTokenizer("byte"), limits()
    for line in sys.stdin.buffer:
        _limit(int(sys.argv[1]))
        matcher = LLMatcher(tokenizer, json.loads(line), log_level=0, limits=bounds)
        _follow(matcher)
        sys.stdout.write(json.dumps(matcher.get_error()) + "\n")
        sys.stdout.flush()


def _follow(matcher: "LLMatcher") -> None:
    """Go some steps along a text that the grammar allows."""
    for _ in range(STEPS):
        if matcher.is_error() or matcher.is_stopped():
            return
        bits = int.from_bytes(matcher.compute_bitmask(), "little")
        matcher.consume_token((bits & -bits).bit_length() - 1)


def _limit(seconds: int) -> None:
    """Let the kernel end this process after so much more processor time, whether or not its parent still lives."""
    try:
        import resource
    except ImportError:  # Windows: the parent kills this process when it loses patience
        return
    used = resource.getrusage(resource.RUSAGE_SELF)
    resource.setrlimit(resource.RLIMIT_CPU, (int(used.ru_utime + used.ru_stime) + 1 + seconds, resource.RLIM_INFINITY))
    resource.setrlimit(resource.RLIMIT_CORE, (0, resource.RLIM_INFINITY))
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, resource.RLIM_INFINITY))


if __name__ == "__main__":
    main()
