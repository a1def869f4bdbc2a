"""What was learnt of each configuration, kept on the disk: the memory of its workers, and the time of its loads."""

import json
import logging
import os
import threading
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from time import time
from typing import Self

from attrs import frozen
from filelock import FileLock, Timeout

from lllms_core.config import ServerConfig
from lllms_core.machine import read_regular
from lllms_core.tracebacks import kind

LOG = logging.getLogger("lllms.pool")

FILE = "memory.json"
"""Its name in `server.models_dir`."""
VERSION = 1
MOST = 1000
"""Configurations that are remembered; the least recently used are forgotten first."""
LARGEST, LONGEST, LATEST = 2**50, 1e6, 1e11
"""Bytes, seconds of a load, and seconds since 1970, beyond which a figure in the file is no figure of ours."""
NOTEWORTHY = 1.01
"""A peak that is higher by less than this factor is not worth a write."""
LOCK_SECONDS = 10.0


@frozen
class Learnt:
    """What is known of one configuration of a model: an engine with its options and files."""

    private: int = 0
    """The most private bytes that a worker took, or needs after it died for lack of memory; 0: unknown."""
    load_seconds: float | None = None
    """The time that loads take; None: unknown."""
    used: float = 0.0
    """When this was last confirmed, in seconds since 1970."""

    def merged(self, other: "Learnt") -> "Learnt":
        """Return what both know: the higher peak, and the later time of loads."""
        early, late = sorted((self, other), key=lambda one: one.used)
        load = early.load_seconds if late.load_seconds is None else late.load_seconds
        return Learnt(max(self.private, other.private), load, late.used)


NOTHING_LEARNT = Learnt()


class LearntStore:
    """Remembers what was learnt. `get` and `learn` never wait; `write` does, and may be called in any thread.

    Several servers may share a file: each write adds to what the file holds by then. A file that is missing, spoilt or
    foreign holds nothing; one that cannot be written costs a line in the log.
    """

    def __init__(self, file: Path | None = None, clock: Callable[[], float] = time) -> None:
        """Read the file; without one, all is forgotten at the end."""
        self._file = file
        self._clock = clock
        self._lock = threading.Lock()
        self._writing = threading.Lock()
        self._complained = False
        self._known = {} if file is None else _read(file)
        self.changed = False
        """Whether there is something worth a write."""

    @classmethod
    def of(cls, server: ServerConfig) -> Self:
        """Return what the servers with this `models_dir` have learnt."""
        return cls(server.models_dir / FILE)

    def get(self, key: str) -> Learnt:
        """Return what is known of a configuration, see `key_of`."""
        with self._lock:
            return self._known.get(key, NOTHING_LEARNT)

    def latest(self, engine: str, fingerprint: str) -> Learnt:
        """Return what is known of a configuration in the size that was loaded last."""
        with self._lock:
            sizes = [known for key, known in self._known.items() if key.startswith(key_of(engine, fingerprint))]
        return max(sizes, key=lambda known: known.used, default=NOTHING_LEARNT)

    def learn(self, key: str, private: int = 0, load_seconds: float | None = None) -> Learnt:
        """Remember a measured peak, and the time of a load, and return what is known now.

        The time is averaged with that of earlier loads.
        """
        with self._lock:
            known = self._known.get(key, NOTHING_LEARNT)
            if load_seconds is not None and known.load_seconds is not None:
                load_seconds = (load_seconds + known.load_seconds) / 2
            new = known.merged(Learnt(private, load_seconds, self._clock()))
            self._known.pop(key, None)
            self._known[key] = new
            if len(self._known) > MOST:
                del self._known[min(self._known, key=lambda one: self._known[one].used)]
            self.changed |= load_seconds is not None or new.private > NOTEWORTHY * known.private
        return new

    def write(self) -> None:
        """Add what was learnt to the file."""
        if self._file is None:
            self.changed = False
            return
        with self._lock:
            self.changed = False
            mine = dict(self._known)
        try:
            with self._writing:
                written = _add(self._file, mine)
        except (OSError, Timeout) as error:
            if not self._complained:
                LOG.warning("%s cannot be written (%s); what models need is forgotten", self._file, kind(error))
            self._complained = True
            return
        with self._lock:
            for key, learnt in written.items():
                self._known[key] = learnt.merged(self._known.get(key, NOTHING_LEARNT))
            self._known = _latest(self._known)


def key_of(engine: str, fingerprint: str, told: int | None = None) -> str:
    """Return the key of a configuration: the name of its engine, the fingerprint of its footprint, and its size.

    That is the private bytes that it was estimated to take: automatic options may give one configuration several.
    Without a size, it is what the keys of all sizes begin with.
    """
    return f"{engine} {fingerprint} {'' if told is None else told}"


def _add(file: Path, mine: Mapping[str, Learnt]) -> dict[str, Learnt]:
    """Merge into the file, and return all that it holds now."""
    locks = file.parent / "locks"
    locks.mkdir(parents=True, exist_ok=True)
    with FileLock(locks / f"{file.name}.lock", timeout=LOCK_SECONDS):
        there = _read(file)
        for key, learnt in mine.items():
            there[key] = learnt.merged(there.get(key, NOTHING_LEARNT))
        there = _latest(there)
        part = file.with_name(f"{file.name}.{os.getpid()}.part")
        try:
            part.write_text(_text(there), encoding="utf-8")
            part.replace(file)
        finally:
            with suppress(OSError):
                part.unlink(missing_ok=True)
    return there


def _latest(known: Mapping[str, Learnt]) -> dict[str, Learnt]:
    return dict(sorted(known.items(), key=lambda item: item[1].used)[-MOST:])


def _text(known: Mapping[str, Learnt]) -> str:
    entries = {
        key: {"private": one.private, "load_seconds": one.load_seconds, "used": one.used} for key, one in known.items()
    }
    return json.dumps({"version": VERSION, "learnt": entries}, indent=1) + "\n"


def _read(file: Path) -> dict[str, Learnt]:
    """Return what a file holds; nothing of what is not ours."""
    try:
        table = json.loads(read_regular(file))
    except (OSError, ValueError, RecursionError):
        return {}
    if not isinstance(table, dict) or table.get("version") != VERSION or not isinstance(table.get("learnt"), dict):
        return {}
    entries = {str(key): _entry(value) for key, value in table["learnt"].items()}
    return _latest({key: entry for key, entry in entries.items() if entry is not None})


def _entry(value: object) -> Learnt | None:
    if not isinstance(value, dict):
        return None
    private, load, used = value.get("private"), _seconds(value.get("load_seconds")), _seconds(value.get("used"))
    if type(private) is not int or not 0 <= private <= LARGEST or used is None:
        return None
    return Learnt(private, None if load is None or load > LONGEST else load, used)


def _seconds(value: object) -> float | None:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return float(value) if 0 <= value <= LATEST else None
