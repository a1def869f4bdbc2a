import pytest
from lllms_llamacpp.sampling import ChainSampler, GreedySampler, is_greedy

from lllms_core.errors import InvalidRequest
from lllms_core.types import Sampling

STORY = "Tell me a story."


def token(talk, text):
    """The token of a piece of text, searched after the tokens of single bytes."""
    [*_, found] = [one for one in range(talk.model._vocabulary.size) if talk.model.piece(one) == text.encode()]
    return found


@pytest.mark.parametrize("texts", [["lets count to 10"], ["Say 😀."], [STORY]])
def test_the_short_way_to_the_likeliest_token_is_the_long_one(tiny, texts):
    """Plain temperature 0 reads the logits directly, and chooses the same token as llama.cpp's samplers."""
    assert is_greedy(Sampling(temperature=0, top_k=3, top_p=0.1, seed=5))
    # A bias of 0 takes the long way.
    long_way = Sampling(temperature=0, logit_bias={0: 0.0})
    assert not is_greedy(long_way)
    assert tiny.ask(*texts, max_tokens=60).text == tiny.ask(*texts, max_tokens=60, sampling=long_way).text
    assert isinstance(tiny.model.sampler(Sampling(temperature=0), []), GreedySampler)


def test_the_short_way_does_not_pass_by_penalties(tiny):
    """Any parameter that changes the logits takes the long way."""
    for changed in (
        {"repeat_penalty": 1.1}, {"frequency_penalty": 0.1}, {"presence_penalty": -1.0}, {"dry_multiplier": 0.8},
        {"logit_bias": {5: 1.0}}, {"ignore_eos": True}, {"temperature": 0.1},
    ):
        sampler = tiny.model.sampler(Sampling(**{"temperature": 0, **changed}), [])
        assert isinstance(sampler, ChainSampler)
        sampler.close()


def test_a_bias_forbids_and_forces(tiny):
    """-100 bans a token, 100 makes it certain, and a small bias has a small effect."""
    def ask(text, bias):
        sampling = Sampling(temperature=0, logit_bias={token(tiny, text): bias})
        return tiny.ask("Say banana.", max_tokens=3, sampling=sampling).text

    assert ask("an", 0.1) == "banan"
    assert not ask("an", -100.0).startswith("ban")
    assert ask("Hello", 100.0) == "HelloHelloHello"


def test_a_bias_for_no_token_is_refused(tiny):
    """A token outside the vocabulary is the request's fault, and is named."""
    with pytest.raises(InvalidRequest, match="model 'tiny' has no token 928, only 0 to 927") as caught:
        tiny.open("Hi!", sampling=Sampling(logit_bias={928: 1.0}))
    assert caught.value.param == "logit_bias.928"


def test_an_answer_that_may_not_end_goes_on(tiny):
    """`ignore_eos` bans the end tokens; the length ends the answer."""
    answer = tiny.ask("ping", max_tokens=30, sampling=Sampling(temperature=0, ignore_eos=True))
    assert (answer.tokens, answer.reason) == (30, "length")
    assert answer.text.startswith("pong")


def test_dry_breaks_repetitions(tiny):
    """DRY penalises longer repetitions, also of the prompt; breakers end them, and a window of 0 disables it."""
    def ask(**given):
        return tiny.ask("Say banana.", max_tokens=8, sampling=Sampling(temperature=0, **given)).text

    strong = {"dry_multiplier": 100.0, "dry_allowed_length": 1}
    assert ask() == "banana"
    assert ask(**strong) != "banana"
    assert ask(**strong, dry_penalty_last_n=0) == "banana"
    assert ask(**strong, dry_sequence_breakers=("ban", "ana", "an", "a")) == "banana"


def test_xtc_drops_the_likeliest(tiny):
    """With probability 1 and a low threshold, the likeliest tokens are dropped whenever others also exceed it."""
    wild = {"temperature": 1.0, "seed": 1, "top_k": 0, "top_p": 1.0, "min_p": 0.0}
    plain = tiny.ask(STORY, max_tokens=20, sampling=Sampling(**wild)).text
    assert tiny.ask(STORY, max_tokens=20, sampling=Sampling(**wild, xtc_threshold=0.4)).text == plain
    dropped = tiny.ask(STORY, max_tokens=20, sampling=Sampling(**wild, xtc_probability=1.0, xtc_threshold=0.001)).text
    assert dropped != plain


@pytest.mark.parametrize(
    "given", [{"mirostat": 1}, {"mirostat": 2}, {"mirostat": 2, "mirostat_tau": 0.5, "mirostat_eta": 1.0},
              {"typical_p": 0.2}, {"typical_p": 0.0}],
)
def test_other_samplers_are_repeatable(tiny, given):
    """Mirostat and typical sampling choose other tokens than plain sampling, and the same again for the same seed."""
    def ask(**more):
        wild = {"temperature": 1.5, "seed": 1, "top_k": 0, "top_p": 1.0, "min_p": 0.0}
        return tiny.ask(STORY, max_tokens=20, sampling=Sampling(**wild, **more)).text

    first = ask(**given)
    assert first == ask(**given)
    assert first != ask()


def test_mirostat_at_temperature_0_is_greedy(tiny):
    """Temperature 0 takes the likeliest token, whatever other samplers are set."""
    assert tiny.ask("Hi!", sampling=Sampling(temperature=0, mirostat=2)).text == "Hello! How can I help you?"
