"""What a worker process starts with, before it gets a model: the same for a spare and for one with a model at once."""

import logging
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from multiprocessing import process, spawn
from typing import Self, cast

from attrs import frozen

from lllms_core.engines import Engine
from lllms_core.errors import ModelLoadFailed
from lllms_core.worker.wire import Hello, encode

# Not `-m lllms_core.worker.child`: from its first import the child must find the same modules as this process.
_BOOT = "import sys; sys.path[:] = sys.argv[2:]; {}from lllms_core.worker.child import main; main()"
_QUIETLY = "from lllms_core.worker.niceness import background, import_child; background(import_child); "


@frozen
class Inheritance:
    """Everything that a process inherits for an engine. Equal ones start processes that can stand in for each other."""

    path: tuple[str, ...]
    """Where it finds modules."""
    environment: Mapping[str, str]
    preparation: Mapping[str, object]
    """For multiprocessing: what must be imported before the engine can be unpickled."""
    level: int
    """The level of the log records that it sends."""

    @classmethod
    def of(cls, engine: Engine) -> Self:
        """Return what a process for this engine inherits now. Raises `ModelLoadFailed` if it cannot get the engine."""
        if getattr(process.current_process(), "_inheriting", False):
            raise ModelLoadFailed(
                "a worker imports the main script again to find an engine in it, and the script loads models while it "
                "is imported; put its actions under `if __name__ == \"__main__\":`",
            )
        with sendable(engine):
            data = spawn.get_preparation_data("lllms worker")
            path = tuple(entry for entry in cast(list[object], data["sys_path"]) if isinstance(entry, str))
            # Warnings are always relayed: those about a lack of memory explain a crash.
            level = min(logging.WARNING, logging.getLogger("lllms").getEffectiveLevel())
            return cls(path, {**engine.environment, **os.environ}, _preparation(engine, data), level)

    def command(self, title: str, *, quiet: bool) -> tuple[str, ...]:
        """Return the command that starts the process; lists of processes show its title."""
        return spawn.get_executable(), "-c", _BOOT.format(_QUIETLY if quiet else ""), title, *self.path

    def frames(self, channel: int, *, quiet: bool) -> bytes:
        """Return the first messages to the process; `channel` is the descriptor of its socket for sessions."""
        return encode(Hello(os.getpid(), channel, self.level, quiet)) + encode(dict(self.preparation))


@contextmanager
def sendable(engine: Engine) -> Iterator[None]:
    """Turn the failures of pickling, which runs code of the engine's classes, into `ModelLoadFailed`."""
    try:
        yield
    except Exception as error:
        raise ModelLoadFailed(
            f"engine '{engine.name}' cannot be sent to a worker process ({error}); "
            'define it at the top of a module, or let it say isolation = "thread"',
        ) from error


def _preparation(engine: Engine, data: dict[str, object]) -> dict[str, object]:
    """Return what the child needs before it can unpickle the engine: the main script, if that defines the engine."""
    wanted = {"orig_dir"}
    if type(engine).__module__ == "__main__":
        main = {"init_main_from_path", "init_main_from_name"}
        if not main & data.keys():
            raise TypeError("it is defined in an interactive session")
        wanted |= main
    return {key: data[key] for key in wanted & data.keys()}
