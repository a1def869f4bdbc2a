"""Short tracebacks: they show where exceptions come from, but not their messages."""

import errno
import json
import time
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lllms_core.tracebacks import HEAD, LINE, LINES, described, kind, place, short_traceback


def caught(function: Callable[..., object], *arguments: object) -> BaseException:
    """The exception that a function raises."""
    try:
        function(*arguments)
    except BaseException as error:  # noqa: BLE001  # whatever it is
        return error
    raise AssertionError("it raised nothing")


def throw(error: BaseException, local: str = "") -> None:
    raise error


def recurse(text: str, depth: int = 0) -> None:
    recurse(text, depth + 1)


def chained(errors: list[BaseException]) -> None:
    """Raise the first of them, each caused by the next, or raised while that was handled."""
    if len(errors) > 1:
        try:
            chained(errors[1:])
        except BaseException as cause:  # as above
            if len(errors) % 2:
                raise errors[0] from cause
            raise errors[0]  # noqa: B904  # on purpose
    raise errors[0]


TEXTS = st.text("abcXYZ019 \n", min_size=3).map(lambda text: f"<<{text}>>")
ERRORS = st.recursive(
    st.builds(lambda cls, text: cls(text), st.sampled_from([ValueError, KeyError, RecursionError, SystemExit]), TEXTS),
    lambda inner: st.builds(BaseExceptionGroup, TEXTS, st.lists(inner, min_size=1, max_size=6)),
    max_leaves=8,
)


@given(st.lists(ERRORS, min_size=1, max_size=6), TEXTS)
def test_no_value_and_few_lines(errors: list[BaseException], text: str) -> None:
    """Whatever is raised, chained and grouped, no message and no local is shown, in few and short lines."""
    errors[0].add_note(text)
    told = short_traceback(caught(chained, errors))
    assert "<<" not in told.replace('f"<<{text}>>"', "")
    assert type(errors[0]).__name__ in told
    assert len(told.splitlines()) <= LINES + 1
    assert max(map(len, told.splitlines()[1:])) <= LINE


def test_deep_recursion_is_short_and_cheap() -> None:
    """A thousand calls cost ten lines and a few milliseconds."""
    error = caught(recurse, "secret")
    before = time.process_time()
    told = short_traceback(error)
    assert time.process_time() - before < 0.2
    assert "calls\n" in told
    assert told.endswith("\nRecursionError")
    assert len(told.splitlines()) < 15


def test_the_innermost_calls_are_shown_with_their_source() -> None:
    """Each call has its file, line and function, and the line of the program; the cause comes below."""
    told = short_traceback(caught(chained, [ValueError("a"), KeyError("b"), OSError(errno.ENOSPC, "c")]))
    assert told.startswith(HEAD)
    assert f'  File "{__file__}", line' in told
    assert "in chained\n    raise errors[0] from cause\nValueError\nbecause of:\n" in told
    assert "KeyError\nwhile handling:\n" in told
    assert told.endswith("OSError (No space left on device)")


def test_a_call_of_ours_is_shown_above_those_of_libraries() -> None:
    """If all innermost calls are a library's, the last one of lllms is shown, too."""
    names: dict[str, object] = {"__name__": "library"}
    exec("def down(n):\n    return down(n - 1) if n else 1 / 0\n", names)
    ours: dict[str, object] = {"__name__": "lllms_core.part", **{key: names[key] for key in ("down",)}}
    exec("def enter():\n    return down(20)\n", ours)
    error = caught(ours["enter"])  # type: ignore[arg-type]
    told = short_traceback(error)
    assert "in enter" in told
    assert told.count("in down") == 5
    assert place(error) == ("ZeroDivisionError", "<string>", 2)


def test_a_circle_of_causes_ends() -> None:
    """Exceptions that cause each other are shown once."""
    one, two = ValueError("a"), KeyError("b")
    one.__cause__, two.__cause__ = two, one
    assert short_traceback(one).count("ValueError") == 1


def test_what_an_exception_says_may_fail() -> None:
    """An exception whose text cannot be produced is still named."""
    class Mute(Exception):
        def __str__(self) -> str:
            raise RuntimeError

    assert described(Mute()) == "Mute"
    assert described(ValueError("x" * 5000)) == "ValueError: " + "x" * 2000
    assert "Mute" in short_traceback(Mute())


@pytest.mark.parametrize(("error", "name"), [
    (KeyError("secret"), "KeyError"), (PermissionError(13, "secret", "secret"), "PermissionError (Permission denied)"),
    (OSError("secret"), "OSError"), (json.JSONDecodeError("secret", "secret", 0), "json.decoder.JSONDecodeError"),
])
def test_kinds(error: BaseException, name: str) -> None:
    """A type is named with its module; for errors of the operating system, the error number adds a description."""
    assert kind(error) == name


def test_the_same_fault_has_the_same_place() -> None:
    """Two exceptions of one line have the same place, whatever their messages; other lines or types have another."""
    one, two = (caught(throw, ValueError(text)) for text in ("a", "b"))
    assert place(one) == place(two) != place(caught(throw, KeyError("a")))
    assert place(caught(recurse, "a")) == place(caught(recurse, "b"))
    assert place(ValueError("never raised")) == ("ValueError", "", 0)
