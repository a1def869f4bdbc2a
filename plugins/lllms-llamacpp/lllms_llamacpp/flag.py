"""The flag by which llama.cpp checks a model's `interrupt`; its checks also show that it makes progress."""

import ctypes
import os
import sys

import llama_cpp.llama_cpp as llama

from lllms_core.engines import Interrupt

_MANY = 2**31 - 1
"""The largest value of a semaphore; each look takes one."""
_HALF = _MANY // 2
_Cell = ctypes.c_uint32 * 8
"""A semaphore: at most 32 bytes, of which the value comes first."""


def _counting() -> ctypes.CDLL | None:
    """Return the C library, if its semaphores are as `NativeFlag` needs them; those of glibc and musl on Linux are."""
    if not sys.platform.startswith("linux"):
        return None
    library, one = ctypes.CDLL(None), _Cell(1)
    return library if library.sem_trywait(one) == 0 and not one[0] and library.sem_trywait(one) == -1 else None


_COUNTING = _counting()


class NativeFlag(Interrupt):
    """An event that C code can check without Python or its lock; the checks ("looks") are counted.

    llama.cpp calls its abort callback before each node of the graph. Here that is `sem_trywait` on a semaphore with a
    large value: it takes one and returns 0, continue. While the event is set the value is 0, and it returns -1, abort.
    Without such semaphores it is `strlen` on a byte that is not 0 while the event is set; then looks are not counted,
    and a decode must be shorter than `Engine.watchdog`.
    """

    def __init__(self) -> None:
        super().__init__()
        self._asked, self._told = _Cell(), _Cell()
        self.clear()
        library = _COUNTING or ctypes.CDLL("msvcrt" if os.name == "nt" else None)
        function = library.strlen if _COUNTING is None else library.sem_trywait
        self._callback = ctypes.cast(function, llama.ggml_abort_callback)

    def watch(self, context: llama.llama_context_p, *, abortable: bool) -> None:
        """Make a context's decodes check this flag; if they are `abortable`, they abort while it is set."""
        cell = self._asked if abortable else self._told
        llama.llama_set_abort_callback(context, self._callback, ctypes.cast(cell, ctypes.c_void_p))

    def refill(self) -> None:
        """Ensure, before a decode, that it cannot use up all looks, even in programs that never `clear`."""
        if self._told[0] < _HALF or self._asked[0] < _HALF:
            for cell in (self._asked, self._told) if _COUNTING else ():
                if 0 < cell[0] < _HALF:  # 0: it is set
                    cell[0] = _MANY

    @property
    def looks(self) -> int:
        """The number of checks since it was cleared."""
        return super().looks + 2 * _MANY - self._asked[0] - self._told[0]

    def set(self) -> None:
        """Make abortable decodes, and other code that checks, give up."""
        self._asked[0] = 0 if _COUNTING else 1
        super().set()

    def clear(self) -> None:
        """Let decodes, and other code that checks, continue."""
        self._asked[0] = self._told[0] = _MANY if _COUNTING else 0
        super().clear()
