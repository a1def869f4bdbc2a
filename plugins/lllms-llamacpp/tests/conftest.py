from collections.abc import Callable, Iterator, Sequence
from itertools import count
from pathlib import Path

import lllms_llamacpp
import pytest
from attrs import define, field
from lllms_llamacpp import LlamaCppEngine, Options

from lllms_core.types import Delta, Finish, Message, ModelSpec, Request, Sampling, Usage

TINY = Path(lllms_llamacpp.__file__).parent / "models" / "tiny-chat.gguf"
GREEDY = Sampling(temperature=0)
ROLES = ("user", "assistant")


def messages(*texts: str, system: str | None = None) -> tuple[Message, ...]:
    """A conversation in which user and assistant take turns."""
    first = () if system is None else (Message("system", system),)
    return first + tuple(Message(ROLES[i % 2], text) for i, text in enumerate(texts))


@define
class Answer:
    """What came of one request."""

    text: str = ""
    tokens: int = 0
    finish: Finish | None = None
    deltas: int = 0

    def take(self, delta: Delta) -> None:
        assert self.finish is None, "a delta after the last"
        assert delta.error is None
        self.text += delta.text
        self.tokens += delta.tokens
        self.finish = delta.finish
        self.deltas += 1

    @property
    def reason(self) -> str:
        assert self.finish is not None
        return self.finish.reason

    @property
    def usage(self) -> Usage:
        assert self.finish is not None
        return self.finish.usage

    @property
    def cached(self) -> int:
        return self.usage.cached_tokens


@define
class Talk:
    """Asks a model, and collects its answers by the requests' names."""

    model: object
    answers: dict[str, Answer] = field(factory=dict)
    _names: "count[int]" = field(factory=count)

    def open(self, *texts: str, system: str | None = None, sampling: Sampling = GREEDY, **fields: object) -> str:
        name = f"request-{next(self._names)}"
        given = {} if "prompt" in fields else {"messages": messages(*texts, system=system)}
        self.model.open(Request(name, "tiny", sampling=sampling, **given, **fields))
        self.answers[name] = Answer()
        return name

    def step(self) -> Sequence[Delta]:
        deltas = list(self.model.step())
        for delta in deltas:
            self.answers[delta.request_id].take(delta)
        return deltas

    def cancel(self, name: str) -> Answer:
        for delta in self.model.cancel(name):
            self.answers[name].take(delta)
        return self.answers[name]

    def finish(self) -> None:
        while not self.model.idle:
            self.step()

    def ask(self, *texts: str, **fields: object) -> Answer:
        name = self.open(*texts, **fields)
        self.finish()
        return self.answers[name]


Loader = Callable[..., Talk]


@pytest.fixture(scope="module")
def load() -> Iterator[Loader]:
    """Load a model with these options, tiny-chat unless told otherwise; closed at the end."""
    models = []

    def load(file: Path = TINY, **options: object) -> Talk:
        spec = ModelSpec("tiny", Options(**{"threads": 1, **options}), file)
        models.append(LlamaCppEngine().load(spec, lambda _: None))
        return Talk(models[-1])

    yield load
    for model in models:
        model.close()


@pytest.fixture(scope="module")
def shared(load: Loader) -> Talk:
    """One model for all tests of a module."""
    return load()


@pytest.fixture
def tiny(shared: Talk) -> Iterator[Talk]:
    """The shared model; nothing may be left open in it."""
    yield shared
    assert shared.model.idle


@pytest.fixture(scope="session")
def tiny_file() -> Path:
    """The file of tiny-chat."""
    return TINY
