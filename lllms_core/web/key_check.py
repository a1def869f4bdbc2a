"""Lets in who has an API key, within the limits of the key; one place, for the routes of every dialect."""

import asyncio
import time
from collections.abc import Callable, Iterator

from quart import Blueprint, Quart, Request, Websocket, current_app, has_request_context, request, websocket
from werkzeug.datastructures import Headers

from lllms_core.apis.open_routes import is_open
from lllms_core.caller import CALLER, Caller
from lllms_core.config import ApiKey, Keyring
from lllms_core.errors import KeyRefused, RateLimited
from lllms_core.web.allowance import Allowance
from lllms_core.web.failed_keys import FailedKeys

BEARER = "bearer"
HEADERS = ("X-Api-Key", "Api-Key")
"""Beside `Authorization: Bearer`, the headers of Anthropic's clients and of Azure's."""
FORM = "'Authorization: Bearer KEY' or 'x-api-key: KEY'"

STRANGER = Caller(known=False)

MOST_WAITING = 64
"""Requests with wrong keys that are held at a time; further ones are refused at once, as they take memory."""


class KeyCheck:
    """Refuses requests without a known key, and lets host and queue know the caller by its key.

    Without any keys it lets everybody in; with some, callers without one reach only the routes that are marked
    (`apis.open_routes`). A POST takes a place of its key until its whole answer is sent, or its client has left.

    An address that has sent several wrong keys waits for each further refusal, while right keys are answered at once,
    from that address, too: this slows programs that try one key after the other, and those that repeat a wrong one.
    Against a guesser with many connections only keys that are too long to be guessed help, such as `lllms key` makes.
    """

    def __init__(self, keyring: Keyring, clock: Callable[[], float] = time.monotonic) -> None:
        self.keyring = keyring
        self._clock = clock
        self._failed = FailedKeys()
        self._waiting = 0
        self._allowances = {key.name: Allowance(key) for key in keyring.keys}

    def take(self, keyring: Keyring) -> None:
        """Know these keys from now on; those that were known before keep their count of requests."""
        self.keyring = keyring
        known = self._allowances
        self._allowances = {
            key.name: known[key.name].renewed(key) if key.name in known else Allowance(key) for key in keyring.keys
        }

    def guard(self, routes: Quart | Blueprint) -> None:
        """Check every request to these routes, WebSockets included."""
        routes.before_request(self._check)
        routes.before_websocket(self._check)

    async def _check(self) -> None:
        if not self.keyring.keys:
            return
        asked = request if has_request_context() else websocket
        secrets = list(sent_secrets(asked.headers))
        key = next((found for one in secrets if (found := self.keyring.find(one)) is not None), None)
        if key is not None:
            CALLER.set(Caller(key.name, models=key.models, key=key.name))
            if asked.method == "POST":
                self._enter(key)
            return
        if secrets:
            await self._slow_down(asked.remote_addr or "")
        if _leads_to_open(asked):
            CALLER.set(STRANGER)
        elif secrets:
            raise KeyRefused("incorrect API key: this server knows no such key")
        else:
            raise KeyRefused(f"this server needs an API key; send it as {FORM}")

    async def _slow_down(self, address: str) -> None:
        """Delay the refusal of a wrong key, the longer the more of them an address has sent."""
        seconds = self._failed.note(address, self._clock())
        if seconds and self._waiting < MOST_WAITING:
            self._waiting += 1
            try:
                await pause(seconds)
            finally:
                self._waiting -= 1

    def _enter(self, key: ApiKey) -> None:
        allowance = self._allowances[key.name]
        refused = allowance.enter(self._clock())
        if refused is not None:
            limit, seconds = refused
            raise RateLimited(f"the API key '{key.name}' allows {limit}; try again in {seconds} s", seconds)
        task = asyncio.current_task()
        assert task is not None  # noqa: S101  # a coroutine runs in one
        # Quart reads a request and sends its answer in one task, which it cancels when the client leaves.
        task.add_done_callback(lambda _: allowance.leave())


def _leads_to_open(asked: Request | Websocket) -> bool:
    """Whether a request is for a route that needs no key."""
    rule = asked.url_rule
    if rule is None or asked.method not in {"GET", "HEAD"}:
        return False
    return is_open(current_app.view_functions.get(rule.endpoint))


async def pause(seconds: float) -> None:
    """Wait."""
    await asyncio.sleep(seconds)


def sent_secrets(headers: Headers) -> Iterator[str]:
    """Yield the keys that a request has sent."""
    scheme, _, secret = headers.get("Authorization", "").partition(" ")
    if scheme.lower() == BEARER and secret.strip():
        yield secret.strip()
    for name in HEADERS:
        if secret := headers.get(name, "").strip():
            yield secret
