"""The catalogue, and what a word finds in it."""

import re
from string import ascii_letters

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lllms_core.builtin.downloaders.hub import read_source
from lllms_core.builtin.downloaders.quants import BITS
from lllms_core.cli.unknown_models import proposed
from lllms_core.config import is_model_name
from lllms_core.curated import CuratedModel, Space, curated_models, is_named, known_model, needed, ranked
from lllms_core.curated.matching import Match, match_of, tokens

MODELS = curated_models()
GB = 10**9
LICENCES = {
    "Apache-2.0", "MIT", "Gemma Terms of Use",
    *(f"Llama {version} Community License" for version in ("3.1", "3.2", "3.3")),
}
models = st.sampled_from(MODELS)
spaces = st.builds(Space, st.none() | st.integers(0, 100 * GB), st.integers(0, 100 * GB))
words = (
    st.text(max_size=20)
    | st.sampled_from([name for model in MODELS for name in (model.name, *model.names, *model.words)])
    | st.lists(st.sampled_from(["llama", "3", "7b", "small", "code", "qwen", "large"]), max_size=3).map(" ".join)
)


def names_of(model: CuratedModel) -> list[str]:
    return [model.name, *model.names]


def test_the_catalogue_is_sound():
    """Each model has a repository with a known quantisation, a known licence, and names that no other has."""
    assert 15 <= len(MODELS) <= 30
    names = [tokens(name) for model in MODELS for name in names_of(model)]
    assert len(names) == len({*names})
    for model in MODELS:
        source = read_source(model.source)
        assert source is not None
        assert source.quant in BITS
        assert model.licence in LICENCES
        assert all(is_model_name(name) for name in names_of(model))
        # The size is what the parameters take in this quantisation; embeddings may be stored otherwise.
        assert 0.9 < model.size / (model.parameters * BITS[source.quant] / 8) < 1.35, model.name
        family = next((one for one in ("Llama", "Gemma") if model.name.startswith(one.lower())), None)
        assert family is None or model.licence.startswith(family)
    assert {model.task for model in MODELS} == {"chat", "embed"}
    assert min(model.size for model in MODELS if model.task == "chat") < 0.4 * GB
    assert max(model.size for model in MODELS) > 40 * GB


@pytest.mark.parametrize(("word", "first"), [
    ("llama3.2", "llama3.2:3b"), ("llama-3.2", "llama3.2:3b"), ("llama3.2:3b", "llama3.2:3b"),
    ("Llama 3.2 1B Instruct", "llama3.2:1b"), ("llama3.2:latest", "llama3.2:3b"), ("llama", "llama3.1:8b"),
    ("llama3", "llama3.1:8b"), ("lama3.2", "llama3.2:3b"), ("qwen", "qwen3:8b"), ("quen3", "qwen3:8b"),
    ("phi", "phi4-mini"), ("phi-3", "phi4-mini"), ("gemma", "gemma3:4b"), ("gemma2", "gemma3:4b"),
    ("mistral", "mistral:7b"), ("mixtral", "mistral:7b"), ("code", "qwen2.5-coder:7b"),
    ("coding", "qwen2.5-coder:7b"), ("embedding", "qwen3-embedding:0.6b"), ("embed english", None),
    ("small", "qwen3:4b"), ("small code", "qwen2.5-coder:1.5b"), ("tiny", "llama3.2:1b"), ("8b", "qwen3:8b"),
    ("openai", "gpt-oss:20b"), ("meta-llama/Llama-3.1-8B-Instruct", "llama3.1:8b"), ("zebra", None), ("", None),
])
def test_words_find_models(word, first):
    """Names in any spelling, families, purposes, sizes and misspellings find models; on 8 GB the best that fits."""
    found = ranked(word, MODELS, Space(8 * GB))
    assert (found[0].name if found else None) == first


