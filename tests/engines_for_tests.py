"""Engines that behave, or misbehave, as their options say; in a module that worker processes can import."""

import ctypes
import json
import logging
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterable, Iterator, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import ClassVar, Literal, cast

from attrs import evolve, frozen

from lllms_core.cancellation import check_cancelled
from lllms_core.engines import Engine, Model, Progress, SerialModel
from lllms_core.engines.base import Opening, Opens
from lllms_core.engines.session_link import Session
from lllms_core.errors import EngineFailed, InvalidRequest, ModelLoadFailed
from lllms_core.queries import Tokens
from lllms_core.types import Delta, Finish, ModelSpec, Request, Usage

RELEASE = threading.Event()
"""Releases a model that hangs in a thread of the test process."""

Fault = Literal[
    "", "refuse", "fail", "raise", "exit", "sys-exit", "kill", "segv", "abort", "hang", "hold-gil", "print",
    "unreadable", "stop", "no-memory", "bad-alloc", "assert", "eat", "log",
]


@frozen
class Options:
    load: Fault = ""
    close: Fault = ""
    slots: int = 2
    gate: str = ""
    """A pipe (fifo) that the load reads to its end, and so waits until the test has opened and closed it."""
    once: str = ""
    """A file that the load creates before its fault; if it is there already, there is no fault."""


class UnreadableError(InvalidRequest):
    """Pickles, but cannot be rebuilt."""

    def __init__(self, one: str, *, other: str) -> None:
        super().__init__(one)
        self.other = other

    def __reduce__(self) -> tuple[object, ...]:
        return UnreadableError, ("one",)


def strike(fault: str) -> None:
    """Trigger a fault by name."""
    match fault:
        case "refuse":
            raise InvalidRequest("no such luck", "prompt")
        case "fail":
            raise EngineFailed("this one cannot go on")
        case "raise":
            raise ValueError("the engine is broken")
        case "exit":
            os._exit(7)
        case "sys-exit":
            sys.exit("enough")
        case "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        case "segv":
            os.kill(os.getpid(), signal.SIGSEGV)
        case "abort":
            os.abort()
        case "stop":
            os.kill(os.getpid(), signal.SIGSTOP)
        case "hang":
            RELEASE.wait()
        case "hold-gil":
            ctypes.PyDLL(None).sleep(1_000_000)  # PyDLL holds the GIL
        case "print":
            print("printed by Python")  # noqa: T201  # as careless engines do
            os.write(1, b"written to standard output\n")
            os.write(2, b"written to standard error\n")
        case "no-memory":
            bytearray(1 << 62)
        case "bad-alloc":
            ctypes.CDLL("libstdc++.so.6")["_Znwm"](ctypes.c_size_t(1 << 62))  # operator new, which throws through C
        case "assert":
            library = Path(cast(str, find_spec("llama_cpp").origin)).parent / "lib" / "libggml-base.so"  # type: ignore[union-attr]
            ctypes.CDLL(str(library)).ggml_abort(b"/some/ggml.c", 12, b"GGML_ASSERT(%s) failed", b"it works")
        case "eat":
            eaten = []
            while True:
                eaten.append(os.urandom(1 << 24))
        case "log":
            logging.getLogger("lllms.scripted").debug("a detail")
            logging.getLogger("lllms.scripted").warning("a state of %d bytes was lost", 7)
            print("printed")  # noqa: T201  # as careless engines do
            os._exit(7)
        case "unreadable":
            raise UnreadableError("one", other="two")


class ScriptedModel(SerialModel):
    """Continues "count" with numbers, "echo TEXT" with the text; the name of a fault triggers it in the second step.

    "take N" takes N megabytes of memory for good. "open FAULT" triggers it in `open`, "cancel FAULT" counts and
    triggers it in `cancel`, "child" starts a program. The second step of "look" checks for an interruption until one
    comes, that of "look once" checks only once.
    """

    context_length = 1_000_000

    def __init__(self, options: Options) -> None:
        self.slots = options.slots
        self._close = options.close
        self._threads = 0
        self._taken: list[bytes] = []
        self._cancel_faults: dict[str, str] = {}

    def use_threads(self, count: int) -> None:
        self._threads = count

    def open(self, request: Request) -> None:
        word, _, fault = (request.prompt or "").partition(" ")
        if word == "open":
            strike(fault)
        if word == "cancel":
            self._cancel_faults[request.id] = fault
        super().open(request)

    def cancel(self, request_id: str) -> Iterable[Delta]:
        strike(self._cancel_faults.get(request_id, ""))
        return super().cancel(request_id)

    def complete(self, prompt: str, request: Request) -> Iterator[str]:
        word, _, rest = prompt.partition(" ")
        if word == "threads":
            yield str(self._threads)
            return
        if word == "pid":
            yield str(os.getpid())
            return
        if word == "echo":
            yield from rest
            return
        if word == "take":
            self._taken.append(b"x" * (int(rest) << 20))
            yield "taken"
            return
        if word == "child":
            new_session = rest == "daemon"
            yield str(subprocess.Popen(["/bin/sleep", "1000"], start_new_session=new_session).pid)
        number = 0
        while True:
            yield f"{number} "
            number += 1
            if number == 1:
                strike(word)
            while word == "look" and not self.interrupt.is_set():
                RELEASE.wait(None if rest == "once" else 0.001)

    def close(self) -> None:
        strike(self._close)


