"""Drafts change no answer: not its text, nor its scores, its reason, its counts."""

import json
from collections import Counter
from itertools import product

import pytest
from free_drafts_for_tests import draft_freely
from gpus_for_tests import equal_sums
from lllms_llamacpp import Draft, LlamaCppEngine, Options

from lllms_core.bench import random_model
from lllms_core.errors import ModelLoadFailed
from lllms_core.types import ChatRequest, Constraint, Message, ModelSpec, Sampling, TextRequest, Tool

pytestmark = pytest.mark.slow

PERSON = {
    "type": "object", "required": ["name_of_the_person", "years_of_age"], "additionalProperties": False,
    "properties": {
        "name_of_the_person": {"type": "string", "maxLength": 9},
        "years_of_age": {"type": "integer", "minimum": 0, "maximum": 150},
    },
}
SCHEMA = Constraint("json_schema", json.dumps(PERSON))
CITY = {"type": "object", "properties": {"city": {"type": "string", "maxLength": 12}}, "required": ["city"],
        "additionalProperties": False}
WEATHER = Tool("get_weather", parameters=CITY)
LIST = "Repeat after me: one two three four, one two three four, one two three four."
SAMPLINGS = {
    "greedy": Sampling(temperature=0), "seeded": Sampling(seed=5), "wild": Sampling(seed=6, temperature=1.6, top_k=0),
    "penalties": Sampling(temperature=0, repeat_penalty=1.3, frequency_penalty=0.4, presence_penalty=0.2),
    "random penalties": Sampling(seed=7, temperature=1.1, repeat_penalty=1.2, frequency_penalty=0.5),
    "mirostat": Sampling(seed=8, mirostat=2), "dry": Sampling(temperature=0, dry_multiplier=2.0, dry_allowed_length=2),
    "xtc": Sampling(seed=9, xtc_probability=0.5, xtc_threshold=0.1), "biased": Sampling(seed=4, logit_bias={300: 3.0}),
    "typical": Sampling(seed=10, typical_p=0.8, min_p=0.02, temperature=1.3),
}
REQUESTS = {
    "story": {"text": "Tell me a story.", "max_tokens": 60},
    "count": {"text": "Count to 20.", "max_tokens": 90},
    "list": {"text": LIST, "max_tokens": 60},
    "stop": {"text": "Count to 20.", "stop": ("7, 8",), "max_tokens": 90},
    "scores": {"text": "Count to 20.", "top_logprobs": 3, "max_tokens": 40},
    "grammar": {"text": "Who is Ann?", "constraint": SCHEMA, "max_tokens": 70, "top_logprobs": 2},
    "choices": {"text": "Count to 20.", "n": 2, "max_tokens": 30},
    "calls": {"text": "What is the weather in Paris and Berlin?", "tools": (WEATHER,), "max_tokens": 120},
    "required": {
        "text": "What is the weather in Paris?", "tools": (WEATHER,), "tool_choice": "required", "max_tokens": 90,
    },
    "one": {"text": "Count to 20.", "max_tokens": 1},
}


def ask(model, text, sampling, name="r", **fields):
    """The deltas of an answer."""
    model.open(ChatRequest(name, "tiny", (Message("user", text),), sampling=sampling, **fields))
    deltas = []
    while not model.idle:
        deltas += model.step()
    assert all(delta.error is None for delta in deltas), deltas[-1].error
    return deltas


def content(deltas):
    """All that a client sees of an answer, whatever its pieces."""
    indices = sorted({delta.index for delta in deltas})
    texts = [("".join(d.text for d in deltas if d.index == i), "".join(d.reasoning for d in deltas if d.index == i))
             for i in indices]
    arguments = {}
    for piece in (piece for delta in deltas for piece in delta.calls):
        name, before = arguments.get(piece.id, ("", ""))
        arguments[piece.id] = name or piece.name, before + piece.arguments
    scores = [(score.piece, round(score.logprob, 2)) for delta in deltas for score in delta.scores]
    tokens = Counter()
    for delta in deltas:
        tokens[delta.index] += delta.tokens
    finish = deltas[-1].finish
    return texts, list(arguments.values()), scores, tokens, finish.reason, finish.stop, finish.usage.completion_tokens


