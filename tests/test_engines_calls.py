"""Calls that a model makes unprompted are kept to their grammar from their mark on."""

import json
from concurrent.futures import Future
from random import Random

import pytest
import templates_for_tests as templates
from attrs import define, evolve, field
from grammars_for_tests import matcher_of
from hypothesis import given, settings
from hypothesis import strategies as st

from lllms_core.chat import ChatTemplate, Segment, gather_message
from lllms_core.engines import BatchingModel, Feed
from lllms_core.errors import EngineFailed, InvalidRequest
from lllms_core.types import ChatRequest, Constraint, Delta, Message, Tool

END = 0
SCHEMA = {"type": "object", "properties": {"a": {"enum": [1, 2]}}, "required": ["a"], "additionalProperties": False}
TOOL = Tool("get", parameters=SCHEMA)
GOOD = '<tool_call>\n{"name": "get", "arguments": {"a": 1}}\n</tool_call>'
TEMPLATE = ChatTemplate(templates.QWEN3, eos_token="<|im_end|>")


@define
class Script:
    """A sampler that wants to write a text, in pieces, and then end; forbidden tokens are replaced."""

    model: "Model"
    pieces: list[bytes]
    row: int = -1

    def sample(self, row):
        wants = self.pieces[0] if self.pieces else b""
        token = self.model.token_of(wants)
        if self.model.forbidden and token in self.model.forbidden:
            token = self.model.token_of(wants[:1])  # only the first byte of what it wants
        self.pieces[:1] = [rest] if (rest := wants[len(self.model.texts[token]) :]) else []
        self.model.forbidden = ()
        return token

    def close(self):
        pass


@define
class GrammarMatcher:
    """Accepts what a grammar allows, by llguidance over bytes."""

    model: "Model"
    constraint: Constraint
    matcher: object = None
    sampled: int = 0

    def begin(self, written):
        self.matcher = matcher_of(self.constraint)
        fits = self.matcher.validate_tokens([*written]) == len(written)
        return bool(fits and self.matcher.consume_tokens([*written]))

    def sample(self, sampler, row, opening=None):
        self.sampled += 1
        wanted = self.model.texts[sampler.sample(row)]
        if not wanted or self.matcher.validate_tokens([*wanted]) < len(wanted):
            bits = int.from_bytes(self.matcher.compute_bitmask(), "little")
            wanted = bytes([(bits & -bits).bit_length() - 1])
        assert self.matcher.consume_tokens([*wanted])
        return self.model.token_of(wanted)

    def sample_except(self, sampler, row, tokens):
        self.model.forbidden = tuple(tokens)
        sampler.pieces.insert(0, self.model.texts[tokens[-1]])
        return sampler.sample(row)

    @property
    def complete(self):
        return self.matcher.is_stopped()


@define(init=False)
class Model(BatchingModel):
    """Its tokens are the pieces of its scripts; matchers are made when the test says so."""

    asked: list = field(factory=list)

    def __init__(self, *scripts, template=TEMPLATE, slots=2):
        super().__init__(slots=slots, context_length=2048, kv_size=4096, template=template)
        self.asked, self.made, self.scripts = [], [], [*scripts]
        self.texts, self.forbidden = [b""], ()

    def token_of(self, piece):
        if piece not in self.texts:
            self.texts.append(piece)
        return self.texts.index(piece)

    def matcher(self, constraint):
        self.asked.append((constraint, Future()))
        return self.asked[-1][1]

    def make(self, at=-1):
        constraint, future = self.asked[at]
        future.set_result(GrammarMatcher(self, constraint))
        self.made.append(future.result())

    def tokenize(self, segments: list[Segment]):
        return [self.token_of(b"%prompt")] * sum(len(segment.text) for segment in segments)

    def piece(self, token):
        return self.texts[token]

    def is_end(self, token):
        return token == END

    def sampler(self, sampling, prompt):
        return Script(self, [*self.scripts.pop(0)])

    def decode(self, feeds: list[Feed]):
        return list(range(sum(feed.logits for feed in feeds)))

    def trim(self, sequence, length):
        return True

    def copy(self, source, target, length):
        pass


