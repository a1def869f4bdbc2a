"""Grammar rules for arguments between tags; pure."""

from attrs import define

from lllms_core.chat.argument_rules import ArgumentRules, Notation
from lllms_core.chat.plain_grammar import plain_value
from lllms_core.chat.schema_words import Inexpressible, JsonSchema
from lllms_core.chat.text_grammar import strings, whole, without

_LONGEST_KEY = 256
_CDATA = r"/[\s\x1c-\x1f]*<!\[CDATA\[(.|\n)*/"
"""Texts that start like wrapped ones."""


@define(eq=False)
class TaggedRules(ArgumentRules):
    """Arguments between tags: strings are written verbatim, other values as JSON."""

    @property
    def notation(self) -> Notation:
        """A key between tags, then its value."""
        return Notation(self._item, self._other_item)

    def _item(self, key: str, schema: JsonSchema) -> str | None:
        """Return the expression for a parameter."""
        form = self.form
        ends = [end.strip() for end in (form.key_end, form.other_key_end) if end]
        if key != key.strip() or not key or len(key) > _LONGEST_KEY or any(end in key for end in ends):
            return None
        value = self._value(schema)
        return None if value is None else f"{self.spell(form.parameter_start + key)} {value}"

    def _other_item(self, keys: str, schema: JsonSchema) -> str | None:
        """Return the expression for a parameter that the schema does not name."""
        value = self._value(schema)
        if value is None:
            return None
        return f"{self.spell(self.form.parameter_start)} {self.terminal(keys)} {value}"

    def _value(self, schema: JsonSchema) -> str | None:
        """Return the expression for the text between a key and the end of its value; None if no value is possible."""
        if not self.schema.types(schema):
            return None
        return self.known(schema, lambda: self._written(schema))

    def _written(self, schema: JsonSchema) -> str:
        form, text = self.form, strings(schema, self.schema)
        kinds = self.schema.types(schema) - {"string"}
        if form.other_key_end:  # the tag tells strings from others
            options = []
            if text is not None:
                options.append(f"{self.spell(form.key_end)} {self._text(text)}")
            if kinds:
                start, end = self.spell(form.other_key_end), self.spell(form.value_end)
                options.append(f"{start} {self.json(schema, kinds)} {end}")
        else:
            start, end = self.spell(form.key_end), self.spell(form.value_end)
            text, others = plain_value(schema, self.schema, text)
            options = [f"{start} {self._text(text)}"] if text is not None else []
            if others:
                options.append(f"{start} {self.json(schema, others)} {end}")
        if not options:
            raise Inexpressible("a value that this form cannot write")
        return " | ".join(options)

    def _text(self, text: str) -> str:
        """Return the expression for a text and its end."""
        form = self.form
        if not form.cdata:
            return self.closed(text, form.value_end)
        plain = self.closed(whole(without(text, _CDATA) or ""), form.value_end)
        return f"({plain} | {self.wrapped('<![CDATA[', text, ']]>', f']]>{form.value_end}')})"
