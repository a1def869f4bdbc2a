"""`LLLMS_*` variables as the keys of a table: their text is converted to the types of the table's class."""

from collections.abc import Iterable, Mapping
from contextlib import suppress
from importlib.metadata import entry_points
from types import NoneType, UnionType
from typing import Annotated, Any, get_args, get_origin, get_type_hints

import attrs

from lllms_core.config.settings import ServerConfig
from lllms_core.hookspecs import ENTRY_POINT_GROUP
from lllms_core.values.structure import Bytes
from lllms_core.values.violations import closest

PREFIX = "LLLMS_"
READ_ELSEWHERE = frozenset({"LLLMS_API_KEY", "LLLMS_NO_HISTORY", "LLLMS_PLUGINS", "LLLMS_STRICT"})
"""The variables that are no keys of `[server]`: for clients, and for the discovery of plugins."""
TRUE_WORDS = frozenset({"1", "true", "yes", "on"})
FALSE_WORDS = frozenset({"0", "false", "no", "off"})


def read_environment(environ: Mapping[str, str], into: type) -> dict[str, tuple[str, object]]:
    """Return the keys of the attrs class `into` that variables set: key -> (variable, value).

    `LLLMS_QUEUE_SIZE=5` sets `queue_size` to 5; lists are separated by commas. Text of the wrong form stays text, for
    later checks to report.
    """
    kinds = get_type_hints(into, include_extras=True)
    found: dict[str, tuple[str, object]] = {}
    for attribute in attrs.fields(into):
        variable = PREFIX + attribute.name.upper()
        if variable in environ:
            found[attribute.name] = (variable, _value(environ[variable], kinds[attribute.name]))
    return found


def unknown_variables(environ: Mapping[str, str], plugins: Iterable[str] | None = None) -> list[str]:
    """Return a sentence for each `LLLMS_*` variable that nothing reads, with the name that is probably meant.

    Those that begin with the name of one of the `plugins` (None: of an installed one) are its own affair.
    """
    known = {*(f"{PREFIX}{one.name.upper()}" for one in attrs.fields(ServerConfig)), *READ_ELSEWHERE}
    unknown = sorted(name for name in environ if name.startswith(PREFIX) and name not in known)
    if not unknown:
        return []
    names = (point.name for point in entry_points(group=ENTRY_POINT_GROUP)) if plugins is None else plugins
    theirs = tuple(f"{PREFIX}{name.upper().replace('-', '_')}_" for name in names)
    return [
        f"the variable {name} has no effect{_meant(name, known)}" for name in unknown if not name.startswith(theirs)
    ]


def _meant(name: str, known: Iterable[str]) -> str:
    meant = closest(name.removeprefix(PREFIX), (one.removeprefix(PREFIX) for one in known))
    return "; variables are named for the keys of [server]" if meant is None else f" (did you mean {PREFIX}{meant}?)"


def is_true(text: str) -> bool:
    """Whether the text of a variable means true."""
    return text.strip().lower() in TRUE_WORDS


def _value(text: str, kind: Any) -> object:
    members = set(get_args(kind)) - {NoneType}
    if get_origin(kind) is UnionType and len(members) == 1:
        [kind] = members  # a variable cannot say "none"
    if get_origin(kind) is Annotated:
        kind, *markers = get_args(kind)
        if any(isinstance(marker, Bytes) for marker in markers):
            return int(text) if text.strip().isdigit() else text
    if get_origin(kind) is tuple:
        return [part.strip() for part in text.split(",") if part.strip()]
    if kind is bool and text.strip().lower() in TRUE_WORDS | FALSE_WORDS:
        return is_true(text)
    if kind in (int, float):
        with suppress(ValueError):
            return kind(text)
    return text
