"""Files that others may have put in place, opened without waiting and with a size limit; the home folder."""

import errno
import os
import stat
from codecs import BOM_UTF16_BE, BOM_UTF16_LE
from pathlib import Path
from typing import BinaryIO


def at_home(path: str | Path) -> Path:
    """Return a path with `~` expanded to the user's home; unchanged if that home is unknown."""
    return Path(os.path.expanduser(path))  # noqa: PTH111  # Path.expanduser raises RuntimeError there


def open_regular(path: Path) -> BinaryIO:
    """Open a file to be read, never waiting. Raises `OSError`, also for a pipe, a device or a socket in its place."""
    handle = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
    mode = os.fstat(handle).st_mode
    if stat.S_ISREG(mode):
        return open(handle, "rb")  # noqa: PTH123  # of a handle
    os.close(handle)
    number = errno.EISDIR if stat.S_ISDIR(mode) else errno.EINVAL
    raise OSError(number, os.strerror(number) if number == errno.EISDIR else "it is no regular file", str(path))


def read_regular(path: Path, longest: int = 64 * 2**20) -> bytes:
    """Read a small file, never waiting. Raises `OSError`, also for one of more than `longest` bytes."""
    with open_regular(path) as file:
        data = file.read(longest + 1)
    if len(data) > longest:
        raise OSError(errno.EFBIG, os.strerror(errno.EFBIG), str(path))
    return data


def read_text(path: Path) -> str:
    """Read a small text file, never waiting; see `decode_text`. Raises `OSError` or `UnicodeDecodeError`."""
    return decode_text(read_regular(path))


def decode_text(data: bytes) -> str:
    """Return the text of a handwritten file, with line feeds only and without a byte order mark.

    It is UTF-8, or UTF-16 with a mark, as some editors and shells write. Raises `UnicodeDecodeError`.
    """
    encoding = "utf-16" if data.startswith((BOM_UTF16_LE, BOM_UTF16_BE)) else "utf-8-sig"
    return data.decode(encoding).replace("\r\n", "\n").replace("\r", "\n")
