"""Hostile work: well-formed requests that ask for very much, or for something that is hard to compute."""

import json
from collections.abc import Iterator, Mapping

from hostile_for_tests import (
    BOT,
    CHAT,
    EMBED,
    NATIVE,
    RERANK,
    RESPOND,
    TAKEN,
    TEMPLATE,
    TEXT,
    TINY,
    TOKENIZE,
    Input,
    each,
    sends,
    with_value,
)
from lines_for_tests import SECRET

MB = 1_000_000
HI = b'{"role":"user","content":"Hi"}'


def inputs() -> Iterator[Input]:
    """All requests for hostile work."""
    yield from counts()
    yield from large_bodies()
    yield from large_texts()
    yield from grammars()
    yield from schemas()
    yield from histories()
    yield from templates()


# Broke: more than 520 prompts always got a 429.
def counts() -> Iterator[Input]:
    """Many answers to one request."""
    for count in (128, 521, 2048, 2049, 100_000):
        right = TAKEN if count <= 2048 else {400}
        prompts = b"[" + b",".join([b'"a"'] * count) + b"]"
        yield Input(f"{count} prompts", sends(TEXT, with_value(TEXT, BOT, "prompt", prompts)), right)
        yield Input(f"{count} texts", sends(EMBED, with_value(EMBED, BOT, "input", prompts)), right)
        yield Input(f"{count} documents", sends(RERANK, with_value(RERANK, BOT, "documents", prompts)), right)
        numbers = prompts.replace(b'"a"', b"[65]")
        yield Input(f"{count} prompts of a token", sends(TEXT, with_value(TEXT, TINY, "prompt", numbers)), right)
    for name, values in {"n": (0, 128, 129, 10**9), "best_of": (20, 21, 10**9), "max_tokens": (2**31 - 1, 2**63),
                         "logprobs": (5, 6), "top_k": (2**31 - 1,), "seed": (2**63 - 1, -(2**63), 2**64)}.items():
        for value in values:
            for model in (BOT, TINY):
                data = with_value(TEXT, model, name, str(value).encode())
                yield Input(f"{name} {value}, {model}", sends(TEXT, data), TAKEN)
    many = with_value(TEXT, BOT, "prompt", b'["a","b","c","d","e","f","g","h"]')
    yield Input("8 prompts of 128 answers each", sends(TEXT, many[:-1] + b',"n":128}'), TAKEN)
    yield Input("8 prompts of 20 tried answers", sends(TEXT, many[:-1] + b',"best_of":20,"logprobs":5}'), TAKEN)
    biases = b"{" + b",".join(b'"%d":1' % number for number in range(50_000)) + b"}"
    yield Input("50,000 biases", sends(TEXT, with_value(TEXT, TINY, "logit_bias", biases)), TAKEN)
    tools = b"[" + b",".join(b'{"type":"function","function":{"name":"f%d"}}' % n for n in range(5000)) + b"]"
    for model in (BOT, TINY):
        yield Input(f"5,000 tools, {model}", sends(CHAT, with_value(CHAT, model, "tools", tools)), TAKEN, heavy=True)


