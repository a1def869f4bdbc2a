"""The mock engine: an old-school chatbot, and, for tests, a model that follows a script."""

from collections.abc import Iterable

from lllms_core.engines import Engine
from lllms_core.hookspecs import hookimpl
from lllms_core.types import ModelOffer
from lllms_mock.engine import MockEngine, MockModel
from lllms_mock.options import Line, Options

__all__ = ["Line", "MockEngine", "MockModel", "Options"]


@hookimpl
def lllms_engines() -> Iterable[Engine]:
    """Provide the engine, for `engine = "mock"`."""
    return [MockEngine()]


@hookimpl
def lllms_models() -> Iterable[ModelOffer]:
    """Offer the chatbot under the name `mock`."""
    return [ModelOffer("mock", engine="mock", description="an old-school chatbot that listens and asks back")]
