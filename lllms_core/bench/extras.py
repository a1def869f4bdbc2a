"""Libraries that only the bench needs: imported when they are used, with a clear word when they are missing."""

from importlib import import_module
from types import ModuleType

from lllms_core.errors import LllmsError


class ExtraMissing(LllmsError):
    """A library that this bench needs is not installed."""


def need(module: str, extra: str) -> ModuleType:
    """Import a module; raises `ExtraMissing`, which tells how to get it, if it is not installed."""
    try:
        return import_module(module)
    except ImportError as error:
        raise ExtraMissing(f"this bench needs {module} ({error}); pip install 'lllms-core[{extra}]'") from error


def need_gguf() -> ModuleType:
    """Import `gguf` and the numpy that it works with."""
    need("numpy", "bench")
    return need("gguf", "bench")
