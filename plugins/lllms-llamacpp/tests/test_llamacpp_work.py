"""How much longer a token takes in a long context: by the header of a model, and for the tokens of a batch."""

from collections.abc import Callable
from math import inf
from pathlib import Path

import llama_cpp.llama_cpp as llama
import pytest
from lllms_llamacpp.batch import Batch
from lllms_llamacpp.work import reach, work
from mixtures_for_tests import DIM, EXPERTS, INNER, WORDS, write_mixture
from mixtures_for_tests import LAYERS as DEPTH
from models_for_tests import LAYERS

from lllms_core.engines import Feed
from lllms_core.gguf import read_gguf


def reach_of(file: Path) -> float:
    model = llama.llama_model_load_from_file(str(file).encode(), llama.llama_model_default_params())
    assert model is not None
    try:
        return reach(model, read_gguf(file))
    finally:
        llama.llama_model_free(model)


def test_attention_is_weighed_against_the_weights(file_of: Callable[[str], Path]) -> None:
    """Its two products per cell, of 32 numbers in each layer, against all weights but the embedding, a mere table."""
    layer = 2 * 32 * 32 + 2 * 16 * 32 + 3 * 64 * 32 + 2 * 32
    weights = LAYERS * layer + 32 + WORDS * 32
    assert reach_of(file_of("llama")) == pytest.approx(weights / (2 * LAYERS * 32))


def test_only_the_experts_that_a_token_uses_count(tmp_path: Path, write_random: Callable[..., Path]) -> None:
    """Of four experts, two work on a token, so attention takes as long as the rest at fewer cells."""
    found = reach_of(write_mixture(write_random, tmp_path / "mixture.gguf"))
    experts = DEPTH * 3 * EXPERTS * INNER * DIM
    assert experts / 2 < found * 2 * DEPTH * DIM < experts


@pytest.mark.parametrize("name", ["sliding-window", "mamba"])
def test_windows_and_states_reach_no_further(name: str, file_of: Callable[[str], Path]) -> None:
    """What a token costs does not grow with the context there, or in few layers only."""
    assert reach_of(file_of(name)) == inf


def test_a_batch_sums_up_the_work_of_its_tokens() -> None:
    """Each token costs one, and more by the cells before it."""
    batch = Batch(80, reach=100)
    batch.fill([Feed(0, 100, (1, 2), logits=False), Feed(1, 0, (3,), logits=True)])
    assert (batch.tokens, batch.work) == (3, work(3, 2 * 101 + 0.5, 100))
    batch.fill([Feed(0, 300, (1,), logits=True)])
    assert batch.work == pytest.approx(1 + 1.5 * 300.5 / 100)
    endless = Batch(8)
    endless.fill([Feed(0, 1000, (1, 2), logits=True)])
    assert endless.work == 2


def test_few_tokens_that_attend_apart_cost_more() -> None:
    """A token among 2 to 63 costs more in a deep context than alone, or among 64."""
    alone, few, many = (work(count, count * 1000.0, 500) / count for count in (1, 24, 64))
    assert alone == many == 1 + 1.5 * 2
    assert few == 1 + 5 * 2
