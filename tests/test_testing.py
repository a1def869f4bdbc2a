"""What `lllms_core.testing` offers to authors of engines and of programs."""

from collections.abc import Iterator

import openai
import pytest
from attrs import frozen

from lllms_core.engines import Engine, Model, SerialModel
from lllms_core.engines.base import ContractBroken
from lllms_core.errors import ConfigError, ModelLoadFailed
from lllms_core.hookspecs import hookimpl
from lllms_core.testing import collect, load_model, running_server, text_of
from lllms_core.types import ChatRequest, Delta, Message, TextRequest
from lllms_core.values.violations import StructureError


@frozen
class EchoOptions:
    times: int = 1


class Echo(SerialModel):
    """Repeats the last message."""

    def __init__(self, times: int) -> None:
        self.times = times

    def chat(self, request: ChatRequest) -> Iterator[str]:
        yield request.messages[-1].content * self.times


class EchoEngine(Engine):
    name = "echo"
    Options = EchoOptions
    isolation = "thread"
    needs_file = False

    def load(self, spec, progress):
        return Echo(spec.options.times)


class EchoPlugin:
    @hookimpl
    def lllms_engines(self) -> list[Engine]:
        return [EchoEngine()]


def test_a_model_answers_without_a_server() -> None:
    """An author loads a model with options as in a configuration, and collects the answers of several requests."""
    model = load_model(EchoEngine(), {"times": 2})
    got = collect(model, *(ChatRequest(name, "test", (Message("user", name),)) for name in "ab"))
    assert {name: text_of(deltas) for name, deltas in got.items()} == {"a": "aa", "b": "bb"}
    assert got["a"][-1].last


def test_a_model_is_held_to_its_contract() -> None:
    """Unknown options, undeclared methods and deltas of closed requests are errors with a worker's messages."""
    with pytest.raises(StructureError, match="unknown key"):
        load_model(EchoEngine(), {"time": 2})

    class Boastful(EchoEngine):
        parameters = frozenset({"logprobs", "echo"})

    with pytest.raises(ModelLoadFailed, match=r"declares .*; its model must write `score_prompt`"):
        load_model(Boastful())

    class Stranger(Model):
        context_length = slots = 1
        idle = False

        def open(self, request):
            """Take it."""

        def step(self):
            return [Delta("nobody", "x")]

        def cancel(self, request_id):
            return []

    with pytest.raises(ContractBroken, match="'nobody', which is not open"):
        collect(Stranger(), TextRequest("r", "m", "x"))


def test_a_program_is_tested_with_a_real_server() -> None:
    """A synchronous test talks to a real server with the real client; the block's end frees the port."""
    with running_server({"bot": {"engine": "echo", "options": {"times": 3}}}, {"echo": EchoPlugin()}) as url:
        client = openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0)
        answer = client.chat.completions.create(model="bot", messages=[{"role": "user", "content": "na"}])
        assert answer.choices[0].message.content == "nanana"
    with pytest.raises(openai.APIConnectionError):
        client.models.list()
    client.close()


def test_a_server_that_cannot_start_says_why() -> None:
    """A fault of the configuration, or a port in use, is raised in the test."""
    with pytest.raises(ConfigError, match="bot"), running_server({"bot": {"engine": "nonsense"}}):
        pass
    with (
        running_server() as url,
        pytest.raises(ConfigError, match="cannot listen"),
        running_server(port=int(url.rpartition(":")[2])),
    ):
        pass
