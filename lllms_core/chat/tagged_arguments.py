"""Read the arguments of a call that are between tags, each with its key."""

import json
from collections.abc import Callable

from lllms_core.chat.answer_format import CallFormat
from lllms_core.chat.argument_types import ArgumentTypes
from lllms_core.chat.json_copy import Malformed
from lllms_core.chat.plain_values import as_json
from lllms_core.chat.reader import Reader, Steps

_LONGEST_KEY = 256


class TaggedArguments:
    """Reads arguments between tags, and writes them as an object with `write`.

    If tags tell strings from other values, the others are JSON where possible. Otherwise a value is the JSON that its
    text spells, if the schema allows that type, and else a string.
    """

    def __init__(
        self, form: CallFormat, reader: Reader, types: ArgumentTypes, write: Callable[[str], None],
    ) -> None:
        self._form = form
        self._reader = reader
        self._types = types
        self._write = write

    def read(self) -> Steps[None]:
        """Read all arguments. Raises `Malformed` if one does not end; the output is then left open."""
        self._write("{")
        before = ""
        while (yield from self._reader.accept(self._form.parameter_start)):
            key, quoted = yield from self._key()
            self._write(f"{before}{json.dumps(key, ensure_ascii=False)}: ")
            before = ", "
            if quoted is None and self._types.of(key) == {"string"}:
                quoted = True
            yield from self._value(key, quoted=quoted)
        self._write("}")

    def _key(self) -> Steps[tuple[str, bool | None]]:
        """Read a key; return it, and whether its tag marks the value as a string (None: it does not say)."""
        form, reader = self._form, self._reader
        key = ""
        while not (yield from reader.accept(form.key_end)):
            if form.other_key_end and (yield from reader.accept(form.other_key_end)):
                return key.strip(), False
            char = yield from reader.next()
            if not char or len(key) > _LONGEST_KEY:
                raise Malformed
            key += char
        return key.strip(), True if form.other_key_end else None

    def _value(self, key: str, *, quoted: bool | None) -> Steps[None]:
        """Read a value up to the text that ends it, and write it as JSON."""
        if quoted:
            self._write('"')
            yield from self._text(lambda text: self._write(json.dumps(text, ensure_ascii=False)[1:-1]))
            self._write('"')
            return
        pieces: list[str] = []
        yield from self._text(pieces.append)
        text = "".join(pieces)
        if quoted is None:
            self._write(as_json(text, self._types.of(key), self._types.listed(key)))
        else:
            self._write(as_json(text.strip()))

    def _text(self, write: Callable[[str], None]) -> Steps[None]:
        """Read a value and the text that ends it, without the line breaks that belong to the tags."""
        reader, form = self._reader, self._form
        end = form.value_end
        yield from self._line_breaks(_trailing_space(form.key_end))
        if form.cdata and (yield from reader.accept("<![CDATA[")):
            end = f"]]>{end}"
        while True:
            space = yield from reader.space()
            char = yield from reader.peek()
            if not char:
                raise Malformed
            if (yield from reader.accept(end)):
                write(space.removesuffix(_leading_space(end)))
                return
            write(space + (yield from reader.next()))

    def _line_breaks(self, expected: str) -> Steps[None]:
        """Read the white space at the end of a tag, as far as it is there."""
        for one in expected:
            if (yield from self._reader.peek()) != one:
                return
            yield from self._reader.next()


def _leading_space(text: str) -> str:
    return text[: len(text) - len(text.lstrip())]


def _trailing_space(text: str) -> str:
    return text[len(text.rstrip()) :]
