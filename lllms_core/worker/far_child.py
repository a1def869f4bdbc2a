"""A worker process on another machine: it connects to its server, and then is a worker like any other."""

import os
import sys

from lllms_core.machine import die_with
from lllms_core.rendezvous import ADDRESS, TOKEN, greet, versions
from lllms_core.worker.child import main


def run() -> None:
    """Connect as the environment and the command line say (title, number of sockets), and serve."""
    parent = os.getppid()
    die_with(parent)  # the placement's own process on this machine
    host, port = os.environ.pop(ADDRESS).split()
    token = bytes.fromhex(os.environ.pop(TOKEN))
    sockets = greet((host, int(port)), token, int(sys.argv[2]), {"pid": os.getpid(), "versions": versions()})
    for standard in (0, 1):
        os.dup2(sockets[0].fileno(), standard)
    sockets[0].close()
    sys.stdout = open(2, "w", encoding="utf-8", closefd=False)  # noqa: SIM115  # the log; the old one was for another file
    main(sockets[1].detach() if len(sockets) > 1 else None)


if __name__ == "__main__":
    run()
