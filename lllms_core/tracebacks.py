"""Exceptions as the log shows them: type and place, in a few lines, without values.

Messages and locals may quote what a client sent: `KeyError: 'my secret'`. Source lines do not.
"""

import linecache
import os
from collections import deque
from collections.abc import Iterator
from itertools import islice
from types import TracebackType

FRAMES = 5
"""The number of innermost calls shown of each exception."""
LONGEST_CHAIN = 3
"""The number of exceptions shown of a chain of causes, and of a group."""
LINES = 40
LINE = 200
"""The most characters of a line."""
HEAD = "Traceback (innermost calls; the exceptions' messages are left out, as they may quote a request):"
OURS = "lllms"


def kind(error: BaseException) -> str:
    """Return the type of an exception, and for an `OSError` also the reason, which quotes no request."""
    cls = type(error)
    name = cls.__qualname__ if cls.__module__ in {"builtins", "__main__"} else f"{cls.__module__}.{cls.__qualname__}"
    if isinstance(error, OSError) and isinstance(error.errno, int):
        return f"{name} ({os.strerror(error.errno)})"
    return name


def described(error: BaseException, longest: int = 2000) -> str:
    """Return the type and the message of an exception; only for use where no request can be running, as in a load."""
    try:
        text = str(error)
    except Exception:  # noqa: BLE001  # foreign code, which may raise anything
        text = ""
    return f"{type(error).__name__}: {text[:longest]}" if text else type(error).__name__


def place(error: BaseException) -> tuple[str, str, int]:
    """Return the key by which a repeated exception is recognised: its type, and the line that raised it.

    That is the innermost line of lllms, or of a plugin whose name starts so, rather than one of a library. A recursion
    ends at a random place, so the place of a `RecursionError` is where it was caught.
    """
    last = chosen = error.__traceback__
    while last is not None:
        if isinstance(error, RecursionError):
            break
        if _is_ours(last) or chosen is None or not _is_ours(chosen):
            chosen = last
        last = last.tb_next
    if chosen is None:
        return kind(error), "", 0
    return kind(error), chosen.tb_frame.f_code.co_filename, chosen.tb_lineno


def short_traceback(error: BaseException) -> str:
    """Return the origins of an exception and its causes, in at most `LINES` lines of at most `LINE` characters."""
    try:
        lines = [line[:LINE] for line in islice(_lines(error), LINES)]
    except (RecursionError, MemoryError):  # hardly any room is left, and the type still helps
        lines = []
    return "\n".join([HEAD, *lines, *([] if lines else [type(error).__name__])])


def _lines(error: BaseException) -> Iterator[str]:
    for relation, one in _chain(error):
        if relation:
            yield relation
        yield from _frames(one.__traceback__)
        if isinstance(one, BaseExceptionGroup):
            yield f"{kind(one)} of {len(one.exceptions)}"
            for inner in one.exceptions[:LONGEST_CHAIN]:
                yield "of which one:"
                yield from _frames(inner.__traceback__)
                yield kind(inner)
        else:
            yield kind(one)


def _chain(error: BaseException) -> Iterator[tuple[str, BaseException]]:
    """Yield the exception, and those that led to it."""
    relation = ""
    seen: set[int] = set()
    following: BaseException | None = error
    while following is not None and id(following) not in seen and len(seen) < LONGEST_CHAIN:
        seen.add(id(following))
        yield relation, following
        if following.__cause__ is not None:
            relation, following = "because of:", following.__cause__
        else:
            relation, following = "while handling:", None if following.__suppress_context__ else following.__context__


def _frames(traceback: TracebackType | None) -> Iterator[str]:
    """Yield the innermost calls, after the innermost one of lllms if that is not among them."""
    tail: deque[TracebackType] = deque(maxlen=FRAMES)
    count, ours = 0, None
    while traceback is not None:
        if len(tail) == FRAMES and _is_ours(tail[0]):
            ours = tail[0]
        tail.append(traceback)
        count += 1
        traceback = traceback.tb_next
    if ours is not None and not any(map(_is_ours, tail)):
        yield from _call(ours)
        count -= 1
    if count > len(tail):
        yield f"  ... {count - len(tail)} calls"
    for one in tail:
        yield from _call(one)


def _call(traceback: TracebackType) -> Iterator[str]:
    code, line = traceback.tb_frame.f_code, traceback.tb_lineno
    yield f'  File "{code.co_filename}", line {line}, in {code.co_name}'
    if source := linecache.getline(code.co_filename, line, traceback.tb_frame.f_globals).strip():
        yield f"    {source}"


def _is_ours(traceback: TracebackType) -> bool:
    return str(traceback.tb_frame.f_globals.get("__name__", "")).startswith(OURS)
