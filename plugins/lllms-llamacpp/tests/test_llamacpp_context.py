"""The context chosen by `context_length = "auto"`: the trained length, as far as memory allows."""

import logging
import sys

import pytest
from attrs import evolve
from hypothesis import given, settings
from hypothesis import strategies as st
from lllms_llamacpp import LlamaCppEngine, Options
from lllms_llamacpp.context import MOST_SLOTS, settle
from lllms_llamacpp.memory import estimate
from models_for_tests import DIM, RECIPES, WORDS, Link
from test_llamacpp_files import try_to_load
from test_llamacpp_longrope import ORIGINAL, write_phi

from lllms_core.engines import foresight
from lllms_core.errors import ContextOverflow
from lllms_core.gguf import read_gguf
from lllms_core.types import ModelSpec, Sampling, TextRequest

pytestmark = pytest.mark.slow

GB = 10**9
LONG = 32_768


@pytest.fixture(scope="module")
def trained_for(tmp_path_factory, write_random):
    """Write a model with this trained length in its header, and with keys and values of `width` numbers."""
    folder = tmp_path_factory.mktemp("trained")

    def trained_for(length, width=16, layers=2):
        file = folder / f"{length}-{width}-{layers}.gguf"
        architecture, (keys, layer) = RECIPES["llama"]
        keys = keys | {"context_length": length, "block_count": layers}
        keys |= dict.fromkeys(("attention.key_length", "attention.value_length", "rope.dimension_count"), width)
        layer = layer | {
            "attn_q.weight": (2 * width, DIM), "attn_k.weight": (width, DIM), "attn_v.weight": (width, DIM),
            "attn_output.weight": (DIM, 2 * width),
        }
        shapes = {"token_embd.weight": (WORDS, DIM), "output_norm.weight": (DIM,), "output.weight": (WORDS, DIM)}
        shapes |= {f"blk.{n}.{name}": shape for n in range(layers) for name, shape in layer.items()}
        return file if file.exists() else write_random(file, architecture, keys, shapes)

    return trained_for


@pytest.fixture
def free(monkeypatch):
    """Set the amount of free memory."""
    def free(size):
        monkeypatch.setattr(foresight, "free_memory", lambda: size)

    return free


def inspect(file, **options):
    """The context that the engine reports before a load."""
    return LlamaCppEngine().inspect(ModelSpec("m", Options(threads=1, **options), file))["context_length"]


@pytest.mark.parametrize(
    ("trained", "cells"),
    [(512, 4 * 512), (1000, 4 * 1000), (8192, 4 * 8192), (LONG, 4 * LONG), (131_072, 2 * 131_072)],
)
def test_auto_is_what_a_model_was_trained_for(trained_for, free, trained, cells):
    """With enough memory, a request may hold as many tokens as the model was trained for.

    The KV cache has room for 32,768 tokens per slot, and for two requests of the trained length.
    """
    free(100 * GB)
    file = trained_for(trained)
    assert inspect(file) == trained
    settled = settle([read_gguf(file)], Options())
    assert (settled.kv_size or 4 * settled.context_length) == cells


def test_a_model_trained_for_long_texts_reads_one(load, trained_for):
    """With the default options, a request of more than 4,096 tokens is answered."""
    talk = load(trained_for(LONG))
    assert talk.model.context_length == talk.model.info.details["context_length"] == LONG
    answer = talk.ask(prompt=tuple(range(5, 505)) * 11, max_tokens=2)
    assert answer.usage.prompt_tokens == 5500


def test_what_is_loaded_is_what_was_told(load, trained_for, free, caplog):
    """With little free memory, the load takes the context that `inspect` and `estimate` reported, and logs it."""
    file = trained_for(LONG, width=128, layers=16)
    free(GB)
    told = inspect(file)
    memory = LlamaCppEngine().estimate(ModelSpec("m", Options(threads=1), file))
    assert memory.kv + memory.compute <= GB // 4
    with caplog.at_level(logging.INFO, logger="lllms.llamacpp"):
        talk = load(file)
    assert 4096 < talk.model.context_length == talk.model.info.details["context_length"] == told < LONG
    said = f'a request may hold {told} tokens (context_length is "auto"); the model was trained for 32768'
    assert said in caplog.text
    requests = [TextRequest(name, "m", prompt="Hi", sampling=Sampling(temperature=0)) for name in "ab"]
    for request in requests:
        talk.model.open(request)
    running = {delta.request_id for _ in range(6) for delta in talk.model.step()}
    assert running == {"a", "b"}, "two requests without a limit run at once"
    for request in requests:
        list(talk.model.cancel(request.id))
    with pytest.raises(ContextOverflow, match=f"holds {told}"):
        talk.model.open(TextRequest("c", "m", prompt=(5,) * told))


