"""The frames between parent and worker."""

import pickle
from array import array
from collections.abc import Mapping

import pytest
from attrs import evolve, fields
from engines_for_tests import Options, RawEngine
from hypothesis import given
from hypothesis import strategies as st

from lllms_core import errors
from lllms_core.queries import Embeddings, EmbedRequest, TokenizeRequest, Tokens
from lllms_core.types import (
    CallPiece,
    ChatRequest,
    Delta,
    Finish,
    Message,
    ModelInfo,
    ModelSpec,
    PromptScores,
    Sampling,
    TextRequest,
    Timings,
    TokenScore,
    Usage,
)
from lllms_core.worker import wire
from lllms_core.worker.wire import FrameReader, encode

TEXT = st.text(st.characters())  # also lone surrogates
ERRORS = [
    cls("what, the limit and the way out", *extra)
    for cls in vars(errors).values()
    if isinstance(cls, type) and issubclass(cls, errors.LllmsError)
    for extra in ([("param", "code")] if issubclass(cls, errors.RequestError) else
                  [(7,)] if issubclass(cls, errors.Overloaded) else [()])
]
FINISHES = st.builds(
    Finish, st.sampled_from(["stop", "length", "timeout", "cancelled"]), st.builds(Usage, *[st.integers(0)] * 3),
)
RESULTS = st.one_of(
    st.none(),
    TEXT,
    st.builds(Embeddings, st.lists(st.just(array("f", [0.5, -1]))).map(tuple), st.integers(0)),
    st.builds(Tokens, st.lists(st.integers(0)).map(tuple), st.lists(st.binary()).map(tuple)),
)
FINISHES |= st.builds(Finish, st.just("stop"), st.builds(Usage, *[st.integers(0)] * 2), RESULTS)
QUERIES = st.one_of(
    st.builds(EmbedRequest, TEXT, TEXT, st.lists(TEXT | st.lists(st.integers(0)).map(tuple)).map(tuple)),
    st.builds(TokenizeRequest, TEXT, TEXT, TEXT),
)
DELTAS = st.builds(Delta, TEXT, TEXT, st.integers(0, 9), st.none() | FINISHES)
SETTINGS = {"sampling": st.builds(Sampling, st.floats(0, 2)), "stop": st.lists(TEXT).map(tuple)}
CONVERSATIONS = st.lists(st.builds(Message, st.just("user"), TEXT)).map(tuple)
REQUESTS = st.builds(ChatRequest, TEXT, TEXT, CONVERSATIONS, **SETTINGS) | st.builds(
    TextRequest, TEXT, TEXT, TEXT, **SETTINGS,
)
MESSAGES = st.one_of(
    st.builds(wire.Open, REQUESTS | QUERIES),
    st.builds(wire.Cancel, TEXT),
    st.builds(wire.UseThreads, st.integers(1, 99)),
    st.just(wire.Close()),
    st.just(wire.Probe()),
    st.just(wire.Alive()),
    st.builds(wire.Progress, st.floats(0, 1)),
    st.builds(wire.Loaded, st.builds(ModelInfo, st.just(frozenset({"chat"})), st.integers(1), st.integers(1))),
    st.builds(wire.LoadFailed, TEXT, TEXT),
    st.builds(wire.Deltas, st.lists(DELTAS).map(tuple)),
    st.builds(wire.Crashed, TEXT, TEXT),
)


@given(st.lists(MESSAGES, max_size=5), st.data())
def test_messages_survive_any_chunking(messages: list[object], data: st.DataObject) -> None:
    """All messages arrive equal and in order, however the bytes are split on their way."""
    stream = b"".join(encode(message) for message in messages)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=8)))
    reader, arrived = FrameReader(), []
    for start, end in zip([0, *cuts], [*cuts, len(stream)], strict=True):
        arrived += reader.feed(stream[start:end])
    assert arrived == messages


def test_messages_survive_byte_by_byte() -> None:
    """A message that arrives in single bytes is complete at its last byte, not before."""
    frame = encode(wire.Cancel("one"))
    reader = FrameReader()
    counts = [len(list(reader.feed(bytes([byte])))) for byte in frame]
    assert counts == [0] * (len(frame) - 1) + [1]


SCORE = TokenScore(b"a", -0.5, ((b"b", -1.0),))
PARTS: Mapping[str, object] = {
    "request_id": "one",
    "text": "text",
    "tokens": 2,
    "finish": Finish("tool_calls", Usage(3, 2, 0, 1, 1, 5), stop="\n", timings=Timings(1, 2, 3, 4)),
    "error": errors.EngineFailed("no"),
    "reasoning": "thought",
    "calls": (CallPiece(0, "call_1", "add", "{}"),),
    "index": 3,
    "ended": "length",
    "scores": (SCORE,),
    "prompt_scores": PromptScores(b"a", (SCORE,)),
    "admitted": Usage(3, 0, 2),
    "unenforced": ("response_format#/not",),
}
"""A non-default value for each field of a `Delta`."""


@pytest.mark.parametrize("name", [one.name for one in fields(Delta)])
def test_each_field_of_a_delta_travels(name: str) -> None:
    """Every field of a delta arrives as it was sent, alone and beside all others."""
    for sent in (Delta(**{"request_id": "one", name: PARTS[name]}), Delta(**PARTS)):  # type: ignore[arg-type]
        [message] = FrameReader().feed(encode(wire.Deltas((sent,))))
        assert isinstance(message, wire.Deltas)
        [arrived] = message.deltas
        value = getattr(arrived, name)
        assert str(value) == str(PARTS[name])
        assert type(value) is type(PARTS[name])
        assert arrived == evolve(sent, error=arrived.error)


def test_what_a_delta_leaves_out_is_empty() -> None:
    """The default of each optional field is None or empty, which tells the wire that it can be left out."""
    assert [one.default for one in list(fields(Delta))[wire._FIRST :] if one.default] == []


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
def test_every_error_travels(error: errors.LllmsError) -> None:
    """An error arrives with its class, its message and its fields."""
    [message] = FrameReader().feed(encode(wire.Deltas((Delta("one", error=error),))))
    assert isinstance(message, wire.Deltas)
    [delta] = message.deltas
    assert type(delta.error) is type(error)
    assert str(delta.error) == str(error)
    assert delta.error is not None
    assert (delta.error.args, vars(delta.error)) == (error.args, vars(error))


def test_load_travels_with_its_engine() -> None:
    """The engine and its options arrive unchanged."""
    [message] = FrameReader().feed(encode(wire.Load(RawEngine(), ModelSpec("one", Options(slots=3), threads=2))))
    assert isinstance(message, wire.Load)
    assert type(message.engine) is RawEngine
    assert message.spec == ModelSpec("one", Options(slots=3), threads=2)


def test_frames_are_unpickled_when_they_are_asked_for() -> None:
    """The first message may prepare what unpickling the second needs: nothing is read ahead."""
    arrived = FrameReader().feed(encode(wire.Close()) + (4).to_bytes(4, "big") + b"junk")
    assert next(arrived) == wire.Close()
    with pytest.raises(pickle.UnpicklingError):
        next(arrived)
