"""What the author of an HTTP API implements."""

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, ClassVar

if TYPE_CHECKING:
    from quart import Blueprint

    from lllms_core.host import Host


class Api(ABC):
    """Routes over a host. The app mounts every API that the installed plugins provide."""

    name: ClassVar[str]
    """Unique among APIs; names the blueprint's origin in `lllms plugins`."""

    @abstractmethod
    def blueprint(self, host: "Host") -> "Blueprint":
        """Return the routes; called once for each app. Quart is imported in here, not at module top."""
