"""Streamed lines equal whole answers, however an answer is split; and the form of both."""

import json
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from lllms_ollama.lines import Head, LineEncoder, whole_answer

from lllms_core.answers.answer import choices
from lllms_core.apis import Fault
from lllms_core.types import CallPiece, ChatRequest, Delta, Finish, Timings, TokenScore, Usage

REQUEST = ChatRequest("r", "m", ())
TEXT = st.text(max_size=5)
CALL = st.tuples(st.sampled_from(["add", "look"]), st.dictionaries(TEXT, TEXT | st.integers(), max_size=2))


@st.composite
def answers(draw: st.DrawFn) -> tuple[list[Delta], Finish]:
    """Thoughts, text and calls, split anywhere; the end may have cut the last call."""
    pieces = [("reasoning", one) for one in draw(st.lists(TEXT, max_size=3))]
    pieces += [("text", one) for one in draw(st.lists(TEXT, max_size=3))]
    deltas = [Delta("r", **{kind: text}, scores=(TokenScore(b"x", -1.0),)) for kind, text in pieces]  # type: ignore[arg-type]
    made = draw(st.lists(CALL, max_size=3))
    for index, (name, arguments) in enumerate(made):
        text = json.dumps(arguments)
        if index == len(made) - 1:
            text = text[: draw(st.integers(0, len(text)))]
        cuts = sorted(draw(st.sets(st.integers(1, max(1, len(text) - 1)), max_size=2)))
        parts = [text[a:b] for a, b in zip([0, *cuts], [*cuts, len(text)], strict=True)]
        first = CallPiece(index, f"c{index}", name, parts[0])
        deltas.append(Delta("r", calls=(first, *(CallPiece(index, arguments=part) for part in parts[1:]))))
    reason = draw(st.sampled_from(["stop", "length", "tool_calls", "timeout"]))
    return deltas, Finish(reason, Usage(3, 4), timings=Timings(1, 2, 3, 0.5))


def read(data: bytes) -> list[dict[str, Any]]:
    return [json.loads(line) for line in data.splitlines()]


def joined(lines: list[dict[str, Any]], *, chat: bool) -> dict[str, Any]:
    """One answer from the lines of a stream."""
    *rest, last = lines
    parts = [line["message"] if chat else line for line in lines]
    name = "content" if chat else "response"
    said: dict[str, Any] = {name: "".join(part[name] for part in parts)}
    said["thinking"] = "".join(part.get("thinking", "") for part in parts)
    said["tool_calls"] = [call for part in parts for call in part.get("tool_calls", ())]
    scores = [score for line in lines for score in line.get("logprobs", ())]
    assert all(line["done"] is False and "done_reason" not in line for line in rest)
    return {**said, "logprobs": scores, "end": end(last)}


def end(line: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in line.items() if key.endswith(("duration", "count", "reason")) or key == "done"}


@settings(deadline=None)
@given(answer=answers(), chat=st.booleans())
def test_lines_together_are_the_whole_answer(answer: tuple[list[Delta], Finish], *, chat: bool) -> None:
    """The joined lines of any answer are the answer that is not streamed: text, thoughts, whole calls, scores, end."""
    deltas, finish = answer
    encoder, head = LineEncoder(Head("m:latest", chat)), Head("m:latest", chat)
    lines = read(b"".join(map(encoder.delta, deltas)) + encoder.end(finish))
    [choice] = choices(REQUEST, deltas, finish)
    whole = json.loads(json.dumps(whole_answer(head, choice, finish)))
    assert joined(lines, chat=chat) == joined([whole], chat=chat)
    assert {line["model"] for line in lines} == {"m:latest"}


def test_the_end_tells_durations_in_nanoseconds() -> None:
    """The queue counts for the whole only; an answer that calls tools has stopped, one out of time is cut."""
    finish = Finish("tool_calls", Usage(7, 5), timings=Timings(queued=1, load=2, prompt=0.25, answer=0.5))
    [line] = read(LineEncoder(Head("m", chat=True)).end(finish))
    assert end(line) == {
        "done": True, "done_reason": "stop", "total_duration": 3_750_000_000, "load_duration": 2_000_000_000,
        "prompt_eval_count": 7, "prompt_eval_duration": 250_000_000, "eval_count": 5, "eval_duration": 500_000_000,
    }
    [line] = read(LineEncoder(Head("m", chat=False)).end(Finish("timeout", Usage(1, 1))))
    assert (line["done_reason"], line["response"]) == ("length", "")


def test_waiting_and_failing_are_lines() -> None:
    """A keep-alive is an empty piece, which every client can read; an error is a line with its text."""
    encoder = LineEncoder(Head("m", chat=True))
    [ping] = read(encoder.ping("waiting, position 1"))
    assert (ping["message"], ping["done"]) == ({"role": "assistant", "content": ""}, False)
    assert read(encoder.fault(Fault(500, "it broke", "server_error", None, "x", {}))) == [{"error": "it broke"}]
