"""Who sends an HTTP request and how urgent it is, for the queue: by its address, its key and its headers."""

import math
from collections.abc import Callable, Container, Sequence
from hashlib import blake2b
from ipaddress import IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from secrets import token_bytes
from typing import Self, cast, get_args

from attrs import evolve, frozen
from quart import Blueprint, Response, request

from lllms_core.apis.ignored import HEADER
from lllms_core.caller import CALLER, Caller, Priority
from lllms_core.config import ServerConfig
from lllms_core.errors import InvalidRequest
from lllms_core.parameters.wording import cut, wrong_choice

PRIORITY = "X-Priority"
PATIENCE = "X-Queue-Timeout"
KEYS = ("Authorization", "X-Api-Key", "Api-Key")
"""The headers in which clients send their keys."""

_SECRET = token_bytes(16)


@frozen
class Trusted:
    """The clients whose priorities have an effect."""

    networks: Sequence[IPv4Network | IPv6Network] = ()
    keys: Container[str] = ()
    """Names of API keys."""

    @classmethod
    def of(cls, server: ServerConfig) -> Self:
        """Return the `trusted_clients` of a configuration."""
        keys = server.trusted_keys
        return cls([ip_network(one) for one in server.trusted_clients if one not in keys], keys)

    def include_sender(self) -> bool:
        """Whether the sender of the current request is one of them."""
        if CALLER.get().key in self.keys:
            return True
        try:
            address = ip_address((request.remote_addr or "").partition("%")[0])
        except ValueError:  # a socket has none
            return False
        if isinstance(address, IPv6Address) and address.ipv4_mapped is not None:
            address = address.ipv4_mapped
        return any(address in network for network in self.networks)


def know_callers(routes: Blueprint, server: Callable[[], ServerConfig]) -> None:
    """Let the queue know who sends the requests to these routes; from trusted clients it accepts priorities.

    A priority from elsewhere has no effect, and the header of ignored parameters names it. `server` returns the
    configuration in force; if that has keys, the key check has found out who the caller is.
    """
    def is_trusted() -> bool:
        return Trusted.of(server()).include_sender()

    async def identify() -> None:
        headers = request.headers
        caller = CALLER.get() if server().has_keys else Caller(client_name())
        priority = _priority(headers[PRIORITY]) if PRIORITY in headers and is_trusted() else None
        patience = _seconds(headers[PATIENCE]) if PATIENCE in headers else None
        CALLER.set(evolve(caller, priority=priority, patience=patience))

    async def name_ignored(response: Response) -> Response:
        if PRIORITY in request.headers and not is_trusted():
            others = response.headers.get(HEADER)
            response.headers[HEADER] = PRIORITY if others is None else f"{others}, {PRIORITY}"
        return response

    routes.before_request(identify)
    routes.after_request(name_ignored)


def client_name() -> str:
    """Return a name for the client of this request: its address and, if it sends a key, a hash of that.

    This is for servers without keys of their own: by itself a key would make one client of all that send the same
    placeholder.
    """
    address = request.remote_addr or ""
    keys = [value for name in KEYS if (value := request.headers.get(name)) is not None]
    if not keys:
        return address
    return f"{address} {blake2b(chr(0).join(keys).encode(), key=_SECRET, digest_size=8).hexdigest()}"


def _priority(text: str) -> Priority:
    names = get_args(Priority)
    if text.lower() not in names:
        raise wrong_choice(PRIORITY, text, *names)
    return cast("Priority", text.lower())


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = math.nan
    if not (0 <= seconds < math.inf):
        raise InvalidRequest(
            f"Invalid '{PATIENCE}': expected the seconds that the request may wait, 0 or more, but got '{cut(text)}'"
            " instead.", PATIENCE, "invalid_value",
        )
    return seconds
