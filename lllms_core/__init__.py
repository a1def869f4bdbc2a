"""lllms: local large language models for every machine.

The names in `__all__` are the public API for embedding programs, the modules in `FOR_PLUGINS` the one for plugins. Any
other module may change at any time; CONTRIBUTING says what may break.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from lllms_core.answers import Answer, Stream
    from lllms_core.app import create_app
    from lllms_core.config import Config, load_config, parse_config
    from lllms_core.errors import LllmsError
    from lllms_core.hookspecs import hookimpl
    from lllms_core.host import Host, ServerTool
    from lllms_core.pool.pool import Pool
    from lllms_core.serve import serve_llms
    from lllms_core.types import Message

__version__ = "0.1.0"

FOR_PLUGINS = (
    "hookspecs", "engines", "apis", "downloads", "placements", "rendezvous", "sessions",  # contracts
    "types", "queries", "errors",  # their words
    "answers", "cancellation", "chat", "gguf", "machine", "parameters", "status", "text",
    "values",  # tools
    "testing",  # for their tests
)
"""The modules of this package that plugins may import, as `lllms_core.engines`; our own plugins import no others."""

__all__ = [
    "Answer",
    "Config",
    "Host",
    "LllmsError",
    "Message",
    "Pool",
    "ServerTool",
    "Stream",
    "create_app",
    "hookimpl",
    "load_config",
    "parse_config",
    "serve_llms",
]

_ROOMS = {
    "Answer": "answers",
    "Config": "config",
    "Host": "host",
    "LllmsError": "errors",
    "Message": "types",
    "Pool": "pool.pool",
    "ServerTool": "host",
    "Stream": "answers",
    "create_app": "app",
    "hookimpl": "hookspecs",
    "load_config": "config",
    "parse_config": "config",
    "serve_llms": "serve",
}


def __getattr__(name: str) -> object:
    """Import a public name when it is first used: a worker process needs hardly any of them, and starts quickly."""
    if name not in _ROOMS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_ROOMS[name]}"), name)
