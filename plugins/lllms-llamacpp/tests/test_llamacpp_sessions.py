"""Conversations that leave the KV cache and come back, in models of several architectures."""

from pathlib import Path

import pytest
from attrs import define, field

from lllms_core.engines.sequences import common_prefix
from lllms_core.engines.sessions import Session
from lllms_core.errors import ModelLoadFailed
from lllms_core.types import Preload

WORDS, DIM, LAYERS = 928, 32, 2
NAMES = ["tiny-chat", "llama", "sliding-window", "mamba"]


@define
class Link:
    """Keeps every session that is put, and finds the one that shares most."""

    model: object
    min_tokens: int = 8
    max_size: int = 2**30
    sessions: list[Session] = field(factory=list)
    restored: int = 0

    def put(self, session, *, whole):
        # What is sent goes through the bytes of a store.
        self.sessions.append(Session(session.tokens, bytes(session.state)))

    def find(self, request_id, tokens, known, *, whole):
        shared = [(common_prefix(one.tokens, tokens), one) for one in self.sessions]
        fit = [(n, one) for n, one in shared if n > known and (not whole or n == len(one.tokens))]
        self.restored += bool(fit)
        self.model.found(request_id, max(fit, key=lambda one: one[0])[1] if fit else None)


def transformer(norm, window):
    """The tensors of a small transformer, and its keys."""
    keys = {
        "context_length": 512, "embedding_length": DIM, "feed_forward_length": 64, "block_count": LAYERS,
        "attention.head_count": 2, "attention.head_count_kv": 1, "attention.layer_norm_rms_epsilon": 1e-5,
        "attention.key_length": 16, "attention.value_length": 16, "rope.dimension_count": 16,
        "rope.freq_base": 10000.0,
    }
    if window:
        keys["attention.sliding_window"] = window
    layer = {
        "attn_norm.weight": (DIM,), "attn_q.weight": (DIM, DIM), "attn_k.weight": (16, DIM),
        "attn_v.weight": (16, DIM), "attn_output.weight": (DIM, DIM), "ffn_norm.weight": (DIM,),
        "ffn_gate.weight": (64, DIM), "ffn_up.weight": (64, DIM), "ffn_down.weight": (DIM, 64),
        **{f"{name}.weight": (size,) for name, size in norm.items()},
    }
    return keys, layer


def mamba():
    """The tensors of a small recurrent model, and its keys."""
    inner, state, rank, kernel = 64, 8, 4, 4
    keys = {
        "context_length": 512, "embedding_length": DIM, "feed_forward_length": 0, "block_count": LAYERS,
        "attention.head_count": 0, "attention.layer_norm_rms_epsilon": 1e-5, "ssm.conv_kernel": kernel,
        "ssm.inner_size": inner, "ssm.state_size": state, "ssm.time_step_rank": rank,
    }
    return keys, {
        "attn_norm.weight": (DIM,), "ssm_in.weight": (2 * inner, DIM), "ssm_conv1d.weight": (inner, kernel),
        "ssm_conv1d.bias": (inner,), "ssm_x.weight": (rank + 2 * state, inner), "ssm_dt.weight": (inner, rank),
        "ssm_dt.bias": (inner,), "ssm_a": (inner, state), "ssm_d": (inner,), "ssm_out.weight": (DIM, inner),
    }


@pytest.fixture(scope="module")
def file_of(tmp_path_factory, write_random, tiny_file):
    """The model file of a name, written when first asked for."""
    gemma = {"post_attention_norm": DIM, "post_ffw_norm": DIM, "attn_q_norm": 16, "attn_k_norm": 16}
    recipes = {
        "llama": ("llama", transformer({}, None)), "sliding-window": ("gemma3", transformer(gemma, 16)),
        "mamba": ("mamba", mamba()),
    }
    written = {"tiny-chat": tiny_file}

    def file_of(name: str) -> Path:
        if name not in written:
            architecture, (keys, layer) = recipes[name]
            shapes = {"token_embd.weight": (WORDS, DIM), "output_norm.weight": (DIM,), "output.weight": (WORDS, DIM)}
            shapes |= {f"blk.{n}.{tensor}": shape for n in range(LAYERS) for tensor, shape in layer.items()}
            path = tmp_path_factory.mktemp(name) / f"{name}.gguf"
            written[name] = write_random(path, architecture, keys, shapes)
        return written[name]

    return file_of