@given(
    free=st.integers(0, 40 * GB), more=st.integers(0, GB), slots=st.integers(1, 64),
    trained=st.sampled_from([300, 4096, 10_000, LONG, 131_072]),
    kv_size=st.none() | st.integers(1, 200_000), kind=st.sampled_from(["f16", "q8_0"]),
)
def test_auto_follows_the_free_memory(trained_for, free, more, slots, trained, kv_size, kind):
    """Equal free memory gives equal contexts, more never a smaller one, and the cost stays within the bounds."""
    parts = [read_gguf(trained_for(trained, width=128, layers=16))]
    options = Options(slots=slots, kv_size=kv_size, kv_type_k=kind)

    def settled(size):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(foresight, "free_memory", lambda: size)
            return settle(parts, options)

    made = settled(free)
    assert made == settled(free)
    least = min(trained, foresight.LEAST_CONTEXT, kv_size or LONG)
    assert least <= made.context_length <= min(trained, kv_size or trained)
    assert settled(free + more).context_length >= made.context_length
    assert settle(parts, made) == made
    memory = estimate(parts, made)
    cells = made.kv_size or made.context_length * slots
    assert cells >= made.context_length
    if kv_size is not None:
        assert made.kv_size == kv_size
    elif made.context_length > least:
        assert memory.kv + memory.compute <= max(0, min(free // 4, free - memory.weights - memory.overhead))
        assert cells >= min(slots, 2) * made.context_length


@settings(deadline=None)
@given(
    memory=st.integers(0, 4 * GB), more=st.integers(0, GB), slots=st.integers(1, 16) | st.just("auto"),
    trained=st.sampled_from([300, 4096, 10_000, 131_072]), kv_size=st.none() | st.integers(1, 200_000),
    length=st.sampled_from(["auto", 100, 5000]), embeds=st.booleans(),
)
def test_auto_takes_no_more_than_it_is_given(trained_for, memory, more, slots, trained, kv_size, length, embeds):
    """With `ModelSpec.memory`, the estimate stays within it, unless the sizes are the least; more never gives less."""
    if kv_size is not None and length != "auto":
        kv_size = max(kv_size, length)
    kv_size = None if embeds else kv_size
    parts = [read_gguf(trained_for(trained, width=128, layers=16))]
    kind = {"embeddings": True, "pooling": "mean"} if embeds else {}
    options = Options(slots=slots, context_length=length, kv_size=kv_size, **kind)
    made, richer = settle(parts, options, memory), settle(parts, options, memory + more)
    assert made == settle(parts, options, memory)
    assert settle(parts, made, 0) == made
    assert richer.context_length >= made.context_length
    assert estimate(parts, richer).total >= estimate(parts, made).total
    assert 1 <= made.slots <= (MOST_SLOTS if slots == "auto" else slots)
    assert made.slots == slots or slots == "auto"
    assert made.context_length == length or made.context_length <= trained
    if estimate(parts, made).total > memory:
        assert made == settle(parts, options, 0)


def test_slots_are_as_many_as_fit(trained_for):
    """With automatic slots there is one per context that fits, or per 4,096 tokens if the context is automatic, too."""
    file = trained_for(LONG, width=128, layers=16)

    def slots(given, **options):
        settled = settle([read_gguf(file)], Options(slots="auto", **options), given)
        return settled.slots, settled.context_length, settled.kv_size

    fixed = estimate([read_gguf(file)], Options(context_length=4096, slots=1))
    fixed = fixed.weights + fixed.overhead + fixed.compute
    each = 4096 * 16 * 128 * 4
    assert slots(0, context_length=4096) == (1, 4096, None)
    assert slots(fixed + 3 * each + each // 2, context_length=4096) == (3, 4096, None)
    assert slots(100 * GB, context_length=4096) == (8, 4096, None)
    assert slots(100 * GB) == (8, LONG, None)
    assert slots(0) == (1, 4096, 4096)
    some, length, cells = slots(fixed + 5 * each + each // 2)
    assert some in {4, 5}
    assert cells >= 2 * length
    assert slots(0, kv_size=10_000, context_length=5000) == (2, 5000, 10_000)


def test_automatic_slots_run(trained_for, caplog):
    """A model with automatic slots and context says at its load what it took, and why no more."""
    file = trained_for(LONG, width=128, layers=16)
    spec = ModelSpec("m", Options(threads=1, slots="auto"), file, memory=200_000_000)
    with caplog.at_level(logging.INFO, logger="lllms.llamacpp"):
        model = LlamaCppEngine().load(spec, lambda _: None)
    model.close()
    told = LlamaCppEngine().estimate(spec)
    assert told.total <= 200_000_000
    assert model.context_length == LlamaCppEngine().inspect(spec)["context_length"]
    assert 4096 < model.context_length < LONG
    assert 1 < model.slots < 8
    assert (
        f'a request may hold {model.context_length} tokens (context_length is "auto"); the model was trained for'
        f' {LONG}, but no more fit into 200.0 MB; {model.slots} may run at once (slots is "auto")'
    ) in caplog.text


@settings(deadline=None, max_examples=50)
@given(
    room=st.integers(0, GB), slots=st.integers(1, 8), length=st.sampled_from(["auto", 3000, 20_000]),
    kv_size=st.sampled_from([None, 30_000]),
)
def test_what_would_fit_fits(trained_for, room, slots, length, kv_size):
    """Each change that is told makes the model fit, and a larger one of its kind would not."""
    file = trained_for(LONG, width=128, layers=16)
    options = Options(slots=slots, context_length=length, kv_size=kv_size)
    engine = LlamaCppEngine()

    def total(**changes):
        return engine.estimate(ModelSpec("m", evolve(options, **changes), file, memory=0)).total

    ways = list(engine.smaller(ModelSpec("m", options, file, memory=0), lambda memory: memory.total <= room))
    for way in ways:
        changes = {name.removeprefix("options."): int(value) for name, _, value in
                   (one.partition(" = ") for one in way.split(" and "))}
        assert total(**changes) <= room
        if total() > room and list(changes) == ["slots"]:
            assert total(slots=changes["slots"] + 1) > room
        if total() > room and list(changes) == ["context_length"]:
            assert total(context_length=changes["context_length"] + 1024) > room
    assert ways or total(slots=1) > room


def test_weights_leave_less(trained_for, free):
    """The context takes no memory away from the weights."""
    file = trained_for(LONG, width=128, layers=16)
    weights = LlamaCppEngine().estimate(ModelSpec("m", Options(), file)).weights
    free(weights + 1)
    assert inspect(file) == foresight.LEAST_CONTEXT


def test_a_model_that_embeds_likewise(trained_for, free):
    """An embedding model's context is limited by the memory of its largest pass."""
    file = trained_for(LONG)
    embeds = {"embeddings": True, "pooling": "mean"}
    free(100 * GB)
    assert inspect(file, **embeds) == LONG
    free(400_000_000)
    told = inspect(file, **embeds)
    memory = LlamaCppEngine().estimate(ModelSpec("m", Options(**embeds), file))
    assert 4096 < told < LONG
    assert memory.compute <= 100_000_000


def test_a_system_that_tells_nothing_has_some_memory(trained_for, free):
    """If the free memory is unknown, a typical machine is assumed."""
    free(None)
    assert inspect(trained_for(LONG)) == LONG


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_a_context_that_cannot_be_made_is_halved(trained_for):
    """If memory turns out to be short, "auto" halves the context, repeatedly if needed, rather than fail."""
    file = trained_for(LONG, width=128, layers=32)  # 512 MiB for 32,768 tokens
    little = (
        "import lllms_llamacpp.loading, resource; from lllms_core.engines import foresight\n"
        "foresight.free_memory = lambda: 1 << 40\n"
        "there = int(open('/proc/self/statm').read().split()[0]) * resource.getpagesize() + (400 << 20)\n"
        "resource.setrlimit(resource.RLIMIT_AS, (there, there))\n"
    )
    [[outcome, _]] = try_to_load(file, before=little)
    assert outcome == "loaded"
    [[outcome, reason]] = try_to_load(file, before=little, context_length=LONG)
    assert outcome == "refused"
    assert "no context can be created" in reason


@pytest.mark.parametrize("name", ["tiny-chat", "llama", "mamba"])
def test_sessions_outlive_a_change_of_the_context(load, file_of, name):
    """A conversation stored with one context length can be restored and resumed with another."""
    first, second = load(file_of(name), context_length=256), load(file_of(name), context_length=300, slots=1)
    assert first.model.state_key == second.model.state_key
    link = Link(first.model)
    first.model.use_sessions(link)
    prompt = "one two three four five six seven eight nine ten eleven"
    expected = first.ask(prompt=prompt, max_tokens=1).text
    first.model.store_sessions()
    link.model = second.model
    second.model.use_sessions(link)
    assert second.ask(prompt=prompt + expected, max_tokens=1).cached > 8
    assert link.restored == 1


def test_states_of_other_factors_are_others(load, tmp_path, write_random):
    """With LongRoPE, the states for contexts beyond the original length differ from those for shorter ones."""
    file = write_phi(tmp_path / "phi.gguf", write_random, 1.0, 64.0)
    keys = [load(file, context_length=length).model.state_key for length in (ORIGINAL - 6, ORIGINAL, ORIGINAL + 1, 900)]
    assert keys[0] == keys[1] != keys[2] == keys[3]


@pytest.mark.parametrize(
    ("options", "tasks"),
    [({}, "chat, detokenize, render, text, tokenize"), ({"embeddings": True, "pooling": "mean"},
                                                        "detokenize, embed, tokenize")],
)
def test_tasks_are_told_without_a_load(load, tiny_file, options, tasks):
    """The tasks that `inspect` reports are those that the loaded model can do."""
    assert LlamaCppEngine().inspect(ModelSpec("m", Options(**options), tiny_file))["tasks"] == tasks
    assert sorted(load(tiny_file, **options).model.tasks) == tasks.split(", ")
