"""The service manager that has started this process, if one has: what it wants to be told, and the socket it passes.

The protocols are systemd's: datagrams to the socket that NOTIFY_SOCKET names (sd_notify), and descriptors from 3 on
(LISTEN_FDS). Other managers, and podman, have them too.
"""

import logging
import os
import socket
import time

from lllms_core.errors import ConfigError

LOG = logging.getLogger("lllms.serve")

FIRST = 3
"""The number of the first descriptor that is passed."""


def notify(*lines: str) -> None:
    """Tell the service manager, in lines like `READY=1` or `STATUS=loads models`; without one do nothing."""
    address = os.environ.get("NOTIFY_SOCKET", "")
    if not address.startswith(("/", "@")):
        return  # none, or one of a virtual machine's host
    if address.startswith("@"):
        address = f"\0{address[1:]}"  # not a file, but a name
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
            sender.setblocking(False)  # noqa: FBT003  # a method of the standard library
            sender.sendto("\n".join(lines).encode(), address)
    except OSError as error:
        LOG.debug("the service manager does not take %s: %s", lines[0], error)


def notify_reload() -> None:
    """Tell the service manager that the configuration is read again; `notify("READY=1")` tells the end."""
    notify("RELOADING=1", f"MONOTONIC_USEC={time.monotonic_ns() // 1000}")


def watchdog_seconds() -> float | None:
    """Return the time within which `notify("WATCHDOG=1")` is due again and again; None if nobody waits for it."""
    if os.environ.get("WATCHDOG_PID", str(os.getpid())) != str(os.getpid()):
        return None
    text = os.environ.get("WATCHDOG_USEC", "")
    return int(text) / 1e6 if text.isdecimal() and int(text) > 0 else None


def passed_listener() -> socket.socket | None:
    """Return the listening socket that the service manager passes to this process; None if it passes none.

    Only the first call returns it, and child processes do not see it. Raises `ConfigError` if it is of no use.
    """
    told = {name: os.environ.pop(name, "") for name in ("LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES")}
    if told["LISTEN_PID"] != str(os.getpid()) or not told["LISTEN_FDS"].isdecimal() or told["LISTEN_FDS"] == "0":
        return None
    count = int(told["LISTEN_FDS"])
    passed = [socket.socket(fileno=FIRST + index) for index in range(count)]
    for one in passed:
        one.set_inheritable(False)  # a method of the standard library
    if count > 1:
        for one in passed:
            one.close()
        raise ConfigError(f"the service manager passes {count} sockets, but lllms listens on one: leave one"
                          " ListenStream= in its socket unit")
    [listener] = passed
    if listener.type == socket.SOCK_STREAM and listener.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
        return listener
    listener.close()
    raise ConfigError("the socket that the service manager passes does not listen for streams: its socket unit needs"
                      " ListenStream= and Accept=no")


def host_and_port(listener: socket.socket) -> dict[str, object]:
    """Return the `host` and the `port` of `[server]` that mean a socket's address."""
    name = listener.getsockname()
    if listener.family != socket.AF_UNIX:
        return {"host": name[0], "port": name[1]}
    if not name or isinstance(name, bytes):
        raise ConfigError("the socket that the service manager passes has no path: give its ListenStream= one")
    return {"host": f"unix:{name}"}
