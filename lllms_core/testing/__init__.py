"""Helpers for tests: of engines, without a server, and of programs that use a server, with a real one."""

from lllms_core.testing.driving import collect, load_model, text_of
from lllms_core.testing.servers import running_server

__all__ = ["collect", "load_model", "running_server", "text_of"]
