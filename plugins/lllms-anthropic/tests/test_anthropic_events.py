"""The events of a stream: whatever comes, in whatever pieces, they are legal, and say what the whole message says."""

import json
from typing import Any

import pytest
from attrs import evolve
from hypothesis import given
from hypothesis import strategies as st
from lllms_anthropic import AnthropicApi
from lllms_anthropic.events import MessageEvents
from lllms_anthropic.message_values import message_value

from lllms_core import errors
from lllms_core.answers import Answer, Choice
from lllms_core.apis import explain
from lllms_core.chat import gather_message
from lllms_core.types import CallPiece, Delta, Finish, Usage

USAGE = Usage(12, 7, cached_tokens=5, reasoning_tokens=2)
FIELDS = {"text": "text_delta", "thinking": "thinking_delta", "tool_use": "input_json_delta"}

words = st.text("ab\"\\\n\u2028ö😀", min_size=1, max_size=5)


@st.composite
def answers(draw: st.DrawFn) -> list[Delta]:
    """The deltas of an answer: thoughts, texts and calls in any order, some of them together in one delta."""
    deltas: list[Delta] = []
    calls = 0
    for kind in draw(st.lists(st.sampled_from(["reasoning", "text", "call", "nothing", "all"]), max_size=8)):
        delta = Delta("r")
        if kind in {"reasoning", "all"}:
            delta = evolve(delta, reasoning=draw(words))
        if kind in {"text", "all"}:
            delta = evolve(delta, text=draw(words))
        if kind in {"call", "all"}:
            name = draw(st.sampled_from(["look", "find"]))
            body = json.dumps({draw(words): draw(words)})
            cut = draw(st.integers(0, len(body)))
            first = CallPiece(calls, f"call_{calls}", name, body[:cut])
            rest = CallPiece(calls, arguments=body[cut:])
            together = draw(st.booleans())
            deltas.append(evolve(delta, calls=(first, rest) if together else (first,)))
            if not together:
                deltas.append(Delta("r", calls=(rest,)))
            calls += 1
            continue
        deltas.append(delta)
    if deltas:
        deltas[0] = evolve(deltas[0], admitted=Usage(12, 0, cached_tokens=5))
    return deltas


REASONS = ["stop", "tool_calls", "length", "timeout"]
finishes = st.builds(Finish, st.sampled_from(REASONS), st.just(USAGE), stop=st.sampled_from([None, "x"]))


def events(data: bytes) -> list[dict[str, Any]]:
    """The events, each of which is named after its type."""
    found = []
    for one in data.decode().split("\n\n")[:-1]:
        name, value = one.split("\n")
        told = json.loads(value.removeprefix("data: "))
        assert name == f"event: {told['type']}"
        found.append(told)
    return found


