"""Libraries that only the bench needs: imported on use, with a clear error if they are missing."""

from importlib import import_module
from types import ModuleType

from lllms_core.errors import LllmsError


class ExtraMissing(LllmsError):
    """A library that this bench needs is not installed."""


def need(module: str, extra: str) -> ModuleType:
    """Import a module. Raises `ExtraMissing`, which says how to install it, if it is missing."""
    try:
        return import_module(module)
    except ImportError as error:
        raise ExtraMissing(f"this bench needs {module} ({error}); pip install 'lllms-core[{extra}]'") from error


def need_gguf() -> ModuleType:
    """Import `gguf` and numpy, which it needs."""
    need("numpy", "bench")
    return need("gguf", "bench")
