"""Read one tool call, in any of the shapes that models write."""

import re
from collections.abc import Callable, Mapping, Sequence

from lllms_core.chat.answer_format import CallFormat
from lllms_core.chat.argument_types import ArgumentTypes, names_within
from lllms_core.chat.call_object import CallObject, copy_arguments
from lllms_core.chat.json_copy import Malformed
from lllms_core.chat.literal_copy import LiteralCopier
from lllms_core.chat.reader import Reader, Steps
from lllms_core.chat.tagged_arguments import TaggedArguments
from lllms_core.types import CallPiece, Tool

_LONGEST_NAME = 256
_BEHIND_NAMES = ".:/"
_NAME = re.compile(r"[\w./:-]{1,64}", re.ASCII)
"""The name of a tool that was not offered."""


class CallReader:
    """Reads one call and appends its pieces to `pieces`: first its id and name, then its arguments.

    While a grammar keeps the model from breaking the call (`kept`), arguments are output as they are written; otherwise
    nothing is output before `settle`, since the characters read may still turn out to be text. A tool is one of
    `tools`, or any name if `strangers` may be called. `read` raises `Malformed` if it is no call.
    """

    def __init__(
        self, form: CallFormat, reader: Reader, tools: Mapping[str, Tool], *, index: int, call_id: str,
        pieces: list[CallPiece], kept: Callable[[], bool], strangers: bool,
    ) -> None:
        self.committed = False
        """Whether a part of it has been output."""
        self.whole = False
        """Whether its arguments are complete, and its end was read if its shape has one."""
        self.name: str | None = None
        self._form = form
        self._reader = reader
        self._tools = tools
        self._index = index
        self._id = call_id
        self._pieces = pieces
        self._kept = kept
        self._strangers = strangers
        self._waiting: list[str] = []
        """Arguments that are not output yet."""

    def read(self, *, bare: bool) -> Steps[None]:
        """Read the call, after the text that announces it; a `bare` call is unannounced, as the whole answer."""
        if self._form.shape == "object":
            parts = CallObject(self._form, self._reader, self._tools, self, bare=bare)
            yield from parts.read()
            self.whole = parts.closed
        else:
            yield from self._named()

    def read_arguments(self, name: str, *, none: bool = False) -> Steps[None]:
        """Read the arguments of a call whose name has been read; with `none`, there are no arguments to read."""
        self.use_name(name)
        if none:
            self.write("{}")
            self.whole = True
        else:
            yield from copy_arguments(self._reader, self.write)
            self.whole = True

    # -- output -------------------------------------------------------------------------------------------------------

    @property
    def arguments(self) -> str | None:
        """The arguments so far that are not output yet; None without any."""
        return "".join(self._waiting) if self._waiting else None

    def use_name(self, name: str) -> None:
        """Take the tool's name. Raises `Malformed` if it is invalid."""
        if name not in self._tools and not (self._strangers and _NAME.fullmatch(name)):
            raise Malformed
        self.name = name
        if self._waiting and self._streams():
            self._commit()

    def write(self, text: str) -> None:
        """Take more of the arguments."""
        if not self.committed:
            self._waiting.append(text)
            if self._streams():
                self._commit()
        else:
            self._pieces.append(CallPiece(self._index, arguments=text))
            self._reader.mark()

    def drop(self) -> None:
        """Forget the arguments so far, none of which are output."""
        self._waiting.clear()

    def settle(self) -> None:
        """Output everything still held: the call is complete."""
        if not self.committed:
            self._commit()

    def cut(self) -> bool:
        """Output the part of the call that was read, and leave it open; return whether its arguments had begun."""
        if self.name is not None and self._waiting:
            self.settle()
        return self.committed

    def pass_on(self, ends: Sequence[str]) -> Steps[bool]:
        """Output the rest of a call that broke after a part of it was output, just as the model wrote it.

        It is read up to one of the `ends`; return whether one came.
        """
        self.write(self._reader.held_text())
        while True:
            for end in ends:
                if (yield from self._reader.accept(end)):
                    return True
            char = yield from self._reader.next()
            if not char:
                return False
            self.write(char)

    def _streams(self) -> bool:
        return self.name in self._tools and self._kept()

    def _commit(self) -> None:
        assert self.name is not None  # noqa: S101  # the callers have it
        self.committed = True
        self._pieces.append(CallPiece(self._index, self._id, self.name, "".join(self._waiting)))
        self._waiting.clear()
        self._reader.mark()

    # -- after a name ----------------------------------------------------------------------------------------------

    def _named(self) -> Steps[None]:
        """Read the name, and the arguments in the form's own shape."""
        form = self._form
        name = yield from self._bare_name()
        self.use_name(name)
        schema = self._tools[name].parameters if name in self._tools else {}
        if form.shape == "tagged":
            yield from TaggedArguments(form, self._reader, ArgumentTypes(schema), self.write).read()
        elif form.shape == "keyword":
            copier = LiteralCopier(self._reader, self.write, form.quote, names_within(schema))
            yield from copier.members(form.arguments_end, form.key_end)
            self.whole = True
        else:
            yield from copy_arguments(self._reader, self.write)
            self.whole = True

    def _bare_name(self) -> Steps[str]:
        """Read a name without quotes, and the text between it and the arguments."""
        reader, form = self._reader, self._form
        yield from reader.space()
        name = ""
        while (char := (yield from reader.next())) and (char.isalnum() or char in "_-./:"):
            name += char
            if len(name) > _LONGEST_NAME:
                raise Malformed
        reader.back(char)
        # The text after a name may look like part of it; the longest offered name is meant.
        cuts = [at for at in range(len(name), 0, -1) if at == len(name) or name[at] in _BEHIND_NAMES]
        for at in sorted(cuts, key=lambda at: name[:at] not in self._tools):
            reader.back(name[at:])
            if (yield from reader.accept(form.name_end)):
                return name[:at]
            for _ in name[at:]:
                yield from reader.next()
        raise Malformed