@pytest.fixture(scope="module")
def plain(load):
    """A model that drafts nothing."""
    return load(speculation="off").model


@pytest.fixture(scope="module")
def drafting(load, tiny_file):
    """A model that drafts whenever it can: from what it finds, else by a second one, which is its own file."""
    return draft_freely(load(speculation=Draft(tiny_file)).model)


@pytest.fixture(scope="module")
def finding(load):
    """A model that drafts only what it finds."""
    return draft_freely(load().model)


@equal_sums
@pytest.mark.parametrize("request_name", REQUESTS)
def test_answers_with_drafts_are_those_without(plain, drafting, finding, request_name):
    """Text, calls, scores, reasons and counts are the same with the same seed, for every kind of request."""
    request, accepted = REQUESTS[request_name], 0
    for sampling in (SAMPLINGS["greedy"], SAMPLINGS["random penalties"]):
        expected = content(ask(plain, sampling=sampling, cache_prompt=False, **request))
        for model in (drafting, finding):
            deltas = ask(model, sampling=sampling, cache_prompt=False, **request)
            assert content(deltas) == expected
            accepted += deltas[-1].finish.usage.accepted_tokens
    assert accepted > 5 or request["max_tokens"] == 1


@equal_sums
@pytest.mark.parametrize("sampling", SAMPLINGS)
def test_every_sampler_advances_by_accepted_tokens_alone(plain, drafting, sampling):
    """Penalties, random numbers, Mirostat's state and grammars are those of answers without drafts."""
    for name in ("list", "grammar"):
        request = {**REQUESTS[name], "max_tokens": 40}
        expected = content(ask(plain, sampling=SAMPLINGS[sampling], cache_prompt=False, **request))
        assert content(ask(drafting, sampling=SAMPLINGS[sampling], cache_prompt=False, **request)) == expected


@equal_sums
def test_neighbours_with_drafts_answer_as_alone(plain, drafting):
    """Several answers that are drafted at once are those that each has alone."""
    requests = {f"{name} {sampling}": (REQUESTS[name], SAMPLINGS[sampling]) for name, sampling in product(
        ("story", "count", "grammar", "stop"), ("greedy", "penalties"),
    )}
    found = {}
    for name, (request, sampling) in requests.items():
        fields = {key: value for key, value in request.items() if key != "text"}
        drafting.open(ChatRequest(name, "tiny", (Message("user", request["text"]),), sampling=sampling, **fields))
    while not drafting.idle:
        for delta in drafting.step():
            found.setdefault(delta.request_id, []).append(delta)
    for name, (request, sampling) in requests.items():
        alone = content(ask(plain, sampling=sampling, **request))
        assert content(found[name])[0] == alone[0], name


def test_a_draft_model_saves_steps(plain, drafting):
    """With a draft model that is always right, an answer of many tokens takes a few steps."""
    steps = {}
    for model in (plain, drafting):
        model.open(ChatRequest("r", "tiny", (Message("user", "Count to 20."),), sampling=SAMPLINGS["greedy"]))
        steps[model] = 0
        while not model.idle:
            list(model.step())
            steps[model] += 1
    assert steps[plain] > 80
    assert steps[drafting] < 15


def test_the_next_turn_continues_after_drafts(drafting):
    """What drafts left in the cache is the conversation, so that its next turn evaluates only what is new."""
    first = ask(drafting, "Count to 20.", SAMPLINGS["greedy"])
    said = "".join(delta.text for delta in first)
    turns = (Message("user", "Count to 20."), Message("assistant", said), Message("user", "ping"))
    drafting.open(ChatRequest("next", "tiny", turns, sampling=SAMPLINGS["greedy"]))
    deltas = []
    while not drafting.idle:
        deltas += drafting.step()
    assert "".join(delta.text for delta in deltas) == "pong"
    usage = deltas[-1].finish.usage
    assert usage.prompt_tokens - usage.cached_tokens < 20


