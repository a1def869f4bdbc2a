"""The contract for placements: where the instances of models run. The built-in one, `local`, is this machine.

A placement knows places: machines that instances can run on. It starts processes there whose standard input and output
are a socket, and finds or fetches model files there. Framing, messages and sessions are the core's: a placement carries
bytes. Both ends execute what the other sends, so all places of a placement are one trust domain.
"""

from collections.abc import Mapping

from attrs import field, frozen

from lllms_core.types import Device

LOCAL = "local"
"""The id of the place that is this machine."""


@frozen
class Place:
    """A machine that instances can run on, and what these may take of it together."""

    id: str
    """Names the place for as long as it is there; never that of another."""
    name: str
    """For people."""
    cores: int = 1
    memory: int | None = None
    """Bytes for all its instances; None: no limit."""
    devices: tuple[Device, ...] = ()
    """Its GPUs."""
    versions: Mapping[str, str] = field(factory=dict)
    """The distributions that a worker imports there, and their versions. Only equal ones understand each other."""