# Broke: the event loop stood still for up to 5.5 s.
def large_bodies() -> Iterator[Input]:
    """Ten megabytes of small items."""
    contents: Mapping[str, bytes] = {
        "integers": b"1,", "strings": b'"a",', "empty arrays": b"[],", "empty objects": b"{},", "floats": b"1.5,",
        "escapes": rb'"\ud83d\ude00",', "nulls": b"null,",
    }
    for what, one in contents.items():
        for path, name in ((TEXT, "prompt"), (EMBED, "input"), (CHAT, "messages"), (CHAT, "tools"), (CHAT, "unknown")):

            def large(path: str = path, name: str = name, one: bytes = one) -> bytes:
                array = b"[" + one * ((10 * MB - 1000) // len(one))
                return with_value(path, TINY, name, array[:-1] + b"]")

            yield Input(f"10 MB of {what} as {name} of {path}", sends(path, large), {400, 413}, heavy=True)
    for size in (11 * MB, 60 * MB):
        yield Input(f"{size} bytes", sends(CHAT, lambda size=size: b" " * size), {413}, heavy=True)


# Broke: neighbours waited up to 47 s, or died.
def large_texts() -> Iterator[Input]:
    """A megabyte that a tokeniser, a template or a stop string has to read."""
    texts: Mapping[str, str] = {
        "one letter": "a" * MB, "spaces": " " * MB, "byte tokens": "\N{SNOWMAN}" * (MB // 3), "line breaks": "\n" * MB,
        "control tokens": "<|im_start|>" * (MB // 12), "half control tokens": "<|im_start" * (MB // 10),
        "accents": "a" + "\N{COMBINING ACUTE ACCENT}" * (MB // 2), "words": "to be or not " * (MB // 13),
        "metaspaces": "\N{LOWER ONE EIGHTH BLOCK}" * (MB // 3), "braces": "{{" * (MB // 2), "NULs": "\0" * (MB // 6),
        "thoughts": "<think>" * (MB // 7), "calls": "<tool_call>" * (MB // 11),
    }
    for what, text in texts.items():
        value = json.dumps(text).encode()
        said = b'[{"role":"user","content":%s}]' % value
        wanted = {
            TEXT: ("prompt", value), CHAT: ("messages", said), TOKENIZE: ("text", value), TEMPLATE: ("messages", said),
            RESPOND: ("input", value), NATIVE: ("message", value),
        }
        for path, (name, what_is_said) in wanted.items():
            # Templates and tokenisers may get a text that no model could read.
            right = {400, 413} if path in {TEXT, CHAT, RESPOND, NATIVE} else {*TAKEN, 413}
            data = with_value(path, TINY, name, what_is_said)
            yield Input(f"1 MB of {what} to {path}", sends(path, data), right, heavy=True)
    value = json.dumps("a" * 9 * MB).encode()
    yield Input("9 MB of one letter", sends(TEXT, with_value(TEXT, TINY, "prompt", value)), {400, 413}, heavy=True)
    yield Input("9 MB to embed", sends(EMBED, with_value(EMBED, BOT, "input", value)), {*TAKEN, 413}, heavy=True)
    pair = b'{"role":"user","content":"a"},{"role":"assistant","content":"b"},'
    said = b"[" + pair * (3 * MB // len(pair)) + HI + b"]"
    for path in (CHAT, TEMPLATE):
        right = {400, 413} if path == CHAT else {*TAKEN, 413}
        yield Input(
            f"3 MB of messages to {path}", sends(path, with_value(path, TINY, "messages", said)), right, heavy=True,
        )


# Broke: 4,000 rules compiled for 40 s in the model's own thread.
def grammars() -> Iterator[Input]:
    """Grammars that are invalid, or that grow when compiled."""
    chain = "\n".join(f'r{number} ::= "a" r{number + 1} | "b" r{number + 1}' for number in range(4000))
    written: Mapping[str, str] = {
        "4,000 rules": f'root ::= r0\n{chain}\nr4000 ::= "c"', "left recursion": 'root ::= root "a" | "a"',
        "a rule that is missing": "root ::= nowhere", "no root": 'a ::= "b"', "nothing": "", "itself": "root ::= root",
        "a billion": 'root ::= "a"{1000000000}', "billions": 'root ::= (("a"{1,1000}){1,1000}){1,1000}',
        "10,000 groups": "root ::= " + "(" * 10_000 + '"a"' + ")" * 10_000, "an open string": 'root ::= "a',
        "an open class": "root ::= [a", "a class of all": "root ::= [^\\x00-\\U0010FFFF]+",
        "a million letters": f'root ::= "{"a" * MB}"', "20,000 choices": "root ::= " + " | ".join(
            f'"w{number}"' for number in range(20_000)), "ambiguity": 'root ::= a a a a a a a a\na ::= ("x"*)*',
        "NULs": "root ::= \0", "many optional parts": "root ::= " + '"a"? ' * 2000 + '"b"',
    }
    for what, grammar in written.items():
        data = with_value(TEXT, TINY, "grammar", json.dumps(grammar).encode())
        yield Input(f"grammar: {what}", sends(TEXT, data), TAKEN, heavy=True)
    lark: Mapping[str, str] = {
        "itself": "start: start", "nothing": "", "an import": "%import common.WORD\nstart: WORD",
        "a file": "%import /etc/passwd",
        "JSON in it": 'start: %json {"type": "object"', "nested": "start: " + "(" * 10_000 + '"a"' + ")" * 10_000,
        "billions": 'start: (("a"{1,1000}){1,1000}){1,1000}', "a regex": "start: /(a*)*b/",
        "ignored": "start: A\nA: /a/\n%ignore /.*/",
    }
    for what, definition in lark.items():
        value = {"syntax": "lark", "definition": definition}
        data = with_value(TEXT, TINY, "grammar", json.dumps(value).encode())
        yield Input(f"lark: {what}", sends(TEXT, data), TAKEN, heavy=True)
    patterns: Mapping[str, str] = {
        "nested stars": "(a*)*b", "nested choices": "(a|a)*b", "1,000 times 1,000": "(a{1,1000}){1,1000}",
        "optional": "(a?){500}a{500}", "look-ahead": "(?=a)a", "back-reference": r"(a)\1", "an open group": "(a",
        "10,000 groups": "(" * 10_000 + "a" + ")" * 10_000, "a long choice": "|".join(f"w{n}" for n in range(20_000)),
        "any of a million": ".{1000000}", "all of Unicode": r"(\w|\W){0,5000}x", "the end of a word": r"\bx\b",
    }
    for what, pattern in patterns.items():
        shapes = {"regex": ("grammar", {"syntax": "regex", "definition": pattern}),
                  "pattern": ("json_schema", {"type": "string", "pattern": pattern})}
        for where, (name, value) in shapes.items():
            data = with_value(TEXT, TINY, name, json.dumps(value).encode())
            yield Input(f"{where}: {what}", sends(TEXT, data), TAKEN, heavy=True)


# Broke: a schema nested 400 deep caused a 500.
def schemas() -> Iterator[Input]:
    """Schemas that are invalid, very large, or recursive."""
    words = [f"word {number}" for number in range(20_000)]
    names = {f"name{number}": {"type": "string"} for number in range(2000)}
    written: dict[str, object] = {
        "400 deep": nested_schema(400), "30 deep": nested_schema(30), "20,000 words": {"enum": words},
        "2,000 required names": {"type": "object", "properties": names, "required": list(names)},
        "2,000 optional names": {"type": "object", "properties": names}, "itself": {"$ref": "#"},
        "round and round": {"$defs": {"a": {"$ref": "#/$defs/b"}, "b": {"$ref": "#/$defs/a"}}, "$ref": "#/$defs/a"},
        "a file": {"$ref": "file:///etc/passwd"}, "another server": {"$ref": "http://127.0.0.1:1/x"},
        "a pointer to nowhere": {"$ref": "#/a/b/c"}, "10,000 items": {"type": "array", "minItems": 10_000},
        "10**9 characters": {"type": "string", "minLength": 10**9}, "2**12 choices": doubled(12),
        "false": {"not": {}},
        "500 conditions": {"allOf": [{"properties": {f"a{n}": {"minLength": n}}} for n in range(500)]},
        "10**400": {"type": "integer", "minimum": 10**400}, "multiples": {"type": "number", "multipleOf": 1e-300},
        "crossed limits": {"type": "integer", "minimum": 5, "maximum": 1}, "nasty names": {
            "type": "object", "properties": {"\0\"\\\n\N{SNOWMAN}": {"const": "\0"}},
            "required": ["\0\"\\\n\N{SNOWMAN}"]},
    }
    loose: dict[str, object] = {
        "an endless check": {"const": "a" * 60 + "!", "pattern": "(a|aa)+\\1?$"},
        "an endless check of choices": {"const": 1, "not": {"not": {"allOf": [{"$ref": "#/$defs/d40"}], "$defs": {}}},
                                        "$defs": {"d0": {"type": "null"}, **chained(40)}},
        "an endless proof": {"oneOf": [{"$ref": "#/$defs/d40"}, {}], "$defs": {"d0": {"const": 1}, **chained(40)}},
        "500 sets": {"properties": {
            f"s{n}": {"type": "array", "uniqueItems": True, "items": {"enum": ["a", "b", "c"]}} for n in range(500)
        }},
        "2,000 alternatives": {"oneOf": [{"type": "object"}] * 2000},
        "40,000 lookaheads": {"pattern": "^" + "(?=a)" * 40_000},
        "5,000 unknown words": {f"w{n}": {} for n in range(5000)},
        "1,000 names": {"propertyNames": {"enum": [f"n{n}" for n in range(1000)]}},
    }
    for what, schema in (written | loose).items():
        right = {400} if what == "400 deep" else TAKEN
        strict = {"name": "x", "schema": schema, "strict": True}
        told: dict[str, object] = {"type": "json_schema", "json_schema": strict}
        data = with_value(CHAT, TINY, "response_format", json.dumps(told).encode())
        yield Input(f"schema: {what}", sends(CHAT, data), right, heavy=True)
        if what in loose:
            told["json_schema"] = {**strict, "strict": False}
            data = with_value(CHAT, TINY, "response_format", json.dumps(told).encode())
            yield Input(f"schema that is not strict: {what}", sends(CHAT, data), right, heavy=True)
        tool = [{"type": "function", "function": {"name": "f", "parameters": schema}}]
        forced = {"tools": tool, "tool_choice": "required"}
        for model in (BOT, TINY):
            data = with_value(CHAT, model, "tools", json.dumps(tool).encode())
            forced_data = data[:-1] + b',"tool_choice":"required"}'
            yield Input(f"{[*forced]} with a schema: {what}, {model}", sends(CHAT, forced_data), right, heavy=True)


# Broke: arguments of 990 brackets killed the instance.
def histories() -> Iterator[Input]:
    """Conversations that no model has ever had."""
    arguments = ("[" * 990, "[" * 990 + "]" * 990, '{"a":' * 990 + "1" + "}" * 990, "", "null", "1", '"x"', "{", "NaN",
                 '{"a":1e999}', '{"a":NaN}', '{"a":' + "9" * 5000 + "}", '{"a":1,"a":2}', "\0", '{"\\ud800":1}', "}{",
                 "{" * 100_000, '"' * 10_000, "\\" * 10_000, f'{{"a":"{"x" * 100_000}"}}')
    for number, text in enumerate(arguments):
        for model in (BOT, TINY):
            call = {"id": "c", "type": "function", "function": {"name": "f", "arguments": text}}
            said = [{"role": "user", "content": "Hi"}, {"role": "assistant", "tool_calls": [call]},
                    {"role": "tool", "tool_call_id": "c", "content": text}]
            data = with_value(CHAT, model, "messages", json.dumps(said).encode())
            yield Input(f"arguments {number} {text[:12]!r}, {model}", sends(CHAT, data), TAKEN)
    names = ("", " ", "\0", "a\nb", "<|im_end|>", "</tool_call>", "{{x}}", "{% for %}", "__class__", "../../x",
             "a" * 70, "\N{SNOWMAN}", "'", '"', "\\", "%s", "$ref", "\u202e", "f" * 100_000)
    for name in names:
        call = {"id": name, "type": "function", "function": {"name": name, "arguments": "{}"}}
        said = [{"role": "user", "name": name, "content": name},
                {"role": "assistant", "content": name, "tool_calls": [call]},
                {"role": "tool", "tool_call_id": name, "content": name}]
        data = with_value(CHAT, TINY, "messages", json.dumps(said).encode())
        yield Input(f"a call named {name[:20]!r}", sends(CHAT, data), TAKEN)
        tool = [{"type": "function", "function": {"name": name, "description": name, "parameters": {"type": "object",
                 "properties": {name: {"type": "string", "enum": [name], "description": name}}}}}]
        for model in (BOT, TINY):
            data = with_value(CHAT, model, "tools", json.dumps(tool).encode())
            yield Input(f"a tool named {name[:20]!r}, {model}", sends(CHAT, data), TAKEN)
    call = {"id": "c", "type": "function", "function": {"name": "f", "arguments": "{}"}}
    orders: Mapping[str, list[dict[str, object]]] = {
        "nobody asked": [{"role": "assistant", "content": "x"}], "only a system": [{"role": "system", "content": "x"}],
        "a result without a call": [{"role": "tool", "tool_call_id": "c", "content": "x"}],
        "a call without a result": [{"role": "assistant", "tool_calls": [call]}], "1,000 calls": [
            {"role": "user", "content": "x"}, {"role": "assistant", "tool_calls": [call] * 1000}],
        "500 systems": [{"role": "system", "content": "x"}] * 500, "all empty": [{"role": "user", "content": ""}] * 100,
        "results of others": [
            {"role": "assistant", "tool_calls": [call]}, {"role": "tool", "tool_call_id": "d", "content": "x"},
        ],
        "parts": [{"role": "user", "content": [{"type": "text", "text": "x"}] * 3000}],
    }
    for what, messages in orders.items():
        for path in (CHAT, TEMPLATE):
            data = with_value(path, TINY, "messages", json.dumps(messages).encode())
            yield Input(f"a history: {what}, {path}", sends(path, data), TAKEN)


# Held: the sandbox of the templates.
def templates() -> Iterator[Input]:
    """Template variables with the names of the template's own variables."""
    names = ("messages", "tools", "self", "loop", "namespace", "raise_exception", "strftime_now", "range", "caller",
             "bos_token", "add_generation_prompt", "continue_final_message", "documents", "__class__", "_", "",
             "enable_thinking", "super", "cycler", "a b", "\0")
    values = (b"null", b"[]", b"{}", b"1", b'"{{ 7 * 7 }}"', b'{"__class__":1}', b"[[]]", b"true")
    for name in names:
        for path in (CHAT, TEMPLATE):
            bodies = [with_value(path, TINY, "chat_template_kwargs", b"{%s:%s}" % (json.dumps(name).encode(), value))
                    for value in values]
            yield Input(f"a variable called {name!r}, {path}", each(path, bodies), TAKEN)
    size = MB // 20
    values_by_name = b"{" + b",".join(b'"v%d":"%s"' % (n, SECRET.encode()) for n in range(size)) + b"}"
    data = with_value(CHAT, TINY, "chat_template_kwargs", values_by_name)
    yield Input(f"{size} variables", sends(CHAT, data), TAKEN, heavy=True)


def chained(count: int) -> dict[str, object]:
    """A chain of definitions, each of which refers to the previous one twice."""
    return {f"d{n}": {"anyOf": [{"$ref": f"#/$defs/d{n - 1}"}] * 2} for n in range(1, count + 1)}


def nested_schema(depth: int) -> dict[str, object]:
    """Nested objects."""
    schema: dict[str, object] = {"type": "string"}
    for _ in range(depth):
        schema = {"type": "object", "properties": {"a": schema}, "required": ["a"]}
    return schema


def doubled(times: int) -> dict[str, object]:
    """Definitions, each twice as large as the previous one."""
    definitions: dict[str, object] = {"d0": {"type": "string"}}
    for number in range(1, times):
        below = {"$ref": f"#/$defs/d{number - 1}"}
        definitions[f"d{number}"] = {"type": "object", "properties": {"a": below, "b": below}, "required": ["a", "b"]}
    return {"$defs": definitions, "$ref": f"#/$defs/d{times - 1}"}
