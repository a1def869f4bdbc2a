"""Keeps some answers to programs on the server's own machine."""

from ipaddress import IPv6Address, ip_address

from quart import request
from werkzeug.exceptions import Forbidden

from lllms_core.caller import CALLER

FORWARDED = ("Forwarded", "X-Forwarded-For", "X-Real-Ip", "Via")
"""Headers of proxies: behind one, the address says nothing about the client."""


def refuse_other_machines(what: str) -> None:
    """Raise `Forbidden`, which names `what` was asked for, if the current request may come from another machine."""
    called = request.scope.get("server")
    forwarded = any(name in request.headers for name in FORWARDED)
    if forwarded or not is_of_this_machine(request.remote_addr, None if called is None else called[0]):
        raise Forbidden(f"{what} is only for programs on the server's own machine")


def refuse_other_operators(what: str) -> None:
    """Raise `Forbidden` unless the current request is the operator's.

    On a server with API keys, that is whoever has a key for all models; on one without, any program on its machine.
    """
    caller = CALLER.get()
    if caller.models is not None:
        raise Forbidden(f"{what} needs an API key that may use every model")
    if caller.key is None:
        refuse_other_machines(what)


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
