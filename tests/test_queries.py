"""Vectors, tokens and prompts take the same path as completions: queue, slot, worker, cancel, time limit, crash."""

import asyncio
import json
from array import array
from collections.abc import AsyncIterator
from math import hypot, inf, nan
from types import SimpleNamespace

import embedders_for_tests as embedders
import pytest
from embedders_for_tests import EmbedderEngine
from engines_for_tests import ScriptedEngine
from pools_for_tests import Pools
from waits_for_tests import GUARD

from lllms_core.app import create_app
from lllms_core.config import parse_config
from lllms_core.engines import Engine
from lllms_core.engines.vector_run import unit
from lllms_core.errors import EngineDied, EngineFailed, InvalidRequest, ModelUnknown, OutOfTime, UnsupportedParameter
from lllms_core.hookspecs import hookimpl
from lllms_core.host import Host
from lllms_core.plugins import Plugins
from lllms_core.pool.state import PoolLimits
from lllms_core.queries import Embeddings, EmbedRequest, Tokens
from lllms_core.types import Isolation, Message

pytestmark = pytest.mark.slow


@hookimpl
def lllms_engines() -> list[Engine]:
    return [EmbedderEngine(), ScriptedEngine()]


def make_host(**server: object) -> Host:
    models = {
        "rich": {"engine": "embedder", "aliases": ["embeddings"]},
        "plain": {"engine": "embedder", "isolation": "thread", "options": {"tokens": False}},
        "hasty": {"engine": "embedder", "isolation": "thread", "timeout": 0.01},
        "writer": {"engine": "scripted", "isolation": "thread"},
    }
    plugin = SimpleNamespace(lllms_engines=lllms_engines)
    plugins = Plugins.discover(environ={"LLLMS_PLUGINS": ""}, extra={"tests": plugin})
    return Host(parse_config({"server": server, "models": models}), plugins)


@pytest.fixture
async def host() -> AsyncIterator[Host]:
    async with asyncio.timeout(GUARD), make_host() as host:
        yield host


@pytest.mark.parametrize("model", ["embeddings", "plain"])
async def test_every_text_gets_its_vector(host: Host, model: str) -> None:
    """One vector of length 1 for each text, in order, from a process or a thread; all tokens are counted."""
    texts = ["x" * n for n in range(1, 101)]
    answer = await host.embed(model, texts)
    assert list(answer.vectors) == [array("f", [n / hypot(n, 1), 0, 1 / hypot(n, 1)]) for n in range(1, 101)]
    assert answer.tokens == 100


async def test_tokens_are_embedded_as_their_text(host: Host) -> None:
    """An input of tokens gives the vector of its text; a model that takes no tokens refuses it by name."""
    text, tokens = (await host.embed("rich", ["ab", (97, 98)])).vectors
    assert text == tokens
    with pytest.raises(UnsupportedParameter, match="check_embedding_ctx_length=False") as raised:
        await host.embed("plain", ["ab", (97, 98)])
    assert (raised.value.param, "token_inputs" in raised.value.message) == ("input", False)


async def test_dimensions_cut_and_renormalise(host: Host) -> None:
    """Fewer dimensions are the first numbers, scaled to length 1 again; too many are refused with the limit."""
    [vector] = (await host.embed("rich", ["a b c"], dimensions=2)).vectors
    assert list(vector) == pytest.approx([5 / hypot(5, 2), 2 / hypot(5, 2)])
    with pytest.raises(InvalidRequest, match="have 3") as raised:
        await host.embed("rich", ["a"], dimensions=4)
    assert raised.value.param == "dimensions"


@pytest.mark.parametrize(("inputs", "param"), [([], "input"), (["a", ""], "input[1]"), ([()], "input[0]")])
async def test_nothing_to_embed_is_refused(host: Host, inputs: list[str], param: str) -> None:
    """No inputs, an empty text and an empty list of tokens are refused, and the message says which."""
    with pytest.raises(InvalidRequest) as raised:
        await host.embed("rich", inputs)
    assert raised.value.param == param


async def test_models_do_what_they_can(host: Host) -> None:
    """A model refuses what it cannot do and says what it can; a missing model is named."""
    with pytest.raises(InvalidRequest, match="'writer' cannot embed texts; it can continue text"):
        await host.embed("writer", ["a"])
    with pytest.raises(InvalidRequest, match="'rich' cannot rerank documents"):
        await host.rerank("rich", "a", ["b"])
    with pytest.raises(InvalidRequest, match="documents"):
        await host.rerank("rich", "a", [])
    with pytest.raises(InvalidRequest, match="'plain' cannot show its tokens"):
        await host.tokenize("plain", "a")
    with pytest.raises(ModelUnknown):
        await host.embed("nobody", ["a"])


