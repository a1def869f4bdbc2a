"""Engines that break their own declarations."""

from collections.abc import Callable, Iterable, Iterator
from typing import cast

from lllms_core.engines import Engine, Model, Progress, SerialModel
from lllms_core.types import Delta, ModelSpec, Request


class Speaker(SerialModel):
    """Says one word."""

    def complete(self, prompt: str, request: Request) -> Iterator[str]:
        yield "word"


class Bare(Model):
    """Has no context length."""

    def open(self, request: Request) -> None:
        pass

    def step(self) -> Iterable[Delta]:
        return []

    def cancel(self, request_id: str) -> Iterable[Delta]:
        return []

    @property
    def idle(self) -> bool:
        return True


def engine_of(*parameters: str, make: Callable[[], object] = Speaker, **values: object) -> Engine:
    """An engine that declares these parameters and attributes, and loads what `make` returns."""

    def load(_self: Engine, _spec: ModelSpec, _progress: Progress) -> Model:
        return cast(Model, make())

    body = {"name": "broken", "parameters": frozenset(parameters), "needs_file": False, "load": load}
    return cast(Engine, type("Broken", (Engine,), body | values)())
