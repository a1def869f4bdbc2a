"""Read a call that is a JSON object, with the arguments under their own key, under another one, or beside the name."""

import json
from collections.abc import Callable, Mapping
from typing import Protocol, cast

from lllms_core.chat.answer_format import CallFormat
from lllms_core.chat.argument_types import ArgumentTypes
from lllms_core.chat.json_copy import Malformed, copy_json, mended, read_string
from lllms_core.chat.reader import Reader, Steps
from lllms_core.types import Tool

_BESIDE = frozenset({"id", "type", "index"})
"""Keys besides name and arguments, as in OpenAI's own calls."""
_ARGUMENTS = frozenset({"arguments", "parameters", "args", "params", "input"})
"""Keys under which models write the arguments, whatever the form says."""
_FUNCTION = "function"
"""The key of name and arguments in OpenAI's own calls."""
_STARTS = frozenset("\"'nN")
"""The first characters of a string, and of null."""


class Call(Protocol):
    """Takes the parts of a call."""

    name: str | None
    committed: bool

    @property
    def arguments(self) -> str | None:
        """The arguments so far that are not output yet; None without any."""

    def use_name(self, name: str) -> None:
        """Take the name. Raises `Malformed` if it is invalid."""

    def write(self, text: str) -> None:
        """Take more of the arguments."""

    def drop(self) -> None:
        """Forget the arguments so far, none of which are output."""


class CallObject:
    """Reads an object that holds a call's name and arguments.

    A `bare` call must have arguments and nothing else: any other object is the text of an answer.
    """

    def __init__(
        self, form: CallFormat, reader: Reader, tools: Mapping[str, Tool], call: Call, *, bare: bool,
    ) -> None:
        self.closed = True
        """Whether all of its brackets are closed."""
        self._form = form
        self._reader = reader
        self._tools = tools
        self._call = call
        self._bare = bare
        wholes = (form.name_path, form.arguments_path, (_FUNCTION, "name"))
        self._ways = {whole[:length] for whole in wholes for length in range(len(whole))}
        """The keys of the objects in which name and arguments may be."""
        self._beside: dict[str, str] = {}
        """The other members where the name is, as JSON."""
        self._none = False
        """Whether it declares that there are no arguments."""

    def read(self) -> Steps[None]:
        """Read the object. Raises `Malformed` if it is no call, or if its arguments are incomplete."""
        yield from self._members(())
        call = self._call
        if call.name is None:
            raise Malformed
        if call.committed or call.arguments not in {None, "{}"}:
            return
        if (flat := self._flat()) is not None:
            call.drop()
            call.write(flat)
        elif call.arguments is None:
            if self._bare and not self._none:
                raise Malformed
            call.write("{}")

    def _members(self, path: tuple[str, ...]) -> Steps[None]:
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
            key = cast("str", json.loads((yield from read_string(reader))))
            yield from reader.space()
            if (yield from reader.next()) != ":":
                raise Malformed
            yield from reader.space()
            yield from self._member((*path, key))
            yield from reader.space()
            char = yield from reader.next()
            if char == "}":
                return
            if char != ",":
                # If only the end is missing, the mark after the call proves it.
                if self._call.name is None or (self._call.arguments is None and not self._call.committed):
                    raise Malformed
                reader.back(char)
                self.closed = False
                return

    def _member(self, path: tuple[str, ...]) -> Steps[None]:
        form, call, key = self._form, self._call, path[-1]
        is_object = (yield from self._reader.peek()) == "{"
        named = path in {form.name_path, ("name",), (_FUNCTION, "name")} or (path == (_FUNCTION,) and not is_object)
        if named and call.name is None:
            call.use_name(json.loads((yield from read_string(self._reader))))
        elif path == form.arguments_path and not self._has_arguments:
            call.drop()
            self._none = yield from copy_arguments(self._reader, call.write, null="")
        elif is_object and path in self._ways and key not in self._names():
            yield from self._members(path)
        elif self._bare and key not in _BESIDE and (call.name is None or key not in _ARGUMENTS | self._names()):
            raise Malformed
        else:
            yield from self._other(path)

    def _other(self, path: tuple[str, ...]) -> Steps[None]:
        """Read a member that the form does not name: the arguments under another key, one argument, or neither."""
        pieces: list[str] = []
        yield from copy_json(self._reader, pieces.append)
        value, key = "".join(pieces), path[-1]
        if path[:-1] not in self._ways:
            return
        arguments = key in _ARGUMENTS and key not in self._names() and not self._has_arguments
        if arguments and value == "null":
            self._none = True
        elif arguments and (found := _object(value)) is not None:
            self._call.drop()
            self._call.write(found)
        else:
            self._beside[key] = value

    @property
    def _has_arguments(self) -> bool:
        return self._call.committed or self._call.arguments not in {None, "{}"}

    def _names(self) -> frozenset[str]:
        """Return the names of the tool's arguments."""
        tool = self._tools.get(self._call.name or "")
        return frozenset() if tool is None else ArgumentTypes(tool.parameters).names()

    def _flat(self) -> str | None:
        """Return the members beside the name as an object, if they are the arguments; None without any.

        Raises `Malformed` if they might be the arguments, so that a call without arguments could be wrong.
        """
        names, none = self._names(), self._none or self._call.arguments is not None
        said = {
            key: value for key, value in self._beside.items()
            if key not in _BESIDE or (key in names and not none and (key, value) != ("type", '"function"'))
        }
        if not said:
            return None
        if said.keys() <= names or self._call.name not in self._tools:
            return f"{{{', '.join(f'{json.dumps(key, ensure_ascii=False)}: {said[key]}' for key in said)}}}"
        if not none:
            raise Malformed
        return None


def copy_arguments(reader: Reader, write: Callable[[str], None], *, null: str = "{}") -> Steps[bool]:
    """Copy arguments: an object, a string with one, or null or "", written as `null`; return whether they are null.

    Raises `Malformed` for anything else.
    """
    yield from reader.space()
    char = yield from reader.peek()
    if char == "{":
        yield from copy_json(reader, write)
        return False
    if char not in _STARTS:
        raise Malformed
    pieces: list[str] = []
    yield from copy_json(reader, pieces.append)
    value = "".join(pieces)
    if value in {"null", '""'}:
        if null:
            write(null)
        return True
    found = _object(value)
    if found is None:
        raise Malformed
    write(found)
    return False


def _object(value: str) -> str | None:
    """Return the object that a JSON value is, or that it contains if it is a string; None if neither."""
    if value.startswith('"'):
        try:
            value = mended(json.loads(value)).strip()
        except Malformed:
            return None
    return value if value.startswith("{") else None
