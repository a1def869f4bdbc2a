"""The current state and content of a model's files: the fingerprint of answers, and recommended defaults."""

import hashlib
import json
import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import attrs
from attrs import field, frozen

from lllms_core.engines import Engine
from lllms_core.errors import InvalidRequest
from lllms_core.gguf import part_paths
from lllms_core.parameters import DEFAULTS, Generation, check
from lllms_core.tracebacks import described
from lllms_core.types import ModelSpec

LOG = logging.getLogger("lllms.catalog")

FileState = tuple[int, int, int]
"""Size, modification time in nanoseconds, inode."""


@frozen
class Footprint:
    """What a load would read. Taking one reads no content, so it takes microseconds."""

    fingerprint: str = ""
    """Changes with the engine's version, the options and the files; OpenAI's `system_fingerprint`."""
    files: Mapping[Path, FileState | None] = field(factory=dict)
    """The weights in all their parts, and the files that options name; None for a missing one."""

    @property
    def replaced(self) -> bool:
        """Whether any of the files has changed since then."""
        return any(_state(path) != state for path, state in self.files.items())


def take_footprint(engine: str, version: str | None, spec: ModelSpec, source: str | None) -> Footprint:
    """Return the current footprint of a model; `version`: the engine's."""
    files = {path: _state(path) for path in (*weights_of(spec), *option_paths(spec.options))}
    # Neither folders nor inodes count: a copy of a file gives the same answers.
    states = [[path.name, *([] if state is None else state[:2])] for path, state in files.items()]
    text = json.dumps([engine, version, _plain(spec.options), source, states], sort_keys=True, default=_name)
    return Footprint("fp_" + hashlib.sha256(text.encode()).hexdigest()[:12], files)


def read_defaults(engine: Engine, spec: ModelSpec, configured: Mapping[str, object]) -> Generation:
    """Return the core's defaults, overridden by those that the model's file recommends, and then by the configured."""
    try:
        recommended = {} if spec.file is None else engine.recommended(spec)
    except Exception as error:  # noqa: BLE001  # a plugin's fault; an unreadable file is reported by its load
        LOG.debug("model %s: what its file recommends cannot be read: %s", spec.name, described(error))
        recommended = {}
    taken = {}
    for name, value in recommended.items():
        with suppress(InvalidRequest):  # the value is out of range
            if name in DEFAULTS and DEFAULTS[name].verdict(engine.parameters) != "refused":
                taken[name] = check(name, value)
    return Generation().replace(taken).override(configured)


def weights_of(spec: ModelSpec) -> Sequence[Path]:
    """Return the paths of a model's weights: the file to load, with all parts if it is the first of several."""
    return () if spec.file is None else part_paths(spec.file)


def option_paths(value: Any) -> Iterator[Path]:
    """Yield the paths among option values."""
    if isinstance(value, Path):
        yield value
    elif isinstance(value, tuple | list):
        for one in value:
            yield from option_paths(one)
    elif isinstance(value, Mapping):
        yield from option_paths([*value.values()])
    elif attrs.has(type(value)):
        yield from option_paths([getattr(value, attribute.name) for attribute in attrs.fields(type(value))])


def with_paths(value: Any, paths: Mapping[Path, Path]) -> Any:
    """Return option values with other paths, where these have one."""
    if isinstance(value, Path):
        return paths.get(value, value)
    if isinstance(value, tuple | list):
        return type(value)(with_paths(one, paths) for one in value)
    if isinstance(value, Mapping):
        return {name: with_paths(one, paths) for name, one in value.items()}
    if attrs.has(type(value)) and any(path in paths for path in option_paths(value)):
        old = {one.alias: getattr(value, one.name) for one in attrs.fields(type(value)) if one.init}
        new = {name: with_paths(one, paths) for name, one in old.items()}
        return attrs.evolve(value, **{name: one for name, one in new.items() if one is not old[name]})
    return value


def _plain(options: Any) -> object:
    return attrs.asdict(options) if attrs.has(type(options)) else options


def _name(value: object) -> str:
    return value.name if isinstance(value, Path) else str(value)


def _state(path: Path) -> FileState | None:
    try:
        status = path.stat()
    except (OSError, ValueError):  # a name that no file can have
        return None
    return status.st_size, status.st_mtime_ns, status.st_ino
