"""The context chosen by `context_length = "auto"`: the trained length, as far as memory allows."""

import logging
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from lllms_gpt4all import Gpt4AllEngine, Options
from lllms_gpt4all.preflight import compute_bytes, context_length, context_size, kv_bytes
from test_gpt4all_files import TINY

from lllms_core.engines import foresight
from lllms_core.gguf import read_gguf
from lllms_core.types import ModelSpec

pytestmark = pytest.mark.slow

GB = 10**9


@pytest.fixture(scope="module")
def trained_for(tmp_path_factory: pytest.TempPathFactory) -> dict[int, Path]:
    """Tiny-chat, with other trained lengths in its header."""
    folder = tmp_path_factory.mktemp("trained")
    key = b"llama.context_length\x04\x00\x00\x00%b"
    files = {length: folder / f"{length}.gguf" for length in (500, 4096, 20_000, 32_768, 131_072)}
    for length, file in files.items():
        old, new = (key % number.to_bytes(4, "little") for number in (1024, length))
        file.write_bytes(TINY.read_bytes().replace(old, new))
    return files


@pytest.mark.parametrize(("trained", "expected"), [(500, 500), (20_000, 20_000), (131_072, 131_072)])
def test_auto_is_what_a_model_was_trained_for(
    trained_for: dict[int, Path], monkeypatch: pytest.MonkeyPatch, trained: int, expected: int,
) -> None:
    """With enough memory it is the trained length; `inspect` reports it, and the tasks."""
    monkeypatch.setattr(foresight, "free_memory", lambda: 100 * GB)
    told = Gpt4AllEngine().inspect(ModelSpec("m", Options(), trained_for[trained]))
    assert told["context_length"] == expected
    assert told["tasks"] == "chat, detokenize, render, text, tokenize"


@given(free=st.none() | st.integers(0, 10 * GB), more=st.integers(0, GB), trained=st.sampled_from([500, 4096, 131_072]))
def test_auto_follows_the_free_memory(
    trained_for: dict[int, Path], free: int | None, more: int, trained: int,
) -> None:
    """Equal free memory gives equal contexts, more never a smaller one, and a context costs at most a quarter of it."""
    file = trained_for[trained]
    gguf = read_gguf(file)

    def taken(size: int | None) -> int:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(foresight, "free_memory", lambda: size)
            return context_length(gguf, Options(), file)

    length = taken(free)
    assert length == taken(free)
    assert min(trained, 4096) <= length <= trained
    if free is not None:
        assert taken(free + more) >= length
        cost = context_size(length) * kv_bytes(gguf) + compute_bytes(gguf, length)
        assert length <= 4096 or cost <= free // 4


@settings(deadline=None, max_examples=50)
@given(given_memory=st.integers(0, GB), trained=st.sampled_from([500, 4096, 131_072]))
def test_auto_follows_the_memory_it_is_given(trained_for: dict[int, Path], given_memory: int, trained: int) -> None:
    """A model takes no more than `ModelSpec.memory`, unless with the shortest context; what is told would fit, fits."""
    engine, file = Gpt4AllEngine(), trained_for[trained]
    spec = ModelSpec("m", Options(), file, memory=given_memory)
    length, memory = engine.inspect(spec)["context_length"], engine.estimate(spec)
    assert length == min(trained, 4096) or memory.total <= given_memory
    for told in engine.smaller(spec, lambda memory: memory.total <= given_memory):
        shorter = int(told.removeprefix("options.context_length = "))
        fitting = engine.estimate(ModelSpec("m", Options(context_length=shorter), file))
        assert fitting.total <= given_memory


def test_what_is_loaded_is_what_was_told(
    trained_for: dict[int, Path], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture,
) -> None:
    """The loaded model has the context that `inspect` reported, which is logged, with a warning beyond the training."""
    monkeypatch.setattr(foresight, "free_memory", lambda: 100 * GB)
    spec = ModelSpec("m", Options(threads=1), trained_for[20_000])
    with caplog.at_level(logging.INFO, logger="lllms.gpt4all"):
        model = Gpt4AllEngine().load(spec, lambda _: None)
        model.close()
    assert model.context_length == 20_000
    assert 'may hold 20000 tokens (context_length is "auto"); the model was trained for 20000' in caplog.text
    assert [one for one in caplog.records if one.levelno >= logging.WARNING] == []
    beyond = ModelSpec("m", Options(threads=1, context_length=600), trained_for[500])
    [finding] = Gpt4AllEngine().examine(beyond)
    assert not finding.fatal
    Gpt4AllEngine().load(beyond, lambda _: None).close()
    assert finding.text in caplog.text
    assert "context_length is 600, but the model was trained for 500 tokens" in finding.text
