"""The llama.cpp engine for lllms, and its bundled model tiny-chat."""

from collections.abc import Iterable
from pathlib import Path

from lllms_core.engines import Engine
from lllms_core.hookspecs import hookimpl
from lllms_core.types import ModelOffer
from lllms_llamacpp.engine import LlamaCppEngine
from lllms_llamacpp.options import Draft, Lora, Options

__all__ = ["Draft", "LlamaCppEngine", "Lora", "Options", "lllms_engines", "lllms_models"]


@hookimpl
def lllms_engines() -> Iterable[Engine]:
    """Provide the engine `llamacpp`."""
    return [LlamaCppEngine()]


@hookimpl
def lllms_models() -> Iterable[ModelOffer]:
    """Offer tiny-chat, which is part of this package."""
    file = Path(__file__).parent / "models" / "tiny-chat.gguf"
    return [ModelOffer("tiny-chat", "llamacpp", file, description="a tiny chat model for first steps, demos and tests")]
