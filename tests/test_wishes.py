"""A request with a wish that its model cannot fulfil is answered without it."""

from collections.abc import AsyncIterator, Iterator

import pytest
from attrs import evolve
from waits_for_tests import until

from lllms_core.apis.wishes import submit_with_wishes
from lllms_core.config import parse_config
from lllms_core.engines import Engine, SerialModel
from lllms_core.errors import EngineFailed, InvalidRequest, LllmsError, RequestError, UnsupportedParameter
from lllms_core.hookspecs import hookimpl
from lllms_core.host import Host
from lllms_core.plugins import Plugins
from lllms_core.types import ChatRequest, Message, new_request_id


class Picky(SerialModel):
    """Knows only the effort `low`."""

    def chat(self, request: ChatRequest) -> Iterator[str]:
        if request.reasoning_effort not in {None, "low"}:
            raise UnsupportedParameter("no such effort", "reasoning_effort")
        if request.messages[-1].content == "refuse":
            raise InvalidRequest("not this", "messages")
        yield "one"
        if request.messages[-1].content == "fail":
            raise EngineFailed("out of ink")
        while request.messages[-1].content == "forever":
            yield " more"
        yield " two"


class PickyEngine(Engine):
    name = "picky"
    isolation = "thread"
    needs_file = False
    parameters = frozenset({"reasoning_effort"})

    def load(self, spec: object, progress: object) -> Picky:
        return Picky()


class Plugin:
    @hookimpl
    def lllms_engines(self) -> list[Engine]:
        return [PickyEngine()]


@pytest.fixture
async def host() -> AsyncIterator[Host]:
    plugins = Plugins.discover(environ={"LLLMS_PLUGINS": ""}, extra={"picky": Plugin()})
    async with Host(parse_config({"models": {"picky": {"engine": "picky"}}}), plugins) as started:
        yield started


def asked(host: Host, text: str, effort: str) -> ChatRequest:
    return host.request("picky", messages=[Message("user", text)], parameters={"reasoning_effort": effort})


def without(request: ChatRequest, *others: str | None):
    """Try the other efforts, one after the other."""
    left = list(others)

    def next_one(refusal: RequestError) -> ChatRequest | None:
        if refusal.param != "reasoning_effort" or not left:
            return None
        return evolve(request, id=new_request_id(), reasoning_effort=left.pop(0), unused=("effort",))

    return next_one


@pytest.mark.parametrize(("effort", "others", "unused"), [
    ("low", (None,), ()), ("high", (None,), ("effort",)), ("high", ("medium", "low"), ("effort",)),
])
async def test_a_refused_wish_is_dropped(
    host: Host, effort: str, others: tuple[str | None, ...], unused: tuple[str, ...],
) -> None:
    """The answer is that to the first request that is not refused, which the stream names, with its instance."""
    request = asked(host, "Hi", effort)
    async with submit_with_wishes(host, request, without(request, *others)) as stream:
        answer = await stream.gather()
    assert answer.text == "one two"
    assert isinstance(stream.request, ChatRequest)
    assert stream.request.unused == unused
    [instance] = host.status().instances
    assert answer.id == f"{instance.id}-{stream.request.id}"
    assert stream.fingerprint == host.model("picky").fingerprint


@pytest.mark.parametrize(("text", "others", "error", "said"), [
    ("Hi", (), UnsupportedParameter, ""), ("refuse", (None,), InvalidRequest, ""),
    ("fail", (None,), EngineFailed, "one"),
])
async def test_other_errors_are_passed_on(
    host: Host, text: str, others: tuple[None, ...], error: type[LllmsError], said: str,
) -> None:
    """A wish without an alternative, another refusal, and a failure in mid-answer are the errors of the stream."""
    request = asked(host, text, "high")
    async with submit_with_wishes(host, request, without(request, *others)) as stream:
        before = [(await stream.take())[0].text] if said else []
        with pytest.raises(error):
            await stream.gather()
    assert "".join(before) == said


@pytest.mark.parametrize("late", [False, True], ids=["at once", "in mid-answer"])
async def test_closing_cancels_the_request(host: Host, *, late: bool) -> None:
    """A stream that is closed cancels its request, at once or while it runs."""
    request = asked(host, "forever", "high")
    async with submit_with_wishes(host, request, without(request, None)) as stream:
        if late:
            await stream.wait()
    await until(lambda: host.status().running == host.status().waiting == 0)
