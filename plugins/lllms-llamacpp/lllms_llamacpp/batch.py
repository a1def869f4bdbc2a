"""The arrays of a `llama_batch`, written in place."""

import ctypes
from collections.abc import Sequence
from math import inf

import llama_cpp.llama_cpp as llama

from lllms_core.engines import Feed
from lllms_llamacpp.work import work


class Batch:
    """Room for `size` tokens, each of one sequence."""

    def __init__(self, size: int, reach: float = inf) -> None:
        """`reach`: see `work.reach`."""
        self.tokens = 0
        """The number of tokens that the last `fill` wrote."""
        self.work = 0.0
        """What they cost; see `work.work`."""
        self._reach = reach
        self._token = (llama.llama_token * size)()
        self._position = (llama.llama_pos * size)()
        self._sequence = (llama.llama_seq_id * size)()
        self._logits = (ctypes.c_int8 * size)()
        self._ones = (ctypes.c_int32 * size)(*[1] * size)
        pointer = ctypes.POINTER(llama.llama_seq_id)
        width = ctypes.sizeof(llama.llama_seq_id)
        start = ctypes.addressof(self._sequence)
        self._sequences = (pointer * size)(
            *(ctypes.cast(ctypes.c_void_p(start + i * width), pointer) for i in range(size)),
        )
        self.native = llama.llama_batch(
            0,
            ctypes.cast(self._token, ctypes.POINTER(llama.llama_token)),
            None,
            ctypes.cast(self._position, ctypes.POINTER(llama.llama_pos)),
            ctypes.cast(self._ones, ctypes.POINTER(ctypes.c_int32)),
            ctypes.cast(self._sequences, ctypes.POINTER(pointer)),
            ctypes.cast(self._logits, ctypes.POINTER(ctypes.c_int8)),
        )
        self._written: list[int] = []
        """The rows for which logits were last requested."""

    def fill_inputs(self, inputs: Sequence[Sequence[int]]) -> int:
        """Write complete inputs, each a sequence of its own, with an output for every token; return the token count."""
        end = 0
        for sequence, tokens in enumerate(inputs):
            start, count = end, len(tokens)
            end += count
            self._token[start:end] = tokens
            self._position[start:end] = range(count)
            self._sequence[start:end] = [sequence] * count
            self._logits[start:end] = [1] * count
        self.tokens = self.native.n_tokens = end
        return end

    def fill(self, feeds: Sequence[Feed]) -> list[int]:
        """Write the feeds; return the row of the last token of each feed that requests logits."""
        for row in self._written:
            self._logits[row] = 0
        rows: list[int] = []
        self._written = []
        end, attended = 0, 0.0
        for feed in feeds:
            start, count = end, len(feed.tokens)
            end += count
            attended += count * (feed.position + count / 2)
            if count == 1:
                self._token[start] = feed.tokens[0]
                self._position[start] = feed.position
                self._sequence[start] = feed.sequence
            else:
                self._token[start:end] = feed.tokens
                self._position[start:end] = range(feed.position, feed.position + count)
                self._sequence[start:end] = [feed.sequence] * count
            if feed.logits:
                self._logits[end - 1] = 1
                rows.append(end - 1)
                self._written.append(end - 1)
            if feed.all_logits:
                self._logits[start:end] = [1] * count
                self._written += range(start, end)
        self.tokens = self.native.n_tokens = end
        self.work = work(end, attended, self._reach)
        return rows
