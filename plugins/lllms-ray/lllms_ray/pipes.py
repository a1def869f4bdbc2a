"""Pipes to a process, read in an event loop."""

import asyncio
import os
from contextlib import ExitStack
from typing import Self

from attrs import define, field


@define(eq=False)
class Pipes:
    """Pipes of which a process gets one end each; use it as a context, which closes whatever is still open."""

    _theirs: ExitStack = field(factory=ExitStack)
    _ours: ExitStack = field(factory=ExitStack)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._theirs.close()
        self._ours.close()

    def filled(self, data: bytes) -> int:
        """Return the end of a pipe from which these few bytes can be read."""
        theirs, ours = os.pipe()
        self._theirs.callback(os.close, theirs)
        try:
            os.set_blocking(ours, False)  # it holds 64 KiB
            os.write(ours, data)
        finally:
            os.close(ours)
        return theirs

    async def new(self) -> tuple[int, asyncio.StreamReader]:
        """Return the end of a pipe for a process to write to, and what it writes."""
        ours, theirs = os.pipe()
        self._theirs.callback(os.close, theirs)
        reader = asyncio.StreamReader()
        transport, _ = await asyncio.get_running_loop().connect_read_pipe(
            lambda: asyncio.StreamReaderProtocol(reader), os.fdopen(ours, "rb", buffering=0),  # the transport closes it
        )
        self._ours.callback(transport.close)
        return theirs, reader

    def close_theirs(self) -> None:
        """Close the ends that the process has by now."""
        self._theirs.close()
