"""`SerialModel`: a generator becomes a model."""

import threading
from collections.abc import Callable, Iterator, Sequence
from math import inf
from time import monotonic

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lllms_core.engines.serial import Pause, Piece, Pieces, Reused, SerialModel
from lllms_core.errors import ContextOverflow, EngineFailed, InvalidRequest
from lllms_core.testing import collect, text_of
from lllms_core.types import ChatRequest, Message, Request, TextRequest, Usage

TEXTS = st.text("ab é漢🙂", max_size=40)


class Scripted(SerialModel):
    """Answers each prompt with the pieces that the test provides."""

    def __init__(self, answer: Callable[[str], Pieces], context_length: int = 4096) -> None:
        self.answer = answer
        self.context_length = context_length

    def complete(self, prompt: str, request: Request) -> Pieces:
        return self.answer(prompt)


def ask(
    prompt: str = "", *, id: str = "r", max_tokens: int | None = None, stop: tuple[str, ...] = (),  # noqa: A002
) -> Request:
    return TextRequest(id, "m", prompt=prompt, max_tokens=max_tokens, stop=stop)


def cut_before_first(text: str, stops: Sequence[str]) -> str | None:
    """The text before the stop string that is completed first; None if the text has none."""
    for end in range(1, len(text) + 1):
        starts = [end - len(stop) for stop in stops if text[:end].endswith(stop)]
        if starts:
            return text[: min(starts)]
    return None


@st.composite
def answers(draw: st.DrawFn) -> list[bytes]:
    """The bytes of a text, split anywhere, even within characters."""
    data = draw(TEXTS).encode()
    cuts = sorted(draw(st.lists(st.integers(0, len(data)), max_size=20)))
    return [data[start:end] for start, end in zip([0, *cuts], [*cuts, len(data)], strict=True)]


@given(answers(), st.lists(st.text("ab é漢🙂", min_size=1, max_size=4), max_size=4), st.integers(1, 25) | st.none())
def test_any_pieces_stops_and_limits_give_the_text_that_they_describe(
    pieces: list[bytes], stops: list[str], limit: int | None,
) -> None:
    """The deltas join to the first max_tokens pieces, decoded, up to the first stop string."""
    deltas = collect(Scripted(lambda _: pieces), ask(max_tokens=limit, stop=tuple(stops)))["r"]
    whole = b"".join(pieces[:limit]).decode(errors="replace")
    stopped = cut_before_first(whole, stops)
    at_limit = limit is not None and limit <= len(pieces)
    finish = deltas[-1].finish
    assert text_of(deltas) == (whole if stopped is None else stopped)
    assert finish is not None
    assert finish.reason == ("length" if stopped is None and at_limit else "stop")
    assert finish.usage.completion_tokens == sum(delta.tokens for delta in deltas)
    assert [delta.last for delta in deltas] == [False] * (len(deltas) - 1) + [True]
    if stopped is None:
        assert finish.usage.completion_tokens == len(pieces[:limit])


@given(st.lists(st.lists(st.text(max_size=4), max_size=8), min_size=1, max_size=5))
def test_open_requests_do_not_mix(answers_: list[list[str]]) -> None:
    """Concurrent requests each get their own answer, a piece per step, and end independently."""
    requests = [ask(str(n), id=str(n)) for n in range(len(answers_))]
    got = collect(Scripted(lambda prompt: answers_[int(prompt)]), *requests)
    for n, pieces in enumerate(answers_):
        expected = "".join(pieces).encode(errors="replace").decode()
        assert text_of(got[str(n)]) == expected
        assert len(got[str(n)]) == len(pieces) + 1


def test_a_cancel_ends_its_request_and_closes_the_generator() -> None:
    """The cancelled request ends with the text held back; its generator runs its `finally`; the other one continues."""
    closed: list[str] = []

    def answer(prompt: str) -> Iterator[str]:
        try:
            yield from ["a", "b", "c"]
        finally:
            closed.append(prompt)

    model = Scripted(answer)
    model.open(ask("x", id="x", stop=("ab!",)))
    model.open(ask("y", id="y"))
    assert [delta.text for delta in model.step()] == ["", "a"]
    [last] = model.cancel("x")
    assert (last.text, last.finish and last.finish.reason) == ("a", "cancelled")
    assert closed == ["x"]
    assert list(model.cancel("x")) == list(model.cancel("never heard of")) == []
    assert text_of([*model.step(), *model.step(), *model.step()]) == "bc"
    assert model.idle


def test_a_length_or_stop_closes_the_generator() -> None:
    """A generator with more to say is closed when its client is gone."""
    closed: list[str] = []

    def answer(prompt: str) -> Iterator[str]:
        try:
            while True:
                yield "a"
        finally:
            closed.append(prompt)

    collect(Scripted(answer), ask("length", id="1", max_tokens=2), ask("stop", id="2", stop=("aaa",)))
    assert closed == ["length", "stop"]


@pytest.mark.parametrize("error", [EngineFailed("broken"), InvalidRequest("bad", "prompt")])
def test_an_error_of_one_request_is_its_last_delta(error: EngineFailed | InvalidRequest) -> None:
    """A request that raises one of these fails alone, after the text that it had."""

    def answer(prompt: str) -> Iterator[str]:
        yield "a"
        if prompt == "bad":
            raise error
        yield "b"

    got = collect(Scripted(answer), ask("bad", id="bad", stop=("a!",)), ask("good", id="good"))
    assert (text_of(got["bad"]), got["bad"][-1].error) == ("a", error)
    assert (text_of(got["good"]), got["good"][-1].error) == ("ab", None)


