"""Hostile bodies: JSON that is invalid, too deep, too long, of wrong types, or that asks for too much."""

import gzip
import json
import zlib
from collections.abc import Callable, Iterator, Mapping
from functools import partial

from hostile_for_tests import (
    ANY,
    BOT,
    CHAT,
    COUNT_TOKENS,
    DETOKENIZE,
    EMBED,
    MESSAGES,
    NAMED,
    NATIVE,
    POSTS,
    REFUSED,
    RERANK,
    RESPOND,
    TAKEN,
    TEMPLATE,
    TEXT,
    TINY,
    TOKENIZE,
    Input,
    body,
    each,
    sends,
    with_value,
)
from lines_for_tests import SECRET

from lllms_core.parameters import ROUTES

MB = 1_000_000
DEPTHS = (30, 63, 64, 65, 475, 480, 980, 100_000)
ALLOWED = 65
"""Deeper bodies are refused; whether a body of 64 levels counts as 64 or 65 is left open."""


def inputs() -> Iterator[Input]:
    """All hostile bodies."""
    yield from deep()
    yield from no_json()
    yield from loads()
    yield from wrong_types()
    yield from long_names()
    yield from kinds_of_content()


# Held: whatever the JSON reader itself refuses. Broke: 475 to 980 levels, which it takes and later stages cannot.
def deep() -> Iterator[Input]:
    """Deep JSON in every place where a client may put JSON."""
    schema = b'{"type":"object","properties":{"a":@}}'
    hi = b'{"role":"user","content":"Hi"}'
    places: Mapping[str, tuple[str, str, bytes]] = {
        "tools": (CHAT, "tools", b'[{"type":"function","function":{"name":"f","parameters":%s}}]' % schema),
        "functions": (CHAT, "functions", b'[{"name":"f","parameters":@}]'),
        "tool_choice": (CHAT, "tool_choice", b"@"),
        "chat_template_kwargs": (CHAT, "chat_template_kwargs", b'{"a":@}'),
        "metadata": (CHAT, "metadata", b'{"a":@}'),
        "response_format": (
            CHAT, "response_format", b'{"type":"json_schema","json_schema":{"name":"x","schema":%s}}' % schema,
        ),
        "json_schema": (TEXT, "json_schema", schema),
        "logit_bias": (CHAT, "logit_bias", b'{"1":@}'),
        "stop": (CHAT, "stop", b"[@]"),
        "content": (CHAT, "messages", b'[{"role":"user","content":[@]}]'),
        "image": (CHAT, "messages", b'[{"role":"user","content":[{"type":"image_url","image_url":@}]}]'),
        "tool_calls": (CHAT, "messages", b'[%s,{"role":"assistant","tool_calls":[@]},%s]' % (hi, hi)),
        "prediction": (CHAT, "prediction", b"@"),
        "stream_options": (TEXT, "stream_options", b"@"),
        "prompt": (TEXT, "prompt", b"[@]"),
        "input": (EMBED, "input", b"[@]"),
        "documents": (RERANK, "documents", b"[@]"),
        "tokens": (DETOKENIZE, "tokens", b"[@]"),
        "kwargs of the template": (TEMPLATE, "chat_template_kwargs", b'{"a":@}'),
        "model": (TOKENIZE, "model", b"@"),
        "a message": (NATIVE, "message", b"@"),
        "the arguments of a call": (
            NATIVE, "message", b'{"role":"assistant","calls":[{"id":"c","name":"f","arguments":{"a":@}}]}',
        ),
        "a tool": (NATIVE, "tools", b'[{"name":"f","parameters":%s}]' % schema),
        "an item": (RESPOND, "input", b'[{"role":"user","content":[@]}]'),
        "metadata of a response": (RESPOND, "metadata", b'{"a":@}'),
        "an unknown field": (CHAT, "unknown", b"@"),
        "input_schema": (MESSAGES, "tools", b'[{"name":"f","input_schema":%s}]' % schema),
        "the input of a call": (MESSAGES, "messages", b'[%s,{"role":"assistant","content":[%s]}]' % (
            hi, b'{"type":"tool_use","id":"c","name":"f","input":{"a":@}}',
        )),
        "a block": (MESSAGES, "messages", b'[{"role":"user","content":[@]}]'),
        "a result": (MESSAGES, "messages", b'[{"role":"user","content":[%s]}]' % (
            b'{"type":"tool_result","tool_use_id":"c","content":[@]}'
        )),
        "output_config": (COUNT_TOKENS, "output_config", b'{"format":{"type":"json_schema","schema":%s}}' % schema),
    }
    for place, (path, name, value) in places.items():
        for depth in DEPTHS:
            for model in (BOT, TINY):
                nested = value.replace(b"@", b'{"a":' * depth + b"1" + b"}" * depth)
                right = TAKEN if depth <= ALLOWED else {400}
                yield Input(
                    f"{depth} deep in {place}, {model}", sends(path, with_value(path, model, name, nested)), right,
                )
    for depth in DEPTHS:
        for opens, closes in ((b"[", b"]"), (b'{"a":', b"}")):
            data = opens * depth + b"1" + closes * depth
            yield Input(f"{depth} deep at the top, {opens.decode()}", sends(CHAT, data), {400})
            yield Input(f"{depth} deep and cut, {opens.decode()}", sends(CHAT, opens * depth), {400})
        text = json.dumps('{"a":' + "[" * depth + "]" * depth + "}").encode()
        call = b'{"id":"c","type":"function","function":{"name":"f","arguments":%s}}' % text
        result = b'{"role":"tool","content":%s,"tool_call_id":"c"}' % text
        said = b'[%s,{"role":"assistant","tool_calls":[%s]},%s]' % (hi, call, result)
        for path in (CHAT, TEMPLATE):
            for model in (BOT, TINY):
                right = ANY if depth <= ALLOWED else REFUSED
                yield Input(
                    f"arguments of {depth} levels in the history, {path}, {model}",
                    sends(path, with_value(path, model, "messages", said)), right,
                )