def test_what_a_grammar_forces_is_written_without_the_model(plain, finding):
    """The names in a JSON schema take no steps of their own, and their scores say that nothing else could come."""
    sampling = Sampling(seed=3, temperature=1.5)
    steps = {}
    for model in (plain, finding):
        message = Message("user", "Ann?")
        model.open(ChatRequest("r", "tiny", (message,), sampling=sampling, constraint=SCHEMA, top_logprobs=1))
        steps[model], deltas = 0, []
        while not model.idle:
            new = model.step()
            deltas += new
            steps[model] += bool(new)  # others wait for the grammar
        scores = [score for delta in deltas for score in delta.scores]
        tokens = deltas[-1].finish.usage.completion_tokens
        assert len(scores) == tokens
        assert sum(score.logprob == 0 for score in scores) > 15
    assert steps[plain] >= tokens
    assert steps[finding] < tokens - 15


def test_sampled_answers_keep_their_distribution(plain, drafting):
    """Over many seeds, the tokens of drafted answers are distributed as those without drafts: a chi-square test."""
    counts = {}
    for model, first in ((plain, 0), (drafting, 10_000)):  # other seeds, so that equal answers are no reason
        counts[model] = Counter()
        for seed in range(first, first + 150):
            sampling = Sampling(seed=seed, temperature=1.5, top_k=6)
            deltas = ask(model, "Say a word.", sampling, max_tokens=3)
            counts[model]["".join(delta.text for delta in deltas)[:6]] += 1
    common = [text for text, _ in (counts[plain] + counts[drafting]).most_common(8)]
    rows = [[*(counts[model][text] for text in common), 150 - sum(counts[model][text] for text in common)]
            for model in (plain, drafting)]
    chi = sum((a - b) ** 2 / (a + b) for a, b in zip(*rows, strict=True) if a + b)
    assert chi < 27.9, rows  # 8 degrees of freedom, one in two thousand


@pytest.mark.parametrize("name", ["llama", "sliding-window"])
def test_random_models_answer_the_same(load, file_of, name):
    """Models of other architectures write the same tokens with drafts, also beyond their window, except for ties.

    The logits of a batch differ in the last digits from those of single tokens. Two tokens of a random model that are
    equally likely to 0.001 may change places; what follows then is another answer.
    """
    off, on = load(file_of(name), speculation="off"), load(file_of(name), speculation=Draft(file_of(name)))
    draft_freely(on.model)
    accepted = 0
    for prompt in ("one two three four five one two three", "what is in a name", "a b c a b c"):
        scores = []
        for talk in (off, on):
            request = TextRequest("r", "tiny", prompt, sampling=SAMPLINGS["greedy"], max_tokens=80, top_logprobs=2)
            talk.model.open(request)
            deltas = []
            while not talk.model.idle:
                deltas += talk.model.step()
            scores.append([score for delta in deltas for score in delta.scores])
        accepted += deltas[-1].finish.usage.accepted_tokens
        pairs = enumerate(zip(*scores, strict=False))
        parted = next((at for at, (one, other) in pairs if one.piece != other.piece), None)
        if parted is not None:
            (_, first), (_, second) = scores[0][parted].top
            assert first - second < 0.001
    assert accepted > 60


def test_recurrent_models_speculate_by_grammars_alone(load, file_of):
    """They cannot take wrong drafts back, so nothing is drafted, but forced tokens are written at once."""
    on, off = load(file_of("mamba")), load(file_of("mamba"), speculation="off")
    assert on.model._drafts is None
    answers = [talk.ask(prompt="hi", constraint=SCHEMA, max_tokens=60) for talk in (on, off)]
    assert answers[0].text == answers[1].text
    assert answers[0].deltas < answers[1].deltas


