"""How long an address waits for the answer to an API key that the server does not know; pure."""

from collections import OrderedDict
from ipaddress import IPv6Address, ip_address, ip_network

from attrs import define, field

FREE = 5
"""Failures in a row that are answered at once: people mistype keys."""
FIRST, MOST = 0.25, 4.0
"""Seconds that the next failure waits; each further one waits twice as long, up to the most."""
FORGIVEN = 15.0
"""Seconds in which one failure of an address is forgotten."""
ADDRESSES = 1024
"""Addresses that are remembered; the one whose last failure is oldest makes room."""


@define
class FailedKeys:
    """Counts the failures of each address, or of each /64 network of IPv6, which is what one subscriber has."""

    _failures: OrderedDict[str, tuple[float, float]] = field(factory=OrderedDict)
    """By address: the count, and when it was right."""

    def __len__(self) -> int:
        """Return the number of addresses that are remembered."""
        return len(self._failures)

    def note(self, address: str, now: float) -> float:
        """Count a failure; return the seconds until it should be answered."""
        name = _network(address)
        count, at = self._failures.pop(name, (0.0, now))
        count = max(0.0, count - max(0.0, now - at) / FORGIVEN) + 1
        self._failures[name] = count, now
        if len(self._failures) > ADDRESSES:
            self._failures.popitem(last=False)
        return 0.0 if count <= FREE else min(MOST, FIRST * 2.0 ** min(count - FREE - 1, 64))


def _network(address: str) -> str:
    try:
        found = ip_address(address.partition("%")[0])
    except ValueError:
        return ""  # of a socket
    if isinstance(found, IPv6Address):
        return str(found.ipv4_mapped or ip_network((found, 64), strict=False))
    return str(found)
