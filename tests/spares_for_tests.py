"""An engine for spare workers, in a module that they can import."""

import os
from pathlib import Path

from engines_for_tests import ScriptedEngine

STARTS = "LLLMS_TEST_STARTS"
"""A variable that names a file: each spare worker appends its process id."""
BROKEN = "LLLMS_TEST_BROKEN"
"""A variable: if it is set, a library is missing."""


class WarmEngine(ScriptedEngine):
    def warm(self) -> None:
        with Path(os.environ[STARTS]).open("a") as file:
            file.write(f"{os.getpid()}\n")
        if BROKEN in os.environ:
            raise ImportError("a library is missing")