class ScriptedEngine(Engine):
    name = "scripted"
    parameters = frozenset({"temperature", "top_k", "top_p", "seed"})
    Options = Options
    needs_file = False

    def load(self, spec: ModelSpec, progress: Progress) -> Model:
        options = spec.options
        assert isinstance(options, Options)
        for percent in range(0, 100, 10):
            progress(percent / 100)
        if options.gate:
            Path(options.gate).read_bytes()
        if options.load == "refuse":
            raise ModelLoadFailed("this file is no model")
        if not options.once or not Path(options.once).exists():
            if options.once:
                Path(options.once).touch()
            strike(options.load)
        return ScriptedModel(options)


class TakingModel(ScriptedModel):
    """Takes sessions that it never looked for."""

    def found(self, request_id: str, session: Session | None) -> None:
        assert session is not None


class TakingEngine(ScriptedEngine):
    name = "taking"

    def load(self, spec: ModelSpec, progress: Progress) -> Model:
        return TakingModel(cast(Options, spec.options))


class RawModel(Model):
    """A model without the help of a base class: one token per step for each request."""

    context_length = 1_000_000
    slots = 8

    def __init__(self) -> None:
        self.requests: dict[str, int] = {}

    @property
    def idle(self) -> bool:
        return not self.requests

    def open(self, request: Request) -> None:
        self.requests[request.id] = request.max_tokens or 1_000_000

    def step(self) -> Iterable[Delta]:
        for one, left in list(self.requests.items()):
            if left > 1:
                self.requests[one] = left - 1
                yield Delta(one, "x", 1)
            else:
                yield from self.end(one, "length")

    def cancel(self, request_id: str) -> Iterable[Delta]:
        return self.end(request_id, "cancelled") if request_id in self.requests else []

    def end(self, request_id: str, reason: Literal["length", "cancelled"]) -> list[Delta]:
        del self.requests[request_id]
        return [Delta(request_id, "", 0, Finish(reason, Usage(1, 1)))]


class RawEngine(Engine):
    name = "raw"
    needs_file = False

    def load(self, spec: ModelSpec, progress: Progress) -> Model:
        return RawModel()


PREPARES = "x" * 20_000
"""Makes a prompt too long to prepare in the model's own thread."""


class PreparingModel(RawModel):
    """Prepares as the prompt's first word says: "endless" until it is cancelled, "deep" until the stack is used up, ...

    Its answers say in which thread they were prepared.
    """

    def prepare(self, request: Opens) -> Opening:
        assert isinstance(request, Request)
        match str(request.prompt).split()[0]:
            case "endless":
                while True:
                    check_cancelled()
                    threading.Event().wait(0.001)
            case "deaf":
                RELEASE.wait()
            case "deep":
                json.loads("[" * 100_000)
            case "memory":
                raise MemoryError
            case word if word in {"refuse", "fail", "raise", "sys-exit"}:
                strike(word)  # type: ignore[arg-type]
        beside = threading.current_thread().name.startswith("prepare")
        opening = super().prepare(request)

        def take() -> None:
            opening()
            self.beside[request.id] = beside

        return take

    def __init__(self) -> None:
        super().__init__()
        self.beside: dict[str, bool] = {}

    def step(self) -> Iterable[Delta]:
        self.interrupt.wait(0.002)  # a flood of tokens would only keep the test busy
        for delta in super().step():
            yield evolve(delta, text="beside " if self.beside[delta.request_id] else "at once ")

    def to_tokens(self, text: str, *, add_special: bool) -> Tokens:
        return Tokens(tuple(map(ord, text)), tuple(map(str.encode, text)))

    def close(self) -> None:
        logging.getLogger("lllms.preparing").warning("closed")


class PreparingEngine(RawEngine):
    name = "preparing"

    def load(self, spec: ModelSpec, progress: Progress) -> Model:
        model = PreparingModel()
        model.tasks = frozenset({"text", "tokenize"})
        model.context_length = 100
        return model


class BadInfoModel(RawModel):
    """Reports details that cannot be pickled."""

    def details(self) -> dict[str, str]:
        return {"secret": lambda: None}  # type: ignore[dict-item]  # that is the point


class BadInfoEngine(RawEngine):
    name = "bad-info"

    def load(self, spec: ModelSpec, progress: Progress) -> Model:
        return BadInfoModel()


class EnvironmentModel(RawModel):
    """Reports the environment of its worker process."""

    def details(self) -> dict[str, str]:
        return {name: value for name, value in os.environ.items() if name.startswith("LLLMS_TEST_")}


class EnvironmentEngine(RawEngine):
    name = "environment"
    environment: ClassVar[Mapping[str, str]] = dict.fromkeys(("LLLMS_TEST_ENGINE", "LLLMS_TEST_USER"), "engine")

    def load(self, spec: ModelSpec, progress: Progress) -> Model:
        return EnvironmentModel()


class ShyEngine(RawEngine):
    """Cannot be unpickled in another process."""

    name = "shy"

    def __reduce__(self) -> tuple[object, ...]:
        return _make_shy, (os.getpid(),)


class StuckEngine(RawEngine):
    """Cannot be pickled."""

    name = "stuck"

    def __init__(self) -> None:
        self.lock = threading.Lock()


def _make_shy(home: int) -> ShyEngine:
    if os.getpid() != home:
        raise ImportError("the engine's library is missing")
    return ShyEngine()
