"""An engine whose rehearsals end as its `end` option says."""

import logging
import os
import threading
from typing import cast

from attrs import frozen

from lllms_core.engines import Engine, Model, Progress
from lllms_core.errors import ModelLoadFailed
from lllms_core.types import ModelSpec

LOG = logging.getLogger("lllms.rehearsing")


@frozen
class Options:
    end: str = ""


class RehearsingEngine(Engine):
    """Never loads anything."""

    name = "rehearsing"
    Options = Options
    needs_file = False

    def load(self, spec: ModelSpec, progress: Progress) -> Model:
        raise AssertionError("a rehearsal loads nothing")

    def rehearse(self, spec: ModelSpec) -> None:
        LOG.debug("%s is rehearsed", spec.name)
        LOG.warning("it is slow")
        match cast(Options, spec.options).end:
            case "refuse":
                raise ModelLoadFailed("it is no model")
            case "raise":
                raise KeyError("missing")
            case "die":
                os._exit(3)
            case "wait":
                threading.Event().wait()
