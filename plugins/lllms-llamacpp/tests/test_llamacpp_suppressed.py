"""Suppressed tokens, which a file says its model must never write."""

import pytest
from models_for_tests import DIM, LAYERS, RECIPES, WORDS

from lllms_core.errors import LllmsError
from lllms_core.types import Constraint, Sampling, TextRequest

pytestmark = pytest.mark.slow

GREEDY = Sampling(temperature=0)
PROMPT = tuple(range(300, 320))
SAMPLINGS = {
    "greedy": GREEDY,
    "chain": Sampling(temperature=1.5, top_k=0, top_p=1, seed=1),
    "penalties": Sampling(temperature=0, repeat_penalty=1.3),
    "mirostat": Sampling(temperature=1, mirostat=2, seed=1),
    "first-mirostat": Sampling(temperature=1, mirostat=1, seed=1),
    "typical": Sampling(temperature=1, typical_p=0.9, seed=1),
    "xtc": Sampling(temperature=1, xtc_probability=0.5, xtc_threshold=0.01, seed=1),
    "dry": Sampling(temperature=1, dry_multiplier=1, seed=1),
}


def write(path, write_random, suppressed):
    keys, layer = RECIPES["llama"][1]
    shapes = {"token_embd.weight": (WORDS, DIM), "output_norm.weight": (DIM,), "output.weight": (WORDS, DIM)}
    shapes |= {f"blk.{n}.{tensor}": shape for n in range(LAYERS) for tensor, shape in layer.items()}
    keys = keys if suppressed is None else {**keys, "tokenizer.ggml.suppress_tokens": suppressed}
    return write_random(path, "llama", keys, shapes)


def answer(talk, **fields):
    """The deltas of an answer."""
    model = talk.model
    model.open(TextRequest("r", "tiny", **{"prompt": PROMPT, "max_tokens": 40, "top_logprobs": 5, **fields}))
    deltas = []
    while not model.idle:
        deltas += model.step()
    assert deltas[-1].error is None
    return deltas


def scores(deltas):
    return [score for delta in deltas for score in delta.scores]


@pytest.fixture(scope="module")
def free(load, write_random, tmp_path_factory):
    """A model whose file suppresses nothing."""
    return load(write(tmp_path_factory.mktemp("free") / "m.gguf", write_random, None), slots=4)


@pytest.fixture(scope="module")
def wanted(free):
    """The tokens that the model tends to write, and all others with the same pieces."""
    found = {score.piece for sampling in SAMPLINGS.values() for score in scores(answer(free, sampling=sampling))}
    found |= {piece for score in scores(answer(free, sampling=GREEDY)) for piece, _ in score.top}
    assert len(found) > 20
    return {token: free.model.piece(token) for token in range(WORDS) if free.model.piece(token) in found}


@pytest.fixture(scope="module")
def held(load, write_random, tmp_path_factory, wanted):
    """The same model, whose file suppresses these tokens."""
    return load(write(tmp_path_factory.mktemp("held") / "m.gguf", write_random, sorted(wanted)), slots=4)


@pytest.mark.parametrize("sampling", SAMPLINGS.values(), ids=SAMPLINGS)
def test_suppressed_tokens_are_never_written(held, wanted, sampling):
    """With any sampling, suppressed tokens are never chosen, nor listed among the likeliest."""
    for score in scores(answer(held, sampling=sampling)):
        assert score.piece not in wanted.values()
        assert not {piece for piece, _ in score.top} & set(wanted.values())


def test_a_bias_does_not_raise_them(held, wanted):
    """A request cannot enable suppressed tokens with a bias."""
    for temperature in (0, 1):
        biased = Sampling(temperature=temperature, logit_bias=dict.fromkeys(wanted, 100.0), seed=1)
        assert not {score.piece for score in scores(answer(held, sampling=biased))} & set(wanted.values())


def test_grammars_do_not_choose_them(held, wanted):
    """If a grammar allows suppressed tokens and others, only the others are written."""
    for sampling in (GREEDY, SAMPLINGS["chain"]):
        told = scores(answer(held, sampling=sampling, constraint=Constraint("regex", "(?s:.{40,})")))
        assert told
        assert not {score.piece for score in told} & set(wanted.values())


@pytest.mark.parametrize("sampling", SAMPLINGS.values(), ids=SAMPLINGS)
def test_a_grammar_of_nothing_else_fails_its_request(held, wanted, sampling):
    """A grammar that allows only suppressed tokens fails its request with a reason, and the model keeps serving."""
    piece = min(piece.decode() for piece in wanted.values() if piece.isalpha() and len(piece) == 1)
    held.model.open(TextRequest("r", "tiny", prompt=PROMPT, sampling=sampling, constraint=Constraint("regex", piece)))
    deltas = []
    while not held.model.idle:
        deltas += held.model.step()
    assert isinstance(deltas[-1].error, LllmsError)
    assert not any(delta.text for delta in deltas)
    assert answer(held, sampling=sampling)


def test_prompts_may_have_them(held, free, wanted):
    """Suppressed tokens in a prompt are read as usual, and have their own log-probabilities."""
    prompt = (*PROMPT, *list(wanted)[:5])
    told = [
        next(delta.prompt_scores for delta in answer(talk, prompt=prompt, echo=True, sampling=GREEDY, max_tokens=1)
             if delta.prompt_scores is not None)
        for talk in (held, free)
    ]
    assert [score.logprob for score in told[0].rest] == pytest.approx([score.logprob for score in told[1].rest])
