"""The gpt4all engine for lllms: GGUF models through ready-made libraries, one request at a time."""

from collections.abc import Iterable

from lllms_core.engines import Engine
from lllms_core.hookspecs import hookimpl
from lllms_gpt4all.engine import Gpt4AllEngine
from lllms_gpt4all.options import Options

__all__ = ["Gpt4AllEngine", "Options", "lllms_engines"]


@hookimpl
def lllms_engines() -> Iterable[Engine]:
    """Provide the engine `gpt4all`."""
    return [Gpt4AllEngine()]
