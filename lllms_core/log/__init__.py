"""Writes the log to stderr, for people or as JSON, in a thread that nobody waits for.

No line quotes what a client sent. Exceptions, even those that libraries log, are shown by type and place
(`tracebacks.py`), and repeated ones are only counted.
"""

import logging
import os
import re
import sys
import threading
import time
from collections.abc import Hashable, Mapping
from typing import Literal, TextIO, cast

import structlog
from attrs import define

from lllms_core.log.line_writer import LineWriter
from lllms_core.tracebacks import place, short_traceback

LogFormat = Literal["console", "json"]

REPEAT_SECONDS = 60.0
"""An exception that is repeated within this time is only counted."""
MOST_FAULTS = 200
"""The most different exceptions that are remembered; the oldest is forgotten first."""
LONGEST_TEXT = 4000
"""The most characters of one message."""
FLUSH_SECONDS = 2.0
"""The time that the last lines have to be read when the program ends."""


def configure_logging(level: str, style: LogFormat) -> None:
    """Send the log of lllms to stderr, from `level` upwards; that of libraries only from `warning` upwards.

    For programs, not for embedders: a program that embeds lllms configures the loggers `lllms.*` like any other.
    """
    shared: list[structlog.typing.Processor] = [
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.processors.TimeStamper(fmt="iso" if style == "json" else "%H:%M:%S", utc=style == "json"),
    ]
    shown: structlog.typing.Processor = (
        structlog.processors.JSONRenderer(ensure_ascii=False)
        if style == "json"
        else structlog.dev.ConsoleRenderer(
            colors=_has_colours(sys.stderr, os.environ), pad_event_to=0,
            exception_formatter=structlog.dev.plain_traceback,
        )
    )
    root = logging.getLogger()
    handler = _Stderr(next((one for one in root.handlers if isinstance(one, _Stderr)), None))
    handler.setFormatter(structlog.stdlib.ProcessorFormatter(
        foreign_pre_chain=shared,
        processors=[
            _without_values, *([_with_fields] if style == "json" else []),
            structlog.stdlib.ProcessorFormatter.remove_processors_meta, shown,
        ],
    ))
    for before in root.handlers:
        if isinstance(before, _Stderr) and before.writer is not handler.writer:
            before.close()
    root.handlers = [handler]
    root.setLevel(max(logging.WARNING, _number(level)))
    logging.getLogger("lllms").setLevel(_number(level))
    # Python itself would write these to stderr with the message of the exception.
    if threading.excepthook is threading.__excepthook__:
        threading.excepthook = _thread_failed
    if sys.unraisablehook is sys.__unraisablehook__:
        sys.unraisablehook = _ignored


def _has_colours(stream: TextIO, environ: Mapping[str, str]) -> bool:
    """Whether a stream is a terminal that has colours, and whose user wants them (no-color.org)."""
    return stream.isatty() and environ.get("TERM", "") != "dumb" and not environ.get("NO_COLOR")


def _number(level: str) -> int:
    return logging.getLevelNamesMapping()[level.upper()]


# -- content of the lines ----------------------------------------------------------------------------------------------


def _without_values(_: object, __: str, event: structlog.typing.EventDict) -> structlog.typing.EventDict:
    """Replace the exception by its short traceback, and cut possible values from the messages of libraries."""
    record = cast(logging.LogRecord, event["_record"])
    error = _error(event.pop("exc_info", None))
    text = str(event["event"])
    if not _is_ours(record.name) and (error is not None or record.name == "asyncio"):
        text = _words(text)
    event["event"] = text[:LONGEST_TEXT]
    if error is not None:
        event["exception"] = short_traceback(error)
    return event


def _with_fields(_: object, __: str, event: structlog.typing.EventDict) -> structlog.typing.EventDict:
    """Give the fields of a record that has some members of their own, in place of its text."""
    record = cast(logging.LogRecord, event["_record"])
    fields = getattr(record, "fields", None)
    if not _is_ours(record.name) or not isinstance(fields, Mapping):
        return event
    return {**event, "event": getattr(record, "event", event["event"]), **fields}


def _words(text: str) -> str:
    """Return the start of a message, up to the first possible value: `Exception in callback send`.

    asyncio appends the reprs of tasks with their exceptions, and of callbacks with their arguments; Quart the path.
    """
    return re.split(r"[\n(<{\[\"'`/=:]", text, maxsplit=1)[0].strip()


def _error(exc_info: object) -> BaseException | None:
    """Return the exception of a record; None after `exc_info=True` outside any handler."""
    error = exc_info[1] if isinstance(exc_info, tuple) else exc_info
    return error if isinstance(error, BaseException) else None


