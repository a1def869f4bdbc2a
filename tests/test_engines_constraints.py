from concurrent.futures import Future

import more_templates as templates
import pytest
from attrs import define, evolve, field

from lllms_core.chat import ChatTemplate, Segment, gather_message
from lllms_core.engines import BatchingModel, Feed
from lllms_core.errors import InvalidRequest
from lllms_core.types import ChatRequest, Constraint, Delta, Message, Sampling, TextRequest, Tool

END, THINK = 0, 1
WORD = Constraint("regex", "aab", "grammar")


@define
class Wish:
    """A sampler that wants certain tokens, and then always the same one; a matcher overrules it."""

    wants: int = ord("x")
    first: list[int] = field(factory=list)

    def sample(self, row):
        return self.first.pop(0) if self.first else self.wants

    def close(self):
        pass


@define
class WordMatcher:
    """Accepts the letters of one word, in order."""

    word: str
    said: str = ""
    fails: bool = False

    def sample(self, sampler, row, opening=None):
        if opening is not None and sampler.first[:1] == [opening]:
            return sampler.sample(row)
        sampler.first.clear()
        if self.fails:
            raise InvalidRequest("the grammar is too complex", "grammar")
        sampler.wants = ord(self.word[len(self.said)])
        self.said += self.word[len(self.said)]
        return sampler.sample(row)

    def sample_thought(self, sampler, row):
        while sampler.first[:1] == [END]:
            sampler.first.pop(0)
        return sampler.sample(row)

    @property
    def complete(self):
        return self.said == self.word


@define(init=False)
class Model(BatchingModel):
    """Every token is a letter; the matchers are made when the test says so."""

    asked: list[Future] = field(factory=list)
    first: tuple[int, ...] = ()

    def __init__(self, slots=2, template=None, first=()):
        super().__init__(slots=slots, context_length=512, kv_size=1024, template=template)
        self.asked = []
        self.first = first

    def matcher(self, constraint):
        self.asked.append(Future())
        return self.asked[-1]

    def tokenize(self, segments: list[Segment]):
        return [ord(c) for segment in segments for c in segment.text]

    def piece(self, token):
        return b"" if token == THINK else bytes([token])

    def is_end(self, token):
        return token == END

    def sampler(self, sampling, prompt):
        return Wish(first=[*self.first])

    def control_text(self, token):
        return "<think>" if token == THINK else ""

    def control_token(self, text):
        return THINK if text == "<think>" else None

    def decode(self, feeds: list[Feed]):
        return list(range(sum(feed.logits for feed in feeds)))

    def trim(self, sequence, length):
        return True

    def copy(self, source, target, length):
        pass


def finish(model, steps=100):
    """Step until no request is open: the text of each, and how it ended."""
    texts, ends = {}, {}
    for _ in range(steps):
        if model.idle:
            return {name: (texts[name], end) for name, end in ends.items()}
        for delta in model.step():
            texts[delta.request_id] = texts.get(delta.request_id, "") + delta.text
            if delta.last:
                ends[delta.request_id] = delta.finish.reason if delta.finish else delta.error
    raise AssertionError("the model does not come to an end")


def ask(name, most=5, constraint=WORD):
    return TextRequest(name, "fake", prompt="p", max_tokens=most, constraint=constraint)


def test_answer_ends_when_it_is_whole():
    """A constrained answer contains what its matcher accepted, and stops with the token that completes it."""
    model = Model()
    model.open(ask("a"))
    model.asked[0].set_result(WordMatcher("aab"))
    assert finish(model) == {"a": ("aab", "stop")}


def test_whole_answer_of_just_max_tokens_stops():
    """An answer that is complete with its last allowed token was not cut off; with one token fewer it was."""
    for most, expected in ((3, ("aab", "stop")), (2, ("aa", "length"))):
        model = Model()
        model.open(ask("a", most))
        model.asked[0].set_result(WordMatcher("aab"))
        assert finish(model) == {"a": expected}


def test_others_generate_while_a_matcher_is_made():
    """A request whose matcher takes time delays no other request, running or later."""
    model = Model()
    model.open(ask("slow"))
    model.open(ask("other", constraint=None))
    model.open(ask("quick"))
    model.asked[1].set_result(WordMatcher("b"))
    assert {delta.request_id for _ in range(5) for delta in model.step()} == {"other", "quick"}
    assert not model.idle
    assert list(model.step()) == []
    model.asked[0].set_result(WordMatcher("cd"))
    assert finish(model) == {"slow": ("cd", "stop")}


def test_constraint_that_cannot_be_kept_is_refused():
    """A late refusal ends only its own request, with the error."""
    model = Model(slots=1)
    error = InvalidRequest("no such keyword", "response_format")
    model.open(ask("bad"))
    model.open(ask("good", 2, None))
    model.asked[0].set_exception(error)
    assert finish(model) == {"bad": ("", error), "good": ("xx", "length")}


def test_constraint_that_fails_on_the_way_ends_its_request():
    """A constraint that becomes too complex during generation ends only its own request, and frees its slot."""
    model = Model(slots=1)
    model.open(ask("bad"))
    model.open(ask("good", 2, None))
    model.asked[0].set_result(WordMatcher("aab", fails=True))
    ends = finish(model)
    assert ends["good"] == ("xx", "length")
    assert isinstance(ends["bad"][1], InvalidRequest)


