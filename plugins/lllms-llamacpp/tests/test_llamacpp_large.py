"""Large texts: neighbours continue, tokens are those of the whole text, and time and stack stay bounded."""

import asyncio
import subprocess
import sys
from pathlib import Path
from time import process_time

import psutil
import pytest
from bpe_for_tests import PRE_TOKENIZERS, vocabulary_of
from neighbours_for_tests import GUARD, Street

from lllms_core.errors import ContextOverflow, InvalidRequest, RequestError
from lllms_core.queries import AnyRequest, DetokenizeRequest, RenderRequest, TokenizeRequest
from lllms_core.types import ChatRequest, Message, Request, TextRequest, Tool, ToolCall
from lllms_core.worker.wire import Cancel

MB = 1_000_000
LONGEST_GAP = 2.0
"""Seconds that a neighbour may wait while the machine runs other tests; alone it waits a tenth of that."""
PROSE = "The quick brown fox jumps over the lazy dog, 12345 times.\nThen (key = [1, 2]) — naïve 日本語 é😀!\n\n  Next, "
NESTED = "[" * 990


def chat(name: str, *texts: str, **fields: object) -> Request:
    return ChatRequest(name, "tiny", messages=tuple(Message("user", text) for text in texts), max_tokens=4, **fields)


def large(size: int) -> list[AnyRequest]:
    """Requests of about this many bytes, each of a different kind."""
    return [
        chat("prose", PROSE * (size // len(PROSE))), chat("newlines", "\n" * size), chat("beginnings", "<" * size),
        chat("control", "<|im_end|>a" * (size // 11)), chat("emoji", "😀" * (size // 4)),
        chat("turns", *["x" * 500] * (size // 500)), chat("tool", "hi", tools=(Tool("f", "d" * size),)),
        TextRequest("prompt", "tiny", prompt="\x01" * size), TextRequest("ids", "tiny", prompt=(5,) * (size // 3)),
        TokenizeRequest("tokenize", "tiny", "\n" * size), DetokenizeRequest("text", "tiny", (5,) * (size // 3)),
        RenderRequest("render", "tiny", chat("rendered", "<" * size)),
    ]


async def test_neighbours_go_on(tiny_file: Path) -> None:
    """While requests of 1, 3 and 10 MB of any kind arrive, no answer stalls, and each is answered or refused."""
    street = await Street.start(tiny_file)
    for size, kinds in ((MB, 12), (3 * MB, 5), (10 * MB, 12)):
        for request in large(size)[:kinds]:
            async with asyncio.timeout(GUARD):
                end = await street.send(request)
            assert isinstance(end.error, RequestError) or request.id == "render", request.id
            await street.heard()
            assert street.longest_gap() < LONGEST_GAP, (request.id, size)
    await street.close()


async def test_long_contexts_too(tiny_file: Path) -> None:
    """The same holds if the context has room for most of the text, so that tokens must be counted."""
    street = await Street.start(tiny_file, context_length=65536)
    for request in large(MB)[:5]:
        async with asyncio.timeout(GUARD):
            end = await street.send(request)
        assert isinstance(end.error, ContextOverflow)
        await street.heard()
        assert street.longest_gap() < LONGEST_GAP, request.id
    await street.close()


async def test_who_leaves_keeps_no_core_busy(tiny_file: Path) -> None:
    """A cancelled request ends at once, and the thread that prepares it soon after."""
    street = await Street.start(tiny_file, context_length=1 << 18)
    process = psutil.Process(street.worker.pid)
    await street.heard()
    threads = process.num_threads()
    end = street.send(chat("control", "<|im_end|>a" * MB))
    async with asyncio.timeout(GUARD):
        while process.num_threads() == threads:  # noqa: ASYNC110  # the worker announces no threads
            await asyncio.sleep(0.01)
        street.worker.send(Cancel("control"))
        assert (await end).finish.reason == "cancelled"
    async with asyncio.timeout(LONGEST_GAP):
        while process.num_threads() > threads:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
    await street.close()


@pytest.mark.parametrize("size", [0, 100_000])
async def test_nested_arguments_cost_one_request(tiny_file: Path, size: int) -> None:
    """Deeply nested arguments, tools and variables get their request a 400 or count as text; others continue."""
    street = await Street.start(tiny_file)
    deep: object = 1
    for _ in range(400):
        deep = {"a": deep}
    for number, request in enumerate((
        {"messages": (Message("assistant", "", tool_calls=(ToolCall("c", "f", NESTED),)), Message("user", "x" * size))},
        {"messages": (Message("user", "x" * size),), "tools": (Tool("f", "", deep),)},
        {"messages": (Message("user", "x" * size),), "chat_template_kwargs": deep},
    )):
        async with asyncio.timeout(GUARD):
            end = await street.send(ChatRequest(str(number), "tiny", max_tokens=2, **request))
        assert end.error is None or isinstance(end.error, RequestError)
        await street.heard()
    await street.close()


def test_too_many_bytes_are_refused_before_tokenising(load) -> None:
    """A text with more bytes than the context could hold is refused at once, with both numbers and the way out."""
    model = load(slots=1).model
    longest = model.longest_token
    assert longest == max(len(model.to_text([token])) for token in range(model._vocabulary.size))
    start = process_time()
    for request in (TextRequest("a", "tiny", prompt="\n" * MB), chat("b", "\n" * MB)):
        with pytest.raises(ContextOverflow, match=f"has 10000.. bytes .* {longest * 1024} bytes at most; shorten"):
            model.prepare(request)
    assert process_time() - start < 5


def test_counting_stops_when_it_is_enough(load) -> None:
    """A text that is too long is tokenised only until that is certain, and the message says "at least"."""
    model = load(slots=1).model
    for request in (TextRequest("a", "tiny", prompt="\n" * 15_000), chat("b", "\n" * 50_000)):
        with pytest.raises(ContextOverflow, match=r"has at least [0-9]+ tokens"):
            model.prepare(request)
    with pytest.raises(InvalidRequest, match="no token"):
        model.prepare(TextRequest("c", "tiny", prompt=(10**6,)))


def test_byte_tokens_are_linear(load) -> None:
    """A megabyte of characters that have only byte tokens is tokenised in seconds, not minutes."""
    vocabulary = load(slots=1).model._vocabulary
    start = process_time()
    assert len(vocabulary.text_tokens("\n" * MB, parse_special=True)) == MB
    assert len(vocabulary.text_tokens("<|im_end|>" * (MB // 10), parse_special=True)) == MB // 10
    assert process_time() - start < 20


@pytest.mark.parametrize("pre", [None, *PRE_TOKENIZERS])
def test_slices_have_the_tokens_of_the_whole_text(load, tmp_path, pre) -> None:
    """With both kinds of vocabulary, a long text of ordinary words is tokenised as if it were not cut."""
    vocabulary = load(slots=1).model._vocabulary if pre is None else vocabulary_of(tmp_path / "bpe.gguf", pre)
    for text in (PROSE * 300, "word " * 8000, f"{'    return x' * 3}\n" * 800, "中文字、。" * 3000):
        assert vocabulary.text_tokens(text, parse_special=True) == vocabulary._tokens(text, parse_special=True)


SCRIPT = """
import sys
sys.path.insert(0, {tests!r})
from pathlib import Path
from bpe_for_tests import vocabulary_of
vocabulary = vocabulary_of(Path({file!r}), {pre!r})
for text in ("a" * 300_000, "1" * 30_000, " " * 300_000):
    tokens = vocabulary.text_tokens(text, parse_special=True)
    assert vocabulary.text(tokens) == text
"""


@pytest.mark.parametrize("pre", PRE_TOKENIZERS)
def test_long_words_do_not_kill_the_process(tmp_path, pre) -> None:
    """A word of 300 KB does not overflow the stack in llama.cpp's regular expressions, with any vocabulary."""
    script = SCRIPT.format(tests=str(Path(__file__).parent), file=str(tmp_path / "bpe.gguf"), pre=pre)
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=GUARD, check=False)
    assert done.returncode == 0, done.stderr[-500:]