def _is_ours(logger: str) -> bool:
    return logger == "lllms" or logger.startswith("lllms.")


def _thread_failed(arguments: "threading.ExceptHookArgs") -> None:
    if arguments.exc_value is not None and not isinstance(arguments.exc_value, SystemExit):
        logging.getLogger("lllms").error("a thread has failed", exc_info=arguments.exc_value)


def _ignored(arguments: "sys.UnraisableHookArgs") -> None:
    if arguments.exc_value is not None:
        logging.getLogger("lllms").error("an exception was ignored", exc_info=arguments.exc_value)


# -- repeated exceptions -----------------------------------------------------------------------------------------------


@define
class _Fault:
    """An exception that was logged a moment ago."""

    text: str
    level: int
    until: float
    again: int = 0


class _Stderr(logging.Handler):
    """Writes to stderr; an exception that is repeated within a minute is counted, and the count logged afterwards."""

    def __init__(self, before: "_Stderr | None" = None) -> None:
        """Take the place of another one, whose lines come first."""
        super().__init__()
        same = before is not None and before.writer.stream is sys.stderr
        self.writer: LineWriter = before.writer if before is not None and same else LineWriter(
            sys.stderr, self._dropped,
        )
        self._flush_seconds = FLUSH_SECONDS
        self._faults: dict[Hashable, _Fault] = {}

    def emit(self, record: logging.LogRecord) -> None:
        """Write a record soon, unless its exception was logged a moment ago."""
        key = _fault_key(record)
        if key is None or not self._is_repetition(key):
            if key is not None:
                self._remember(key, record)
            try:
                self.writer.put(f"{self.format(record)}\n")
            except RecursionError:
                raise
            except Exception:  # noqa: BLE001  # which the arguments of a record may raise
                self.handleError(record)

    def flush(self) -> None:
        """Wait until the lines are written, for as long as the end of a program may take; but only once in vain."""
        if not self.writer.flush(self._flush_seconds):
            self._flush_seconds = 0.0

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802  # the name is logging's
        """Say that a record could not be written, without its content."""
        error = sys.exc_info()[1]
        if error is not None and not isinstance(error, OSError | ValueError):  # those mean that stderr itself is gone
            self.writer.put(f"a line of the log of {record.name} could not be written: {type(error).__name__}\n")

    def close(self) -> None:
        """Log the remaining counts."""
        for key in list(self._faults):
            self._forget(key)
        self.flush()
        self.writer.close(0)
        super().close()

    def _dropped(self, count: int) -> str:
        text = f"lines of the log are missing here, as nobody read them: {count}"
        return f"{self.format(_record(logging.WARNING, text))}\n"

    def _is_repetition(self, key: Hashable) -> bool:
        fault = self._faults.get(key)
        if fault is None:
            return False
        left = fault.until - time.monotonic()
        if left <= 0:
            self._forget(key)
            return False
        fault.again += 1
        if fault.again == 1:
            timer = threading.Timer(left, self._forget, [key])
            timer.daemon = True
            timer.start()
        return True

    def _remember(self, key: Hashable, record: logging.LogRecord) -> None:
        if len(self._faults) >= MOST_FAULTS:
            self._forget(next(iter(self._faults)))
        text = record.getMessage() if _is_ours(record.name) else f"{record.name}: {_words(record.getMessage())}"
        line = text.partition("\n")[0][:LONGEST_TEXT]
        self._faults[key] = _Fault(line, record.levelno, time.monotonic() + REPEAT_SECONDS)

    def _forget(self, key: Hashable) -> None:
        """Log how often an exception was only counted, and show it again the next time."""
        self.acquire()
        try:
            fault = self._faults.pop(key, None)
            if fault is not None and fault.again:
                text = f"{fault.text}: the same exception {fault.again} more within {REPEAT_SECONDS:g} s"
                self.handle(_record(fault.level, text))
        finally:
            self.release()


def _record(level: int, text: str) -> logging.LogRecord:
    """Return a record of the log about itself."""
    name = logging.getLevelName(level)
    return logging.makeLogRecord({"name": "lllms.log", "levelno": level, "levelname": name, "msg": text})


def _fault_key(record: logging.LogRecord) -> Hashable | None:
    """Return the key by which a repeated exception is recognised; None for a record without one."""
    error = _error(record.exc_info)
    if error is not None:
        return record.name, record.msg if _is_ours(record.name) else "", place(error)
    return getattr(record, "traceback", None)  # of an exception in a worker: short, and without values
