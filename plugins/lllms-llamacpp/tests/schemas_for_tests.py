"""JSON schemas of all shapes, and a writer of random texts that a grammar allows."""

import json
from random import Random
from typing import Any

from hypothesis import strategies as st
from llguidance import LLMatcher, LLTokenizer
from lllms_llamacpp.grammars import translate
from lllms_llamacpp.keywords import FORMATS
from lllms_llamacpp.trial import limits

from lllms_core.errors import InvalidRequest
from lllms_core.types import Constraint

BYTES = LLTokenizer("byte")
END = BYTES.eos_token
CLOSING = set(b'"}]')
LIKELY = CLOSING | set(b":,abxy0123456789")

names = st.sampled_from(["a", "b", "x y", "é", "ab"])
few = st.integers(0, 3)
patterns = st.sampled_from(["^a+$", "x|y$", "\\d{2}", "[^a]", "^(?!b)", "^(?=.*a)(?!.*xx).{2,}$", "[\\w-]", "^\\S+$"])
texts = st.fixed_dictionaries({"type": st.just("string")}, optional={
    "minLength": few, "maxLength": st.sampled_from([3, 8, 2**40]), "pattern": patterns,
    "format": st.sampled_from(["password", "x"]),
})
formatted = st.sampled_from(sorted(FORMATS)).map(lambda form: {"type": "string", "format": form})
integers = st.fixed_dictionaries({"type": st.just("integer")}, optional={
    "minimum": st.sampled_from([-20, 0, 20, -(2**63), -(10**30)]), "multipleOf": st.sampled_from([2, 7]),
    "exclusiveMaximum": st.sampled_from([30, 500, 2**63 - 1, 2**53 + 1]), "format": st.just("int64"),
})
numbers = st.fixed_dictionaries({"type": st.just("number")}, optional={
    "exclusiveMinimum": st.sampled_from([-3, 0.5, -1.5e300, 0.1234567890123456789]),
    "maximum": st.sampled_from([10, 99.5, 2**63, 9.87654321987654321]), "multipleOf": st.sampled_from([0.5, 0.25]),
})
plain = st.sampled_from(["a", "b\n", 1, 2.5, None, True, {"a": 1}, [1, "é"], "", '"q\\', 2**60])
constants = plain.map(lambda one: {"const": one})
chosen = st.one_of(constants, st.lists(plain, min_size=1).map(lambda several: {"enum": several}))
typed = st.lists(st.sampled_from(["string", "integer", "null", "boolean", "object"]), min_size=1, unique=True)
sets = st.fixed_dictionaries({"type": st.just("array"), "uniqueItems": st.just(True), "items": chosen}, optional={
    "minItems": few, "maxItems": few,
})
Schemas = st.SearchStrategy[Any]
leaves = st.one_of(
    texts, formatted, integers, numbers, chosen, typed.map(lambda types: {"type": types}), st.booleans(), sets,
)


def _larger(inner: Schemas) -> Schemas:
    objects = st.fixed_dictionaries({"type": st.just("object")}, optional={
        "properties": st.dictionaries(names, inner, max_size=3), "required": st.lists(names, max_size=2, unique=True),
        "additionalProperties": inner, "patternProperties": st.dictionaries(st.sampled_from(["^a", "b$"]), inner),
        "minProperties": few, "maxProperties": st.integers(1, 3), "unevaluatedProperties": inner,
        "propertyNames": st.sampled_from([{"type": "string"}, {"enum": ["a", "ab"]}, {"pattern": "^a"}, True]),
    })
    arrays = st.fixed_dictionaries({"type": st.just("array")}, optional={
        "items": inner, "prefixItems": st.lists(inner, min_size=1, max_size=2), "minItems": few,
        "maxItems": st.integers(2, 4),
    })
    combined = st.dictionaries(st.sampled_from(["anyOf", "oneOf", "allOf"]), st.lists(inner, min_size=1, max_size=3),
                               min_size=1, max_size=2)
    beside = st.tuples(st.one_of(texts, integers, objects), combined, st.booleans()).map(
        lambda three: {**three[0], **three[1]} if three[2] else {**three[1], **three[0]},
    )
    return st.one_of(objects, arrays, combined, beside)


def _with_more(inner: Schemas) -> Schemas:
    """Return schemas, some with restrictions that no grammar enforces."""
    more = st.fixed_dictionaries({}, optional={
        "not": inner, "if": inner, "then": inner, "contains": inner, "uniqueItems": st.just(True), "minLenght": few,
        "dependentRequired": st.just({"a": ["b"]}), "pattern": st.just("\\ba"), "const": st.just(2**60 + 1),
        "patternProperties": st.just({"(?<=a)b": {"type": "null"}}), "minProperties": st.just(2),
        "propertyNames": st.just({"pattern": "a", "minLength": 2}), "enum": st.just(["a", 2**60 + 1, 1]),
    })
    return st.one_of(_larger(inner), st.tuples(_larger(inner), more).map(lambda both: {**both[0], **both[1]}))


kept_schemas = st.recursive(leaves, _larger, max_leaves=8).filter(lambda schema: isinstance(schema, dict))
left_out_schemas = st.recursive(leaves, _with_more, max_leaves=8).filter(lambda schema: isinstance(schema, dict))
values = st.recursive(
    st.one_of(plain, st.integers(-3, 40), st.sampled_from(["ab", "aa", "xx", "\u0431"])),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(names, inner, max_size=3)), max_leaves=6,
)
"""Values, some of which fit such schemas."""


def write(schema: object, random: Random) -> str | None:
    """Write a random text of a schema's grammar; None if the schema is refused or the text gets too long."""
    try:
        grammar = translate(Constraint("json_schema", json.dumps(schema)))
    except InvalidRequest:
        return None
    matcher = LLMatcher(BYTES, grammar, log_level=0, limits=limits())
    if matcher.is_error():
        return None
    text = bytearray()
    for step in range(1000):
        bits = int.from_bytes(matcher.compute_bitmask(), "little")
        if matcher.is_error() and not step:
            return None  # nothing matches, as the engine finds when it compiles
        assert not matcher.is_error(), matcher.get_error()
        allowed = [byte for byte in range(256) if bits >> byte & 1]
        if bits >> END & 1 and (not allowed or step > 50 or random.random() < 0.3):
            return text.decode()
        choice = [byte for byte in allowed if byte in (CLOSING if step > 50 else LIKELY)]
        text.append(random.choice(choice if choice and random.random() < 0.9 else allowed))
        assert matcher.consume_token(text[-1])
        if matcher.is_stopped():
            return text.decode()
    return None
