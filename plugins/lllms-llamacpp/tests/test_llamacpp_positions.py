"""Models with a table of positions, which they cannot exceed."""

import pytest
from lllms_llamacpp import LlamaCppEngine, Options
from models_for_tests import DIM, LAYERS, WORDS

from lllms_core.errors import ContextOverflow, ModelLoadFailed
from lllms_core.types import ModelSpec, Preload, Sampling, TextRequest

pytestmark = pytest.mark.slow

POSITIONS = 64


@pytest.fixture(scope="module", params=["gpt2", "starcoder"])
def file(request, write_random, tmp_path_factory):
    """A small model with learnt positions."""
    keys = {
        "context_length": POSITIONS, "embedding_length": DIM, "feed_forward_length": 64, "block_count": LAYERS,
        "attention.head_count": 2, "attention.layer_norm_epsilon": 1e-5,
    }
    shapes = {"token_embd.weight": (WORDS, DIM), "position_embd.weight": (POSITIONS, DIM), "output_norm.weight": (DIM,)}
    shapes["output_norm.bias"] = (DIM,)
    rows = {"attn_qkv": 3 * DIM, "attn_output": DIM, "ffn_up": 64, "ffn_down": DIM}
    for layer in range(LAYERS):
        for name in ("attn_norm", "ffn_norm"):
            shapes |= {f"blk.{layer}.{name}.weight": (DIM,), f"blk.{layer}.{name}.bias": (DIM,)}
        for name, size in rows.items():
            columns = 64 if name == "ffn_down" else DIM
            shapes |= {f"blk.{layer}.{name}.weight": (size, columns), f"blk.{layer}.{name}.bias": (size,)}
    return write_random(tmp_path_factory.mktemp(request.param) / "m.gguf", request.param, keys, shapes)


@pytest.mark.parametrize("preload", [None, Preload(prefix="one two three four five six seven")])
def test_every_learnt_position_can_be_used(load, file, preload):
    """By default, each of several requests may fill all positions, whatever is preloaded; a longer one is refused."""
    model = load(file, slots=3, preload=preload).model
    assert model.context_length == POSITIONS
    for name in ("one", "two", "three"):
        prompt = tuple(range(300, 300 + POSITIONS // 2))
        model.open(TextRequest(name, "m", prompt, sampling=Sampling(temperature=0, ignore_eos=True)))
    deltas = []
    while not model.idle:
        deltas += model.step()
    ends = [delta for delta in deltas if delta.last]
    assert all(delta.error is None for delta in deltas)
    used = [end.finish.usage.prompt_tokens + end.finish.usage.completion_tokens for end in ends]
    assert used == [POSITIONS] * 3
    with pytest.raises(ContextOverflow):
        model.open(TextRequest("four", "m", tuple(range(300, 300 + POSITIONS))))


@pytest.mark.parametrize("options", [{}, {"slots": 1}, {"kv_size": 4096}, {"rope_scaling": "yarn"}], ids=str)
def test_a_longer_context_is_refused(file, options):
    """No option allows a context longer than the table."""
    spec = ModelSpec("m", Options(context_length=POSITIONS + 1, **options), file)
    with pytest.raises(ModelLoadFailed, match="knows only 64 positions"):
        LlamaCppEngine().load(spec, lambda _: None)
