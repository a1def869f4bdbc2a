"""What can be said of models and engines without loading anything."""

from typing import TYPE_CHECKING

from lllms_core.errors import LllmsError
from lllms_core.tracebacks import described

if TYPE_CHECKING:
    from collections.abc import Sequence

    from lllms_core.catalog import CatalogEntry
    from lllms_core.engines import Engine
    from lllms_core.types import ModelSpec


def hardware_of(engine: "Engine", spec: "ModelSpec | None" = None) -> str:
    """Return on what an engine's models compute, or one of them; "" if that is unknown."""
    try:
        return engine.hardware(spec)
    except LllmsError:  # the model cannot be loaded at all, which `faults` tells
        return ""
    except Exception as error:  # noqa: BLE001  # a plugin's fault
        return f"cannot say on what it computes: {described(error)}"


def faults(entry: "CatalogEntry") -> "Sequence[str]":
    """Return why a model can never be loaded, all that can be seen without loading it; its files must be here."""
    try:
        return [finding.text for finding in entry.engine.examine(entry.spec) if finding.fatal]
    except LllmsError as error:
        return [error.message]
    except Exception as error:  # noqa: BLE001  # a plugin's fault
        return [f"engine '{entry.engine.name}' could not examine it: {described(error)}"]
