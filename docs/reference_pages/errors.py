"""The page of all errors: those that Python code can catch, and those that clients of the server see."""

from collections.abc import Mapping

from lllms_core import errors
from lllms_core.apis.explanations import TABLE

HEAD = """\
# Errors

## What a client sees

Errors of OpenAI's routes and of our own have OpenAI's shape; the other APIs have their own shapes with the same
message:

```json
{"error": {"message": "...", "type": "invalid_request_error", "param": "messages[0].role", "code": "invalid_value"}}
```

`message` names the thing, the limit and the way out. `param` is the place in the request; programs can rely on `code`
and on the HTTP status. `Retry-After` says when another try makes sense; an error that stays the same when the request
is repeated has the header `x-should-retry: false` where OpenAI's clients would retry by themselves. In a stream that
has begun, an error is the last event.

| status | `code` | `type` | meaning |
|---|---|---|---|
"""
REFUSED = """
A request that is refused for what it says has the status 400, the type `invalid_request_error`, and one of these codes,
or `invalid_request`:

| `code` | meaning |
|---|---|
"""
HTTP = """
Errors of HTTP itself have the name of their status as `code`: `not_found` (404, with the way out for paths of other
APIs and wrong base URLs), `method_not_allowed` (405), `request_timeout` (408, a body that came too slowly),
`request_entity_too_large` (413, see [`max_body`](#server-max-body)), `forbidden` (403, a
[Host or Origin header](../troubleshooting.md#403-from-a-browser) that is not allowed).
"""
PYTHON = """
## What Python code catches

```text
"""
REFUSALS: Mapping[str, str] = {
    "array_above_max_length": "a list has too many items",
    "context_length_exceeded": "the prompt leaves no room for an answer",
    "conversation_full": "a kept conversation has reached its limit",
    "empty_array": "a list must have an item",
    "invalid_configuration": "a new configuration has faults, so that nothing was changed",
    "invalid_encoding": "the body's compression is broken",
    "invalid_function_parameters": "the schema of a tool's arguments cannot be used",
    "invalid_grammar": "a grammar cannot be used",
    "invalid_json": "the body, or a schema sent as text, is not valid JSON",
    "invalid_json_schema": "a JSON schema cannot be used",
    "invalid_key": "a key of an object is not one of those expected",
    "invalid_type": "a value has the wrong type",
    "invalid_value": "a value is out of range, or contradicts another",
    "item_not_found": "a response refers to an item that is not kept",
    "missing_required_parameter": "a parameter is missing",
    "nested_too_deeply":
        "the request is nested more deeply than [`max_json_depth`](#server-max-json-depth)",
    "previous_response_not_completed": "`previous_response_id` names a response that is not complete",
    "previous_response_not_found": "`previous_response_id` names a response that is not kept",
    "string_above_max_length": "a string is too long",
    "string_below_min_length": "a string is too short",
    "too_many_values": "the request has more values in all than a request may have",
    "unknown_parameter": "no such parameter; see [`unknown_parameters`](#server-unknown-parameters)",
    "unsupported_parameter": "the engine does not act on this parameter, or not on this value",
}
"""Codes of refusals that are not named after a class of error."""

MEANINGS: Mapping[type[errors.LllmsError], str] = {
    errors.ModelError: "The model could not be loaded: its file, its options or the machine do not allow it",
    errors.RequestError: "The request itself is at fault, see below",
    errors.LllmsError: "Something unexpected; the server's log tells more",
}
"""Where the first line of a class's docstring is for other readers."""


def page() -> str:
    """Return the page in Markdown."""
    rows = [
        f"| {status} | `{code}` | `{kind}` | {MEANINGS.get(cls) or _first(cls)} |"
        for cls, (status, kind, code) in TABLE.items() if code not in REFUSALS
    ]
    refusals = [f"| `{code}` | {meaning} |" for code, meaning in REFUSALS.items()]
    about, tree, rest = (errors.__doc__ or "").split("\n\n", 2)
    lines = [line.removeprefix("    ") for line in tree.splitlines()]
    return (
        HEAD + "\n".join(rows) + "\n" + REFUSED + "\n".join(refusals) + "\n" + HTTP + PYTHON + "\n".join(lines)
        + f"\n```\n\n{about} {rest.strip()} [`lllms_core.errors`](python/errors.md) has each class.\n"
    )


def _first(cls: type) -> str:
    return (cls.__doc__ or "").partition("\n")[0].rstrip(".")