# Held: each of these already got a small 400.
def no_json() -> Iterator[Input]:
    """Bodies that are no JSON, or JSON that nobody expects."""
    whole: Mapping[str, bytes] = {
        "empty": b"", "blank": b" \r\n\t ", "NUL": b"\0", "a number": b"1", "null": b"null", "a string": b'"x"',
        "an array": b"[]", "a large array": b"[" + b"{}," * 10_000 + b"{}]", "two objects": b"{}{}",
        "an open one": b"{",
        "a comment": b"{/* x */}", "single quotes": b"{'model': 'bot'}", "a comma too many": b'{"a":1,}',
        "UTF-16": '{"model":"bot"}'.encode("utf-16"), "UTF-32": '{"model":"bot"}'.encode("utf-32"),
        "invalid UTF-8": b'{"model":"\xff\xfe"}', "overlong UTF-8": b'{"model":"\xc0\xaf"}',
        "half a character": b'{"model":"\xf0\x9f"}', "an encoded surrogate": b'{"model":"\xed\xa0\x80"}',
        "a control character": b'{"model":"\x01"}', "an empty key": b'{"":1}', "a form": b"model=bot&stream=true",
        "XML": b"<?xml version='1.0'?><!DOCTYPE a [<!ENTITY b SYSTEM 'file:///etc/passwd'>]><a>&b;</a>",
        "a pickle": b"\x80\x04\x95\x05\x00\x00\x00\x00\x00\x00\x00N.",
    }
    for path in POSTS:
        for what, data in whole.items():
            yield Input(f"{path}: {what}", sends(path, data), {400})
        good = json.dumps(body(path, BOT)).encode()
        yield Input(f"{path}: a BOM", sends(path, b"\xef\xbb\xbf" + good), TAKEN)
        yield Input(f"{path}: something after it", sends(path, good + b"x" * 5 * MB), {400})
        yield Input(f"{path}: the model twice", sends(path, good[:-1] + b',"model":"no"}'), TAKEN | {404})
        yield Input(f"{path}: cut in its middle", sends(path, good[: len(good) // 2]), {400})
        yield Input(f"{path}: 10,000 members", sends(path, good[:-1] + many_members(10_000)), {400})
    numbers = ("NaN", "Infinity", "-Infinity", "-0", "-0.0", "1e999", "-1e999", "1e-999", "1" * 5000, "-" + "9" * 400,
               "0x10", "01", "+1", ".5", "1.", "1e", "9223372036854775808", "true", '"1"')
    for name in ("temperature", "seed", "max_tokens", "top_p", "timeout", "ttl", "n", "logit_bias", "top_k"):
        for path in (CHAT, TEXT):
            yield Input(
                f"{path}: numbers that are none in {name}",
                each(path, [with_value(path, TINY, name, number.encode()) for number in numbers]), TAKEN,
            )
    texts = {"half a surrogate pair": rb'"\ud83d"', "pairs the wrong way round": rb'"\ude00\ud83d"',
             "NUL": rb'"a\u0000b"', "no characters": rb'"\uffff\ufffe"', "right to left": rb'"\u202e\u2066x"',
             "3,000 accents": rb'"a%s"' % (rb"\u0301" * 3000)}
    for what, value in texts.items():
        for model in (BOT, TINY):
            yield Input(f"a prompt of {what}, {model}", sends(TEXT, with_value(TEXT, model, "prompt", value)), TAKEN)
        yield Input(f"a model called {what}", sends(TEXT, with_value(TEXT, BOT, "model", value)), {400, 404})
        yield Input(f"a stop of {what}", sends(TEXT, with_value(TEXT, TINY, "stop", value)), TAKEN)
        yield Input(f"a user called {what}", sends(CHAT, with_value(CHAT, TINY, "user", value)), TAKEN)
        said = b'[{"role":"user","name":%s,"content":%s}]' % (value, value)
        yield Input(f"a message of {what}", sends(CHAT, with_value(CHAT, TINY, "messages", said)), TAKEN)


# Held: each of these is refused before anything is loaded or unloaded.
def loads() -> Iterator[Input]:
    """Bodies for a load, and for an unload, of a model that is kept loaded."""
    whole: Mapping[str, bytes | Callable[[], bytes]] = {
        "empty": b"", "an array": b"[]", "an open one": b"{", "a name": b'{"model":"bot"}', "a stream": b'{"stream":1}',
        "ttl soon": b'{"ttl":"soon"}', "ttl []": b'{"ttl":[]}', "ttl 1e999": b'{"ttl":1e999}',
        "5 MB of ttl": lambda: b'{"ttl":"%s"}' % (b"9" * 5 * MB),
        "10,000 members": lambda: b"{" + many_members(10_000)[1:],
        "10,000 levels": lambda: b'{"ttl":' + b"[" * 10_000 + b"]" * 10_000 + b"}",
    }
    for path in NAMED:
        place = path.format(name=BOT)
        for what, data in whole.items():
            right = TAKEN if what.startswith("ttl 1e999") else {400}
            yield Input(f"{path}: {what}", sends(place, data), right)
        for kind in ("text/plain", "application/x-www-form-urlencoded", None):
            yield Input(f"{path}: Content-Type {kind}", sends(place, b"{}", kind=kind), {415})
        yield Input(f"{path}: no body, but an Origin", sends(place, b"", "Origin: http://evil", kind=None), {403})


# Held: values of other types.
def wrong_types() -> Iterator[Input]:
    """Each parameter of each route with values of every type, a few of which are right."""
    values = ["null", "true", "-1", "1.5", "1e308", '"x"', '""', "[]", "[null]", "{}", '{"a":{}}', "[[]]", "[[[]]]",
              '[{"type":[]}]', '{"type":{}}', "100000000000000000000"]
    members = {CHAT: ROUTES["chat"], TEXT: ROUTES["text"], EMBED: ROUTES["embeddings"],
               RERANK: ("model", "query", "documents", "top_n", "return_documents"),
               TOKENIZE: ("model", "text", "add_special"), DETOKENIZE: ("model", "tokens"),
               TEMPLATE: ("model", "messages", "tools", "tool_choice", "reasoning_effort", "chat_template_kwargs"),
               MESSAGES: ("model", "messages", "system", "max_tokens", "stop_sequences", "tools", "tool_choice",
                          "stream", "thinking", "output_config", "output_format", "metadata", "mcp_servers",
                          "cache_control"),
               COUNT_TOKENS: ("model", "messages", "system", "tools", "tool_choice", "thinking"),
               RESPOND: (
                   "model", "input", "instructions", "tools", "tool_choice", "text", "reasoning", "include", "metadata",
                   "max_output_tokens", "previous_response_id", "store", "stream", "stream_options", "background",
                   "truncation", "conversation", "prompt", "top_logprobs", "client_metadata", "parallel_tool_calls",
               ),
               NATIVE: (
                   "model", "message", "messages", "system", "conversation", "stream", "thoughts", "tools",
                   "tool_choice", "format", "max_tokens", "n", "reasoning_effort",
               )}
    for path, names in members.items():
        model = BOT if path == EMBED else TINY
        for name in names:
            bodies = [with_value(path, model, name, value.encode()) for value in values]
            yield Input(f"{path}: any type as {name}", each(path, bodies), TAKEN | {404})
    fields = ("role", "content", "name", "tool_calls", "tool_call_id", "function_call", "refusal", "reasoning_content",
              "audio", "annotations", "weight", "images", "reasoning_details")
    for role in ("system", "developer", "user", "assistant", "tool", "function"):
        shape = '[{"role":"user","content":"Hi"},{"role":"%s","content":"x","%s":%s}]'
        said = [(shape % (role, field, value)).encode() for field in fields for value in values]
        bodies = [with_value(CHAT, TINY, "messages", one) for one in said]
        yield Input(f"any type in a message of {role}", each(CHAT, bodies), TAKEN)
    blocks = ("text", "image", "tool_use", "tool_result", "thinking", "redacted_thinking", "document", "x")
    fields = ("text", "source", "id", "input", "tool_use_id", "content", "is_error", "thinking", "cache_control")
    for role in ("system", "user", "assistant"):
        shape = '[{"role":"user","content":"Hi"},{"role":"%s","content":[{"type":"%s","name":"f","%s":%s}]}]'
        said = [shape % (role, kind, field, value) for kind in blocks for field in fields for value in values]
        bodies = [with_value(MESSAGES, TINY, "messages", one.encode()) for one in said]
        yield Input(f"any type in a block of {role}", each(MESSAGES, bodies), TAKEN)
    for kind in ("message", "reasoning", "function_call", "function_call_output", "item_reference"):
        fields = ("role", "content", "summary", "call_id", "name", "arguments", "output", "namespace", "id", "status")
        shape = '[{"role":"user","content":"Hi"},{"type":"%s","%s":%s,"role":"user"}]'
        said = [(shape % (kind, field, value)).encode() for field in fields for value in values]
        bodies = [with_value(RESPOND, TINY, "input", one) for one in said]
        yield Input(f"any type in an item of kind {kind}", each(RESPOND, bodies), TAKEN)
    for role in ("system", "user", "assistant", "tool"):
        shape = '{"role":"%s","content":"x","%s":%s}'
        said = [shape % (role, field, value) for field in ("thoughts", "call", "calls", "name") for value in values]
        said += [shape % (role, "calls", f'[{{"id":"c","name":"f","{field}":{value}}}]')
                 for field in ("id", "name", "arguments") for value in values]
        bodies = [with_value(NATIVE, TINY, "message", one.encode()) for one in said]
        yield Input(f"any type in a native message of {role}", each(NATIVE, bodies), TAKEN)
    for where in ("tools", "response_format", "tool_choice", "functions"):
        shapes = [b'{"type":%s}', b'{"type":"function","function":%s}', b'{"type":"json_schema","json_schema":%s}',
                  b'{"type":"function","function":{"name":"f","parameters":%s}}', b'{"name":"f","parameters":%s}',
                  b'{"type":"json_schema","json_schema":{"name":"f","schema":{"type":%s,"properties":%s}}}']
        filled = [shape.replace(b"%s", value.encode()) for shape in shapes for value in values]
        listed = where in {"tools", "functions"}
        bodies = [with_value(CHAT, TINY, where, b"[%s]" % one if listed else one) for one in filled]
        yield Input(f"any type inside {where}", each(CHAT, bodies), TAKEN)


# Broke: the answer repeated a model name of 5 MB in full.
def long_names() -> Iterator[Input]:
    """Five megabytes in each field that an error may quote."""
    long = b'"%s"' % (b"\xc3\xa4" * 2_500_000)
    hi = b'{"role":"user","content":"Hi"}'
    places = [
        *((path, "model", b"@", {400, 404}) for path in POSTS),
        (CHAT, "messages", b'[{"role":@,"content":"x"}]', {400}),
        (CHAT, "messages", b'[{"role":"user","content":[{"type":@}]}]', {400}),
        (CHAT, "messages", b'[{"role":"user","content":[{"type":"image_url","image_url":{"url":@}}]}]', {400}),
        (CHAT, "messages", b'[{"role":"user","content":"x",@:1}]', TAKEN),
        (CHAT, "messages", b'[%s,{"role":"tool","content":"x","tool_call_id":@}]' % hi, TAKEN),
        (CHAT, "messages", b'[%s,{"role":"user","name":@,"content":"x"}]' % hi, TAKEN),
        (CHAT, "messages", b'[%s,{"role":"assistant","tool_calls":[{"id":@,"type":@,"function":{}}]}]' % hi, {400}),
        (CHAT, "messages", b'[%s,{"role":"assistant","tool_calls":[{"id":"c","type":"function","function":'
                           b'{"name":@,"arguments":@}}]}]' % hi, TAKEN),
        (NATIVE, "message", b'{"role":@,"content":"x"}', {400}), (NATIVE, "conversation", b"@", {400}),
        (NATIVE, "message", b'{"role":"assistant","calls":[{"id":@,"name":@,"arguments":@}]}', {400}),
        (NATIVE, "tools", b'[{"name":@}]', {400}), (NATIVE, "tools", b'[{"name":"f",@:1}]', {400}),
        (RESPOND, "input", b'[{"type":@}]', {400}), (RESPOND, "input", b'[{"role":@,"content":"x"}]', {400}),
        (RESPOND, "input", b'[{"id":@}]', {400}), (RESPOND, "previous_response_id", b"@", {400}),
        (RESPOND, "tools", b'[{"type":@}]', {400}), (RESPOND, "tools", b'[{"type":"function","name":@}]', {400}),
        (RESPOND, "text", b'{"format":{"type":@}}', {400}), (RESPOND, "text", b"{@:1}", {400}),
        (RESPOND, "include", b"[@]", {400}), (RESPOND, "tool_choice", b'{"type":@}', {400}),
        (RESPOND, "truncation", b"@", {400}), (RESPOND, "metadata", b"{@:@}", TAKEN),
        (CHAT, "tools", b'[{"type":@}]', {400}),
        (CHAT, "tools", b'[{"type":"function","function":{"name":@}}]', {400}),
        (CHAT, "tools", b'[{"type":"function","function":{"name":"f","description":@}}]', TAKEN),
        (CHAT, "tools", b'[{"type":"function","function":{"name":"f","parameters":{"type":@}}}]', TAKEN),
        (CHAT, "tool_choice", b"@", {400}),
        (CHAT, "tool_choice", b'{"type":"function","function":{"name":@}}', {400}),
        (CHAT, "response_format", b'{"type":@}', {400}),
        (CHAT, "response_format", b'{"type":"json_schema","json_schema":{"name":@,"schema":{}}}', TAKEN),
        (CHAT, "response_format", b'{"type":"json_schema","json_schema":{"name":"x","schema":{"type":@}}}', {400}),
        (CHAT, "response_format", b'{"type":"json_schema","json_schema":{"name":"x","schema":{@:1}}}', TAKEN),
        (CHAT, "response_format", b'{"type":"json_schema","json_schema":{"name":"x","schema":{"$ref":@}}}', {400}),
        (CHAT, "reasoning_effort", b"@", {400}), (CHAT, "service_tier", b"@", TAKEN), (CHAT, "stop", b"@", TAKEN),
        (CHAT, "metadata", b"{@:@}", TAKEN), (CHAT, "thinking", b"{@:1}", {400}), (CHAT, "thinking", b"@", {400}),
        (CHAT, "guided_json", b"@", {400}), (CHAT, "guided_choice", b"[@,@]", TAKEN), (CHAT, "keep_alive", b"@", {400}),
        (CHAT, "structured_outputs", b"{@:1}", {400}), (CHAT, "format", b"@", {400}),
        (CHAT, "logit_bias", b"{@:1}", {400}), (CHAT, "user", b"@", TAKEN),
        (CHAT, "safety_identifier", b"@", TAKEN), (CHAT, "chat_template_kwargs", b"{@:1}", TAKEN),
        (CHAT, "temperature", b"@", {400}), (CHAT, "stream_options", b"{@:1}", {400}), (CHAT, "audio", b"{@:@}", {400}),
        (CHAT, "grammar", b"@", {400}), (TEXT, "grammar", b'{"type":@,"value":"x"}', {400}),
        (TEXT, "suffix", b"@", {400}), (TEXT, "dry_sequence_breakers", b"[@]", TAKEN),
        (MESSAGES, "messages", b'[{"role":@,"content":"x"}]', {400}), (MESSAGES, "tools", b'[{"type":@}]', TAKEN),
        (MESSAGES, "messages", b'[{"role":"user","content":[{"type":@}]}]', {400}),
        (MESSAGES, "messages", b'[%s,{"role":"assistant","content":[{"type":"tool_use","id":@,"name":"f"}]}]' % hi,
         {400}),
        (MESSAGES, "messages", b'[{"role":"user","content":[{"type":"tool_result","tool_use_id":@}]}]', {400}),
        (MESSAGES, "tools", b'[{"name":@,"input_schema":{}}]', {400}), (MESSAGES, "tool_choice", b'{"type":@}', {400}),
        (MESSAGES, "tools", b'[{"name":"f","input_schema":{},@:1}]', TAKEN),
        (MESSAGES, "thinking", b'{"type":@}', {400}),
        (MESSAGES, "output_config", b'{"effort":@}', {400}), (MESSAGES, "stop_sequences", b"[@]", TAKEN),
        (EMBED, "encoding_format", b"@", {400}), (RERANK, "top_n", b"@", {400}), (DETOKENIZE, "tokens", b"[@]", {400}),
    ]
    for number, (path, name, value, right) in enumerate(places):
        shown = value.replace(b"@", b"...").decode()[:60]

        def large(path: str = path, name: str = name, value: bytes = value) -> bytes:
            return with_value(path, TINY, name, value.replace(b"@", long))

        yield Input(f"5 MB: {path} {name} {number} {shown}", sends(path, large), {*right, 413}, heavy=True)
    # Broke: the pattern of durations was tried at each of the digits, to the end of them.
    digits = partial(with_value, CHAT, TINY, "ttl", b'"%s"' % (b"9" * 1_000_000))
    yield Input("1 MB: digits of a ttl without a unit", sends(CHAT, digits), {400}, heavy=True)
    yield Input("5 MB: the name of a member", sends(CHAT, lambda: b'{%s:1,"model":"bot"}' % long), {400}, heavy=True)


# Held: other content types. Broke: the error called a gzip body "no JSON".
def kinds_of_content() -> Iterator[Input]:
    """Bodies with a wrong or missing content type or coding."""
    good = json.dumps(body(CHAT, BOT)).encode()
    kinds = ("text/plain", "application/x-www-form-urlencoded", "multipart/form-data",
             "multipart/form-data; boundary=x", "multipart/form-data; boundary=" + "x" * 4000,
             "application/xml", "x", "/", ";", "application/json;", "application/json; charset=utf-16",
             "application/json; charset=" + "a" * 4000, "application/jsonp",
             "application/vnd.api+json", "APPLICATION/JSON", "application/json, text/plain", 'application/json; a="',
             "\xe4/\xf6", "application/json\t", "*/*")
    for kind in kinds:
        yield Input(f"Content-Type {kind[:40]!r}", sends(CHAT, good, kind=kind), {200, 400, 415})
    for path in POSTS:
        yield Input(f"{path}: no Content-Type", sends(path, good, kind=None), {415})
    packed: Mapping[str, tuple[bytes, set[int]]] = {
        "gzip": (gzip.compress(good), {200}), "X-GZIP": (gzip.compress(good), {200}),
        "deflate": (zlib.compress(good), {200}), "identity": (good, {200}), "": (good, {200}), ",": (good, {200}),
        "br": (b"\x0b\x02\x80", {415}), "gzip, gzip": (gzip.compress(gzip.compress(good)), {415}), "x": (good, {415}),
        "zstd": (b"\x28\xb5\x2f\xfd", {415}), "x" * 4_000: (good, {415}), "\xe4": (good, {415}),
    }
    for coding, (data, right) in packed.items():
        yield Input(f"Content-Encoding {coding[:40]!r}", sends(CHAT, data, f"Content-Encoding: {coding}"), right)
    small = gzip.compress(good)
    wrong: Mapping[str, bytes | Callable[[], bytes]] = {
        "is none": good, "is cut": small[:20], "is cut before its sum": small[:-8],
        "has another sum": small[:-8] + bytes(8),
        "is followed by more": small + b"x", "is followed by 5 MB": lambda: small + b"x" * 5 * MB,
        "is there 10,000 times": small * 10_000, "is 10,000 times nothing": gzip.compress(b"") * 10_000,
        "has a name of 1 MB": small[:3] + b"\x08" + small[4:10] + b"x" * MB,
        "holds gzip": gzip.compress(small), "holds no JSON": gzip.compress(b"x" * 1000),
        "is deflate": zlib.compress(good),
    }
    for what, body_of in wrong.items():
        yield Input(f"gzip that {what}", sends(CHAT, body_of, "Content-Encoding: gzip"), {400})
    # Broke: was never unpacked. Held now: a body that outgrows the limit is refused like any other large body.
    for coding in ("gzip", "deflate"):
        large, said = partial(bomb, 200 * MB, coding), f"Content-Encoding: {coding}"
        yield Input(f"a bomb of 200 MB, {coding}", sends(CHAT, large, said), {413}, heavy=True)
    packed_twice = partial(bomb, 200 * MB, "gzip", gzip.compress)
    yield Input("a bomb in a bomb", sends(CHAT, packed_twice, "Content-Encoding: gzip"), {400}, heavy=True)


def many_members(count: int) -> bytes:
    """The rest of an object with very many members."""
    return b"".join(b',"m%d":"%s"' % (number, SECRET.encode()) for number in range(count)) + b"}"


def bomb(size: int, coding: str = "gzip", wrap: Callable[[bytes], bytes] = bytes) -> bytes:
    """A small body that is large once unpacked."""
    packer = zlib.compressobj(1, wbits=31 if coding == "gzip" else 15)
    block = b" " * MB
    return wrap(b"".join(packer.compress(block) for _ in range(size // MB)) + packer.flush())
