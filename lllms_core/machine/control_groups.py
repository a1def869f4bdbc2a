"""The control groups of this process, by which Linux limits its cores and its memory.

The kernel's files are read again and again, so their names are strings: `Path` interns each part of a path, and so
Python's table of interned strings fills with parts that are long gone, until it doubles.
"""

from collections.abc import Iterator
from pathlib import Path

ROOT = "/sys/fs/cgroup"


def membership_text() -> str:
    """Return the text of /proc/self/cgroup; empty on systems without it."""
    return read_text("/proc/self/cgroup")


def control_groups(membership: str, root: str | Path, controller: str) -> Iterator[str]:
    """Yield the folders of this process's groups that may limit it through a controller.

    `membership` is the text of /proc/self/cgroup (version 1, 2 or both), `root` the mount point of the groups. A limit
    binds all groups below it, so every parent counts. Inside a container the path may be the host's, of which only
    the root is visible.
    """
    for line in membership.splitlines():
        hierarchy, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if hierarchy == "0" and not controllers:
            mounts = [f"{root}", f"{root}/unified"]
        elif controller in controllers.split(","):
            mounts = [f"{root}/{controllers}", f"{root}/{controller}"]
        else:
            continue
        names = [part for part in path.split("/") if part not in {"", ".."}]
        for mount in mounts:
            yield from ("/".join((mount, *names[:depth])) for depth in range(len(names) + 1))


def read_text(path: str) -> str:
    """Return the text of a kernel file; empty if it does not exist, as on other systems."""
    try:
        with open(path, encoding="ascii") as file:  # noqa: PTH123  # see above
            return file.read()
    except OSError:
        return ""
