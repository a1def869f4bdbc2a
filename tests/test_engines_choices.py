"""Several answers to one request, and the scores of their tokens, in both base classes of engines."""

from collections.abc import Iterable, Iterator

import pytest
from batching_for_tests import FakeModel, PickedSampler, ask, reference
from hypothesis import given
from hypothesis import strategies as st

from lllms_core.engines import SerialModel
from lllms_core.errors import EngineFailed, InvalidRequest
from lllms_core.testing import collect
from lllms_core.text import OutputText, ScoreLog
from lllms_core.types import Delta, Request, Sampling, TextRequest, TokenScore, Usage


class SeededSampler(PickedSampler):
    """The model's token, shifted by the seed."""

    seed = 0

    def sample(self, row):
        token = super().sample(row)
        return 97 + (token + self.seed) % 20 if self.seed else token


class ScoringModel(FakeModel):
    def sampler(self, sampling, prompt):
        sampler = SeededSampler(self)
        sampler.seed = sampling.seed or 0
        self.samplers.append(sampler)
        return sampler

    def score(self, row, token, top):
        return TokenScore(self.piece(token), -float(token), tuple((bytes([97 + i]), -float(i)) for i in range(top)))

    def infill(self, request):
        return [ord(c) for c in f"<{request.suffix}>{request.prompt}"]


class Talker(SerialModel):
    """Repeats the prompt and its seed, a letter at a time."""

    def __init__(self) -> None:
        self.seeds: list[int | None] = []

    def complete(self, prompt: str, request: Request) -> Iterator[str | TokenScore]:
        self.seeds.append(request.sampling.seed)
        if prompt == "fail" and len(self.seeds) == 2:
            raise EngineFailed("no more")
        for letter in f"{prompt}{request.sampling.seed}":
            yield TokenScore(letter.encode(), -1.0) if request.scored else letter


def texts(deltas: Iterable[Delta], count: int) -> list[str]:
    return ["".join(delta.text for delta in deltas if delta.index == index) for index in range(count)]


@pytest.mark.parametrize("slots", [1, 2, 5])
def test_answers_share_one_evaluated_prompt(slots):
    """All answers come, each with its own seed; the prompt is evaluated once except for its last token."""
    model = ScoringModel(slots=slots, sequences=8, kv_size=400)
    prompt = "abcdefghij" * 3
    got = collect(model, ask("r", prompt, most=5, n=5, sampling=Sampling(seed=1)))["r"]
    alone = [collect(ScoringModel(), ask("r", prompt, most=5, sampling=Sampling(seed=1 + i)))["r"] for i in range(5)]
    assert texts(got, 5) == [texts(one, 1)[0] for one in alone]
    assert len(set(texts(got, 5))) > 1
    evaluated = sum(len(feed.tokens) for decode in model.decodes for feed in decode)
    generated = sum(delta.tokens for delta in got)
    assert evaluated <= len(prompt) + 4 + generated
    assert got[-1].finish is not None
    assert got[-1].finish.usage == Usage(len(prompt), generated)
    assert all(sampler.closed for sampler in model.samplers)


def test_each_answer_ends_for_its_own_reason():
    """Every answer but the last to end gives its reason; with the last one the request ends."""
    got = collect(ScoringModel(kv_size=400, sequences=4), ask("r", "xyz", most=4, n=3, sampling=Sampling(seed=3)))["r"]
    ended = [delta.index for delta in got if delta.ended]
    assert sorted([*ended, got[-1].index]) == [0, 1, 2]
    assert [delta for delta in got if delta.finish] == [got[-1]]
    assert got[-1].ended is None


def test_models_that_cannot_copy_evaluate_again():
    """If a sequence cannot be cut or copied, each answer evaluates the prompt itself, and all come."""
    got = collect(ScoringModel(can_trim=False), ask("r", "xyz", most=4, n=3))["r"]
    assert texts(got, 3) == [reference("xyz", 4)] * 3


def test_other_requests_are_not_starved():
    """A request with many answers lets other requests in between."""
    model = ScoringModel(slots=2, sequences=4, kv_size=400)
    model.open(ask("many", "abc", most=8, n=20, sampling=Sampling(seed=1)))
    for _ in range(4):
        model.step()
    model.open(ask("one", "xyz", most=2))
    steps = 0
    while not any(delta.request_id == "one" and delta.last for delta in model.step()):
        steps += 1
    assert steps < 120
    model.cancel("many")
    assert model.idle


def test_a_cancel_ends_all_answers():
    """A cancel ends a request with one last delta and frees its room, whether answers run, wait or are held back."""
    model = ScoringModel(slots=2, sequences=4, kv_size=400)
    model.open(ask("r", "abc", most=30, n=4, sampling=Sampling(seed=1)))
    for _ in range(3):
        model.step()
    *others, last = model.cancel("r")
    assert [one.ended for one in others] == ["cancelled"]
    assert last.finish is not None
    assert last.finish.reason == "cancelled"
    assert last.finish.usage.completion_tokens > 0
    assert model.idle
    assert list(model.cancel("r")) == []
    assert collect(model, ask("s", "abc", most=3))["s"][-1].last
    model.open(ask("early", "abc", n=3))
    [last] = model.cancel("early")
    assert last.finish is not None
    assert last.finish.usage == Usage(3, 0)


