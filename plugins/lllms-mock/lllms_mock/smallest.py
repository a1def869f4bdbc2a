"""The smallest instance of a JSON schema, for answers that must conform to one; pure and deterministic.

Guesses are made in order of size, and the first that conforms is taken: of `anyOf` the first, of `enum` the first, only
required properties, numbers next to 0, the shortest strings and arrays.
"""

from collections.abc import Callable, Iterator, Mapping
from math import ceil, floor
from typing import TypeVar, cast

from lllms_mock.conformity import Conformity, Schema, Unkept, array, is_number, kind_test, number, read, same
from lllms_mock.patterns import sample

T = TypeVar("T")

MOST_LENGTH = 4096
"""The most characters, items or properties that a schema may demand."""
_GUESSES = 64
_FORMATS: Mapping[str, str] = {
    "date": "2000-01-01", "date-time": "2000-01-01T00:00:00Z", "time": "00:00:00Z", "duration": "PT0S",
    "email": "a@example.com", "hostname": "example.com", "ipv4": "127.0.0.1", "ipv6": "::1",
    "uri": "https://example.com", "uuid": "00000000-0000-4000-8000-000000000000",
}
_HINTS: Mapping[str, frozenset[str]] = {
    "object": frozenset({"properties", "required", "additionalProperties", "minProperties", "patternProperties"}),
    "array": frozenset({"items", "prefixItems", "minItems", "uniqueItems"}),
    "string": frozenset({"minLength", "maxLength", "pattern", "format"}),
    "number": frozenset({"minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf"}),
}
"""Keywords that say of which type a schema without one is meant to be."""
_LARGEST, _SMALLEST = frozenset({"minimum", "exclusiveMinimum", "minLength", "minItems"}), frozenset(
    {"maximum", "exclusiveMaximum", "maxLength", "maxItems"},
)


def conforms(value: object, schema: object) -> bool:
    """Whether a value conforms to a schema. Raises `Unkept` for one that cannot be kept."""
    return _guard(lambda: Conformity(schema).conforms(value, schema))


def smallest(schema: object) -> object:
    """Return the smallest instance of a schema. Raises `Unkept` with the reason if there is none, or none is found."""

    def first() -> object:
        builder = _Builder(Conformity(schema))
        for value in builder.instances(schema, frozenset({"#"})):
            return value
        raise Unkept("the mock finds no small instance of it")

    return _guard(first)


def _guard(work: Callable[[], T]) -> T:
    try:
        return work()
    except RecursionError:
        raise Unkept("it is nested too deeply") from None
    except (ArithmeticError, ValueError):
        raise Unkept("it has numbers that are too large") from None


