"""Who sends an HTTP request and how urgent it is, for the queue: by its address, its key and its headers."""

import math
from collections.abc import Sequence
from hashlib import blake2b
from ipaddress import IPv4Network, IPv6Address, IPv6Network, ip_address
from secrets import token_bytes
from typing import cast, get_args

from quart import Blueprint, Response, request

from lllms_core.apis.ignored import HEADER
from lllms_core.caller import CALLER, Caller, Priority
from lllms_core.errors import InvalidRequest
from lllms_core.parameters.wording import cut, wrong_choice

PRIORITY = "X-Priority"
PATIENCE = "X-Queue-Timeout"
KEYS = ("Authorization", "X-Api-Key", "Api-Key")
"""The headers in which clients send their keys."""

_SECRET = token_bytes(16)


def know_callers(routes: Blueprint, trusted: Sequence[IPv4Network | IPv6Network]) -> None:
    """Let the queue know who sends the requests to these routes; from `trusted` addresses it accepts priorities.

    A priority from elsewhere has no effect, and the header of ignored parameters names it.
    """
    async def identify() -> None:
        headers = request.headers
        priority = _priority(headers[PRIORITY]) if PRIORITY in headers and _is_trusted(trusted) else None
        patience = _seconds(headers[PATIENCE]) if PATIENCE in headers else None
        CALLER.set(Caller(client_name(), priority, patience))

    async def name_ignored(response: Response) -> Response:
        if PRIORITY in request.headers and not _is_trusted(trusted):
            others = response.headers.get(HEADER)
            response.headers[HEADER] = PRIORITY if others is None else f"{others}, {PRIORITY}"
        return response

    routes.before_request(identify)
    routes.after_request(name_ignored)


def client_name() -> str:
    """Return a name for the client of this request: its address and, if it sends a key, a hash of that.

    Nobody checks the keys yet: by itself a key would make one client of all that send the same placeholder.
    """
    address = request.remote_addr or ""
    keys = [value for name in KEYS if (value := request.headers.get(name)) is not None]
    if not keys:
        return address
    return f"{address} {blake2b(chr(0).join(keys).encode(), key=_SECRET, digest_size=8).hexdigest()}"


def _is_trusted(trusted: Sequence[IPv4Network | IPv6Network]) -> bool:
    try:
        address = ip_address((request.remote_addr or "").partition("%")[0])
    except ValueError:  # a socket has none
        return False
    if isinstance(address, IPv6Address) and address.ipv4_mapped is not None:
        address = address.ipv4_mapped
    return any(address in network for network in trusted)


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
