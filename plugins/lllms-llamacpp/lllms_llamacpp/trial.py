"""Tries each grammar in a process of its own first: some take forever, fill the memory, or crash the process.

This file is also the program of that process, which has to start quickly.
"""

import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from threading import Lock, Timer
from types import ModuleType
from typing import TYPE_CHECKING, NoReturn

if TYPE_CHECKING:
    from llguidance import LLParserLimits

    from lllms_core.types import Constraint

MEMORY = 1 << 30
STACK = 4 << 20
"""Bytes of stack in the process: much less than in the thread that compiles the grammar later, as deep ones recurse."""
NICENESS = 10
STEPS = 16
"""The number of steps for which a compiled grammar is followed, because some fail only then."""


_TIME_IS_UP = {getattr(signal, name, 0) for name in ("SIGPROF", "SIGKILL")} | {-1}
"""The signals by which a process ends when its time is up: the kernel's, or `Trial`'s, which is code 1 on Windows."""


class TooExpensive(Exception):
    """A grammar ended the process that tried it: time, memory or stack."""

    def __init__(self, *, slow: bool) -> None:
        """If it was `slow`, more time may help."""
        super().__init__()
        self.slow = slow


class Stopped(Exception):
    """`stop` or `close` ended the trial."""


class Trial:
    """One process that tries grammars, one after the other; it starts at the first grammar."""

    def __init__(self, seconds: float, patience: float, niceness: int = 0) -> None:
        """Allow each grammar `seconds` of processor time, and `patience` seconds by the clock."""
        self.seconds = seconds
        self.patience = patience
        self._niceness = niceness
        self._lock = Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._killed = False
        self._closed = False

    def run(
        self, constraint: "Constraint", names: Mapping[int, str] | None = None, *, spaces: bool = False,
        abandoned: Callable[[], bool] = bool,
    ) -> Mapping[str, str]:
        """Return the `grammar` for llguidance and its `fault` (or ""), or a `fault` alone, or the text of a `refusal`.

        `names` has the texts of the tokens that the grammar names; `spaces`: see `translate`; `abandoned` reveals a
        `stop` before the start. Raises `TooExpensive`, `Stopped`, and `OSError` if no process can be started. Only one
        thread may call this.
        """
        process = self._start()
        if abandoned():
            raise Stopped
        assert process.stdin is not None  # noqa: S101  # as asked for in `_start`
        assert process.stdout is not None  # noqa: S101
        question = {
            "kind": constraint.kind, "text": constraint.text, "param": constraint.param,
            "names": [*(names or {}).items()], "spaces": spaces,
        }
        late = Timer(self.patience, process.kill)
        late.start()
        try:
            with contextlib.suppress(BrokenPipeError):  # it has ended, and the answer below is empty
                process.stdin.write(json.dumps(question).encode() + b"\n")
                process.stdin.flush()
            answer = process.stdout.readline()
        finally:
            late.cancel()
        if not answer.endswith(b"\n"):
            self._explain(process)
        found: dict[str, str] = json.loads(answer)
        return found

    def stop(self) -> None:
        """End the current trial; from any thread."""
        with self._lock:
            self._killed = True
            if self._process is not None:
                self._process.kill()

    def close(self) -> None:
        """End the process, and try nothing more."""
        self._closed = True
        self.stop()

    def reap(self) -> None:
        """Wait for the end of the process; call it after `close`, when `run` is no longer called."""
        with self._lock:
            process, self._process = self._process, None
        if process is not None:
            process.kill()
            process.communicate()

    def _start(self) -> "subprocess.Popen[bytes]":
        with self._lock:
            if self._closed:
                raise Stopped
            process = self._process
            if process is not None and (self._killed or process.poll() is not None):
                process.communicate()
                process = None
            self._killed = False
            if process is None:
                process = self._process = subprocess.Popen(  # noqa: S603  # our own program
                    [sys.executable, "-P", __file__, str(self.seconds), str(self._niceness)],
                    stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                )
            return process

    def _explain(self, process: "subprocess.Popen[bytes]") -> NoReturn:
        """Raise the reason why a process gave no answer, after starting the next one, so that nothing waits for it."""
        process.communicate()
        killed, code = self._killed, process.returncode
        if killed:
            raise Stopped
        with contextlib.suppress(Stopped):
            self._start()
        if code > 0:
            raise OSError(f"it ended with code {code}")
        raise TooExpensive(slow=-code in _TIME_IS_UP)


def limits() -> "LLParserLimits":
    """Return limits on the work of compiling a grammar and of each later step; they take some 10 ms at most."""
    from llguidance import LLParserLimits

    return LLParserLimits(step_lexer_fuel=100_000, step_max_items=20_000, max_lexer_states=50_000, verbose_errors=False)


def main(seconds: float, niceness: int) -> None:
    """Read one question per line and answer each; both as JSON."""
    # The package itself would import the whole engine.
    package = sys.modules["lllms_llamacpp"] = ModuleType("lllms_llamacpp")
    package.__path__ = [str(Path(__file__).parent)]
    from lllms_core.errors import InvalidRequest
    from lllms_core.types import Constraint
    from lllms_llamacpp.grammars import spell_tokens, translate

    _bound(niceness)
    for line in sys.stdin.buffer:
        asked = json.loads(line)
        answer = {}
        _allow(seconds)
        try:
            grammar = translate(Constraint(asked["kind"], asked["text"], asked["param"]), spaces=asked["spaces"])
            spelled = spell_tokens(grammar, dict(asked["names"])) if asked["kind"] == "lark" else grammar
            answer = {"grammar": grammar, "fault": _fault(spelled)}
        except InvalidRequest as error:
            answer = {"refusal": error.message}
        except UnicodeEncodeError:
            answer = {"fault": "it has lone surrogates, which are not characters"}
        except BaseException as error:  # noqa: BLE001  # a panic in llguidance is not an Exception
            answer = {"fault": f"it cannot be compiled ({type(error).__name__}); simplify it"}
        _allow(0)
        sys.stdout.write(json.dumps(answer) + "\n")
        sys.stdout.flush()


def _fault(grammar: str) -> str:
    """Compile a grammar, and follow a text that it allows for some steps; return the failure, or ""."""
    from llguidance import LLMatcher, LLTokenizer

    matcher = LLMatcher(LLTokenizer("byte"), grammar, log_level=0, limits=limits())
    for _ in range(STEPS):
        if matcher.is_error() or matcher.is_stopped():
            break
        bits = int.from_bytes(matcher.compute_bitmask(), "little")
        matcher.consume_token((bits & -bits).bit_length() - 1)
    fault: str = matcher.get_error()
    return fault


def _bound(niceness: int) -> None:
    """Let the kernel limit the memory, the stack and the priority of this process."""
    try:
        import resource
    except ImportError:  # Windows: the parent kills this process when it loses patience
        return
    os.nice(niceness)
    resource.setrlimit(resource.RLIMIT_CORE, (0, resource.RLIM_INFINITY))
    for kind, most in ((resource.RLIMIT_AS, MEMORY), (resource.RLIMIT_STACK, STACK)):
        _, hard = resource.getrlimit(kind)
        resource.setrlimit(kind, (most if hard == resource.RLIM_INFINITY else min(most, hard), hard))


def _allow(seconds: float) -> None:
    """Let the kernel end this process after this much more processor time, even if its parent is gone; 0: never."""
    if hasattr(signal, "setitimer"):
        signal.setitimer(signal.ITIMER_PROF, seconds)


if __name__ == "__main__":
    main(float(sys.argv[1]), int(sys.argv[2]))
