"""Load with llama.cpp: its log becomes Python's, and its failures get their reasons."""

import ctypes
import logging
import os
import re
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from threading import Lock

import llama_cpp.llama_cpp as llama

from lllms_core.engines import Progress
from lllms_core.errors import ModelLoadFailed
from lllms_llamacpp.options import Lora

logger = logging.getLogger("lllms.llamacpp")

_ERROR, _CONTINUED = 4, 5
_LEVELS = {2: logging.DEBUG, 3: logging.WARNING, _ERROR: logging.ERROR}
"""llama.cpp logs a hundred lines about a load at info level, which become debug lines here, and more about every
tensor, which are dropped."""
_REASONS = 20
_KIND = 4
"""Warnings are of one kind if this many first words are equal: some come for each of a thousand tensors."""
_FUNCTION = re.compile(r"[\w:()]+: +")
"""llama.cpp begins most lines with the name of a function, which users do not need."""
_HARMLESS = re.compile(
    # About the cache of all requests; `fitting` checks the context of one.
    r"n_ctx_seq \(\d+\) > n_ctx_train"
    # As this plugin requests.
    r"|using full-size SWA cache|model default pooling_type is|failed to find a memory slot"
    # Harmless corrections of files.
    r"|setting new yarn_attn_factor|control-looking token|attribute to USER_DEFINED|override .* for Gemma4"
    r"|special_eog_ids contains both|is a normal token, removing it|is a normal token here|sharing with layer"
    r"|adding \d+ dummy tokens|tensor overrides to CPU",
)
"""Warnings that need no action."""


class NativeLog:
    """Receives llama.cpp's log, which comes from any thread and in pieces of lines."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._line = ""
        self._level = 0
        self._errors: deque[str] = deque(maxlen=_REASONS)
        self._warned: set[str] = set()
        # C keeps only the pointer; without this reference it would point to freed memory.
        self._callback = llama.llama_log_callback(self._take)

    def install(self) -> None:
        """Receive all lines from now on."""
        llama.llama_log_set(self._callback, None)

    @contextmanager
    def errors(self) -> Iterator[deque[str]]:
        """Yield the error lines logged from now on, the latest last."""
        with self._lock:
            self._errors = deque(maxlen=_REASONS)
        yield self._errors

    def _take(self, level: int, text: bytes, _: object) -> None:
        with self._lock:
            if level != _CONTINUED:
                self._level = level
            self._line += text.decode(errors="replace")
            if not self._line.endswith("\n"):
                return
            line, self._line = self._line.strip(), ""
            level = self._level
            if level == _ERROR:
                self._errors.append(line)
            shown = _LEVELS.get(level)
            if shown == logging.WARNING and self._is_no_news(line):
                shown = logging.DEBUG
        if shown is not None and any(map(str.isalnum, words(line))):
            logger.log(shown, "llama.cpp: %s", words(line))

    def _is_no_news(self, line: str) -> bool:
        """Whether a warning is harmless, or not the first of its kind."""
        kind = " ".join(re.sub(r"[\d'\"]+", "", words(line)).split()[:_KIND])
        known = kind in self._warned
        self._warned.add(kind)
        return known or bool(_HARMLESS.search(line))


def words(line: str) -> str:
    """Return a line of llama.cpp's log without the name of the function that wrote it."""
    return line[match.end() :] if (match := _FUNCTION.match(line)) else line


_log: NativeLog | None = None


def native_log() -> NativeLog:
    """Start llama.cpp's backend once in this process, and return its log."""
    global _log  # noqa: PLW0603  # the library's state is global, and so is this
    if _log is None:
        log = NativeLog()
        log.install()
        llama.llama_backend_init()
        _log = log
    return _log


def reason(errors: deque[str]) -> str:
    """Return llama.cpp's reason, from the lines that it logged as errors."""
    told = [line.split("error loading model:", 1)[-1] for line in errors if "error loading model:" in line]
    return words((told[-1] if told else next(iter(errors), "")).strip()) or "llama.cpp gave no reason"


def load_model(path: str, params: llama.llama_model_params, progress: Progress) -> llama.llama_model_p:
    """Load a model file. Raises `ModelLoadFailed` with llama.cpp's reason, or any error of `progress`."""
    raised: list[BaseException] = []

    def report(fraction: float, _: object) -> bool:
        try:
            progress(fraction)
        except BaseException as error:  # noqa: BLE001  # noqa: BLE001  # cannot pass through C; raised again below
            raised.append(error)
        return not raised

    callback = llama.llama_progress_callback(report)
    params.progress_callback = callback
    with native_log().errors() as errors:
        model = llama.llama_model_load_from_file(os.fsencode(path), params)
    if raised:
        if model:
            llama.llama_model_free(model)
        raise raised[0]
    if not model:
        raise ModelLoadFailed(f"'{path}' cannot be loaded: {reason(errors)}")
    return model


class NoContext(ModelLoadFailed):
    """The model is loaded, but a context cannot be created, perhaps for lack of memory."""


def create_context(
    model: llama.llama_model_p, params: llama.llama_context_params, path: str,
) -> llama.llama_context_p:
    """Create a context with a KV cache. Raises `NoContext` with llama.cpp's reason, `ModelLoadFailed` for no cache."""
    with native_log().errors() as errors:
        context = llama.llama_init_from_model(model, params)
    if not context:
        raise NoContext(
            f"no context can be created for '{path}': {reason(errors)}; "
            "check options.context_length, kv_size, kv_type_* and flash_attention, and the free memory",
        )
    if not params.embeddings and not llama.llama_get_memory(context):
        llama.llama_free(context)
        raise ModelLoadFailed(
            f"'{path}' is an embedding model: it does not generate text. Its file does not say how it pools; "
            'set options.pooling to "mean", "cls" or "last"',
        )
    return context


def add_loras(model: llama.llama_model_p, context: llama.llama_context_p, loras: tuple[Lora, ...]) -> None:
    """Apply adapters to a context; they live as long as the model. Raises `ModelLoadFailed`."""
    if not loras:
        return
    adapters = []
    for lora in loras:
        with native_log().errors() as errors:
            adapter = llama.llama_adapter_lora_init(model, os.fsencode(lora.path))
        if not adapter:
            raise ModelLoadFailed(f"the LoRA adapter '{lora.path}' cannot be used: {reason(errors)}")
        adapters.append(adapter)
    count = len(adapters)
    handles = (llama.llama_adapter_lora_p_ctypes * count)(*adapters)
    scales = (ctypes.c_float * count)(*(lora.scale for lora in loras))
    if llama.llama_set_adapters_lora(context, handles, count, scales) != 0:
        raise ModelLoadFailed(f"the LoRA adapters {', '.join(str(lora.path) for lora in loras)} cannot be applied")
