"""Turn plain data (TOML, JSON, Python) into attrs values, strictly: no coercion, and every violation has its path."""

import math
import re
from collections.abc import Callable, Iterator, Mapping, MutableSequence, Sequence
from enum import Enum
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, TypeVar, Union, cast, get_args, get_origin

import attrs
from attrs import frozen
from cattrs import ClassValidationError, Converter, ForbiddenExtraKeysError, IterableValidationError
from cattrs.cols import is_mapping, list_structure_factory, mapping_structure_factory
from cattrs.gen import make_dict_structure_fn

from lllms_core.machine import at_home
from lllms_core.values.violations import Keys, StructureError, Violation, did_you_mean

T = TypeVar("T")
UNIONS: tuple[object, ...] = (Union, UnionType)


@frozen
class Range:
    """Bounds of a number, both included, for `Annotated[int, Range(0, 65535)]`."""

    minimum: float = -math.inf
    maximum: float = math.inf

    def read(self, value: object) -> object:
        """Return the number. Raises `ValueError` if it is out of bounds."""
        if isinstance(value, int | float) and not self.minimum <= value <= self.maximum:
            low, high = _number(self.minimum), _number(self.maximum)
            bounds = f"at least {low}" if self.maximum == math.inf else f"{low} to {high}"
            raise ValueError(f"expected {bounds}, got {value!r}")
        return value


@frozen
class Bytes:
    """A size of at least one byte, for `Annotated[int, Bytes()]`: a count, or a string like "10MiB"."""

    def read(self, value: object) -> object:
        """Return the count. Raises `ValueError` for anything else."""
        if isinstance(value, str):
            match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([kmgt]?)(i?)b?\s*", value, re.IGNORECASE)
            if match is None:
                raise ValueError(f'expected a size like 1048576 or "10MiB", got {value!r}')
            number, unit, binary = match.groups()
            value = int(float(number) * (1024 if binary else 1000) ** " kmgt".index(unit.lower() or " "))
        return Range(1).read(_integer(value, int))


@frozen
class Reads:
    """A value that a function reads instead of its type, for `Annotated[Colour, Reads(read_colour)]`.

    The function raises `ValueError`, or `StructureError` with paths that start at the value.
    """

    read: Callable[[object], object]
    schema: Mapping[str, object] = attrs.field(factory=dict, eq=False)
    """The JSON schema of what it reads, as far as that can say it."""


def structure(data: object, into: type[T], path: Keys = ()) -> T:
    """Build an attrs value from a mapping; `path` is the mapping's place, for messages.

    Unknown keys, missing keys, wrong types and failing validators raise `StructureError` with one violation each.
    Integers are accepted for floats, strings for paths (`~` is expanded), lists for tuples; nothing else is converted.
    """
    try:
        return _CONVERTER.structure(data, into)
    except Exception as error:
        raise StructureError(list(_violations(error, path, into))) from error


def fits(value: object, kind: object) -> bool:
    """Whether a plain value can be read as a value of this type."""
    try:
        _CONVERTER.structure(value, cast("type[object]", kind))
    except Exception:  # noqa: BLE001  # whatever the converter and the validators raise
        return False
    return True


def with_folder(value: T, folder: Path) -> T:
    """Return a value in which every relative path, also in its lists, tables and values, starts in `folder`."""
    return cast("T", _placed(value, folder))


def _placed(value: Any, folder: Path) -> Any:
    if isinstance(value, Path):
        return (folder / value).absolute()
    if type(value) in (tuple, list):
        return type(value)(_placed(one, folder) for one in value)
    if isinstance(value, Mapping):
        return {key: _placed(one, folder) for key, one in value.items()}
    if not attrs.has(type(value)):
        return value
    changed = {}
    for attribute in attrs.fields(type(value)):
        if attribute.init:
            old = getattr(value, attribute.name)
            new = _placed(old, folder)
            if new != old:
                changed[attribute.alias] = new
    return attrs.evolve(value, **changed) if changed else value


# -- violations --------------------------------------------------------------------------------------------------------


def _violations(error: Exception, path: Keys, into: object) -> Iterator[Violation]:
    if isinstance(error, ClassValidationError):
        attributes, others = error.group_exceptions()
        for inner, note in attributes:
            yield from _violations(inner, (*path, note.name), note.type)
        for inner in others:
            yield from _violations(inner, path, error.cl)
    elif isinstance(error, IterableValidationError):
        for inner, place in error.group_exceptions()[0]:
            yield from _violations(inner, (*path, place.index), place.type)
    elif isinstance(error, ForbiddenExtraKeysError):
        known = [attribute.name for attribute in attrs.fields(error.cl) if attribute.init]
        for key in sorted(map(str, error.extra_fields)):
            yield Violation((*path, key), "unknown key" + did_you_mean(key, known))
    elif isinstance(error, KeyError):
        yield Violation(path, f"missing; expected {_expected(into)}")
    elif isinstance(error, StructureError):
        for violation in error.violations:
            yield Violation((*path, *violation.path), violation.text)
    else:
        # The validators of attrs append the attribute and the value to their message.
        yield Violation(path, str(error.args[0]) if error.args else type(error).__name__)