@equal_sums
def test_a_prediction_is_followed(finding):
    """Most of an answer that was predicted is accepted, and counted; a wrong prediction changes nothing."""
    said = "".join(delta.text for delta in ask(finding, "Tell me a story.", SAMPLINGS["greedy"], max_tokens=100))
    for prediction, least, most in ((said, 60, 100), (f"Well. {said[40:]}", 40, 100), ("0 1 2 " * 9, 0, 20)):
        deltas = ask(finding, "Tell me a story.", SAMPLINGS["greedy"], max_tokens=100, prediction=prediction)
        assert "".join(delta.text for delta in deltas) == said
        assert least <= deltas[-1].finish.usage.accepted_tokens <= most


def test_without_speculation_a_prediction_changes_nothing(plain):
    """Switched off, nothing is drafted."""
    deltas = ask(plain, "ping", SAMPLINGS["greedy"], prediction="pong")
    assert deltas[-1].finish.usage.accepted_tokens == deltas[-1].finish.usage.rejected_tokens == 0


def test_texts_are_drafted_too(plain, finding):
    """Completions of texts are drafted like chats."""
    texts = []
    for model in (plain, finding):
        prompt = "1, 2, 3, 4, 1, 2, 3, 4, 1, 2,"
        model.open(TextRequest("r", "tiny", prompt, sampling=SAMPLINGS["greedy"], max_tokens=30))
        deltas = []
        while not model.idle:
            deltas += model.step()
        texts.append("".join(delta.text for delta in deltas))
    assert texts[0] == texts[1]


def test_memory_of_a_draft_model_counts(tiny_file):
    """An estimate includes the weights, the cache and the buffers of the draft model."""
    engine = LlamaCppEngine()
    alone, both = (
        engine.estimate(ModelSpec("tiny", Options(speculation=one), tiny_file)) for one in ("auto", Draft(tiny_file))
    )
    assert both.weights == 2 * alone.weights
    assert both.kv == 2 * alone.kv
    assert both.compute > alone.compute


def test_a_draft_model_needs_the_same_vocabulary(tmp_path, load, file_of, write_random, tiny_file):
    """A file that is missing, recurrent, or of other tokens is refused, by `examine` as by the load."""
    keys, shapes = _random_llama(960)
    larger = write_random(tmp_path / "larger.gguf", "llama", keys, shapes, words=1100)
    other = write_random(tmp_path / "other.gguf", "llama", *_random_llama(928), control=("<a>", "<b>"))
    for draft, says in (
        (tmp_path / "none.gguf", "options.speculation: there is no file"),
        (file_of("mamba"), "is recurrent"),
        (larger, "has 1100 tokens, but the model has 928; name a smaller model of the same family"),
        (other, "token 926 of"),
    ):
        spec = ModelSpec("tiny", Options(speculation=Draft(draft)), tiny_file)
        findings = [one.text for one in LlamaCppEngine().examine(spec)]
        assert any(says in one for one in findings), findings
        with pytest.raises(ModelLoadFailed, match=says.split(";", maxsplit=1)[0].split(":")[0]):
            load(speculation=Draft(draft))


def test_the_chained_model_of_the_bench_follows_its_chain(tmp_path, load):
    """After each word of `bench drafts`' model comes the next one of its ring, so the text of answers is known."""
    shape = random_model.Shape(
        layers=2, dim=256, heads=4, kv_heads=1, feed_forward=256, vocabulary=1024, context=256, chained=True,
    )
    file = tmp_path / "chained.gguf"
    random_model.write(file, shape)
    ring, texts = random_model.followers(shape.vocabulary), random_model.vocabulary(shape.vocabulary)[0]
    answer = load(file, speculation="off").ask(prompt=tuple(ring[40:50]), max_tokens=30)
    assert answer.text == "".join(texts[token].replace("Ġ", " ") for token in ring[50:80])


def _random_llama(words):
    from models_for_tests import DIM, LAYERS, RECIPES

    _, (keys, layer) = RECIPES["llama"]
    shapes = {"token_embd.weight": (words, DIM), "output_norm.weight": (DIM,), "output.weight": (words, DIM)}
    return keys, shapes | {f"blk.{n}.{name}": shape for n in range(LAYERS) for name, shape in layer.items()}
