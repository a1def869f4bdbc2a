"""Read the arguments of a call that are between tags, each with its key."""

import json
from collections.abc import Callable, Mapping

from lllms_core.chat.answer_format import CallFormat
from lllms_core.chat.json_copy import Malformed
from lllms_core.chat.plain_values import as_json
from lllms_core.chat.reader import Reader, Steps

_LONGEST_KEY = 256


class TaggedArguments:
    """Reads arguments between tags, and writes them as an object with `write`.

    A value is a string if its tag says so, or, where tags do not show it, if the schema `parameters` does. All others
    are JSON where possible.
    """

    def __init__(
        self, form: CallFormat, reader: Reader, parameters: Mapping[str, object], write: Callable[[str], None],
    ) -> None:
        self._form = form
        self._reader = reader
        self._parameters = parameters
        self._write = write

    def read(self) -> Steps[None]:
        """Read all arguments. Raises `Malformed` if one does not end; then a complete object has been written."""
        self._write("{")
        before = ""
        try:
            while (yield from self._reader.accept(self._form.parameter_start)):
                key, is_string = yield from self._key()
                self._write(f"{before}{json.dumps(key, ensure_ascii=False)}: ")
                before = ", "
                yield from self._value(is_string=is_string)
        except Malformed:
            self._write("}")
            raise
        self._write("}")

    def _key(self) -> Steps[tuple[str, bool]]:
        """Read a key; return it, and whether its value is a string."""
        form, reader = self._form, self._reader
        key = ""
        while not (yield from reader.accept(form.key_end)):
            if form.other_key_end and (yield from reader.accept(form.other_key_end)):
                return key.strip(), False
            char = yield from reader.next()
            if not char or len(key) > _LONGEST_KEY:
                raise Malformed
            key += char
        return key.strip(), bool(form.other_key_end) or self._is_string(key.strip())

    def _value(self, *, is_string: bool) -> Steps[None]:
        """Read a value up to the text that ends it, and write it as JSON."""
        if is_string:
            self._write('"')
            ended = yield from self._text(lambda text: self._write(json.dumps(text, ensure_ascii=False)[1:-1]))
            self._write('"')
        else:
            pieces: list[str] = []
            ended = yield from self._text(pieces.append)
            self._write(as_json("".join(pieces).strip()))
        if not ended:
            raise Malformed

    def _text(self, write: Callable[[str], None]) -> Steps[bool]:
        """Read a value without the line breaks that belong to the tags; return whether its end was there."""
        reader, form = self._reader, self._form
        end = form.value_end
        yield from self._line_breaks(_trailing_space(form.key_end))
        if form.cdata and (yield from reader.accept("<![CDATA[")):
            end = f"]]>{end}"
        while True:
            space = yield from reader.space()
            char = yield from reader.peek()
            if not char:
                write(space)
                return False
            if (yield from reader.accept(end)):
                write(space.removesuffix(_leading_space(end)))
                return True
            write(space + (yield from reader.next()))

    def _line_breaks(self, expected: str) -> Steps[None]:
        """Read the white space at the end of a tag, as far as it is there."""
        for one in expected:
            if (yield from self._reader.peek()) != one:
                return
            yield from self._reader.next()

    def _is_string(self, key: str) -> bool:
        properties = self._parameters.get("properties")
        schema = properties.get(key) if isinstance(properties, Mapping) else None
        return isinstance(schema, Mapping) and schema.get("type") == "string"


def _leading_space(text: str) -> str:
    return text[: len(text) - len(text.lstrip())]


def _trailing_space(text: str) -> str:
    return text[len(text.rstrip()) :]
