"""Hostile inputs for llama-server's routes, which take a body of any content type, and for LM Studio's."""

import json
from collections.abc import Iterator, Mapping, Sequence

from hostile_for_tests import BOT, COMPAT, TAKEN, TINY, Input, body, each, sends, with_value

BARE = ("/props", "/slots", "/api/v0/models")
"""The routes that take no body."""
NO_GAPS = 501
"""The status for a model that cannot fill gaps."""
VALUES = ("true", "-1", "1.5", "1e308", '"x"', '""', "[]", "[null]", "{}", '{"a":{}}', "[[[]]]", "[[1]]", '[["x",1]]',
          "100000000000000000000", "[1,\"x\",2]")
COMPLETING = (
    "n_predict", "stream", "stop", "samplers", "response_fields", "n_indent", "t_max_predict_ms", "t_max_prompt_ms",
    "n_probs", "logit_bias", "seed", "repeat_last_n", "temperature", "grammar", "json_schema", "cache_prompt", "lora",
    "id_slot", "return_tokens", "typical", "nonsense",
)
MEMBERS: Mapping[str, Sequence[str]] = {
    "/infill": ("model", "input_prefix", "input_suffix", "input_extra", "prompt", *COMPLETING),
    "/completion": ("model", "prompt", *COMPLETING), "/completions": ("prompt",),
    "/tokenize": ("model", "content", "add_special", "with_pieces", "parse_special"),
    "/detokenize": ("model", "tokens"), "/apply-template": ("model", "messages", "tools"),
}
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
    for path in COMPAT:
        good = json.dumps(body(path, BOT)).encode()
        for what, data in whole.items():
            yield Input(f"{path}: {what}", sends(path, data, kind=None), {400})
        yield Input(f"{path}: something after it", sends(path, good + b"x" * 5 * MB, kind=None), {400})
        yield Input(f"{path}: a page's form", sends(path, good, "Origin: https://page.example", kind=None), {403})
        yield Input(f"{path}: 100,000 levels", sends(path, good[:-1] + b',"a":%s}' % (b"[" * 100_000)), {400})


# Held: values of other types.
def wrong_types() -> Iterator[Input]:
    """Each member with values of every type, a few of which are right."""
    for path, names in MEMBERS.items():
        model = BOT if path == "/completions" else TINY
        for name in names:
            bodies = [with_value(path, model, name, value.encode()) for value in VALUES]
            right = TAKEN | {404} | ({NO_GAPS} if path == "/infill" else set())
            yield Input(f"{path}: any type as {name}", each(path, bodies), right)
    excerpts = [f'[{{"text":"a"}},{{"{field}":{value}}}]' for field in ("text", "filename", "time") for value in VALUES]
    bodies = [with_value("/infill", TINY, "input_extra", one.encode()) for one in excerpts]
    yield Input("any type in an excerpt", each("/infill", bodies), TAKEN | {NO_GAPS})


# Held: errors repeat the beginning only; texts that no model could read are refused, or cut.
def large() -> Iterator[Input]:
    """Megabytes in each field that an error may quote, or that is tokenised, and thousands of members."""
    long = b'"%s"' % (b"\xc3\xa4" * 2_500_000)
    places = [
        *((path, "model", b"@") for path in COMPAT), ("/completion", "samplers", b"[@]"),
        ("/completion", "samplers", b"@"), ("/completion", "response_fields", b"[@]"),
        ("/completion", "logit_bias", b"[[@,1]]"), ("/completion", "logit_bias", b"{@:1}"),
        ("/completion", "prompt", b"[1,@]"), ("/completion", "grammar", b"@"), ("/infill", "input_prefix", b"@"),
        ("/infill", "input_suffix", b"@"), ("/infill", "input_extra", b'[{"text":@,"filename":@}]'),
        ("/tokenize", "content", b"@"), ("/detokenize", "tokens", b"[@]"),
    ]
    for number, (path, name, value) in enumerate(places):
        def made(path: str = path, name: str = name, value: bytes = value) -> bytes:
            return with_value(path, TINY, name, value.replace(b"@", long))

        right = TAKEN | {404, 413, NO_GAPS}
        yield Input(f"5 MB: {path} {name} {number}", sends(path, made, kind=None), right, heavy=True)
    for path, name, value in (
        ("/completion", "prompt", b"[%s]" % b",".join([b'"a"'] * 3000)),
        ("/completion", "prompt", b"[%s]" % b",".join([b'1,"a"'] * 3000)),
        ("/infill", "input_extra", b"[%s]" % b",".join([b'{"text":"a"}'] * 3000)),
        ("/completion", "stop", b"[%s]" % b",".join([b'"a"'] * 3000)),
    ):
        act = sends(path, with_value(path, TINY, name, value))
        yield Input(f"thousands in {name} of {path}, {value[:9].decode()}", act, TAKEN | {NO_GAPS}, heavy=True)
