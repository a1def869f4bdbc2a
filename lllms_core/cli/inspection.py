"""What can be said of engines without loading anything."""

from typing import TYPE_CHECKING

from lllms_core.errors import LllmsError
from lllms_core.tracebacks import described

if TYPE_CHECKING:
    from lllms_core.engines import Engine
    from lllms_core.types import ModelSpec


def hardware_of(engine: "Engine", spec: "ModelSpec | None" = None) -> str:
    """Return on what an engine's models compute, or one of them; "" if that is unknown."""
    try:
        return engine.hardware(spec)
    except LllmsError:  # the model cannot be loaded at all, which `Host.examine` tells
        return ""
    except Exception as error:  # noqa: BLE001  # a plugin's fault
        return f"cannot say on what it computes: {described(error)}"