def _expected(kind: Any) -> str:
    """Describe the values that a type accepts."""
    names: dict[object, str] = {
        int: "an integer", float: "a number", str: "a string", bool: "true or false", Path: "a path",
        NoneType: "nothing",
    }
    if kind in names:
        return names[kind]
    origin, arguments = _origin(kind), get_args(kind)
    if origin is Annotated:
        return _expected(arguments[0])
    if origin is Literal:
        return _one_of([repr(value) for value in arguments])
    if origin in UNIONS:
        return _one_of([_expected(member) for member in arguments if member is not NoneType])
    if attrs.has(kind) or is_mapping(kind):
        return "a table"
    return "a list" if _is_list(kind) or _is_tuple(kind) else str(getattr(kind, "__name__", kind))


def _origin(kind: object) -> object:
    return get_origin(kind)


def _is_list(kind: object) -> bool:
    return (_origin(kind) or kind) in (list, MutableSequence)


def _is_tuple(kind: object) -> bool:
    """Whether it is a tuple of any length, or a sequence, which becomes one."""
    return (_origin(kind) or kind) in (tuple, Sequence) and (len(get_args(kind)) < 2 or get_args(kind)[1] is ...)


def _one_of(texts: Sequence[str]) -> str:
    return " or ".join(filter(None, [", ".join(texts[:-1]), texts[-1]]))


def _got(kind: object, value: object) -> ValueError:
    return ValueError(f"expected {_expected(kind)}, got {value!r}")


def _number(value: float) -> str:
    return str(int(value)) if float(value).is_integer() else str(value)


# -- the converter -----------------------------------------------------------------------------------------------------

Hook = Callable[[Any, Any], Any]
Factory = Callable[[Any, Any], Hook]


def _integer(value: object, kind: object) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        raise _got(kind, value)
    return value


def _float(value: object, kind: object) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise _got(kind, value)
    return float(value)


def _exactly(kind: type) -> Hook:
    def check(value: object, _: object) -> object:
        if not isinstance(value, kind):
            raise _got(kind, value)
        return value

    return check


def _path(value: object, kind: object) -> Path:
    if not isinstance(value, str | Path) or not str(value):
        raise _got(kind, value)
    return at_home(value)


def _literal(value: object, kind: object) -> object:
    # 1, 1.0 and True are equal, but not the same.
    if not any(value == one and type(value) is type(one) for one in get_args(kind)):
        raise _got(kind, value)
    return value


def _enum(value: object, kind: type[Enum]) -> Enum:
    try:
        return kind(value)
    except ValueError as error:
        raise ValueError(f"expected {_one_of([repr(one.value) for one in kind])}, got {value!r}") from error


def _union(value: object, kind: object) -> object:
    members = get_args(kind)
    if value is None and NoneType in members:
        return None
    members = tuple(member for member in members if member is not NoneType)
    if len(members) == 1:
        return _CONVERTER.structure(value, members[0])
    # An integer fits `float | int` twice: try the member of its own type first.
    for member in sorted(members, key=lambda member: member is not type(value)):
        try:
            return _CONVERTER.structure(value, member)
        except Exception:  # noqa: BLE001, S112  # the next member may fit
            continue
    raise _got(kind, value)


def _annotated(kind: Any, converter: Any) -> Hook:
    """Let the markers of `Annotated` read the value: `Bytes` and `Reads` instead of its type, `Range` after it."""
    base, *markers = get_args(kind)
    plain = converter.get_structure_hook(base)

    def read(value: object, _: object) -> object:
        if not any(isinstance(marker, Bytes | Reads) for marker in markers):
            value = plain(value, base)
        for marker in markers:
            if isinstance(marker, Bytes | Range | Reads):
                value = marker.read(value)
        return value

    return read


def _guarded(factory: Factory, shape: type | tuple[type, ...], then: type | None = None) -> Factory:
    """Refuse values of another shape: a string is not a list of characters, nor a list a table."""

    def guard(kind: Any, converter: Any) -> Hook:
        inner = factory(kind, converter)

        def check(value: object, _: object) -> object:
            if not isinstance(value, shape):
                raise _got(kind, value)
            result = inner(value, kind)
            return result if then is None else then(result)

        return check

    return guard


def _attrs_class(kind: Any, converter: Any) -> Hook:
    return make_dict_structure_fn(kind, converter, _cattrs_forbid_extra_keys=True, _cattrs_detailed_validation=True)


def _scalar(value: object, kind: type) -> object:
    # cattrs also uses this for subclasses, like an Enum that is a str.
    return _SCALARS.get(kind, _enum)(value, kind)


_SCALARS: Mapping[type, Hook] = {
    int: _integer, float: _float, str: _exactly(str), bool: _exactly(bool), Path: _path,
}


def _strict() -> Converter:
    converter = Converter(detailed_validation=True, forbid_extra_keys=True)
    for kind in _SCALARS:
        converter.register_structure_hook(kind, _scalar)
    register = converter.register_structure_hook_func
    register(lambda kind: kind is object, lambda value, _: value)
    register(lambda kind: isinstance(kind, type) and issubclass(kind, Enum), _enum)
    register(lambda kind: _origin(kind) is Literal, _literal)
    register(lambda kind: _origin(kind) in UNIONS, _union)
    factory = converter.register_structure_hook_factory
    factory(_is_tuple, _guarded(list_structure_factory, (list, tuple), tuple))
    factory(_is_list, _guarded(list_structure_factory, (list, tuple)))
    factory(is_mapping, _guarded(mapping_structure_factory, Mapping))
    factory(attrs.has, _guarded(_attrs_class, Mapping))
    factory(lambda kind: _origin(kind) is Annotated, _annotated)
    return converter


_CONVERTER = _strict()