FIRST = "one two three four five six seven eight nine ten eleven"
OTHER = "the dog and the cat went home and found a red ball there"
MORE = [" and then what", " but no, rather this", ""]


def converse(ask):
    """Turns with branches, an edited turn and a regenerated answer, and another conversation between any two."""
    said = []
    for _ in range(2):
        said.append(ask(FIRST))
        ask(OTHER)
        for more in MORE:
            said.append(ask(FIRST + said[0] + more))
            ask(OTHER)
    return said


@pytest.mark.parametrize("name", NAMES)
def test_restored_conversation_says_the_same(load, file_of, name):
    """Greedy text is the same, token for token, whether a conversation is evaluated, resident, or restored."""
    fresh = load(file_of(name), slots=1, context_length=256)
    # What random models say are no words: in a prompt it is other tokens, which not every model can go back from.
    length = 1 if name in ("mamba", "sliding-window") else 12
    expected = converse(lambda prompt: fresh.ask(prompt=prompt, max_tokens=length, cache_prompt=False).text)
    talk = load(file_of(name), slots=2, context_length=256, kept_tokens=0)
    link = Link(talk.model)
    talk.model.use_sessions(link)
    cached = []

    def ask(prompt):
        answer = talk.ask(prompt=prompt, max_tokens=length)
        cached.append(answer.cached)
        return answer.text

    assert converse(ask) == expected
    assert link.restored > 4
    assert sum(cached) > 100


@pytest.mark.parametrize("name", NAMES)
def test_preload_is_shared(load, file_of, name):
    """What begins as the preload reuses it, in every architecture, and says what it says without."""
    talk = load(file_of(name), slots=2, context_length=256, kv_size=600)
    talk.model.preload("preload", Preload(prefix=FIRST))
    while not talk.model.idle:
        talk.model.step()
    for word in ("cat", "dog", "ball"):
        other = talk.ask(prompt=f"{word} {OTHER}", max_tokens=4)
        assert other.cached < 5
        served = talk.ask(prompt=FIRST + " twelve", max_tokens=4)
        assert served.cached > 8
        assert served.text == talk.ask(prompt=FIRST + " twelve", max_tokens=4, cache_prompt=False).text


def test_preload_without_room_is_refused(load, file_of):
    """A preload that leaves too little room for a request is refused, with what to raise."""
    talk = load(file_of("tiny-chat"), slots=1, context_length=256)
    with pytest.raises(ModelLoadFailed, match=r"raise options\.kv_size by \d+"):
        talk.model.preload("preload", Preload(prefix=FIRST))


@pytest.mark.parametrize("cut", [0, 10, 1000, -1])
def test_damaged_state_is_refused(load, file_of, cut):
    """A state that was cut is refused, and the sequence is as empty as before: the request is evaluated."""
    talk = load(file_of("tiny-chat"), slots=1, kept_tokens=0)
    link = Link(talk.model)
    talk.model.use_sessions(link)
    first = talk.ask(FIRST)
    talk.ask(OTHER)
    session = link.sessions[0]
    link.sessions[:] = [Session(session.tokens, session.state[:cut])]
    again = talk.ask(FIRST)
    assert again.cached < 8
    assert again.text == first.text


@pytest.mark.parametrize(
    ("options", "same"),
    [({"slots": 2}, True), ({"batch_size": 64}, True), ({"context_length": 300}, False), ({"kv_type_k": "f32"}, False),
     ({"rope_freq_base": 500.0}, False)],
)
def test_state_key_tells_what_matters(load, file_of, options, same):
    """Options by which a state becomes another one change the key of the states; others do not."""
    keys = [load(file_of("tiny-chat"), **one).model.state_key for one in ({}, options)]
    assert (keys[0] == keys[1]) is same
