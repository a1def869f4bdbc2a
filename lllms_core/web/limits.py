"""Limits on the time that a connection may make the server wait, and on the number of connections."""

import logging

from attrs import frozen

try:
    import resource
except ImportError:  # Windows has no such limits
    resource = None  # type: ignore[assignment]

LOG = logging.getLogger("lllms.http")

MOST_CONNECTIONS = 4096
"""Far more than can run (`concurrency`) or wait (`queue_size`) at once, and still few enough to keep open."""
RESERVE = 128
"""Descriptors reserved for other uses: the pipes of workers, model files, sessions, downloads."""
MOST_DESCRIPTORS = 65_536
"""The soft limit is raised to at most this, even if the hard limit is higher or unlimited."""


@frozen
class ConnectionLimits:
    """The limits of a server's clients; times in seconds."""

    headers: float = 20.0
    """From the first byte of a request, or from the start of a connection, until its headers are complete. Honest
    clients' headers arrive in one packet; this leaves time for a slow link that loses some."""
    idle: float = 75.0
    """Between two requests. Longer than clients keep idle connections, so that the clients close them: a request that
    is in transit when the server closes its connection would be lost."""
    send: float = 120.0
    """A client that reads nothing of its answer for this long has left or hangs."""
    linger: float = 2.0
    """A client that is answered while it still sends has this long to notice. If its connection were closed at once, it
    would usually see a broken connection instead of the answer."""
    flush: float = 3.0
    """When the server stops, the bytes of the last answers have this long to reach their clients."""
    sweep: float = 1.0
    """Interval between checks of the connections."""
    connections: int = MOST_CONNECTIONS
    """At this many, an idle one makes room for a new one."""


def raise_descriptor_limit() -> int | None:
    """Raise the soft limit on open files to the hard one; return the limit, or None if there is no limit.

    The usual soft limit, 1,024, is meant for programs that use `select`.
    """
    if resource is None:
        return None
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = MOST_DESCRIPTORS if hard == resource.RLIM_INFINITY else min(hard, MOST_DESCRIPTORS)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
        except (OSError, ValueError) as error:  # macOS has a lower limit that it does not report
            LOG.debug("the limit on open files stays at %d: %s", soft, error)
        else:
            LOG.debug("the limit on open files is raised from %d to %d", soft, wanted)
            soft = wanted
    return None if soft == resource.RLIM_INFINITY else soft


def connections_for(descriptors: int | None) -> int:
    """Return the number of connections to allow with this limit on open files (None: no limit)."""
    if descriptors is None:
        return MOST_CONNECTIONS
    return max(1, min(MOST_CONNECTIONS, descriptors - min(RESERVE, descriptors // 2)))
