"""Grammar rules for arguments as keys and values in brackets; pure."""

import json
from collections.abc import Mapping

from attrs import define

from lllms_core.chat.argument_rules import ArgumentRules, Notation
from lllms_core.chat.lark import literal
from lllms_core.chat.schema_words import NOTES, Inexpressible, JsonSchema
from lllms_core.chat.text_grammar import ANY_TEXT, strings

_WORDS: Mapping[str, tuple[str, ...]] = {"boolean": ("true", "false"), "null": ("null",)}
_PYTHON_WORDS: Mapping[str, tuple[str, ...]] = {
    "boolean": ("True", "False", "true", "false"), "null": ("None", "null"),
}
_SINGLE = r"/'(\\[^\n]|[^'\\\n])*'/"
"""A string in Python's single quotes."""
_UNESCAPED = r"/[^'\\\n]*/"
"""Strings that need no escapes there."""
_COMMA = "/, ?/"
_COLON = "/: ?/"
_LONGEST_KEY = 256
_PLAIN = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-.")
_READABLE = _PLAIN | frozenset("@$/[]:;*+#%&|!?~^ ")
"""The characters of keys that need no quotes; a key may not start with a quote or a bracket of a value."""
_ARRAY = NOTES | {"items", "minItems", "maxItems"}
"""Keywords of an array that has a rule of its own."""


@define(eq=False)
class KeywordRules(ArgumentRules):
    """Arguments as keys and values in brackets; a comma only separates two of them."""

    @property
    def notation(self) -> Notation:
        """A key, with quotes only if its characters need them, then its value."""
        between = self.spell(self.form.key_end)

        def item(key: str, schema: JsonSchema) -> str | None:
            return self._pair(self._key(key), between, schema)

        def other_item(keys: str, schema: JsonSchema) -> str | None:
            return self._pair(self.terminal(keys), between, schema)

        return Notation(item, other_item, _COMMA)

    @property
    def _inner(self) -> Notation:
        """The notation of objects inside the arguments: in Python's, their keys are strings."""
        python = self.form.python

        def item(key: str, schema: JsonSchema) -> str | None:
            written = literal(json.dumps(key, ensure_ascii=False)) if python else self._key(key)
            return self._pair(written, _COLON, schema)

        def other_item(keys: str, schema: JsonSchema) -> str | None:
            quote = literal('"') if python else ""
            return self._pair(f"{quote} {self.terminal(keys)} {quote}".strip(), _COLON, schema)

        return Notation(item, other_item, _COMMA)

    def _pair(self, key: str | None, between: str, schema: JsonSchema) -> str | None:
        if key is None or not self.schema.types(schema):
            return None
        return f"{key} {between} {self.value(schema)}"

    def value(self, schema: JsonSchema) -> str:
        """Return the expression for a value."""
        return self.known(schema, lambda: self._written(schema))

    def _written(self, schema: JsonSchema) -> str:
        kinds = self.schema.types(schema)
        text = strings(schema, self.schema)
        options = [] if text is None else self._strings(schema, text)
        words = _PYTHON_WORDS if self.form.python else _WORDS
        numbers = kinds & {"number", "integer"}
        for kind in sorted(kinds & words.keys()):
            if self.schema.allows_all(schema, kind):
                options += map(literal, words[kind])
            else:
                options.append(self.json(schema, frozenset({kind})))
        if numbers:
            options.append(self.json(schema, numbers))
        if "array" in kinds:
            options.append(self._array(schema))
        if "object" in kinds:
            options.append(self._object(schema))
        if not options:
            raise Inexpressible("a value that this form cannot write")
        return " | ".join(options)

    def _strings(self, schema: JsonSchema, text: str) -> list[str]:
        form = self.form
        if not form.python:
            return [f"{self.spell(form.quote)} {self.closed(text, form.quote)}"]
        single = _SINGLE if text == ANY_TEXT else self.terminal(f"\"'\" ({text} & {_UNESCAPED}) \"'\"")
        return [self.json(schema, frozenset({"string"})), single]

    def _array(self, schema: JsonSchema) -> str:
        """Return the expression for an array, with values in this notation as far as the schema is simple."""
        while isinstance(schema, Mapping) and "$ref" in schema and not schema.keys() - NOTES - {"$ref"}:
            schema = self.schema.target(schema["$ref"])
        if schema is True:
            schema = {}
        if not isinstance(schema, Mapping) or schema.keys() - _ARRAY or isinstance(schema.get("items"), list):
            return self.json(schema, frozenset({"array"}))
        items, least, most = schema.get("items", True), schema.get("minItems", 0), schema.get("maxItems")
        if most == 0 or not self.schema.types(items):
            return '"[" "]"' if not least else self.json(schema, frozenset({"array"}))
        item = self.value(items)
        low = max(int(least) - 1, 0)
        more = f"({_COMMA} {item}){{{low},{'' if most is None else int(most) - 1}}}"
        return f'"[" ({item} {more}){"" if least else "?"} "]"'

    def _object(self, schema: JsonSchema) -> str:
        """Return the expression for an object, with keys and values in this notation if possible."""
        try:
            ways = self.schema.ways(schema)
            fields = self.alternatives(ways, self._inner)
        except Inexpressible:
            return self.json(schema, frozenset({"object"}))
        return f'"{{" {fields} "}}"'

    def _key(self, key: str) -> str | None:
        """Return the expression for a key that the schema names: as it is if that can be read, else in quotes."""
        quote, end = self.form.quote, self.form.key_end.strip()
        if not key or len(key) > _LONGEST_KEY:
            return None
        if set(key) <= _PLAIN or (set(key) <= _READABLE and key == key.strip() and end not in key and quote not in key):
            return literal(key)
        return None if self.form.python or quote in key else self.spell(f"{quote}{key}{quote}")
