"""Hostile inputs for Ollama's routes, which take a body of any content type."""

import json
from collections.abc import Iterator, Mapping, Sequence

from hostile_for_tests import BOT, OLLAMA, TAKEN, TINY, Input, body, each, sends, with_value

BARE = ("/api/tags", "/api/ps", "/api/version")
"""The routes that take no body."""
VALUES = ("true", "-1", "1.5", "1e308", '"x"', '""', "[]", "[null]", "{}", '{"a":{}}', "[[[]]]", '[{"role":[]}]',
          "100000000000000000000", '"1h"')
COMPLETING = ("stream", "options", "keep_alive", "format", "think", "logprobs", "top_logprobs", "truncate", "nonsense")
MEMBERS: Mapping[str, Sequence[str]] = {
    "/api/chat": ("model", "messages", "tools", *COMPLETING),
    "/api/generate": ("model", "prompt", "suffix", "system", "template", "raw", "images", "context", *COMPLETING),
    "/api/embed": ("model", "input", "dimensions", "truncate", "options", "keep_alive"),
    "/api/embeddings": ("model", "prompt", "options", "keep_alive"),
    "/api/show": ("model", "name", "verbose"), "/api/pull": ("name", "stream", "insecure"),
}
FIELDS = ("role", "content", "thinking", "images", "tool_calls", "tool_name", "tool_call_id", "nonsense")
MB = 1_000_000


def inputs() -> Iterator[Input]:
    """All inputs for these routes."""
    yield from no_json()
    yield from wrong_types()
    yield from large()


# Held: each of these got a small 400.
def no_json() -> Iterator[Input]:
    """Bodies that are no JSON object, with and without a content type."""
    whole = {
        "empty": b"", "NUL": b"\0", "null": b"null", "an array": b"[]", "two objects": b"{}{}", "a form": b"model=bot",
        "invalid UTF-8": b'{"model":"\xff"}', "a comma too many": b'{"a":1,}',
    }
    for path in OLLAMA:
        good = json.dumps(body(path, BOT)).encode()
        for what, data in whole.items():
            yield Input(f"{path}: {what}", sends(path, data, kind=None), {400})
        yield Input(f"{path}: something after it", sends(path, good + b"x" * 5 * MB, kind=None), {400})
        yield Input(f"{path}: a page's form", sends(path, good, "Origin: https://page.example", kind=None), {403})
        yield Input(f"{path}: 100,000 levels", sends(path, good[:-1] + b',"a":%s}' % (b"[" * 100_000)), {400})


# Held: values of other types.
def wrong_types() -> Iterator[Input]:
    """Each member with values of every type, a few of which are right, and each field of messages and options."""
    for path, names in MEMBERS.items():
        for name in names:
            bodies = [with_value(path, BOT, name, value.encode()) for value in VALUES]
            yield Input(f"{path}: any type as {name}", each(path, bodies), TAKEN | {404})
    for role in ("system", "user", "assistant", "tool"):
        shape = '[{"role":"user","content":"Hi"},{"role":"%s","content":"x","%s":%s}]'
        said = [(shape % (role, field, value)).encode() for field in FIELDS for value in VALUES]
        bodies = [with_value("/api/chat", BOT, "messages", one) for one in said]
        yield Input(f"any type in Ollama's message of {role}", each("/api/chat", bodies), TAKEN)
    for name in ("temperature", "seed", "num_predict", "top_k", "stop", "num_ctx", "tools", "nonsense"):
        options = [b'{"%s":%s}' % (name.encode(), value.encode()) for value in VALUES]
        bodies = [with_value("/api/generate", TINY, "options", one) for one in options]
        yield Input(f"any type as the option {name}", each("/api/generate", bodies), TAKEN)


# Held: errors repeat the beginning only.
def large() -> Iterator[Input]:
    """Five megabytes in each field that an error may quote."""
    long = b'"%s"' % (b"\xc3\xa4" * 2_500_000)
    places = [
        *((path, "model", b"@") for path in OLLAMA), ("/api/chat", "messages", b'[{"role":@}]'),
        ("/api/chat", "messages", b'[{"role":"user","images":[@]}]'), ("/api/chat", "think", b"@"),
        ("/api/chat", "messages", b'[{"role":"tool","tool_name":@,"content":""}]'), ("/api/chat", "keep_alive", b"@"),
        ("/api/chat", "options", b"{@:1}"), ("/api/generate", "template", b"@"), ("/api/generate", "format", b"@"),
    ]
    for number, (path, name, value) in enumerate(places):
        def made(path: str = path, name: str = name, value: bytes = value) -> bytes:
            return with_value(path, BOT, name, value.replace(b"@", long))

        yield Input(f"5 MB: {path} {name} {number}", sends(path, made, kind=None), {400, 404, 413}, heavy=True)
