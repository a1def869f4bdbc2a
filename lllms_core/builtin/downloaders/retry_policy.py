"""Timeouts and retries of a download."""

from attrs import frozen


@frozen
class RetryPolicy:
    """Timeouts and numbers of attempts."""

    connect: float = 15.0
    """Seconds to connect."""
    stall: float = 30.0
    """Seconds without a byte, after which the connection is given up; the whole download has no limit."""
    attempts: int = 6
    """Failures without progress in between after which the download is given up."""
    first_attempts: int = 3
    """The same, as long as the server has sent nothing at all."""
    pause: float = 0.5
    """Seconds after the first failure; each further failure doubles it."""
    longest_pause: float = 30.0
    longest_wait: float = 120.0
    """If the server asks for a longer pause than this, the download is given up until then."""


RETRY_POLICY = RetryPolicy()