def blocks(told: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The blocks that events between the start and the end of a message make; fails if they are illegal."""
    made: list[dict[str, Any]] = []
    open_block: dict[str, Any] | None = None
    for one in told:
        match one["type"]:
            case "content_block_start":
                assert open_block is None
                assert one["index"] == len(made)
                open_block = {**one["content_block"], "pieces": []}
            case "content_block_delta":
                assert open_block is not None
                assert one["index"] == len(made)
                delta = dict(one["delta"])
                kind = delta.pop("type")
                if kind == "signature_delta":
                    assert (open_block["type"], delta) == ("thinking", {"signature": ""})
                    continue
                assert kind == FIELDS[open_block["type"]]
                open_block["pieces"] += delta.values()
            case "content_block_stop":
                assert open_block is not None
                assert one["index"] == len(made)
                made.append(open_block)
                open_block = None
            case other:
                assert other == "ping"
    assert open_block is None
    return made


@given(answers(), finishes, st.booleans())
def test_any_answer_makes_legal_events(deltas: list[Delta], finish: Finish, pinged: bool) -> None:
    """One start, numbered blocks that never overlap or reopen, one end; together they are the gathered message."""
    encoder = MessageEvents(lambda: ("msg_1", "bot"), {"x"})
    ping = encoder.ping("waiting") if pinged else b""
    told = events(b"".join([ping, *(encoder.delta(one) + ping for one in deltas), encoder.end(finish)]))
    told = told[1:] if pinged else told
    start, *middle, last, stop = told
    assert (start["type"], last["type"], stop["type"]) == ("message_start", "message_delta", "message_stop")
    message = gather_message(deltas)
    made = blocks(middle)
    assert "".join(piece for one in made if one["type"] == "text" for piece in one["pieces"]) == message.content
    thoughts = "".join(piece for one in made if one["type"] == "thinking" for piece in one["pieces"])
    assert thoughts == (message.reasoning or "")
    calls = [(one["id"], one["name"], "".join(one["pieces"])) for one in made if one["type"] == "tool_use"]
    assert calls == [(call.id, call.name, call.arguments) for call in message.tool_calls]

    whole = message_value("msg_1", "bot", Answer("a", (Choice(message, finish.reason),), finish), {"x"})
    assert {name: whole[name] for name in ("stop_reason", "stop_sequence")} == last["delta"]
    assert whole["usage"] == last["usage"]
    assert {name: whole[name] for name in ("id", "role", "model")} == {
        name: start["message"][name] for name in ("id", "role", "model")
    }
    assert [one["input"] for one in whole["content"] if one["type"] == "tool_use"] == [
        json.loads(arguments) for _, _, arguments in calls
    ]
    counts = start["message"]["usage"]
    assert (counts["input_tokens"], counts["cache_read_input_tokens"]) == (7, 5)


def test_an_answer_without_pieces_has_its_frame() -> None:
    """Nothing said is a start and an end, with the true counts in both."""
    start, last, _ = events(MessageEvents(lambda: ("msg_1", "bot"), ()).end(Finish("stop", USAGE)))
    assert start["message"]["usage"]["input_tokens"] == last["usage"]["input_tokens"] == 7
    assert last["usage"]["output_tokens"] == 7


@pytest.mark.parametrize(("finish", "told"), [
    (Finish("stop", USAGE), ("end_turn", None)), (Finish("stop", USAGE, stop="x"), ("stop_sequence", "x")),
    (Finish("stop", USAGE, stop="the configuration's"), ("end_turn", None)),
    (Finish("tool_calls", USAGE), ("tool_use", None)), (Finish("length", USAGE), ("max_tokens", None)),
    (Finish("timeout", USAGE), ("max_tokens", None)),
])
def test_each_end_has_its_word(finish: Finish, told: tuple[str, str | None]) -> None:
    """A stop sequence is named if it is one of the client's; a stop string of the configuration is the model's end."""
    message = message_value("m", "bot", Answer("a", (Choice(gather_message([]), finish.reason),), finish), {"x", "y"})
    assert (message["stop_reason"], message["stop_sequence"]) == told


def test_a_cut_call_is_left_out() -> None:
    """A call whose arguments were cut is not shown as if it could be run; a complete one before it is."""
    whole, cut = CallPiece(0, "a", "rm", '{"path": "/tmp/x"}'), CallPiece(1, "b", "rm", '{"path": "/')
    message = gather_message([Delta("r", calls=(whole, cut))])
    finish = Finish("length", USAGE)
    told = message_value("m", "bot", Answer("a", (Choice(message, "length"),), finish), ())
    assert told["content"] == [{"type": "tool_use", "id": "a", "name": "rm", "input": {"path": "/tmp/x"}}]
    broken = gather_message([Delta("r", calls=(CallPiece(0, "a", "rm", "[1]"),))])
    finish = Finish("tool_calls", USAGE)
    told = message_value("m", "bot", Answer("a", (Choice(broken, "tool_calls"),), finish), ())
    assert told["content"] == [{"type": "tool_use", "id": "a", "name": "rm", "input": {"raw_arguments": "[1]"}}]


@pytest.mark.parametrize(("error", "status", "kind"), [
    (errors.InvalidRequest("x"), 400, "invalid_request_error"), (errors.ModelUnknown("x"), 404, "not_found_error"),
    (errors.ContextOverflow("x", None, "context_length_exceeded"), 400, "invalid_request_error"),
    (errors.QueueFull("x"), 429, "rate_limit_error"),
    (errors.WaitedTooLong("x"), 529, "overloaded_error"), (errors.InsufficientMemory("x"), 529, "overloaded_error"),
    (errors.ShuttingDown("x"), 529, "overloaded_error"), (errors.ModelTooLarge("x"), 503, "api_error"),
    (errors.ModelLoadFailed("x"), 503, "api_error"), (errors.EngineFailed("x"), 500, "api_error"),
    (errors.OutOfTime("x"), 504, "timeout_error"), (errors.Offline("x"), 503, "api_error"),
])
def test_each_error_has_its_type(error: errors.LllmsError, status: int, kind: str) -> None:
    """Errors have Anthropic's types and statuses, whole and in a stream."""
    api, fault = AnthropicApi(), explain(error)
    message = "prompt is too long: x" if isinstance(error, errors.ContextOverflow) else "x"
    shape = {"type": "error", "error": {"type": kind, "message": message}}
    assert (api.status(fault), api.fault(fault)) == (status, shape)
    assert events(MessageEvents(lambda: ("m", "bot"), ()).fault(fault)) == [shape]
