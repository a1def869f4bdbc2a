"""Embedding with gpt4all, compared with llama.cpp on the same files; each in its own worker."""

from collections.abc import AsyncIterator, Callable
from pathlib import Path

import gguf
import numpy as np
import pytest
import pytest_asyncio
from berts_for_tests import add_wordpiece, random_bert
from lllms_gpt4all import Gpt4AllEngine, Options

from lllms_core.config import parse_config
from lllms_core.errors import ContextOverflow, InvalidRequest, ModelLoadFailed, UnsupportedParameter
from lllms_core.host import Host
from lllms_core.types import ModelSpec

pytestmark = pytest.mark.asyncio(loop_scope="module")

BERT = random_bert()
FRAMED = {"tokenizer.ggml.eos_token_id": BERT.vocabulary.index("[SEP]")}
TEXTS = ["hello world", "the cat is red", "Dogs, and a red dog: 12!", "é", "x " * 50] * 4
LONG = "hello " * 100
TASK = "search_document: "


def write_nomic(path: Path, name: str) -> Path:
    """A small model with random weights, in the style of Nomic's: rotary positions, gated layers."""
    width, inner, rng = 48, 96, np.random.default_rng(3)
    writer = gguf.GGUFWriter(path, "nomic-bert")
    writer.add_name(name)
    for add, value in (
        (writer.add_context_length, 64), (writer.add_embedding_length, width), (writer.add_block_count, 1),
        (writer.add_feed_forward_length, inner), (writer.add_head_count, 3), (writer.add_layer_norm_eps, 1e-12),
        (writer.add_rope_freq_base, 1000.0), (writer.add_pooling_type, gguf.PoolingType.MEAN),
    ):
        add(value)
    writer.add_causal_attention(False)
    add_wordpiece(writer, BERT.vocabulary)
    writer.add_eos_token_id(FRAMED["tokenizer.ggml.eos_token_id"])
    shapes = {
        "token_embd.weight": (len(BERT.vocabulary), width), "token_types.weight": (2, width),
        "blk.0.attn_qkv.weight": (3 * width, width), "blk.0.attn_output.weight": (width, width),
        "blk.0.ffn_gate.weight": (inner, width), "blk.0.ffn_up.weight": (inner, width),
        "blk.0.ffn_down.weight": (width, inner),
    }
    for norm in ("token_embd_norm", "blk.0.attn_output_norm", "blk.0.layer_output_norm"):
        shapes |= {f"{norm}.weight": (width,), f"{norm}.bias": (width,)}
    for tensor, shape in shapes.items():
        data = rng.standard_normal(shape) / np.sqrt(shape[-1])
        writer.add_tensor(tensor, (data + (len(shape) == 1)).astype(np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def host(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Host]:
    """A host that serves each file with both engines."""
    folder = tmp_path_factory.mktemp("berts")
    files = {
        "mean": (BERT.write(folder / "mean.gguf", 1, **FRAMED), {"matryoshka": True, "token_inputs": True}),
        "cls": (BERT.write(folder / "cls.gguf", 2, **FRAMED), {"truncate": True, "context_length": 32}),
        "rotary": (write_nomic(folder / "rotary.gguf", "a"), {}),
        "nomic": (write_nomic(folder / "nomic.gguf", "nomic-embed-text-v1"), {}),
    }
    models = {
        f"{name}-{engine}": {"engine": engine, "file": str(file), "options": {"threads": 1, **options}}
        for name, (file, options) in files.items() for engine in ("gpt4all", "llamacpp")
    }
    async with Host(parse_config({"server": {"max_instances": 8}, "models": models})) as host:
        yield host


async def both(host: Host, name: str, texts: list[str], **parameters: int) -> None:
    """Assert that both engines give the same vectors, and count the same tokens."""
    ours, theirs = [await host.embed(f"{name}-{one}", texts, **parameters) for one in ("gpt4all", "llamacpp")]
    assert ours.tokens == theirs.tokens
    for one, other in zip(ours.vectors, theirs.vectors, strict=True):
        assert float(np.dot(one, other)) == pytest.approx(1, abs=1e-4)
        assert float(np.linalg.norm(one)) == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize("name", ["mean", "rotary"])
async def test_vectors_are_those_of_llama_cpp(host: Host, name: str) -> None:
    """A batch of texts has the same vectors and token counts in both engines."""
    await both(host, name, TEXTS)


async def test_shorter_vectors(host: Host) -> None:
    """A model that was trained for it gives the first dimensions of its vectors, normalised to length 1 again."""
    await both(host, "mean", TEXTS[:3], dimensions=8)
    with pytest.raises(InvalidRequest, match="have 48") as refusal:
        await host.embed("mean-gpt4all", ["a"], dimensions=49)
    assert refusal.value.param == "dimensions"


async def test_a_text_that_is_too_long_is_refused(host: Host) -> None:
    """A text beyond the trained length is refused, with its index among the inputs."""
    with pytest.raises(ContextOverflow, match="reads 64") as refusal:
        await host.embed("mean-gpt4all", ["hello", LONG])
    assert (refusal.value.param, refusal.value.code) == ("input[1]", "context_length_exceeded")


async def test_a_text_that_is_too_long_is_cut_if_so_configured(host: Host) -> None:
    """With `truncate`, the first tokens are embedded, framed like a whole text."""
    await both(host, "cls", [LONG, "hello"])


async def test_texts_for_a_task(host: Host) -> None:
    """A model that gpt4all knows by name takes texts that begin with one of its tasks, unchanged, but no others."""
    await both(host, "nomic", [f"{TASK}hello world", f"{TASK}the cat: red", "search_query: dog"])
    for text in ("hello world", "cat: red"):
        with pytest.raises(InvalidRequest, match="start") as refusal:
            await host.embed("nomic-gpt4all", [text])
        assert (refusal.value.param or "").startswith("input")


@pytest.mark.parametrize("text", [" ", "a\0b"])
async def test_what_gpt4all_would_misread_is_refused(host: Host, text: str) -> None:
    """A text without tokens, which gpt4all replaces by another, and one with a NUL, where it cuts, are refused."""
    with pytest.raises(InvalidRequest) as refusal:
        await host.embed("mean-gpt4all", ["a", text])
    assert refusal.value.param == "input[1]"


async def test_it_does_not_write(host: Host) -> None:
    """A request for text from an embedding model is refused, and the error names the routes it serves."""
    with pytest.raises(InvalidRequest, match="/v1/embeddings"):
        await host.submit(host.request("mean-gpt4all", prompt="hello")).gather()


async def test_tokens_of_a_text(host: Host) -> None:
    """Tokens are returned as they are embedded, with or without their frame."""
    for framed in (True, False):
        ours, theirs = [
            await host.tokenize(f"mean-{one}", "hello world", add_special=framed) for one in ("gpt4all", "llamacpp")
        ]
        assert ours == theirs
    assert await host.detokenize("mean-gpt4all", ours.ids) == " hello world"


@pytest.mark.parametrize(
    ("write", "reason"),
    [
        (lambda path: BERT.write(path, None, **FRAMED), "pooling_type"),
        (lambda path: BERT.write(path, 4, **FRAMED), "pooling_type"),
        (lambda path: BERT.write(path, 1), "eos_token_id"),
    ],
    ids=["no pooling", "a ranker", "no frame"],
)
async def test_a_file_that_would_give_wrong_vectors_is_refused(
    tmp_path: Path, write: Callable[[Path], Path], reason: str,
) -> None:
    """A file is refused if gpt4all would compute wrong vectors because its pooling or frame is unsupported."""
    with pytest.raises(ModelLoadFailed, match=reason):
        Gpt4AllEngine().inspect(ModelSpec("m", Options(), write(tmp_path / "m.gguf")))


async def test_less_than_a_block_is_refused(tmp_path: Path) -> None:
    """gpt4all cuts texts to blocks of 32 tokens; a shorter length is refused."""
    spec = ModelSpec("m", Options(context_length=31), BERT.write(tmp_path / "m.gguf", 1, **FRAMED))
    with pytest.raises(ModelLoadFailed, match=r"options\.context_length"):
        Gpt4AllEngine().inspect(spec)


@pytest.mark.parametrize("engine", ["gpt4all", "llamacpp"])
async def test_tokens_are_embedded_where_they_are_let_in(host: Host, engine: str) -> None:
    """With `options.token_inputs`, a text's tokens give its vector; without it, they are refused by name."""
    tokens = (await host.tokenize(f"mean-{engine}", "the cat is red")).ids
    text, same = (await host.embed(f"mean-{engine}", ["the cat is red", tokens])).vectors
    assert list(text) == pytest.approx(list(same), abs=1e-5)
    with pytest.raises(UnsupportedParameter, match=r"options\.token_inputs = true") as refusal:
        await host.embed(f"cls-{engine}", [tokens])
    assert refusal.value.param == "input"
