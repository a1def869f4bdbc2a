"""Whether a client is on the server's own machine: what only programs here may see."""

from ipaddress import IPv6Address, ip_address

from quart import request

FORWARDED = ("Forwarded", "X-Forwarded-For", "X-Real-Ip", "Via")
"""Headers of proxies: behind one, the address says nothing about the client."""


def asks_from_here() -> bool:
    """Whether the client of the request that is being served is on this machine, without a proxy between."""
    called = request.scope.get("server")
    here = is_of_this_machine(request.remote_addr, None if called is None else called[0])
    return here and not any(name in request.headers for name in FORWARDED)


def is_of_this_machine(address: str | None, called: str | None) -> bool:
    """Whether a client is on this machine, judging by its address and the one that it has `called`.

    A client without an address counts as being on this machine.
    """
    if address == called:
        return True
    try:
        client = ip_address((address or "").partition("%")[0])
    except ValueError:
        return True
    mapped = client.ipv4_mapped if isinstance(client, IPv6Address) else None
    return (mapped or client).is_loopback
