"""Paths that several APIs serve: a header tells which of them a request means.

Dialects were designed apart, so some of their paths are the same: `GET /v1/models` belongs to OpenAI's API and to
Anthropic's. An API whose clients send a header of their own names it as its `header`. On a path that several APIs
serve, requests with that header reach that API, and all others the API that names none. The fault of a request that
reaches no route has the shape of the API whose header the request has.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from typing import cast

from quart import Quart, has_request_context, request, websocket
from quart.routing import QuartRule

from lllms_core.apis.contract import Api


def find_speaker(apis: Iterable[Api]) -> Api | None:
    """Return the API whose header the current request has; None if it has none of them."""
    headers = (request if has_request_context() else websocket).headers
    return next((api for api in apis if api.header is not None and api.header in headers), None)


class SamePaths:
    """Lets each request to an application reach the API that its headers tell.

    Two routes have the same path if they are written the same, like `/v1/models/<path:name>`.
    """

    def __init__(self, app: Quart) -> None:
        self.apis: dict[str, Api] = {}
        """By the names of their blueprints; complete before the first request."""
        self._app = app

    async def choose(self) -> None:
        """Choose the route of the current request; runs first, since a refusal depends on it."""
        rule = request.url_rule
        if rule is not None and rule.rule in self._shared:
            request.url_rule = _chosen(self._shared[rule.rule], request.method) or rule

    @cached_property
    def _shared(self) -> Mapping[str, Sequence[tuple[QuartRule, Api]]]:
        routes: dict[str, list[tuple[QuartRule, Api]]] = {}
        for rule in cast("Iterator[QuartRule]", self._app.url_map.iter_rules()):
            api = self.apis.get(rule.endpoint.partition(".")[0])
            if api is not None:
                routes.setdefault(rule.rule, []).append((rule, api))
        return {path: found for path, found in routes.items() if len({api.name for _, api in found}) > 1}


def _chosen(routes: Sequence[tuple[QuartRule, Api]], method: str) -> QuartRule | None:
    taking = [(rule, api) for rule, api in routes if rule.methods is None or method in rule.methods]
    speaker = find_speaker(api for _, api in taking)
    return next((rule for rule, api in taking if (api is speaker if speaker else api.header is None)), None)