@given(models, st.data())
def test_a_name_finds_its_model_in_any_spelling(model, data):
    """Case, and what separates the words and numbers of a name, do not matter; its model comes first."""
    name = data.draw(st.sampled_from(names_of(model)))
    spelt = re.sub("[:-]", lambda _: data.draw(st.sampled_from([":", "-", " ", "_", "/"])), name)
    spelt = "".join(one.upper() if data.draw(st.booleans()) else one for one in spelt)
    assert known_model(spelt) is model
    assert known_model(f"{spelt}:latest") is model
    assert ranked(spelt, MODELS, Space(None))[0] is model


@given(words)
def test_only_names_are_known(word):
    """`known_model` returns the one exact match, and nothing for any other word."""
    exact = [model for model in MODELS if (match_of(word, model) or [None])[0] == Match.EXACT]
    assert exact == [model for model in [known_model(word)] if model is not None]


@given(words, spaces, st.permutations(MODELS))
def test_the_order_is_by_match_then_fit_then_size(word, space, shuffled):
    """Better matches come first; of equal ones what fits, the largest first, and then the rest, the smallest first."""
    found = ranked(word, shuffled, space)
    assert len(found) == len({model.name for model in found})
    assert found == ranked(word, MODELS, space)
    matches = [match_of(word, model) for model in found]
    assert None not in matches
    assert matches == sorted(matches)
    for one, other, match, next_match in zip(found, found[1:], matches, matches[1:], strict=False):
        if match == next_match:
            fits = space.holds(one.size), space.holds(other.size)
            assert fits != (False, True)
            if fits == (True, True):
                assert one.size >= other.size
            elif fits == (False, False):
                assert one.size <= other.size


@given(st.text(ascii_letters + "0123456789.:-", max_size=300))
def test_any_word_is_answered(word):
    """No word fails; one without letters and numbers finds nothing."""
    assert {*ranked(word, MODELS, Space(GB))} <= {*MODELS}
    if not any(one.isalnum() for one in word):
        assert ranked(word, MODELS, Space(GB)) == []


def test_another_quantisation_is_another_model():
    """A name with a quantisation means the catalogue's file only if that is its own."""
    assert known_model("Llama-3.2-3B-Instruct-Q4_K_M") is known_model("llama3.2:3b")
    assert known_model("Llama-3.2-3B-Instruct-Q8_0") is None
    assert ranked("Llama-3.2-3B-Instruct-Q8_0", MODELS, Space(None))[0].name == "llama3.2:3b"


@given(spaces, st.integers(1, 100 * GB), st.integers(0, GB))
def test_more_space_holds_more(space, size, more):
    """What fits fits with more memory, and if it is smaller; without knowledge of the memory all fits."""
    assert needed(size) > size
    assert Space(None).holds(size)
    if space.main is not None and space.holds(size):
        assert Space(space.main + more, space.devices).holds(size)
        assert space.holds(max(1, size - more))
    if space.main is not None and space.devices >= needed(size):
        assert space.holds(size), "on the GPUs"


@given(spaces)
def test_a_model_to_begin_with(space):
    """Somebody who names nothing that is known is offered a chat model of moderate size, for half of the memory."""
    found = proposed(MODELS, space)
    assert len(found) <= 1
    for model in found:
        assert model.task == "chat"
        assert model.size <= 6 * GB
        assert space.most is None or 2 * needed(model.size) <= space.most
    assert found or (space.most is not None and space.most < 2 * GB)


@pytest.mark.parametrize(("word", "name", "named"), [
    ("llama3.2", "org/Llama-3.2-3B-Instruct-GGUF/x.gguf", True), ("llama 3b", "llama3.2:3b", True),
    ("qwen", "llama3.2:3b", False), ("tiny", "tiny-chat", True), ("", "tiny-chat", False), ("...", "x", False),
])
def test_other_names(word, name, named):
    """A word is in a name if all its tokens are."""
    assert is_named(word, name) == named
