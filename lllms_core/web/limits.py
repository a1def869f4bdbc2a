"""How long a connection may make the server wait, and how many connections there may be."""

import logging

from attrs import frozen

try:
    import resource
except ImportError:  # Windows has no such limits
    resource = None  # type: ignore[assignment]

LOG = logging.getLogger("lllms.http")

MOST_CONNECTIONS = 4096
"""Far more than can be answered at once (`concurrency`) or wait (`queue_size`), and still few enough to keep."""
RESERVE = 128
"""Descriptors kept for other uses: the pipes of workers, model files, sessions, downloads."""
MOST_DESCRIPTORS = 65_536
"""Where the hard limit is higher, or none, the soft one is raised to this."""


@frozen
class Limits:
    """What a server allows its clients; times in seconds."""

    headers: float = 20.0
    """From the first byte of a request, or from the start of a connection, until its headers are complete. Honest ones
    arrive in one packet; this is for a slow link that loses some."""
    idle: float = 75.0
    """Between two requests. Longer than clients keep idle connections, so that it is they who close them: if the server
    closed one that a request is on its way to, the request would be lost."""
    send: float = 120.0
    """A client that reads nothing of its answer for this long has left, or is stopped."""
    linger: float = 2.0
    """A client that is answered while it still sends gets this long to notice. Closed at once, it would mostly see a
    broken connection instead of the answer."""
    flush: float = 3.0
    """When the server stops, the bytes of the last answers get this long to reach their clients."""
    sweep: float = 1.0
    """How often connections are checked."""
    connections: int = MOST_CONNECTIONS
    """At this many, an idle one makes room for a newcomer."""


def raise_descriptor_limit() -> int | None:
    """Raise the soft limit on open files to the hard one; returns the limit, or None where there is none.

    The usual soft limit, 1,024, is for programs that use `select`.
    """
    if resource is None:
        return None
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = MOST_DESCRIPTORS if hard == resource.RLIM_INFINITY else min(hard, MOST_DESCRIPTORS)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
        except (OSError, ValueError) as error:  # macOS has a lower limit that it does not tell
            LOG.debug("the limit on open files stays at %d: %s", soft, error)
        else:
            LOG.debug("the limit on open files is raised from %d to %d", soft, wanted)
            soft = wanted
    return None if soft == resource.RLIM_INFINITY else soft


def connections_for(descriptors: int | None) -> int:
    """Return how many connections to allow with a limit on open files (None: no limit)."""
    if descriptors is None:
        return MOST_CONNECTIONS
    return max(1, min(MOST_CONNECTIONS, descriptors - min(RESERVE, descriptors // 2)))
