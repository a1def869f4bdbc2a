"""One model in gpt4all: texts in, tokens out, one call at a time; and the random numbers of its sampling."""

import ctypes
import mmap
from collections.abc import Callable
from secrets import randbits

from attrs import frozen
from gpt4all import _pyllmodel as bindings

from lllms_core.errors import EngineFailed, ModelLoadFailed
from lllms_core.types import Sampling
from lllms_gpt4all.library import native_log, reason
from lllms_gpt4all.options import MAX_BATCH

_TEXT_ALONE = "%1%2"
"""A gpt4all template that adds nothing before or after the text."""
_REPEAT_WINDOW = 64
"""The number of recent tokens that `repeat_penalty` considers."""
_COLDEST = 1e-5
"""A lower temperature also chooses the likeliest token, but would overflow."""
_ERROR_TOKEN = -1
_MT_WORDS = 624
_LENGTH = 8

_llmodel = bindings.llmodel
_llmodel.llmodel_get_state_size.argtypes = [ctypes.c_void_p]
_llmodel.llmodel_get_state_size.restype = ctypes.c_uint64
_llmodel.llmodel_save_state_data.argtypes = [ctypes.c_void_p, ctypes.c_void_p]
_llmodel.llmodel_save_state_data.restype = ctypes.c_uint64
_llmodel.llmodel_restore_state_data.argtypes = [ctypes.c_void_p, ctypes.c_void_p]
_llmodel.llmodel_restore_state_data.restype = ctypes.c_uint64


@frozen
class Source:
    """A file to load, and where to load it."""

    path: str
    backend: str
    device: str | None
    """The backend's name for it; None for the CPU."""
    context_size: int
    gpu_layers: int


def load_native(source: Source) -> bindings.LLModel:
    """Load a file. Raises `ModelLoadFailed` with the native reason."""
    try:
        model = bindings.LLModel(source.path, source.context_size, source.gpu_layers, source.backend)
    except RuntimeError as error:
        raise ModelLoadFailed(f"'{source.path}' cannot be loaded: {error}") from None
    try:
        if source.device is not None:
            model.init_gpu(source.device)
        with native_log(source.backend).errors() as errors:
            model.load_model()
    except ValueError as error:
        model.close()
        raise ModelLoadFailed(f"options.device cannot be used: {error}") from None
    if not _llmodel.llmodel_isModelLoaded(model.model):
        model.close()
        raise ModelLoadFailed(f"'{source.path}' cannot be loaded: {reason(errors)}")
    return model


class NativeModel:
    """A loaded model that generates, with its only context. Never call it from two threads at once.

    `tokens` are the evaluated tokens in the context.
    """

    def __init__(self, source: Source) -> None:
        """Load a file. Raises `ModelLoadFailed` with the native reason."""
        self._model = load_native(source)
        self.tokens: list[int] = []
        self.batch_size = MAX_BATCH
        self._go_on: Callable[[], bool] = lambda: True
        self._sampled: list[int] = []
        self._error: str | None = None
        self._model._prompt_callback = self._take_evaluated  # noqa: SLF001  # the hook
        self._model._callback_decoder = lambda _: self._take_sampled  # noqa: SLF001  # as above
        self._empty = self._save_state()
        self.seed(None)

    def use_threads(self, count: int) -> None:
        """Compute with `count` threads from the next call on."""
        self._model.set_thread_count(count)

    def cut(self, length: int) -> None:
        """Keep only the first `length` tokens."""
        del self.tokens[length:]

    def read(self, text: str, *, parse_special: bool, go_on: Callable[[], bool] = lambda: True) -> bool:
        """Evaluate a text after `tokens`; False if `go_on`, asked after each batch, stopped it before the end."""
        stopped = False
        start = len(self.tokens)

        def ask() -> bool:
            nonlocal stopped
            # Called for every token, though a whole batch is evaluated: a stop before the batch's end would lose it.
            if (len(self.tokens) - start) % self.batch_size == 0:
                stopped = not go_on()
            return not stopped

        self._go_on = ask
        self._call(text, 0, Sampling(temperature=0), parse_special=parse_special)
        return not stopped

    def sample(self, sampling: Sampling) -> int | None:
        """Choose the next token and evaluate it; None if gpt4all ends the answer here."""
        self._sampled.clear()
        self._call("", 1, sampling, parse_special=True)
        if not self._sampled:
            return None
        self.tokens += self._sampled
        return self._sampled[0]

    def seed(self, seed: int | None) -> None:
        """Restart the random numbers from a seed, a random one if None; the context keeps its tokens.

        There is no call for it, but the generator is part of the state that can be saved and restored.
        """
        state = self._save_state() if self.tokens else self._empty
        length = int.from_bytes(state[:_LENGTH], "little")
        old = bytes(state[_LENGTH : _LENGTH + length]).split()
        words = _mersenne_twister(randbits(32) if seed is None else seed & 0xFFFFFFFF)
        # libstdc++ appends how many words are used up; libc++ writes the words only.
        new = " ".join(map(str, [*words, _MT_WORDS] if len(old) > _MT_WORDS else words)).encode()
        patched = len(new).to_bytes(_LENGTH, "little") + new + bytes(state[_LENGTH + length :])
        _llmodel.llmodel_restore_state_data(self._model.model, patched)

    def close(self) -> None:
        """Free the model, once."""
        self._model.close()

    def _save_state(self) -> bytes:
        # The size is for a full context; unused pages cost nothing in an anonymous map.
        with mmap.mmap(-1, _llmodel.llmodel_get_state_size(self._model.model)) as room:
            place = (ctypes.c_char * len(room)).from_buffer(room)
            try:
                return room[: _llmodel.llmodel_save_state_data(self._model.model, place)]
            finally:
                del place

    def _call(self, text: str, tokens: int, sampling: Sampling, *, parse_special: bool) -> None:
        self._error = None
        if self._model.context is not None:
            self._model.context.n_past = len(self.tokens)
        self._model.prompt_model(
            text.encode(errors="replace").decode(), _TEXT_ALONE, bindings.empty_response_callback,
            n_predict=tokens, n_batch=self.batch_size, special=parse_special,
            temp=0.0 if sampling.temperature < _COLDEST else sampling.temperature,
            top_k=sampling.top_k, top_p=sampling.top_p, min_p=sampling.min_p,
            repeat_penalty=sampling.repeat_penalty, repeat_last_n=_REPEAT_WINDOW,
        )
        if self._error is not None:
            raise EngineFailed(f"gpt4all: {self._error}")

    # Called from C: errors raised in these would be printed and lost.

    def _take_evaluated(self, token: int) -> bool:
        self.tokens.append(token)
        return self._go_on()

    def _take_sampled(self, token: int, piece: bytes) -> bool:
        if token == _ERROR_TOKEN:
            self._error = piece.decode(errors="replace")
            return False
        self._sampled.append(token)
        return True


def _mersenne_twister(seed: int) -> list[int]:
    """Return the initial state of C++'s `std::mt19937`."""
    words = [seed]
    for i in range(1, _MT_WORDS):
        words.append((1812433253 * (words[-1] ^ (words[-1] >> 30)) + i) & 0xFFFFFFFF)
    return words