async def test_tokens_and_prompts_are_told(host: Host) -> None:
    """A loaded model returns its tokens, the text of tokens, and the prompt of a chat."""
    assert await host.tokenize("rich", "é!") == Tokens((233, 33), ("é".encode(), b"!"))
    assert (await host.tokenize("rich", "a", add_special=True)).ids == (60, 97, 62)
    assert await host.detokenize("rich", [233, 33]) == "é!"
    chat = host.request("rich", messages=[Message("user", "Hi!"), Message("user", "You?")])
    assert await host.render(chat) == "Hi!\nYou?"


@pytest.mark.parametrize(("fault", "error"), [("refuse", InvalidRequest), ("fail", EngineFailed), ("kill", EngineDied)])
async def test_faults_strike_their_own_request(host: Host, fault: str, error: type[Exception]) -> None:
    """A refusal or failure ends its own request; after a crash the next request gets a new worker."""
    with pytest.raises(error):
        await host.embed("rich", ["good", f"fault {fault}"])
    assert len((await host.embed("rich", ["good"])).vectors) == 1


async def test_out_of_time_is_an_error(host: Host) -> None:
    """When the model's time is over, there are no vectors, and the message names the limit."""
    with pytest.raises(OutOfTime, match=r"timeout of 0.01 s.*models.hasty.timeout"):
        await host.embed("hasty", ["slow"] * 10_000)
    assert host.status().running == 0


async def test_leaving_frees_the_slot(host: Host) -> None:
    """A caller that goes away cancels its query between two steps."""
    embedders.STARTED.clear()
    asking = asyncio.create_task(host.embed("plain", ["slow"] * 100_000))
    await asyncio.to_thread(embedders.STARTED.wait, GUARD)
    asking.cancel()
    await asyncio.gather(asking, return_exceptions=True)
    while host.status().running:
        await host.pool._dispatcher.change()


@pytest.mark.parametrize("isolation", ["process", "thread"])
async def test_queries_wait_their_turn(pools: Pools, isolation: Isolation) -> None:
    """Queries are bounded by `concurrency` and the slots, like completions, and all are answered."""
    limits = PoolLimits(concurrency=1)
    pool = await pools.start(embedders.Options(), engine=EmbedderEngine(), isolation=isolation, limits=limits)
    streams = [pool.submit(EmbedRequest(f"q{n}", "scripted", ("x" * n,))) for n in range(1, 6)]
    assert pool.status().waiting == 5
    async with asyncio.timeout(GUARD):
        answers = [await stream.gather() for stream in streams]
    results = [answer.finish.result for answer in answers]
    assert [result.tokens for result in results if isinstance(result, Embeddings)] == [1] * 5


async def test_a_closed_connection_frees_the_slot(host: Host) -> None:
    """A client that hangs up while its texts are embedded cancels that, as with completions."""
    embedders.STARTED.clear()
    client = create_app(host, manage_host=False).test_client()
    body = json.dumps({"model": "plain", "input": ["slow " * 20] * 2048}).encode()
    headers = {"Content-Type": "application/json", "Content-Length": str(len(body))}
    async with client.request("/v1/embeddings", method="POST", headers=headers) as connection:
        await connection.send(body)
        await connection.send_complete()
        await asyncio.to_thread(embedders.STARTED.wait, GUARD)
        assert host.status().running == 1
        await connection.disconnect()
    while host.status().running:
        await host.pool._dispatcher.change()


def test_unit_vectors() -> None:
    """A vector keeps its direction and gets length 1; the zero vector stays."""
    assert unit([3, -4]) == [0.6, -0.8]
    assert unit([0, 0]) == [0, 0]


@pytest.mark.parametrize("number", [nan, inf, -inf])
def test_numbers_that_are_none_fail_the_request(number: float) -> None:
    """Non-finite numbers never reach a client: the request fails, and the others continue."""
    model = embedders.Plain()
    model.embed = lambda texts: Embeddings([[number, 1.0]], 1)  # type: ignore[method-assign]
    model.open_embed(EmbedRequest("r", "m", ("a",)))
    [delta] = model.step()
    assert isinstance(delta.error, EngineFailed)
    assert model.idle


def test_long_lists_are_embedded_in_steps() -> None:
    """A step embeds at most `embed_at_once` texts of each request, so that a cancel does not have to wait."""
    model = embedders.Plain()
    model.open_embed(EmbedRequest("r", "m", ("a",) * 40))
    while not model.idle:
        deltas = list(model.step())
    assert model.calls == [16, 16, 8]
    assert deltas[0].last
