"""The page of all configuration keys, from the classes that read them."""

import json
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

import attrs
from attrs import frozen

from lllms_core.config import ModelConfig, PlacementConfig, PluginsConfig, ServerConfig, SessionsConfig
from lllms_core.types import Preload
from lllms_core.values.structure import Bytes, Range, Reads
from reference_pages.names import public_names

SIZES = (("GiB", 2**30), ("MiB", 2**20), ("KiB", 2**10), ("B", 1))
HEAD = """\
# Configuration

Every key, as the code declares it. The file is `lllms.toml` in the working directory, else `lllms/lllms.toml` in the
user's configuration folder (`~/.config`, or `XDG_CONFIG_HOME`), else none; `--config FILE` names another. Defaults are
overridden by the file, then by `LLLMS_*` variables, then by flags.

- An unknown key or a wrong value is an error that names its path and its origin; all errors are reported at once.
- Times are seconds. Sizes are bytes, or strings like `"10MiB"` (1,024-based) and `"10GB"` (1,000-based).
- Relative paths in the file start in its folder; those in variables and flags start in the working directory. `~` is
  the home folder.
- 0, `false` and `""` are values, never "unset".
- `lllms check` checks the file and everything that it names.

The [guides](../index.md) show the keys at work.
"""
PRELOAD = """\
(model-preload)=
### `preload`

A table `[models.NAME.preload]`: either `messages`, optionally with `tools`, or a `prefix` of text. See
[sessions and caches](../guides/sessions.md#preload).
"""


@frozen
class Table:
    """A table of the file, and the class that reads it."""

    title: str
    anchor: str
    cls: type
    about: str
    variables: bool = False


TABLES = (
    Table("[server]", "server", ServerConfig, "Where the server listens, and its limits.", variables=True),
    Table("[models.NAME]", "model", ModelConfig, (
        "One model, by the name that clients use: letters, digits and `_ . - :` in parts that start with a letter or "
        "digit, with `/` between parts. Without any model, the server offers those of the plugins."
    )),
    Table("[sessions]", "sessions", SessionsConfig, (
        "How conversations that were evicted from their instance are kept for their next turn."
    )),
    Table("[placement]", "placement", PlacementConfig, "On which machines the instances of models run."),
    Table("[plugins]", "plugins", PluginsConfig, "Which plugins are loaded."),
)


def page() -> str:
    """Return the page in Markdown."""
    parts = [HEAD]
    for table in TABLES:
        parts.append(f"({table.anchor})=\n## `{table.title}`\n\n{table.about}\n")
        parts += _keys(table)
    return "\n".join(parts)


def _keys(table: Table) -> Iterator[str]:
    [declared] = public_names(table.cls.__module__, [table.cls.__name__])
    docs = {member.name: member.doc for member in declared.members}
    kinds = get_type_hints(table.cls, include_extras=True)
    for attribute in attrs.fields(table.cls):
        name = attribute.name
        if kinds[name] == Preload | None:
            yield PRELOAD
            continue
        facts = [described(kinds[name])]
        if attribute.default is attrs.NOTHING:
            facts.append("required")
        elif (shown := _default(attribute.default, kinds[name])) is not None:
            facts.append(f"default `{shown}`")
        if table.variables:
            facts.append(f"variable `LLLMS_{name.upper()}`")
        anchor = f"{table.anchor}-{name.replace('_', '-')}"
        yield f"({anchor})=\n### `{name}`\n\n[{'; '.join(facts)}]{{.facts}}\n\n{docs.get(name, '')}\n"


def _default(default: object, kind: Any) -> str | None:
    """Return a default as TOML writes it; None if there is none, or if the docstring says it."""
    if isinstance(default, attrs.Factory):  # type: ignore[arg-type]
        default = default.factory()  # type: ignore[attr-defined]
    if default is None:
        return None
    if isinstance(default, int) and any(isinstance(one, Bytes) for one in get_args(kind)):
        unit, size = next((unit, size) for unit, size in SIZES if default % size == 0)
        return f'"{default // size}{unit}"'
    if isinstance(default, Path):
        default = f"~/{default.relative_to(Path.home())}"
    if isinstance(default, float) and default.is_integer():
        default = int(default)
    return json.dumps(list(default) if isinstance(default, tuple) else default)


def described(kind: Any) -> str:
    """Return what a value of this type is, in words."""
    markers: tuple[object, ...] = ()
    if get_origin(kind) is Annotated:
        kind, *rest = get_args(kind)
        markers = tuple(rest)
    if get_origin(kind) in (Union, UnionType):
        return " or ".join(described(one) for one in get_args(kind) if one is not NoneType)
    if any(isinstance(one, Bytes) for one in markers):
        return "size"
    if any(isinstance(one, Reads) for one in markers):
        return "list of strings or tables"
    name = _name(kind)
    for one in markers:
        if isinstance(one, Range):
            name += _bounds(one)
    return name


def _name(kind: Any) -> str:
    plain = {int: "integer", float: "number", str: "string", bool: "true or false", Path: "path", object: "any value"}
    if kind in plain:
        return plain[kind]
    if get_origin(kind) is Literal:
        *others, last = (f'`"{one}"`' for one in get_args(kind))
        return f"{', '.join(others)} or {last}" if others else last
    if get_origin(kind) is tuple:
        return f"list of {_name(get_args(kind)[0])}s"
    if isinstance(get_origin(kind), type) and issubclass(get_origin(kind), Mapping):
        return "table"
    raise TypeError(f"what is {kind}?")


def _bounds(bounds: Range) -> str:
    low, high = bounds.minimum, bounds.maximum
    if high == math.inf:
        return f", at least {low:g}"
    return f", {low:g} to {high:g}"