def test_other_exceptions_leave_step() -> None:
    """Any other exception means that the model is broken, and is not swallowed."""

    def answer(_: str) -> Iterator[str]:
        yield "a"
        raise ZeroDivisionError

    model = Scripted(answer)
    model.open(ask())
    model.step()
    with pytest.raises(ZeroDivisionError):
        model.step()


def test_what_does_not_fit_the_context_is_refused() -> None:
    """A prompt that leaves no room for one token of an answer is a ContextOverflow, whose message has the counts."""
    model = Scripted(lambda _: ["x"] * 20, context_length=10)
    for most in (None, 1, 99):
        with pytest.raises(ContextOverflow, match=r"10 tokens in its prompt.*holds 10") as caught:
            model.open(ask("word " * 10, max_tokens=most))
        assert (caught.value.param, caught.value.code) == ("prompt", "context_length_exceeded")
    with pytest.raises(ContextOverflow):
        model.open(ask("word " * 11, max_tokens=0))
    assert model.idle
    [last] = collect(model, ask("word " * 10, max_tokens=0))["r"]
    assert last.finish is not None


@pytest.mark.parametrize("most", [None, 8, 9, 32_000, 2**31 - 1])
def test_an_answer_ends_with_the_context(most: int | None) -> None:
    """An answer may fill the context, however large its limit, and then ends with `length`."""
    deltas = collect(Scripted(lambda _: ["x"] * 20, context_length=10), ask("one two", max_tokens=most))["r"]
    assert deltas[-1].finish is not None
    assert (deltas[-1].finish.reason, deltas[-1].finish.usage) == ("length", Usage(2, 8))


def test_a_limit_of_nothing_generates_nothing() -> None:
    """0 is a value: the answer has no tokens."""
    deltas = collect(Scripted(lambda _: ["x"]), ask("one", max_tokens=0))["r"]
    assert (text_of(deltas), deltas[-1].finish and deltas[-1].finish.usage) == ("", Usage(1, 0))


def test_a_generator_may_return_the_exact_usage() -> None:
    """Engines that count better than the base class give the counts with their `return`."""

    def answer(_: str) -> Pieces:
        yield "a"
        return Usage(17, 1, 5)

    deltas = collect(Scripted(answer), ask())["r"]
    assert deltas[-1].finish is not None
    assert deltas[-1].finish.usage == Usage(17, 1, 5)


@pytest.mark.parametrize(("limit", "reason"), [(None, "stop"), (1, "length")])
def test_an_engine_tells_what_it_counted_and_reused(limit: int | None, reason: str) -> None:
    """The usage has the engine's own counts of prompt and reused tokens, however the answer ends."""

    class Counting(Scripted):
        def prompt_tokens(self, request: Request) -> int:
            return len(request.prompt or "")

    [*_, last] = collect(Counting(lambda _: iter([Reused(3), "a", "b"])), ask("12345", max_tokens=limit))["r"]
    assert last.finish is not None
    assert (last.finish.reason, last.finish.usage) == (reason, Usage(5, limit or 2, 3))


def test_a_pause_holds_nobody_else_up() -> None:
    """While one answer pauses, the other advances at every step; a pause is not a token."""

    def answer(prompt: str) -> Iterator[Piece]:
        if prompt == "slow":
            yield Pause(inf)
        yield from "abc"

    model = Scripted(answer)
    model.open(ask("slow", id="slow"))
    model.open(ask("quick", id="quick"))
    assert [delta.request_id for _ in range(4) for delta in model.step()] == ["quick"] * 4
    [last] = model.cancel("slow")
    assert last.finish is not None
    assert last.finish.usage == Usage(1, 0)


def test_a_pause_takes_as_long_as_it_says() -> None:
    """The answer resumes once its pause is over, and not before."""

    def answer(_: str) -> Iterator[Piece]:
        yield Pause(0.03)
        yield "a"

    model = Scripted(answer)
    started = monotonic()
    assert text_of(collect(model, ask())["r"]) == "a"
    assert monotonic() - started >= 0.03


def paused() -> Scripted:
    """A model with one open request that pauses for ever."""
    model = Scripted(lambda _: [Pause(inf)])
    model.open(ask())
    model.step()
    return model


def test_a_step_in_which_all_pause_comes_back_soon() -> None:
    """New requests are taken between two steps, so no step waits for long."""
    assert list(paused().step()) == []


def test_an_interrupt_ends_a_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    """A pending cancel ends the step, however long it was going to wait."""
    model = paused()
    monkeypatch.setattr("lllms_core.engines.serial.LONGEST_WAIT", 1000)
    stepping = threading.Thread(target=model.step, daemon=True)
    stepping.start()
    model.interrupt.set()
    stepping.join(timeout=60)
    assert not stepping.is_alive()


def test_tasks_are_the_methods_that_are_written() -> None:
    """A model that only continues text refuses a chat, and vice versa, naming the right route."""

    class Chatty(SerialModel):
        def chat(self, request: Request) -> Pieces:
            return ["hi"]

    assert (Scripted.tasks, Chatty.tasks) == (frozenset({"text"}), frozenset({"chat"}))
    with pytest.raises(InvalidRequest, match="/v1/completions"):
        Scripted(lambda _: []).open(ChatRequest("r", "m", messages=(Message("user", "hi"),)))
    with pytest.raises(InvalidRequest, match="/v1/chat/completions"):
        Chatty().open(ask("hi"))


def test_a_lone_surrogate_breaks_nothing() -> None:
    """JSON can carry half a surrogate pair; an engine that repeats it must not break its model."""
    assert text_of(collect(Scripted(lambda prompt: [prompt]), ask("a\ud800b"))["r"]) == "a?b"
