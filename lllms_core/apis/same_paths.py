"""Paths that several APIs serve: a header tells which of them a request means.

Dialects were designed apart, so some of their paths are the same: `GET /v1/models` belongs to OpenAI's API and to
Anthropic's. An API whose clients send a header of their own names it as its `header`. On a path that several APIs
serve, requests with that header reach that API, and all others the API that names none. The fault of a request that
reaches no route has the shape of the API whose header the request has.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import cast

from quart import Quart, has_request_context, request, websocket
from quart.routing import QuartRule

from lllms_core.apis.contract import Api


def find_speaker(apis: Iterable[Api]) -> Api | None:
    """Return the API whose header the current request has; None if it has none of them."""
    headers = (request if has_request_context() else websocket).headers
    return next((api for api in apis if api.header is not None and api.header in headers), None)


def choose_by_header(app: Quart, apis: Mapping[str, Api]) -> None:
    """Let each request to an application reach the API that its headers tell; `apis`: by the names of their blueprints.

    Two routes have the same path if they are written the same, like `/v1/models/<path:name>`.
    """
    routes: dict[str, list[tuple[QuartRule, Api]]] = {}
    for rule in cast("Iterator[QuartRule]", app.url_map.iter_rules()):
        api = apis.get(rule.endpoint.partition(".")[0])
        if api is not None:
            routes.setdefault(rule.rule, []).append((rule, api))
    shared = {path: found for path, found in routes.items() if len({api.name for _, api in found}) > 1}

    def choose(_endpoint: str | None, _arguments: dict[str, object] | None) -> None:
        rule = request.url_rule if has_request_context() else None
        if rule is not None and rule.rule in shared:
            request.url_rule = _chosen(shared[rule.rule], request.method) or rule

    if shared:
        # These run before everything else that looks at the route: a refusal by a check is told by the right API, too.
        app.url_value_preprocessor(choose)


def _chosen(routes: Sequence[tuple[QuartRule, Api]], method: str) -> QuartRule | None:
    taking = [(rule, api) for rule, api in routes if rule.methods is None or method in rule.methods]
    speaker = find_speaker(api for _, api in taking)
    return next((rule for rule, api in taking if (api is speaker if speaker else api.header is None)), None)