class _Builder:
    """Guesses instances of the schemas of one document."""

    def __init__(self, checked: Conformity) -> None:
        self._checked = checked

    def instances(self, schema: object, seen: frozenset[str]) -> Iterator[object]:
        """Yield some instances, the smallest first. `seen` are the references that led here.

        No smallest instance contains one of the same reference, which could stand in its place.
        """
        return (value for value in self._guess(schema, seen) if self._checked.conforms(value, schema))

    def _guess(self, schema: object, seen: frozenset[str]) -> Iterator[object]:
        self._checked.step()
        if isinstance(schema, bool):
            yield None
            return
        rest = dict(read(schema))
        if "const" in rest:
            yield rest["const"]
        elif "enum" in rest:
            yield from array(rest["enum"], "enum")
        elif "$ref" in rest:
            reference = str(rest.pop("$ref"))
            if reference not in seen:
                yield from self._guess(self._merged(rest, self._checked.resolve(reference)), seen | {reference})
        elif "allOf" in rest:
            for part in array(rest.pop("allOf"), "allOf"):
                rest = self._merged(rest, part)
            yield from self._guess(rest, seen)
        elif "anyOf" in rest or "oneOf" in rest:
            keyword = "anyOf" if "anyOf" in rest else "oneOf"
            for branch in array(rest.pop(keyword), keyword):
                yield from self._guess(self._merged(rest, branch), seen)
        else:
            for kind in _kinds(rest):
                yield from self._of_kind(kind, rest, seen)

    def _of_kind(self, kind: object, schema: Schema, seen: frozenset[str]) -> Iterator[object]:
        match kind:
            case "null":
                yield None
            case "boolean":
                yield from (False, True)
            case "integer" | "number":
                yield from _numbers(schema, whole=kind == "integer")
            case "string":
                yield from self._strings(schema)
            case "array":
                yield from self._arrays(schema, seen)
            case "object":
                yield from self._objects(schema, seen)
            case _:
                kind_test(kind)

    def _arrays(self, schema: Schema, seen: frozenset[str]) -> Iterator[object]:
        rest = schema.get("items", True)
        first = array(rest if isinstance(rest, list) else schema.get("prefixItems", []), "prefixItems")
        found: list[object] = []
        for at in range(_length(schema, "minItems")):
            inner = first[at] if at < len(first) else True if isinstance(rest, list) else rest
            others = (
                one for one in self.instances(inner, seen)
                if not schema.get("uniqueItems") or not any(same(one, other) for other in found)
            )
            try:
                found.append(next(others))
            except StopIteration:
                return
        yield found

    def _objects(self, schema: Schema, seen: frozenset[str]) -> Iterator[object]:
        properties = read(schema.get("properties", {}))
        required = [str(name) for name in array(schema.get("required", []), "required")]
        wanted = dict.fromkeys(required)
        names = [name for name in properties if name in wanted]
        names += [name for name in wanted if name not in properties]
        more = _length(schema, "minProperties") - len(names)
        free = (f"property{number}" for number in range(_length(schema, "minProperties")))
        others = [*(name for name in properties if name not in wanted), *(name for name in free if name not in wanted)]
        names += others[: max(more, 0)]
        inner = [self.instances(self._property(schema, name), seen) for name in names]
        if inner:
            yield from (dict(zip(names, values, strict=True)) for values in zip(*inner, strict=False))
        else:
            yield {}

    def _property(self, schema: Schema, name: str) -> object:
        properties = read(schema.get("properties", {}))
        return properties[name] if name in properties else schema.get("additionalProperties", True)

    def _strings(self, schema: Schema) -> Iterator[object]:
        least = _length(schema, "minLength")
        self._checked.step(least // 16)
        if schema.get("format") in _FORMATS:
            yield _FORMATS[str(schema["format"])]
        if "pattern" in schema:
            pattern = self._checked.pattern(schema["pattern"])
            for more in range(_GUESSES):
                yield sample(pattern, more).ljust(least, "a")
            yield sample(pattern, least)
        elif schema.get("format") not in _FORMATS:
            yield from ("a" * (least + more) for more in range(_GUESSES))

    def _merged(self, one: Schema, other: object) -> dict[str, object]:
        both = merged(one, other)
        self._checked.step(1 + sum(len(value) for value in both.values() if isinstance(value, dict | list)) // 16)
        return both


def merged(one: Schema, other: object) -> dict[str, object]:
    """Return a schema for guesses at what conforms to both."""
    if isinstance(other, bool):
        return dict(one)
    both = {**one, **read(other)}
    for keyword in one.keys() & read(other).keys():
        both[keyword] = _both(keyword, one[keyword], read(other)[keyword])
    return both


def _both(keyword: str, one: object, other: object) -> object:
    if keyword in {"properties", "$defs"}:
        mine, theirs = read(one), read(other)
        return {**mine, **theirs, **{name: {"allOf": [mine[name], theirs[name]]} for name in mine if name in theirs}}
    if keyword in {"required", "allOf"}:
        return [*array(one, keyword), *array(other, keyword)]
    if keyword in _LARGEST | _SMALLEST and is_number(one) and is_number(other):
        choose = max if keyword in _LARGEST else min
        return choose(cast("float", one), cast("float", other))
    if keyword == "enum":
        return [value for value in array(one, keyword) if any(same(value, known) for known in array(other, keyword))]
    if keyword == "type" and isinstance(one, list):
        kept = [kind for kind in one if kind in (other if isinstance(other, list) else [other])]
        return kept or other
    return other


def _kinds(schema: Schema) -> list[object]:
    given = schema.get("type")
    if given is None:
        return [kind for kind, keywords in _HINTS.items() if keywords & schema.keys()] or ["null", "object"]
    return given if isinstance(given, list) else [given]


def _numbers(schema: Schema, *, whole: bool) -> Iterator[object]:
    lows = [number(schema[key], key) for key in ("minimum", "exclusiveMinimum") if key in schema]
    highs = [number(schema[key], key) for key in ("maximum", "exclusiveMaximum") if key in schema]
    step = number(schema.get("multipleOf", 1), "multipleOf")
    if step <= 0:
        raise Unkept("'multipleOf' is not above 0")
    if whole and step % 1:
        step = 1  # most likely some multiple of both is near
    down = bool(highs) and min(highs) <= 0
    start = floor(min(highs) / step) if down else ceil(max([0, *lows]) / step)
    for at in range(start, start - _GUESSES, -1) if down else range(start, start + _GUESSES):
        yield at * step
    if not whole:
        yield (max(lows) + min(highs)) / 2 if lows and highs else start * step + 0.5


def _length(schema: Schema, keyword: str) -> int:
    least = ceil(number(schema.get(keyword, 0), keyword))
    if least > MOST_LENGTH:
        raise Unkept(f"'{keyword}' is above {MOST_LENGTH}")
    return least