def ask(name: str = "a", *tools: Tool, **fields) -> ChatRequest:
    return ChatRequest(name, "fake", (Message("user", "?"),), tools=tools or (TOOL,), max_tokens=600, **fields)


def finish(model: Model, steps: int = 3000) -> list[Delta]:
    deltas = []
    for _ in range(steps):
        if model.idle:
            return deltas
        deltas += model.step()
    raise AssertionError("the model does not come to an end")


def bytewise(text: str) -> list[bytes]:
    return [bytes([byte]) for byte in text.encode()]


def said(model: Model, request: ChatRequest) -> tuple[str, list[tuple[str, object]]]:
    """Text and calls of an answer whose grammar is ready from the start."""
    model.open(request)
    model.make()
    message = gather_message(finish(model))
    return message.content, [(call.name, json.loads(call.arguments)) for call in message.tool_calls]


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**32), st.sampled_from(["", "Let me <see>. ", "<think>Hm, <tool_call>{</think>"]))
def test_calls_are_kept_however_they_are_cut_into_tokens(seed: int, before: str) -> None:
    """However the text is split into tokens, a wrong name or argument cannot be written; text is unchanged."""
    random = Random(seed)
    text = before + GOOD.replace("get", "W-get").replace("1", "7") + " " + GOOD
    raw, pieces = text.encode(), []
    while raw:
        size = random.choice([1, 2, 3, 5, 8])
        pieces.append(raw[:size])
        raw = raw[size:]
    content, calls = said(Model(pieces), ask())
    assert content.startswith("" if "think" in before else before.strip())
    assert calls[0] == ("get", {"a": 1})
    assert all(name == "get" and arguments["a"] in {1, 2} for name, arguments in calls)


def test_free_text_is_not_looked_at() -> None:
    """Until a mark comes, the matcher is never asked."""
    model = Model(bytewise("Hello <b>, x < y. <tool_cal"))
    assert said(model, ask()) == ("Hello <b>, x < y. <tool_cal", [])
    assert [matcher.sampled for matcher in model.made] == [0]


def test_marks_in_thoughts_are_no_calls() -> None:
    """A mark inside thoughts is free; the token that ends the thoughts may also begin a mark."""
    model = Model([b"<think>", b"<tool_call>", b"{]", b"</think>\n\n<tool_", b"call>", *bytewise('\n{"name": "x')])
    _, calls = said(model, ask())
    assert calls == [("get", {"a": 1})]
    joined = Model([b"<think>", b"Hm.", b"</think>\n<tool_call>", *bytewise('\n{"name": "x')])
    assert said(joined, ask()) == ("", [("get", {"a": 1})])


def test_a_token_that_ends_a_mark_and_goes_on_wrongly_is_replaced() -> None:
    """If a token completes the mark but continues wrongly, only the mark is written."""
    assert said(Model([b"<tool", b"_call>[]", b"x"]), ask()) == ("", [("get", {"a": 1})])
    good = Model([b"<tool", b'_call>\n{"name": "g', *bytewise(GOOD.partition("g")[2])])
    assert said(good, ask())[1] == [("get", {"a": 1})]


@pytest.mark.parametrize("parallel", [True, False])
def test_text_and_more_calls_may_follow_a_call(parallel: bool) -> None:
    """After a call the text is free and the next call is kept again, unless only one call is wanted."""
    model = Model(bytewise(f"Well. {GOOD}\nSo: {GOOD.replace('get', 'put')} "))
    content, calls = said(model, ask(parallel_tool_calls=parallel))
    assert calls == [("get", {"a": 1})] * (2 if parallel else 1)
    assert content.startswith("Well.")
    assert ("So:" in content) == parallel


