"""How llama.cpp looks at a model's `interrupt`, and shows thereby that it gets on."""

import ctypes
import os
import sys

import llama_cpp.llama_cpp as llama

from lllms_core.engines import Interrupt

_MANY = 2**31 - 1
"""The largest value of a semaphore; each look takes one."""
_HALF = _MANY // 2
_Cell = ctypes.c_uint32 * 8
"""A semaphore, which has 32 bytes at most, and begins with its value."""


def _counting() -> ctypes.CDLL | None:
    """The C library, if its semaphores are as `NativeFlag` takes them; those of glibc and musl on Linux are."""
    if not sys.platform.startswith("linux"):
        return None
    library, one = ctypes.CDLL(None), _Cell(1)
    return library if library.sem_trywait(one) == 0 and not one[0] and library.sem_trywait(one) == -1 else None


_COUNTING = _counting()


class NativeFlag(Interrupt):
    """An event that C code can look at without Python or its lock; each look is counted.

    llama.cpp asks its abort callback before each node of the graph. Here that is `sem_trywait`, on a semaphore with a
    large value: it takes one and returns 0, go on. While the event is set there is nothing to take, and it returns -1,
    give up. Without such semaphores it is `strlen`, on a byte that is no end of a string while the event is set; then
    looks are not counted, and a decode has to be shorter than `Engine.watchdog`.
    """

    def __init__(self) -> None:
        super().__init__()
        self._asked, self._told = _Cell(), _Cell()
        self.clear()
        library = _COUNTING or ctypes.CDLL("msvcrt" if os.name == "nt" else None)
        function = library.strlen if _COUNTING is None else library.sem_trywait
        self._callback = ctypes.cast(function, llama.ggml_abort_callback)

    def watch(self, context: llama.llama_context_p, *, abortable: bool) -> None:
        """Have the decodes of a context look at this; they give up while it is set if they are `abortable`."""
        cell = self._asked if abortable else self._told
        llama.llama_set_abort_callback(context, self._callback, ctypes.cast(cell, ctypes.c_void_p))

    def refill(self) -> None:
        """Before a decode: see that it cannot use up all looks, also in programs that never `clear`."""
        if self._told[0] < _HALF or self._asked[0] < _HALF:
            for cell in (self._asked, self._told) if _COUNTING else ():
                if 0 < cell[0] < _HALF:  # 0: it is set
                    cell[0] = _MANY

    @property
    def looks(self) -> int:
        """How often anybody has looked since it was cleared."""
        return super().looks + 2 * _MANY - self._asked[0] - self._told[0]

    def set(self) -> None:
        """Let those who look give up."""
        self._asked[0] = 0 if _COUNTING else 1
        super().set()

    def clear(self) -> None:
        """Let those who look go on."""
        self._asked[0] = self._told[0] = _MANY if _COUNTING else 0
        super().clear()
