"""The page of all HTTP routes, from the server's own OpenAPI document."""

from collections.abc import Mapping, Sequence
from typing import Any

from lllms_core import Host, parse_config

HEAD = """\
# HTTP routes

What `GET /openapi.json` of a server describes that has the plugin installed. A server without one of the plugins
answers its paths with a 404 that names the plugin. Everything below `/v1` is served below `/openai/v1`, too.
`GET /openapi.json` has the schemas in full, for programs that generate clients.

Headers that concern every route:

| header | meaning |
|---|---|
| `Authorization: Bearer KEY`, `x-api-key: KEY` | the API key, if the server has keys |
| `X-Request-Id` | taken from the client and returned; without one, the answer has the server's own id |
| `X-Priority` | `high`, `normal` or `low`, of clients in [`trusted_clients`](#server-trusted-clients) |
| `X-Queue-Timeout` | seconds that this request may wait, at most `server.queue_timeout` |
| `x-lllms-ignored` (answer) | the parts of the request that had no effect |
| `x-lllms-unkept` (answer) | restrictions of a schema that the answer violates, or that could not be enforced |
| `Retry-After` (answer) | seconds until another try makes sense |
"""
TITLES = {
    "openai": ("OpenAI's API", "lllms-core"),
    "native": ("Tokens and prompts", "lllms-core"),
    "chat": ("The native chat", "lllms-core"),
    "sessions": ("Sessions", "lllms-core"),
    "status": ("State, models and requests", "lllms-core"),
    "anthropic": ("Anthropic's API", "lllms-anthropic"),
    "ollama": ("Ollama's API", "lllms-ollama"),
    "llama-server": ("llama-server's API", "lllms-compat"),
    "lm-studio": ("LM Studio's list of models", "lllms-compat"),
}
IN_TABLE = ("/v1/chat/completions", "/v1/completions", "/v1/embeddings")
"""Their bodies have the members that the table of parameters lists."""
MOST_MEMBERS = 12
"""A body with more members refers to that table."""


def page() -> str:
    """Return the page in Markdown."""
    host = Host(parse_config({}))
    parts = [HEAD]
    own = [name for name in TITLES if name in host.plugins.apis]
    for name in [*own, *sorted({*host.plugins.apis} - {*own})]:
        title, distribution = TITLES.get(name, (name, f"plugin {host.plugins.apis[name].plugin}"))
        parts.append(f"## {title}\n\nAPI `{name}` of `{distribution}`.\n")
        for path, methods in host.plugins.apis[name].object.describe(host).items():
            for method, told in methods.items():
                parts.append(_route(method.upper(), path, told))
    return "\n".join(parts)


def _route(method: str, path: str, told: Any) -> str:
    lines = [f"### `{method} {path}`", "", f"{told['summary']}.", ""]
    for kind, name in (("path", "In the path"), ("query", "Query"), ("header", "Headers")):
        given = [one for one in told.get("parameters", ()) if one["in"] == kind]
        if given:
            lines += [f"- {name}: {', '.join(_parameter(one) for one in given)}"]
    if "requestBody" in told:
        schema = told["requestBody"]["content"]["application/json"]["schema"]
        lines += [f"- Body: {_members(schema, in_table=path in IN_TABLE)}"]
    answer = told["responses"]["200"]
    kinds = ", ".join(f"`{one}`" for one in answer["content"])
    lines += [f"- Answer ({kinds}): {_lowered(answer['description'])}", ""]
    return "\n".join(lines)


def _lowered(text: str) -> str:
    return text[:1].lower() + text[1:]


def _parameter(told: Any) -> str:
    values = told.get("schema", {}).get("enum")
    return f"`{told['name']}`" + (f" ({', '.join(f'`{one}`' for one in values)})" if values else "")


def _members(schema: Mapping[str, Any], *, in_table: bool) -> str:
    required: Sequence[str] = schema.get("required", ())
    names = [*required, *(name for name in schema["properties"] if name not in required)]
    if not names:
        return "an object without members"
    shown = names[:MOST_MEMBERS] if in_table else names
    more = ", and [further parameters](parameters.md)" if len(shown) < len(names) else ""
    return ", ".join(f"`{name}` (required)" if name in required else f"`{name}`" for name in shown) + more
