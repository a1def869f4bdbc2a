from math import exp, isclose

import numpy as np
import pytest
from attrs import define, field
from gpus_for_tests import equal_sums
from lllms_llamacpp.sampling import log_probabilities

from lllms_core.chat import Segment
from lllms_core.errors import InvalidRequest, UnsupportedParameter
from lllms_core.types import Delta, Sampling, TextRequest


@define
class Choices:
    """The outcome of a request for several answers."""

    deltas: list[Delta] = field(factory=list)

    def text(self, index=0):
        return "".join(delta.text for delta in self.deltas if delta.index == index)

    def prompt(self):
        [scores] = [delta.prompt_scores for delta in self.deltas if delta.prompt_scores is not None]
        return scores

    def scores(self, index=0):
        return [score for delta in self.deltas if delta.index == index for score in delta.scores]


def ask(talk, prompt="The capital of France is", *, temperature=0, seed=None, **fields):
    sampling = Sampling(temperature=temperature, seed=seed)
    talk.model.open(TextRequest("r", "tiny", prompt=prompt, sampling=sampling, **fields))
    answer = Choices()
    while not talk.model.idle:
        answer.deltas += talk.model.step()
    return answer


def test_answers_share_an_evaluated_prompt(tiny):
    """Several answers share one evaluation of the prompt, and each seed gives the same answer as alone."""
    answer = ask(tiny, "Once upon a time", n=6, max_tokens=12, temperature=1.0, seed=11)
    texts = [answer.text(index) for index in range(6)]
    assert len(set(texts)) > 1
    assert texts[0] == ask(tiny, "Once upon a time", max_tokens=12, temperature=1.0, seed=11).text()
    usage = answer.deltas[-1].finish.usage
    assert usage.prompt_tokens == ask(tiny, "Once upon a time", max_tokens=1).deltas[-1].finish.usage.prompt_tokens
    assert usage.completion_tokens == sum(delta.tokens for delta in answer.deltas)


def test_greedy_answers_are_equal(tiny):
    """At temperature 0 all answers are equal."""
    answer = ask(tiny, n=3, max_tokens=5)
    assert {answer.text(index) for index in range(3)} == {" Paris."}


def test_log_probabilities_are_the_models(tiny):
    """The greedy token is the likeliest, the tokens' bytes make up the text, and probabilities are between 0 and 1."""
    answer = ask(tiny, max_tokens=5, top_logprobs=5)
    scores = answer.scores()
    assert b"".join(score.piece for score in scores).decode() == answer.text() == " Paris."
    for score in scores:
        assert len(score.top) == 5
        assert score.top[0] == (score.piece, score.logprob)
        assert [value for _, value in score.top] == sorted((value for _, value in score.top), reverse=True)
        assert 0 < sum(exp(value) for _, value in score.top) <= 1.0001


def test_control_tokens_among_the_likeliest_have_their_texts(tiny):
    """Where the answer could have ended, the end token is named beside the chosen one."""
    first = ask(tiny, "1, 2, 3", max_tokens=1, top_logprobs=20).scores()[0]
    last = ask(tiny, "The capital of France is Paris.", max_tokens=1, top_logprobs=20)
    tops = [piece for score in (first, *last.scores()) for piece, _ in score.top]
    assert b"<|im_end|>" in tops
    assert b"" not in tops


def test_a_score_is_a_logarithmic_softmax():
    """Scores are the logarithm of the softmax, also when some tokens are impossible."""
    logits = np.array([1.0, 3.0, -np.inf, 2.0], dtype=np.float32)
    logprob, top = log_probabilities(logits, 3, 4)
    total = exp(1) + exp(2) + exp(3)
    assert isclose(exp(logprob), exp(2) / total, rel_tol=1e-6)
    assert [token for token, _ in top] == [1, 3, 0]
    assert [token for token, _ in log_probabilities(logits, 0, 1)[1]] == [1]
    assert log_probabilities(logits, 0, 0)[1] == []


def test_stop_strings_have_no_scores(tiny):
    """Tokens of a stop string are returned neither as text nor as scores."""
    answer = ask(tiny, max_tokens=5, top_logprobs=0, stop=("ris",))
    assert answer.text() == " Pa"
    assert b"".join(score.piece for score in answer.scores()).startswith(b" P")
    assert b"." not in b"".join(score.piece for score in answer.scores())


def test_tokens_are_a_prompt(tiny):
    """A prompt of tokens gets the same answer as its text; tokens that do not exist are refused."""
    tokens = tuple(tiny.model.tokenize([Segment("The capital of France is", parse_special=True)]))
    assert ask(tiny, tokens, max_tokens=5).text() == " Paris."
    with pytest.raises(InvalidRequest, match="no token 928"):
        ask(tiny, (1, 928))


STORY = "Once upon a time there was a cat. The capital of France is Paris. One, two, three, four, five, six, seven."


