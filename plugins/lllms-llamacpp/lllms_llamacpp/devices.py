"""The GPUs that llama.cpp would use, as a short-lived process sees them.

The server asks such a process, as the library would keep some memory of each GPU in any process that looks at them.
"""

import json
import logging
import subprocess
import sys
from collections.abc import Mapping, Sequence
from threading import Lock

from lllms_core.types import Device
from lllms_llamacpp.gpus import Gpu

logger = logging.getLogger("lllms.llamacpp")

SECONDS = 60.0
"""The time that the process has; drivers may take many seconds at their first use."""
COMMAND = (sys.executable, "-m", "lllms_llamacpp.device_list")

_lock = Lock()
_known: tuple[Gpu, ...] | None = None


def known_gpus() -> Sequence[Gpu]:
    """Return the GPUs as they were first seen: the estimates of a server are all for the same memory."""
    return ask_for_gpus() if _known is None else _known


def used(gpus: Sequence[Gpu]) -> Sequence[Device]:
    """Return the GPUs that models use whose options name none."""
    return tuple(one.device for one in gpus if one.default)


def ask_for_gpus(command: Sequence[str] = COMMAND) -> Sequence[Gpu]:
    """Return the GPUs as they are now; none, with a warning, if that cannot be found out."""
    global _known  # noqa: PLW0603  # the GPUs are the machine's, and so is this
    with _lock:
        try:
            done = subprocess.run(  # noqa: S603  # it is ours
                command, stdin=subprocess.DEVNULL, capture_output=True, timeout=SECONDS, check=True, text=True,
            )
            found = tuple(map(read_gpu, json.loads(done.stdout.splitlines()[-1])))
        except (OSError, subprocess.SubprocessError, ValueError, LookupError, TypeError) as error:
            logger.warning("llama.cpp's GPUs cannot be told, so that their memory has no limit: %s", _why(error))
            found = ()
        if _known is None:
            _known = found
    return found


def read_gpu(told: Mapping[str, object]) -> Gpu:
    """Read a GPU of `device_list`. Raises `LookupError` or `ValueError` for what is none."""
    name, total, free = told["name"], told["total"], told["free"]
    if not isinstance(name, str) or type(total) is not int or type(free) is not int or total <= 0:
        raise ValueError(f"{told!r} is no GPU")
    return Gpu(Device(name, total, max(0, min(free, total))), default=bool(told.get("default", True)))


def _why(error: Exception) -> str:
    lines = (error.stderr or "").strip().splitlines() if isinstance(error, subprocess.CalledProcessError) else []
    return f"{error}{f' ({lines[-1]})' if lines else ''}"
