"""The shapes of llama-server's answers, whole and streamed, and where an answer that fills a gap ends; pure."""

import asyncio
import json
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from lllms_compat.answer_values import Frame, answer_value, selected
from lllms_compat.cut import LineCut
from lllms_compat.cut_answers import submit_cut
from lllms_compat.events import CompletionEvents
from lllms_compat.faults import fault_value, status_of
from lllms_compat.token_routes import piece_value

from lllms_core.answers import Stream
from lllms_core.apis import Fault
from lllms_core.errors import EngineFailed
from lllms_core.types import Delta, Finish, FinishReason, TextRequest, Timings, TokenScore, Usage

FRAME = Frame("m", 100, "before")
REQUEST = TextRequest("r", "m", "before")
TEXT = st.text(alphabet=" \t\n\rab\u00e9", max_size=40)
REASONS: tuple[FinishReason, ...] = ("stop", "length", "timeout")


def told(data: bytes) -> list[Any]:
    lines = data.decode().splitlines()
    assert all(line.startswith("data: ") or not line for line in lines)
    return [json.loads(line[6:]) for line in lines if line]


@given(st.lists(TEXT), st.sampled_from(REASONS), st.none() | st.text(min_size=1), st.integers(0, 99), st.booleans())
def test_events_end_as_a_whole_answer(
    pieces: list[str], reason: FinishReason, stop: str | None, cached: int, scored: bool,
) -> None:
    """The contents of the events are the text; the last one tells what a whole answer tells, without the text."""
    finish = Finish(reason, Usage(99, len(pieces), cached), stop=stop, timings=Timings(0, 0, 0.5, 0.25))
    events = CompletionEvents(REQUEST, FRAME)
    scores = (TokenScore(b"\xc3", -1.5, ((b"a", -0.5),)),) if scored else ()
    admitted = Usage(99, 0, cached)
    data = b"".join(
        events.delta(Delta("r", text, 1, admitted=admitted if index == 0 else None, scores=scores))
        for index, text in enumerate(pieces)
    )
    found = told(data + events.end(finish))
    whole = answer_value(REQUEST, FRAME, finish, "".join(pieces))
    assert "".join(one["content"] for one in found) == whole["content"]
    assert {**found[-1], "content": whole["content"]} == json.loads(json.dumps(whole))
    assert all(not one["stop"] and one["tokens_evaluated"] == 99 for one in found[:-1])
    assert whole["stop_type"] == ("limit" if reason != "stop" else "eos" if stop is None else "word")
    assert whole["tokens_cached"] == cached
    assert whole["timings"]["prompt_n"] == 99 - cached  # type: ignore[index]
    assert whole["timings"]["predicted_ms"] == 250  # type: ignore[index]


def test_truncated_answers_filled_the_context() -> None:
    """An answer that reached its own limit is whole; one that the context cut is truncated."""
    for tokens, truncated in ((1, True), (0, False)):
        assert answer_value(REQUEST, FRAME, Finish("length", Usage(99, tokens)), "")["truncated"] is truncated
    assert answer_value(REQUEST, FRAME, Finish("stop", Usage(99, 1)), "")["truncated"] is False


@given(st.dictionaries(st.sampled_from("abc"), st.dictionaries(st.sampled_from("xy"), st.integers())))
def test_fields_are_selected_by_paths(value: dict[str, Any]) -> None:
    """Each field that exists comes under its whole path, others are left out; no paths select everything."""
    paths = ["a", "a/x", "b/y", "c/z", "a/x/q", "", "/"]
    found = selected(value, paths)
    flat = {one: value[one] for one in ("a",) if one in value}
    flat |= {f"{one}/{two}": value[one][two] for one, two in ("ax", "by") if two in value.get(one, {})}
    assert found == flat
    assert selected(value, None) is value
    assert selected(value, ()) == {}


def naive(text: str, indent: int) -> str:
    """The answer up to the first line, after its first, that is indented by fewer characters."""
    lines = text.split("\n")
    kept = lines[:1]
    for line in lines[1:]:
        begun = line.lstrip(" \t")
        if begun and not begun.startswith("\r") and len(line) - len(begun) < indent:
            break
        kept.append(line)
    return "\n".join(kept)


