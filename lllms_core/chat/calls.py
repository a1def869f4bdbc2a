"""Read one tool call, in any of the shapes that models write."""

import json
from collections.abc import Mapping
from typing import cast

from lllms_core.chat.answer_format import CallFormat
from lllms_core.chat.json_copy import Malformed, copy_json, read_string
from lllms_core.chat.literal_copy import copy_members
from lllms_core.chat.reader import Reader, Steps
from lllms_core.chat.tagged_arguments import TaggedArguments
from lllms_core.types import CallPiece, Tool

_LONGEST_NAME = 256
_BESIDE = ("id", "type")
"""Keys besides name and arguments, as in OpenAI's own calls."""
_BEHIND_NAMES = ".:/"


class CallReader:
    """Reads one call and appends its pieces to `pieces`: first its id and name, then its arguments as they come.

    Nothing comes out until the name of one of the `tools` and the start of the arguments are there; until then,
    `committed` is false: the characters read may still turn out to be text. `read` raises `Malformed` if it is no call.
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
        """Read the call, after the text that announces it; a `bare` call is unannounced, as the whole answer."""
        if self._form.shape == "object":
            yield from self._members((), bare=bare)
            if self._name is None or (bare and not self._has_arguments):
                raise Malformed
            if not self._has_arguments:
                self._write("{}")
            self._commit()
        else:
            self._use_name((yield from self._bare_name()))
            if not (yield from self._reader.accept(self._form.name_end)):
                raise Malformed
            yield from self._behind_name()

    def read_arguments(self, name: str, *, none: bool = False) -> Steps[None]:
        """Read the arguments of a call whose name has been read; with `none`, there are no arguments to read."""
        self._use_name(name)
        if none:
            self._write("{}")
        else:
            yield from self._arguments()

    # -- output -------------------------------------------------------------------------------------------------------

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
        """Read an object that holds name and arguments; skip its other members."""
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
        """Read arguments as an object, as a string that holds one, or as null."""
        reader = self._reader
        yield from reader.space()
        char = yield from reader.peek()
        if char == "{":
            yield from copy_json(reader, self._write)
        elif char == '"':
            text = json.loads((yield from read_string(reader)))
            try:
                value = json.loads(text or "{}")
            except (ValueError, RecursionError):
                raise Malformed from None
            if not isinstance(value, dict):
                raise Malformed
            self._write(text or "{}")
        elif char == "n":
            yield from copy_json(reader, lambda _: None)
            self._write("{}")
        else:
            raise Malformed

    # -- after a name ----------------------------------------------------------------------------------------------

    def _behind_name(self) -> Steps[None]:
        """Read the arguments in the form's own shape."""
        form = self._form
        if form.shape == "tagged":
            yield from TaggedArguments(form, self._reader, self._tools[self._name or ""].parameters, self._write).read()
        elif form.shape == "keyword":
            yield from copy_members(
                self._reader, self._write, end=form.arguments_end, key_end=form.key_end, quote=form.quote,
            )
        else:
            yield from self._arguments()

    def _bare_name(self) -> Steps[str]:
        """Read a name without quotes."""
        yield from self._reader.space()
        name = ""
        while (char := (yield from self._reader.next())) and (char.isalnum() or char in "_-./:"):
            name += char
            if len(name) > _LONGEST_NAME:
                raise Malformed
        self._reader.back(char)
        if name in self._tools:
            return name
        # The text after a name may look like part of it.
        known = [one for one in self._tools if name.startswith(one) and name[len(one)] in _BEHIND_NAMES]
        longest = max(known, key=len, default=name)
        self._reader.back(name[len(longest) :])
        return longest
