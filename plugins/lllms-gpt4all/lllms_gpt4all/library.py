"""The native libraries of the package gpt4all: found, and loaded without output on the terminal."""

import ctypes
import logging
import platform
import sys
import tempfile
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from threading import Lock

from gpt4all import _pyllmodel as bindings

logger = logging.getLogger("lllms.gpt4all")

_FOLDER = Path(str(bindings.MODEL_LIB_PATH))
_LEVELS = {2: logging.WARNING, 3: logging.INFO, 4: logging.DEBUG, 5: logging.DEBUG}
_ERROR = 2
_REASONS = 20
_LOG_CALLBACK = ctypes.CFUNCTYPE(None, ctypes.c_int, ctypes.c_char_p, ctypes.c_void_p)


@cache
def choose_libraries() -> None:
    """Limit gpt4all to those of its libraries that this machine can load; call it before it loads any.

    By default it tries them all, and reports each that needs a missing CUDA on standard error.
    """
    with tempfile.TemporaryDirectory(prefix="lllms-gpt4all-") as folder:
        for library in _FOLDER.glob("*llamamodel-*"):
            try:
                ctypes.CDLL(str(library))
            except OSError as error:
                logger.debug("gpt4all's %s is left out: %s", library.name, error)
            else:
                (Path(folder) / library.name).symlink_to(library)
        bindings.llmodel.llmodel_set_implementation_search_path(folder.encode())
        # gpt4all searches its libraries once, for the first model; one without a file is refused immediately.
        error_text = ctypes.c_char_p()
        bindings.llmodel.llmodel_model_create2(b"", b"none", ctypes.byref(error_text))
    bindings.llmodel.llmodel_set_implementation_search_path(str(_FOLDER).encode())


@cache
def backend_library(backend: str) -> ctypes.CDLL:
    """Return the library that gpt4all uses for a backend on this machine, with all functions of its llama.cpp."""
    variant = "" if _has_avx2() else "-avxonly"
    [path, *_] = sorted(_FOLDER.glob(f"*llamamodel-mainline-{backend}{variant}.*"))
    return ctypes.CDLL(str(path))


def _has_avx2() -> bool:
    """Whether gpt4all uses the libraries with AVX2; only Linux can tell, elsewhere CPUs without it are rare."""
    if sys.platform != "linux" or platform.machine() != "x86_64":
        return True
    return " avx2 " in Path("/proc/cpuinfo").read_text("utf-8", "replace")


class NativeLog:
    """Receives the log of a backend's llama.cpp, which comes in pieces of lines."""

    def __init__(self, library: ctypes.CDLL) -> None:
        self._library = library
        self._lock = Lock()
        self._line = ""
        self._errors: deque[str] = deque(maxlen=_REASONS)
        # C keeps only the pointer; without this reference it would point to freed memory.
        self._callback = _LOG_CALLBACK(self._take)

    @contextmanager
    def errors(self) -> Iterator[deque[str]]:
        """Yield the error lines logged from now on; needed for each model, because gpt4all then takes back the log."""
        with self._lock:
            self._errors = deque(maxlen=_REASONS)
        self._library.llama_log_set(self._callback, None)
        yield self._errors

    def _take(self, level: int, text: bytes, _: object) -> None:
        with self._lock:
            self._line += text.decode(errors="replace")
            if not self._line.endswith("\n"):
                return
            line, self._line = self._line.strip(), ""
            if level == _ERROR:
                self._errors.append(line)
        if line.strip("."):
            logger.log(_LEVELS.get(level, logging.DEBUG), "%s", line)


@cache
def native_log(backend: str) -> NativeLog:
    """Return the log of a backend, one per process."""
    return NativeLog(backend_library(backend))


def reason(errors: deque[str]) -> str:
    """Return llama.cpp's reason, from the lines that it logged as errors."""
    told = [line.split("error loading model:", 1)[-1] for line in errors if "error loading model:" in line]
    text = told[-1] if told else next(iter(errors), "")
    # "function_name: what happened": the function is of no interest to people.
    head, colon, tail = text.partition(": ")
    return (tail if colon and " " not in head.strip() else text).strip() or "gpt4all gave no reason"