@given(st.lists(TEXT), st.integers(0, 6))
def test_lines_are_cut_alike_however_they_arrive(pieces: list[str], indent: int) -> None:
    """The boundaries of pieces do not matter, and nothing is shown that is taken back later."""
    cut = LineCut(indent)
    shown = [cut.feed(piece) for piece in pieces if not cut.over]
    text = "".join(pieces)
    assert naive(text, indent) == "".join(shown) + cut.rest()
    assert cut.over is (naive(text, indent) != text)


class Server:
    """A server whose answer is put by hand."""

    def __init__(self) -> None:
        self.cancelled = 0
        self.stream = Stream(REQUEST, lambda _: self._cancel())

    def _cancel(self) -> None:
        self.cancelled += 1

    def submit(self, _: object) -> Stream:
        return self.stream


def gather(server: Server, indent: int, seconds: float | None, deltas: Sequence[Delta]) -> Any:
    async def run() -> Any:
        stream = submit_cut(server, REQUEST, indent, seconds)  # type: ignore[arg-type]  # as far as it needs one
        for delta in deltas:
            server.stream.put(delta)
        async with stream:
            return await stream.gather()

    return asyncio.run(run())


def test_a_cut_answer_is_cancelled() -> None:
    """The line that is indented less ends the answer, with the counts so far; its request is cancelled, once."""
    server = Server()
    answer = gather(server, 4, None, [
        Delta("r", "a", 1, admitted=Usage(7, 0, 3)), Delta("r", "\n    b", 2), Delta("r", "\nc", 2), Delta("r", "d", 1),
    ])
    assert answer.text == "a\n    b"
    assert (answer.finish.reason, answer.finish.usage) == ("length", Usage(7, 5, 3))
    assert server.cancelled == 1


def test_the_end_itself_may_be_cut() -> None:
    """The last piece is cut like any other, and a line break before nothing is not lost."""
    finish = Finish("stop", Usage(7, 2), stop="x")
    cut = gather(Server(), 4, None, [Delta("r", "a\nb", 2, finish=finish)])
    assert (cut.text, cut.finish.reason, cut.finish.stop) == ("a", "length", None)
    server = Server()
    whole = gather(server, 4, None, [Delta("r", "a\n", 2, finish=finish)])
    assert (whole.text, whole.finish.reason, server.cancelled) == ("a\n", "stop", 0)


def test_an_answer_waits_for_its_first_line_whatever_the_time() -> None:
    """Without a line break, the time does not end an answer; with one, it does."""
    slow = [Delta("r", "a", 1), Delta("r", "b", 1, finish=Finish("stop", Usage(1, 2)))]
    assert gather(Server(), 0, 1e-9, slow).finish.reason == "stop"
    assert gather(Server(), 0, 1e-9, [Delta("r", "a\n", 1)]).finish.reason == "length"


def test_a_failure_is_passed_on() -> None:
    """The error of the request is that of the answer."""
    with pytest.raises(EngineFailed, match="broken"):
        gather(Server(), 4, None, [Delta("r", "a", 1), Delta("r", error=EngineFailed("broken"))])


def test_faults_have_a_number_and_a_type() -> None:
    """The code is the status; 501 says that the model does not do it."""
    fault = Fault(400, "no", "invalid_request_error", None, "not_supported", {})
    assert (status_of(fault), fault_value(fault)) == (
        501, {"error": {"code": 501, "message": "no", "type": "not_supported_error"}},
    )
    for status, kind in ((400, "invalid_request_error"), (404, "not_found_error"), (500, "server_error"),
                         (503, "unavailable_error"), (429, "invalid_request_error")):
        value: Any = fault_value(Fault(status, "x", "", None, "x", {}))
        assert (value["error"]["code"], value["error"]["type"]) == (status, kind)


def test_a_part_of_a_character_is_bytes() -> None:
    """A piece that is no text of its own comes as its bytes."""
    assert piece_value("\u00e9".encode()) == "\u00e9"
    assert piece_value(b"\xc3") == [0xC3]
