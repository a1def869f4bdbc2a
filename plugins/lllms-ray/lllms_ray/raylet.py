"""What a process of Ray has from the raylet that started it, before Ray has changed it: environment and priority."""

import os
from contextlib import suppress
from pathlib import Path


def raylet() -> int | None:
    """Return the process that manages this node, if it is this one's parent."""
    with suppress(OSError):
        if Path(f"/proc/{os.getppid()}/comm").read_text(encoding="utf-8").strip() == "raylet":
            return os.getppid()
    return None


def node_environment() -> dict[str, str]:
    """Return the environment in which Ray was started on this node.

    In that of its own processes Ray hides the GPUs from an actor that has asked for none, and limits OpenMP's threads.
    """
    parent = raylet()
    if parent is None:
        return dict(os.environ)
    pairs = (one.partition(b"=") for one in Path(f"/proc/{parent}/environ").read_bytes().split(b"\0"))
    return {os.fsdecode(name): os.fsdecode(value) for name, equals, value in pairs if equals}


def take_priority() -> str:
    """Give this thread the priority with which Ray was started; return a warning if that is not allowed.

    Ray starts its processes with the lowest but a few, and what they start inherits that.
    """
    parent = raylet()
    if parent is None:
        return ""
    wanted, now = (os.getpriority(os.PRIO_PROCESS, process) for process in (parent, 0))
    try:
        os.setpriority(os.PRIO_PROCESS, 0, wanted)
    except PermissionError:
        return (
            f"models run with a low priority there (niceness {now}, not {wanted}); set RAY_worker_niceness=0 where Ray"
            " is started"
        )
    return ""
