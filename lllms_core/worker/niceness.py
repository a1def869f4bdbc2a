"""Work that must not be in the way of others: in a thread of the lowest priority."""

import os
import sys
from collections.abc import Callable
from importlib import import_module
from threading import Thread, get_native_id

LOWEST = 19


def background(work: Callable[[], object]) -> None:
    """Do the work with the lowest priority, and return when it is done; raises what it raises.

    Linux gives each thread a priority of its own, which nobody may raise again: so this thread keeps its own. Elsewhere
    the priority is that of the process, and stays as it is.
    """
    raised: list[BaseException] = []

    def run() -> None:
        if sys.platform == "linux":
            os.setpriority(os.PRIO_PROCESS, get_native_id(), LOWEST)
        try:
            work()
        except BaseException as error:  # noqa: BLE001  # raised again below
            raised.append(error)

    thread = Thread(target=run, name="lllms background")
    thread.start()
    thread.join()
    if raised:
        raise raised[0]


def import_child() -> None:
    """Import the program of a worker."""
    import_module("lllms_core.worker.child")
