"""Helpers for tests: of engines, without a server, and of dialects and programs that use a server, with a real one.

CONTRIBUTING.md shows both; the mock engine refuses, fails, waits and dies as a script says.
"""

from lllms_core.testing.driving import collect, load_model, text_of
from lllms_core.testing.servers import running_server

__all__ = ["collect", "load_model", "running_server", "text_of"]