def test_tokens_are_a_prompt():
    """A prompt of tokens is taken as it is."""
    got = collect(ScoringModel(), ask("r", tuple(b"xyz"), most=4))["r"]
    assert texts(got, 1) == [reference("xyz", 4)]


def test_a_suffix_is_filled_in():
    """With a suffix, the engine builds the prompt."""
    got = collect(ScoringModel(), ask("r", "xyz", most=4, suffix="end"))["r"]
    assert texts(got, 1) == [reference("<end>xyz", 4)]


def test_tokens_and_excerpts_are_filled_in_too():
    """A prompt of tokens is no reason to ignore the suffix; excerpts ask for a gap by themselves."""
    got = collect(ScoringModel(), ask("r", (7, 8), most=4, suffix="end"))["r"]
    assert texts(got, 1) == [reference("<end>(7, 8)", 4)]
    got = collect(ScoringModel(), ask("r", "xyz", most=4, input_extra=()))["r"]
    assert texts(got, 1) == [reference("<None>xyz", 4)]


def test_scores_come_with_their_tokens():
    """Each token's score comes with the text that the token begins, and with the requested number of alternatives."""
    got = collect(ScoringModel(), ask("r", "xyz", most=4, top_logprobs=2))["r"]
    scores = [score for delta in got for score in delta.scores]
    assert b"".join(score.piece for score in scores).decode() == texts(got, 1)[0] == reference("xyz", 4)
    assert [(score.logprob, len(score.top)) for score in scores] == [(-float(ord(c)), 2) for c in reference("xyz", 4)]
    assert not any(delta.scores for delta in collect(ScoringModel(), ask("r", "xyz", most=4))["r"])


def test_best_of_needs_scores():
    """Answers of which only the best are kept have scores, even if the client does not want to see them."""
    request = ask("r", "xyz", most=4, n=1, best_of=3)
    assert (request.count, request.scored) == (3, True)
    got = collect(ScoringModel(kv_size=400, sequences=4), request)["r"]
    assert len(texts(got, 3)) == 3
    assert all(delta.scores for delta in got if delta.text)


def test_serial_answers_come_one_after_another():
    """A serial model writes its answers in order, with seeds that differ by one."""
    model = Talker()
    got = collect(model, TextRequest("r", "m", prompt="x y", n=3, sampling=Sampling(seed=7)))["r"]
    assert texts(got, 3) == ["x y7", "x y8", "x y9"]
    assert model.seeds == [7, 8, 9]
    assert [delta.index for delta in got] == sorted(delta.index for delta in got)
    assert got[-1].finish is not None
    assert got[-1].finish.usage == Usage(2, 12)
    assert [delta.ended for delta in got if delta.ended] == ["stop", "stop"]


def test_a_serial_answer_that_fails_ends_the_request():
    """An error in a later answer is an error of the request."""
    got = collect(Talker(), TextRequest("r", "m", prompt="fail", n=3))["r"]
    assert isinstance(got[-1].error, EngineFailed)
    assert got[-1].index == 1


def test_a_serial_request_is_cancelled_as_a_whole():
    """After a cancel no further answer begins."""
    model = Talker()
    model.open(TextRequest("r", "m", prompt="x", n=3))
    model.step()
    [last] = model.cancel("r")
    assert last.finish is not None
    assert model.idle


def test_serial_models_refuse_tokens_that_they_cannot_read():
    """Tokens are refused as a prompt by a model that cannot tell their text."""
    with pytest.raises(InvalidRequest, match="texts, not tokens"):
        Talker().open(TextRequest("r", "m", prompt=(1, 2)))


def test_serial_scores_are_told():
    """A serial model may give each token its score."""
    got = collect(Talker(), TextRequest("r", "m", prompt="x", top_logprobs=0))["r"]
    assert [score.piece for delta in got for score in delta.scores] == [b"x", b"N", b"o", b"n", b"e"]


@given(
    st.lists(st.binary(min_size=0, max_size=4) | st.sampled_from([c.encode() for c in "aäb🙂"]), max_size=12),
    st.lists(st.text("abä🙂", min_size=1, max_size=3), max_size=3),
)
def test_scores_never_come_before_their_text_nor_stay_behind(pieces, stops):
    """However text is held back, a token's score comes with its first character, and a stop string's never comes."""
    output = OutputText(stops)
    log = ScoreLog(output)
    shown, told = "", []
    whole = OutputText()
    starts = []
    for piece in pieces:
        starts.append(whole.decoded)
        whole.feed(piece)
        log.add(TokenScore(piece, 0.0))
        shown += output.feed(piece)
        told += log.take()
        assert len(told) == sum(start < len(shown) for start in starts)
        if output.stopped:
            break
    if not output.stopped:
        shown += output.flush()
    told += log.rest()
    expected = sum(start < len(shown) for start in starts) if output.stopped else len(starts)
    assert len(told) == expected
