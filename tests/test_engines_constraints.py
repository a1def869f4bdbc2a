from concurrent.futures import Future

import pytest
from attrs import define, evolve, field

from lllms_core.chat import Segment
from lllms_core.engines import BatchingModel, Feed
from lllms_core.errors import InvalidRequest
from lllms_core.types import Constraint, Delta, Request, Sampling

END = 0
WORD = Constraint("regex", "aab", "grammar")


@define
class Wish:
    """A sampler that wants one token; a matcher changes its mind."""

    wants: int = ord("x")

    def sample(self, row):
        return self.wants

    def close(self):
        pass


@define
class WordMatcher:
    """Lets the letters of one word pass, in their order."""

    word: str
    said: str = ""
    fails: bool = False

    def sample(self, sampler, row):
        if self.fails:
            raise InvalidRequest("the grammar is too complex", "grammar")
        sampler.wants = ord(self.word[len(self.said)])
        self.said += self.word[len(self.said)]
        return sampler.sample(row)

    @property
    def complete(self):
        return self.said == self.word


@define(init=False)
class Model(BatchingModel):
    """Every token is a letter; the matchers are made when the test says so."""

    asked: list[Future] = field(factory=list)

    def __init__(self, slots=2):
        super().__init__(slots=slots, context_length=32, kv_size=64)
        self.asked = []

    def matcher(self, constraint):
        self.asked.append(Future())
        return self.asked[-1]

    def tokenize(self, segments: list[Segment]):
        return [ord(c) for segment in segments for c in segment.text]

    def piece(self, token):
        return bytes([token])

    def is_end(self, token):
        return token == END

    def sampler(self, sampling, prompt):
        return Wish()

    def decode(self, feeds: list[Feed]):
        return list(range(sum(feed.logits for feed in feeds)))

    def trim(self, sequence, length):
        return True

    def copy(self, source, target, length):
        pass


def finish(model, steps=100):
    """Step until nothing is open: the text of each request, and how it ended."""
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
    return Request(name, "fake", prompt="p", max_tokens=most, constraint=constraint)


def test_answer_ends_when_it_is_whole():
    """A constrained answer holds what its matcher let pass, and stops with the token that makes it whole."""
    model = Model()
    model.open(ask("a"))
    model.asked[0].set_result(WordMatcher("aab"))
    assert finish(model) == {"a": ("aab", "stop")}


def test_whole_answer_of_just_max_tokens_stops():
    """An answer that is whole with its last allowed token has not been cut; one token fewer, and it has."""
    for most, expected in ((3, ("aab", "stop")), (2, ("aa", "length"))):
        model = Model()
        model.open(ask("a", most))
        model.asked[0].set_result(WordMatcher("aab"))
        assert finish(model) == {"a": expected}


def test_others_generate_while_a_matcher_is_made():
    """A request whose matcher takes its time holds up nobody, neither who runs nor who comes later."""
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
    """A refusal that comes later ends its own request only, with the error."""
    model = Model(slots=1)
    error = InvalidRequest("no such keyword", "response_format")
    model.open(ask("bad"))
    model.open(ask("good", 2, None))
    model.asked[0].set_exception(error)
    assert finish(model) == {"bad": ("", error), "good": ("xx", "length")}


def test_constraint_that_fails_on_the_way_ends_its_request():
    """A constraint that becomes too complex while it is kept costs its own request only, and frees its slot."""
    model = Model(slots=1)
    model.open(ask("bad"))
    model.open(ask("good", 2, None))
    model.asked[0].set_result(WordMatcher("aab", fails=True))
    ends = finish(model)
    assert ends["good"] == ("xx", "length")
    assert isinstance(ends["bad"][1], InvalidRequest)


def test_one_failing_answer_ends_the_others():
    """Where one of several answers to a request cannot keep its constraint, all of them end, with one error."""
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
