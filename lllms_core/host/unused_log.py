"""Logs, once, which parameters of requests nothing acts on."""

import logging
from collections.abc import Sequence

from lllms_core.parameters import ROUTES

LOG = logging.getLogger("lllms.requests")

MOST_LINES = 200
"""The limit of one host, so that clients that keep sending new parameters do not fill the log."""


class UnusedLog:
    """One line for each model and combination of parameters; any thread may call it."""

    def __init__(self) -> None:
        self._told: set[tuple[str, tuple[str, ...]]] = set()

    def tell(self, model: str, unused: Sequence[str]) -> None:
        """Log the names, if they are new. Names outside the table are a client's own words, and are only counted."""
        if not unused:
            return
        known = tuple(sorted({name for name in unused if _is_known(name)}))
        others = len(set(unused)) - len(known)
        key = (model, (*known, *(["others"] if others else [])))
        if key in self._told or len(self._told) >= MOST_LINES:
            return
        self._told.add(key)
        names = ", ".join([*known, *([f"{others} that the server does not know"] if others else [])])
        LOG.info("parameters of requests for %s that have no effect: %s", model, names)


def _is_known(name: str) -> bool:
    return any(name.partition(".")[0] in names for names in ROUTES.values())