def test_a_grammar_that_is_not_there_is_waited_for_at_the_mark() -> None:
    """Text before a call comes at once; at the mark this request waits, and others do not."""
    model = Model(bytewise("Well. " + GOOD.replace("get", "put")), bytewise("Hello"))
    model.open(ask())
    deltas = [delta for _ in range(40) for delta in model.step()]
    assert "".join(delta.text for delta in deltas) == "Well."
    model.open(evolve(ask("b"), tools=()))
    others = [delta for _ in range(20) for delta in model.step()]
    assert "".join(delta.text for delta in others if delta.request_id == "b") == "Hello"
    assert not model.idle
    model.make()
    message = gather_message(deltas + finish(model))
    assert [call.name for call in message.tool_calls] == ["get"]


def test_schemas_that_cannot_be_kept_are_left_out() -> None:
    """If the schemas are refused, names are kept without them, and the end says so; else the answer is free."""
    wrong = GOOD.replace("get", "put").replace("1", "7")
    for more in (True, False):
        model = Model(bytewise(wrong))
        model.open(ask())
        model.asked[0][1].set_exception(InvalidRequest("no such keyword", "tools"))
        for _ in range(20):
            list(model.step())
        assert len(model.asked) == 2
        if more:
            model.make()
        else:
            model.asked[1][1].set_exception(EngineFailed("no process"))
        deltas = finish(model)
        calls = [(call.name, json.loads(call.arguments)) for call in gather_message(deltas).tool_calls]
        assert deltas[-1].unenforced == ("tools.get#",)
        assert calls == [("get" if more else "put", {"a": 7})]


def test_a_strict_tool_is_refused_before_its_answer_begins() -> None:
    """If a tool is strict, the answer waits for its grammar, and an impossible one ends the request."""
    model = Model(bytewise(GOOD))
    model.open(ask("a", evolve(TOOL, strict=True)))
    assert list(model.step()) == []
    error = InvalidRequest("no such keyword", "tools")
    model.asked[0][1].set_exception(error)
    assert [delta.error for delta in finish(model)] == [error]


def test_a_strict_tool_survives_the_schemas_of_others() -> None:
    """The schema of a tool that is not strict is left out rather than refused; a strict one stays."""
    model = Model(bytewise(GOOD.replace("get", "put").replace("1", "9")))
    model.open(ask("a", evolve(TOOL, strict=True), Tool("x", parameters={"type": "object", "not": {}})))
    model.asked[0][1].set_exception(InvalidRequest("no such keyword", "tools"))
    list(model.step())
    model.make()
    [call] = gather_message(finish(model)).tool_calls
    assert (call.name, json.loads(call.arguments)["a"] in {1, 2}) == ("get", True)


def test_the_grammar_is_given_up_with_its_request() -> None:
    """A request that ends or is cancelled before its grammar is ready cancels the grammar of each of its answers."""
    model = Model(bytewise("Hello"), bytewise("Hello"), bytewise("Hello"))
    model.open(ask(n=2))
    finish(model)
    model.open(ask("b"))
    list(model.step())
    list(model.cancel("b"))
    assert [future.cancelled() for _, future in model.asked] == [True] * 3


def test_each_answer_has_a_matcher_of_its_own() -> None:
    """Each of several answers to one request is kept to the grammar separately."""
    wrong = GOOD.replace("get", "put")
    model = Model(bytewise(wrong), bytewise(f"Hello. {wrong}"))
    model.open(ask(n=2))
    for at in range(2):
        model.make(at)
    deltas = finish(model)
    for index in range(2):
        [call] = gather_message(delta for delta in deltas if delta.index == index).tool_calls
        assert call.name == "get"


def test_a_stop_string_inside_a_call_ends_it() -> None:
    """Stop strings apply in calls as anywhere else."""
    model = Model(bytewise(GOOD))
    model.open(ask(stop=('"arg',)))
    model.make()
    deltas = finish(model)
    message = gather_message(deltas)
    assert (message.tool_calls, deltas[-1].finish.stop) == ((), '"arg')


def test_an_engine_without_grammars_answers_freely() -> None:
    """If an engine makes no matchers, calls are what the model writes."""

    class Plain(Model):
        matcher = None

    model = Plain(bytewise(GOOD.replace("1", "7")))
    model.open(ask())
    [call] = gather_message(finish(model)).tool_calls
    assert (call.name, json.loads(call.arguments)) == ("get", {"a": 7})
