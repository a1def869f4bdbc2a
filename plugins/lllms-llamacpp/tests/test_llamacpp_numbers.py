"""Weights that are NaN, which never become an answer."""

import json

import numpy as np
import pytest
from berts_for_tests import random_bert
from models_for_tests import DIM, LAYERS, RECIPES, WORDS

from lllms_core.app import create_app
from lllms_core.config import parse_config
from lllms_core.errors import EngineFailed
from lllms_core.host import Host
from lllms_core.queries import RerankRequest
from lllms_core.types import Sampling, TextRequest

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def spoilt(tmp_path_factory, write_random):
    """A model in which a single token's logit is NaN."""
    keys, layer = RECIPES["llama"][1]
    shapes = {"token_embd.weight": (WORDS, DIM), "output_norm.weight": (DIM,), "output.weight": (WORDS, DIM)}
    shapes |= {f"blk.{n}.{tensor}": shape for n in range(LAYERS) for tensor, shape in layer.items()}

    def spoil(name, data):
        if name == "output.weight":
            data[WORDS // 2, 3] = np.nan
        return data

    return write_random(tmp_path_factory.mktemp("spoilt") / "m.gguf", "llama", keys, shapes, change=spoil)


@pytest.mark.parametrize("sampling", [
    Sampling(temperature=0), Sampling(temperature=1, seed=1), Sampling(temperature=1, top_k=3, seed=1),
    Sampling(temperature=0, repeat_penalty=1.5), Sampling(temperature=1, mirostat=2, seed=1),
], ids=["greedy", "chain", "few", "penalties", "mirostat"])
def test_a_single_logit_that_is_no_number_is_a_failure(load, spoilt, sampling):
    """If any token's logit is NaN, the request fails with a reason, whatever the sampling."""
    model = load(spoilt).model
    model.open(TextRequest("r", "tiny", prompt="hello", max_tokens=5, sampling=sampling))
    deltas = []
    while not model.idle:
        deltas += model.step()
    assert isinstance(deltas[-1].error, EngineFailed)
    assert "not numbers (NaN)" in deltas[-1].error.message


def spoilt_bert(pooling, path):
    bert = random_bert()
    name = "classifier.bias" if pooling == 4 else "encoder.layer.1.output.dense.bias"
    bert.weights[name][:] = np.nan
    return bert.write(path, pooling=pooling)


def test_a_score_that_is_no_number_is_a_failure(load, tmp_path):
    """A ranking model whose scores are NaN fails, and gives no document a plausible score."""
    model = load(spoilt_bert(4, tmp_path / "rank.gguf")).model
    model.open_rerank(RerankRequest("r", "m", "which?", ("cat", "dog")))
    [delta] = model.step()
    assert isinstance(delta.error, EngineFailed)
    assert "not finite" in delta.error.message


@pytest.mark.asyncio
async def test_bodies_are_json(spoilt, tmp_path):
    """Over HTTP such models answer with errors that name the fault, in standard JSON."""
    models = {
        "text": {"engine": "llamacpp", "file": str(spoilt)},
        "vectors": {"engine": "llamacpp", "file": str(spoilt_bert(1, tmp_path / "vectors.gguf"))},
        "ranks": {"engine": "llamacpp", "file": str(spoilt_bert(4, tmp_path / "ranks.gguf"))},
    }
    asked = [
        ("completions", {"model": "text", "prompt": "hello", "logprobs": 3, "max_tokens": 5}),
        ("completions", {"model": "text", "prompt": "hello", "logprobs": 3, "max_tokens": 5, "echo": True}),
        ("embeddings", {"model": "vectors", "input": "hello"}),
        ("rerank", {"model": "ranks", "query": "cat?", "documents": ["cat", "dog"]}),
    ]
    async with Host(parse_config({"server": {"port": 0}, "models": models})) as host:
        client = create_app(host, manage_host=False).test_client()
        for route, body in asked:
            answer = await client.post(f"/v1/{route}", json=body, headers={"Host": "localhost"})
            text = await answer.get_data(as_text=True)
            assert answer.status_code == 500
            error = json.loads(text, parse_constant=pytest.fail)["error"]
            assert "NaN" in error["message"] or "not finite" in error["message"]
