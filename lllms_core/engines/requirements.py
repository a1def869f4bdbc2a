"""An engine's requirements besides lllms."""

from collections.abc import Iterator
from importlib.util import find_spec

from lllms_core.types import Finding


def missing(engine: str, module: str, package: str) -> Iterator[Finding]:
    """Yield a fault if a module that an engine imports for a load is not installed; `package` provides it."""
    if find_spec(module) is None:
        yield Finding(f"engine '{engine}' needs {package}, which is not installed; run pip install {package}")
