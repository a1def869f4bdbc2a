"""Reading one call of a tool, in any of the shapes that models write."""

import ast
import json
from collections.abc import Callable, Mapping
from typing import cast

from lllms_core.chat.answer_format import CallFormat
from lllms_core.chat.json_copy import Malformed, copy_json, read_string
from lllms_core.chat.reader import Reader, Steps
from lllms_core.types import CallPiece, Tool

_LONGEST_NAME = 256
_LONGEST_LITERAL = 10_000
"""Characters of a value in Python's spelling; a longer one stays text."""
_BESIDE = ("id", "type")
"""Keys that stand beside name and arguments, as OpenAI's own calls have them."""
_BEHIND_NAMES = ".:/"
_PYTHON_WORDS = {"True": "true", "False": "false", "None": "null"}


class CallReader:
    """Reads one call and puts its pieces into `pieces`: first its id and name, then its arguments as they come.

    Until the name of one of the `tools` and the beginning of the arguments are there, nothing comes out, and
    `committed` is false: what was read may still turn out to be text. `read` raises `Malformed` where it is no call.
    """

    def __init__(
        self, form: CallFormat, reader: Reader, tools: Mapping[str, Tool], *, index: int, call_id: str,
        pieces: list[CallPiece],
    ) -> None:
        self.committed = False
        self._form = form
        self._reader = reader
        self._tools = tools
        self._index = index
        self._id = call_id
        self._pieces = pieces
        self._name: str | None = None
        self._early: list[str] = []
        """Arguments that came before the name."""
        self._has_arguments = False

    def read(self, *, bare: bool) -> Steps[None]:
        """Read the call, from behind the text that announces it; a `bare` one, without such, is all there is."""
        if self._form.shape == "object":
            yield from self._members((), bare=bare)
            if self._name is None or (bare and not self._has_arguments):
                raise Malformed
            if not self._has_arguments:
                self._write("{}")
            self._commit()
        else:
            self._use_name((yield from self._bare_name()))
            if self._form.shape == "named":
                if not (yield from self._reader.accept(self._form.name_end)):
                    raise Malformed
                yield from self._arguments()
            else:
                yield from self._tagged()

    def read_arguments(self, name: str, *, none: bool = False) -> Steps[None]:
        """Read the arguments of a call whose name was read already; there are none to read if `none` says so."""
        self._use_name(name)
        if none:
            self._write("{}")
        else:
            yield from self._arguments()

    # -- what comes out -----------------------------------------------------------------------------------------------

    def _use_name(self, name: str) -> None:
        if name not in self._tools:
            raise Malformed
        self._name = name

    def _commit(self) -> None:
        if not self.committed:
            assert self._name is not None  # noqa: S101  # the callers have it
            self.committed = True
            self._pieces.append(CallPiece(self._index, self._id, self._name, "".join(self._early)))
            self._reader.mark()

    def _write(self, text: str) -> None:
        self._has_arguments = True
        if self._name is None:
            self._early.append(text)
            return
        if not self.committed:
            self._early.append(text)
            self._commit()
        else:
            self._pieces.append(CallPiece(self._index, arguments=text))
            self._reader.mark()

    # -- a JSON object ------------------------------------------------------------------------------------------------

    def _members(self, path: tuple[str, ...], *, bare: bool) -> Steps[None]:
        """An object that leads to name and arguments; what else is in it is read over."""
        reader = self._reader
        yield from reader.space()
        if (yield from reader.next()) != "{":
            raise Malformed
        yield from reader.space()
        if (yield from reader.peek()) == "}":
            yield from reader.next()
            return
        while True:
            yield from reader.space()
            key = (*path, cast("str", json.loads((yield from read_string(reader)))))
            yield from reader.space()
            if (yield from reader.next()) != ":":
                raise Malformed
            yield from reader.space()
            yield from self._member(key, bare=bare)
            yield from reader.space()
            char = yield from reader.next()
            if char == "}":
                return
            if char != ",":
                raise Malformed

    def _member(self, path: tuple[str, ...], *, bare: bool) -> Steps[None]:
        form = self._form
        if path == form.name_path:
            self._use_name(json.loads((yield from read_string(self._reader))))
            if self._has_arguments:
                self._commit()
        elif path == form.arguments_path and not self._has_arguments:
            yield from self._arguments()
        elif path == form.name_path[: len(path)] or path == form.arguments_path[: len(path)]:
            yield from self._members(path, bare=bare)
        elif bare and path[-1] not in _BESIDE:
            raise Malformed
        else:
            yield from copy_json(self._reader, lambda _: None)

    def _arguments(self) -> Steps[None]:
        """Arguments as an object, as a string that holds one, or as null."""
        reader = self._reader
        yield from reader.space()
        char = yield from reader.peek()
        if char == "{":
            yield from copy_json(reader, self._write)
        elif char == '"':
            text = json.loads((yield from read_string(reader)))
            try:
                value = json.loads(text or "{}")
            except ValueError:
                raise Malformed from None
            if not isinstance(value, dict):
                raise Malformed
            self._write(text or "{}")
        elif char == "n":
            yield from copy_json(reader, lambda _: None)
            self._write("{}")
        else:
            raise Malformed

    # -- names and tags -----------------------------------------------------------------------------------------------

    def _bare_name(self) -> Steps[str]:
        """A name without quotes."""
        yield from self._reader.space()
        name = ""
        while (char := (yield from self._reader.next())) and (char.isalnum() or char in "_-./:"):
            name += char
            if len(name) > _LONGEST_NAME:
                raise Malformed
        self._reader.back(char)
        if name in self._tools:
            return name
        # What belongs to the text behind a name may look like a part of it.
        known = [one for one in self._tools if name.startswith(one) and name[len(one)] in _BEHIND_NAMES]
        longest = max(known, key=len, default=name)
        self._reader.back(name[len(longest) :])
        return longest

    def _tagged(self) -> Steps[None]:
        """Arguments between tags, made into an object."""
        form, reader = self._form, self._reader
        if not (yield from reader.accept(form.name_end)):
            raise Malformed
        self._write("{")
        first = True
        try:
            while (yield from reader.accept(form.parameter_start)):
                key = yield from self._until(form.key_end)
                self._write(("" if first else ", ") + json.dumps(key.strip(), ensure_ascii=False) + ": ")
                first = False
                yield from self._value(key.strip())
        except Malformed:
            self._write("}")
            raise
        self._write("}")

    def _until(self, end: str) -> Steps[str]:
        """A short text up to `end`, which is read, too."""
        text = ""
        while not (yield from self._reader.accept(end)):
            char = yield from self._reader.next()
            if not char or len(text) > _LONGEST_NAME:
                raise Malformed
            text += char
        return text

    def _value(self, key: str) -> Steps[None]:
        """A value up to the text that ends it, written as JSON."""
        if self._is_string(key):
            self._write('"')
            ended = yield from self._text_value(lambda text: self._write(json.dumps(text, ensure_ascii=False)[1:-1]))
            self._write('"')
        else:
            pieces: list[str] = []
            ended = yield from self._text_value(pieces.append)
            text = "".join(pieces).strip()
            self._write(_as_json(_PYTHON_WORDS.get(text, text)))
        if not ended:
            raise Malformed

    def _text_value(self, write: Callable[[str], None]) -> Steps[bool]:
        """The characters of a value, without the line breaks that belong to the tags; whether its end was there."""
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
        """Read the white space with which a tag ends, as far as it is there."""
        for one in expected:
            if (yield from self._reader.peek()) != one:
                return
            yield from self._reader.next()

    def _is_string(self, key: str) -> bool:
        properties = self._tools[self._name or ""].parameters.get("properties")
        schema = properties.get(key) if isinstance(properties, Mapping) else None
        return isinstance(schema, Mapping) and schema.get("type") == "string"


def _as_json(text: str) -> str:
    """A value without quotes as JSON: as it is if it is JSON, else a string."""
    try:
        json.loads(text, parse_constant=_refuse)
    except ValueError:
        return _python_as_json(text) or json.dumps(text, ensure_ascii=False)
    return text


def _python_as_json(text: str) -> str | None:
    """A list or an object that is written as Python writes it, as many templates do."""
    if not text.startswith(("[", "{")) or len(text) > _LONGEST_LITERAL:
        return None
    try:
        return json.dumps(ast.literal_eval(text), ensure_ascii=False, allow_nan=False)
    except (ValueError, TypeError, SyntaxError, MemoryError, RecursionError):
        return None


def _refuse(word: str) -> object:
    raise ValueError(word)


def _leading_space(text: str) -> str:
    return text[: len(text) - len(text.lstrip())]


def _trailing_space(text: str) -> str:
    return text[len(text.rstrip()) :]