def test_one_failing_answer_ends_the_others():
    """If one of several answers to a request cannot keep its constraint, all of them end, with one error."""
    model = Model()
    model.open(evolve(ask("bad"), sampling=Sampling(), n=2))
    model.open(ask("good", 2, None))
    first, second = WordMatcher("aab"), WordMatcher("aab")
    for future, matcher in zip(model.asked, (first, second), strict=True):
        future.set_result(matcher)
    list(model.step())
    list(model.step())
    first.fails = second.fails = True
    ends = finish(model)
    assert isinstance(ends["bad"][1], InvalidRequest)


def test_one_refused_answer_cancels_the_matchers_of_the_others():
    """If one of several answers is refused while the matcher of another is being made, the request ends once."""
    model = Model()
    model.open(evolve(ask("bad"), n=3))
    model.open(ask("good", 2, None))
    model.asked[0].set_result(WordMatcher("aab"))
    model.step()
    error = InvalidRequest("no such keyword", "response_format")
    model.asked[1].set_exception(error)
    deltas = [delta for _ in range(20) if not model.idle for delta in model.step()]
    assert [delta.error for delta in deltas if delta.request_id == "bad" and delta.last] == [error]
    assert model.asked[2].cancelled()
    assert "".join(delta.text for delta in deltas if delta.request_id == "good")


ASKS = (
    "{%- for m in messages %}{{ m.role + ': ' + (m.content.split('</think>')[-1] if m.role == 'assistant' "
    "else m.content) + '\n' }}{% endfor %}{% if add_generation_prompt %}assistant: "
)
OPENS, LEAVES = (
    ASKS + "<think>\n{% endif %}",
    ASKS + "{% if enable_thinking is defined and not enable_thinking %}<think>\n\n</think>\n\n{% endif %}{% endif %}",
)


@pytest.mark.parametrize(("template", "kwargs", "first", "thoughts"), [
    (OPENS, {}, b"Hm.\0 Yes.</think>zzz", "Hm. Yes."),  # the end of the answer does not end the thoughts
    (LEAVES, {}, b"\x01Hm.</think>zzz", "Hm."),
    (LEAVES, {}, b"Hm.", ""),
    (LEAVES, {"enable_thinking": False}, b"\x01Hm.</think>", ""),
], ids=["opened by the prompt", "opened by the model", "not opened", "switched off"])
def test_constraint_begins_behind_the_thoughts(template, kwargs, first, thoughts):
    """Thoughts are free, whoever opens them; the answer after them is constrained from its first token."""
    model = Model(template=ChatTemplate(template, control_tokens=["<think>"]), first=tuple(first))
    messages = (Message("user", "hi"),)
    model.open(ChatRequest("a", "fake", messages, max_tokens=100, constraint=WORD, chat_template_kwargs=kwargs))
    model.asked[0].set_result(WordMatcher("aab"))
    deltas = [delta for _ in range(100) if not model.idle for delta in model.step()]
    assert "".join(delta.reasoning for delta in deltas).strip() == thoughts
    assert "".join(delta.text for delta in deltas) == "aab"
    assert deltas[-1].finish.reason == "stop"


@pytest.mark.parametrize("ready", [False, True])
def test_waiting_request_can_be_cancelled(ready):
    """A request can be cancelled while its matcher is made."""
    model = Model()
    model.open(ask("a"))
    if ready:
        model.asked[0].set_result(WordMatcher("aab"))
    [delta] = model.cancel("a")
    assert isinstance(delta, Delta)
    assert delta.finish.reason == "cancelled"
    assert model.idle


@define
class ThoughtfulMatcher(WordMatcher):
    """Thinks what it is told wherever thoughts are free."""

    thought: list[int] = field(factory=list)

    def sample_thought(self, sampler, row):
        return self.thought.pop(0)


def test_a_grammar_of_channels_goes_on_behind_the_thoughts():
    """The grammar sees the header of the thoughts and what follows their end; everything between is free."""
    model = Model(template=ChatTemplate(templates.CHANNELS, eos_token="<|return|>"))
    tool = Tool("f", parameters={"type": "object", "properties": {}})
    chat = ChatRequest("a", "fake", (Message("user", "?"),), tools=(tool,), tool_choice="required", max_tokens=200)
    model.open(chat)
    header, call = "<|channel|>analysis<|message|>", "<|channel|>commentary to=functions.f json<|message|>{}"
    matcher = ThoughtfulMatcher(f"{header}<|start|>assistant{call}", thought=[*b"Hm.<|end|>"])
    model.asked[0].set_result(matcher)
    deltas = []
    while not model.idle:
        deltas += model.step()
    message = gather_message(deltas)
    assert (message.content, message.reasoning) == ("", "Hm.")
    assert [(call.name, call.arguments) for call in message.tool_calls] == [("f", "{}")]
    assert (deltas[-1].finish.reason, matcher.complete, matcher.thought) == ("tool_calls", True, [])
