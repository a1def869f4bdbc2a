"""Listening on a Unix socket, which is a file that only its owner may use."""

import errno
import os
import socket
import stat
from pathlib import Path

from lllms_core.errors import ConfigError

OWNER_ONLY = 0o600


def listen_at(path: Path, backlog: int) -> socket.socket:
    """Return a listening socket at a path. Raises `ConfigError` with the reason.

    The socket of a server that has died is replaced, that of a running one is not, nor any other file.
    """
    if not hasattr(socket, "AF_UNIX"):
        raise ConfigError("server.host: this system has no Unix sockets; use 127.0.0.1")
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        _remove_dead(path)
        listener.bind(str(path))
        path.chmod(OWNER_ONLY)  # in time: nobody can connect before it listens
        listener.listen(backlog)
    except OSError as error:
        listener.close()
        reason = error.strerror or str(error)  # a path that is too long has no number
        raise ConfigError(f"server.host: cannot listen at {path}: {reason}") from error
    except ConfigError:
        listener.close()
        raise
    return listener


class SocketFile:
    """The file of a listening socket, to be removed with it."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._identity = _identity(path)

    def remove(self) -> None:
        """Remove the file, unless another server has put its own there."""
        try:
            if _identity(self._path) == self._identity:
                self._path.unlink()
        except FileNotFoundError:
            pass  # removed by somebody else


def _identity(path: Path) -> tuple[int, int]:
    status = path.lstat()
    return status.st_dev, status.st_ino


def _remove_dead(path: Path) -> None:
    """Remove the socket of a server that runs no more. Raises `ConfigError` for everything else at the path."""
    try:
        mode = path.lstat().st_mode
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(mode):
        raise ConfigError(f"server.host: {path} is a file, but no socket; remove it, or choose another path")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as caller:
        caller.setblocking(False)  # noqa: FBT003  # a method of the standard library
        result = caller.connect_ex(str(path))
    if result == errno.ECONNREFUSED:
        path.unlink(missing_ok=True)
    elif result in {0, errno.EAGAIN, errno.EINPROGRESS}:
        raise ConfigError(
            f"server.host: cannot listen at {path}: another program does; stop it, or choose another path",
        )
    elif result != errno.ENOENT:
        raise OSError(result, os.strerror(result))
