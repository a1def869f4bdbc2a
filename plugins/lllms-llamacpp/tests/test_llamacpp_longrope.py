"""The two sets of RoPE factors of a model with LongRoPE: for contexts of the original length, and for longer ones."""

import numpy as np
import pytest
from models_for_tests import DIM, LAYERS, WORDS

from lllms_core.types import Message, Preload, Sampling, TextRequest

pytestmark = pytest.mark.slow

ORIGINAL, TRAINED = 256, 2048
PROMPT = "a man went to the river and saw " * 4


@pytest.fixture(scope="module")
def longrope(tmp_path_factory, write_random):
    """A model like the long-context Phi-3; its two sets of factors are far apart."""
    return write_phi(tmp_path_factory.mktemp("longrope") / "phi.gguf", write_random, 1.0, 64.0)


def write_phi(path, write_random, short, long):
    keys = {
        "context_length": TRAINED, "rope.scaling.original_context_length": ORIGINAL, "embedding_length": DIM,
        "feed_forward_length": 64, "block_count": LAYERS, "attention.head_count": 2, "attention.head_count_kv": 2,
        "attention.layer_norm_rms_epsilon": 1e-5, "rope.dimension_count": 16, "rope.freq_base": 10000.0,
        "rope.scaling.attn_factor": 1.2,
    }
    shapes = {"token_embd.weight": (WORDS, DIM), "output_norm.weight": (DIM,), "output.weight": (WORDS, DIM)}
    layer = {
        "attn_norm": (DIM,), "attn_qkv": (3 * DIM, DIM), "attn_output": (DIM, DIM), "ffn_norm": (DIM,),
        "ffn_up": (128, DIM), "ffn_down": (DIM, 64),
    }
    shapes |= {f"blk.{n}.{name}.weight": shape for n in range(LAYERS) for name, shape in layer.items()}
    shapes |= {f"rope_factors_{name}.weight": (8,) for name in ("long", "short")}

    def set_factors(name, data):
        factor = {"rope_factors_short.weight": short, "rope_factors_long.weight": long}.get(name)
        return data if factor is None else np.full_like(data, factor)

    return write_random(path, "phi3", keys, shapes, change=set_factors)


def answer(talk):
    """An answer's likeliest tokens, with their log-probabilities."""
    model = talk.model
    model.open(TextRequest("r", "phi", prompt=PROMPT, max_tokens=24, top_logprobs=1, sampling=Sampling(temperature=0)))
    scores = []
    while not model.idle:
        for delta in model.step():
            assert delta.error is None
            scores += delta.scores
    return [score.piece for score in scores], np.array([score.logprob for score in scores])


@pytest.mark.parametrize(("context", "long"), [
    (ORIGINAL, False), (ORIGINAL - 6, False), (ORIGINAL + 1, True), (TRAINED, True),
])
def test_the_context_of_a_request_decides_which_factors_are_used(
    load, longrope, tmp_path, write_random, context, long,
):
    """With any number of slots and any preload, the tokens are those of the factors for a single request's context."""
    factor = 64.0 if long else 1.0
    expected, sure = answer(load(write_phi(tmp_path / "same.gguf", write_random, factor, factor), slots=1))
    other, _ = answer(load(write_phi(tmp_path / "other.gguf", write_random, 65.0 - factor, 65.0 - factor), slots=1))
    assert other != expected
    for options in ({"slots": 1}, {"slots": 2}, {"slots": 4, "kv_size": 2 * context}):
        tokens, logprobs = answer(load(longrope, context_length=context, **options))
        assert tokens == expected
        assert logprobs == pytest.approx(sure, abs=1e-3)


def test_a_preload_does_not_change_the_factors(load, longrope):
    """The cells of a preloaded prefix do not count towards the context length either."""
    expected, _ = answer(load(longrope, context_length=ORIGINAL, slots=1))
    preload = Preload(messages=(Message("system", "be brief " * 20),))
    talk = load(longrope, preload=preload, context_length=ORIGINAL, slots=1)
    assert answer(talk)[0] == expected


def test_files_without_factors_are_loaded_as_they_are(load, file_of):
    """A model without LongRoPE gives the same tokens with any number of slots, as before."""
    assert answer(load(file_of("llama"), slots=1))[0] == answer(load(file_of("llama"), slots=4))[0]