def alike(scores, others):
    assert [score.piece for score in scores] == [score.piece for score in others]
    for score, other in zip(scores, others, strict=True):
        assert isclose(score.logprob, other.logprob, abs_tol=0.05)


def test_a_prompts_tokens_are_as_likely_as_an_answers(tiny):
    """Prompt tokens have the log-probabilities with which the model would have generated them."""
    prompt = tuple(tiny.model.tokenize([Segment("The capital of France is", parse_special=True)]))
    said = ask(tiny, prompt, max_tokens=4, top_logprobs=3)
    told = ask(tiny, (*prompt, *tokens_of(tiny, said)), max_tokens=0, top_logprobs=3, echo=True)
    alike(told.prompt().rest[len(prompt) - 1 :], said.scores())
    assert told.deltas[-1].finish.usage.completion_tokens == 0


def tokens_of(talk, answer):
    vocabulary = {talk.model.piece(token): token for token in range(928)}
    return [vocabulary[score.piece] for score in answer.scores()]


def test_a_scored_prompt_is_evaluated_whole(tiny):
    """A scored prompt reuses nothing, since cached tokens have no logits; its own evaluation can be reused."""
    ask(tiny, STORY, max_tokens=1)
    scored = ask(tiny, STORY, max_tokens=1, top_logprobs=0, echo=True)
    usage = scored.deltas[-1].finish.usage
    assert usage.cached_tokens == 0
    assert len(scored.prompt().rest) == usage.prompt_tokens - 1
    assert ask(tiny, STORY, max_tokens=1).deltas[-1].finish.usage.cached_tokens == usage.prompt_tokens - 1


@equal_sums
def test_scores_do_not_depend_on_how_a_prompt_is_cut(tiny, load):
    """A prompt has the same scores in chunks of any size, beside other requests, and with one or several slots."""
    expected = ask(tiny, STORY, max_tokens=2, top_logprobs=2, echo=True)
    assert len(expected.prompt().rest) > 32
    narrow = load(slots=1, batch_size=5)
    alike(ask(narrow, STORY, max_tokens=2, top_logprobs=2, echo=True).prompt().rest, expected.prompt().rest)
    for name in ("other", "third"):
        tiny.model.open(TextRequest(name, "tiny", prompt=f"{name} {STORY}", max_tokens=40, top_logprobs=0, echo=True))
    beside = ask(tiny, STORY, max_tokens=2, top_logprobs=2, echo=True)
    beside.deltas = [delta for delta in beside.deltas if delta.request_id == "r"]
    alike(beside.prompt().rest, expected.prompt().rest)
    alike(beside.scores(), expected.scores())


def test_choices_share_a_scored_prompt(tiny):
    """The prompt's scores are sent once, before any text, however many answers follow."""
    answer = ask(tiny, STORY, n=3, max_tokens=3, top_logprobs=1, echo=True)
    assert answer.deltas[0].prompt_scores == answer.prompt()
    assert {answer.text(index) for index in range(3)} == {answer.text()}


def test_models_without_the_tokens_cannot_fill_in(tiny):
    """A suffix is refused by name if the vocabulary has no tokens for it."""
    with pytest.raises(UnsupportedParameter, match="not trained to fill in the middle") as caught:
        ask(tiny, suffix="x")
    assert caught.value.param == "suffix"


def test_a_suffix_stands_between_the_vocabularys_marks(load, write_random, tmp_path):
    """If the vocabulary has the tokens, prefix, suffix and middle come in their order, after BOS."""
    keys = {
        "context_length": 64, "embedding_length": 16, "block_count": 1, "feed_forward_length": 16,
        "attention.head_count": 2, "attention.layer_norm_rms_epsilon": 1e-5, "vocab_size": 928,
        **{f"tokenizer.ggml.fim_{name}_token_id": token for name, token in (("pre", 3), ("suf", 4), ("mid", 5))},
    }
    shapes = {
        "token_embd.weight": (928, 16), "output_norm.weight": (16,), "output.weight": (928, 16),
        **{f"blk.0.{name}.weight": shape for name, shape in {
            "attn_norm": (16,), "ffn_norm": (16,), "attn_q": (16, 16), "attn_k": (16, 16), "attn_v": (16, 16),
            "attn_output": (16, 16), "ffn_gate": (16, 16), "ffn_up": (16, 16), "ffn_down": (16, 16),
        }.items()},
    }
    talk = load(write_random(tmp_path / "fim.gguf", "llama", keys, shapes))
    model = talk.model
    prompt = model.infill(TextRequest("r", "tiny", prompt="def", suffix="end"))
    before, after = prompt.index(3), prompt.index(4)
    assert (before, prompt[-1]) == (1, 5)
    assert b"".join(map(model.piece, prompt[before + 1 : after])) == b"def"
    assert b"".join(map(model.piece, prompt[after + 1 : -1])) == b"end"
    assert ask(talk, "def", suffix="end", max_tokens=2).deltas[-1].finish.usage.prompt_tokens == len(prompt)
