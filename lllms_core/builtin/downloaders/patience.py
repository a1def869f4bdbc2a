"""How long a download bears with its server."""

from attrs import frozen


@frozen
class Patience:
    """Times and numbers of attempts."""

    connect: float = 15.0
    """Seconds to connect."""
    stall: float = 30.0
    """Seconds without a byte, after which the connection is given up; there is no limit on the whole."""
    attempts: int = 6
    """Failures without progress in between, after which the download is given up."""
    first_attempts: int = 3
    """The same, while the server has given nothing at all."""
    pause: float = 0.5
    """Seconds after the first failure; twice as long after each further one."""
    longest_pause: float = 30.0
    longest_wait: float = 120.0
    """A server that asks for a longer pause than this is given up, until then."""


PATIENCE = Patience()
