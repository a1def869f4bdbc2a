"""Whether a value conforms to a JSON schema, and what a schema's references mean; pure, and bounded in time.

A keyword that would be ignored is refused, so that nothing is promised that was not looked at.
"""

from collections.abc import Callable, Mapping, Sequence
from fractions import Fraction
from typing import cast
from urllib.parse import unquote

from attrs import define, field

from lllms_mock.patterns import Choice, NotSimple, Patience, matches, parse

Schema = Mapping[str, object]

MOST_STEPS = 20_000
"""The most looks at a schema and a value."""
_MOST_REFERENCES = 200
"""The most references and parts of a schema inside of each other."""
REFUSED = frozenset({
    "if", "then", "else", "contains", "minContains", "maxContains", "dependentSchemas", "dependentRequired",
    "dependencies", "unevaluatedItems", "unevaluatedProperties", "$dynamicRef", "$recursiveRef", "additionalItems",
})


def is_number(value: object) -> bool:
    """Whether a value is a number in JSON."""
    return isinstance(value, int | float) and not isinstance(value, bool)


_KINDS: Mapping[str, Callable[[object], bool]] = {
    "null": lambda value: value is None,
    "boolean": lambda value: isinstance(value, bool),
    "integer": lambda value: is_number(value) and cast("float", value) % 1 == 0,
    "number": is_number,
    "string": lambda value: isinstance(value, str),
    "array": lambda value: isinstance(value, list),
    "object": lambda value: isinstance(value, dict),
}


class Unkept(Exception):
    """A schema cannot be kept; the text says why."""


def same(one: object, other: object) -> bool:
    """Whether two values are equal in JSON, where true is not 1."""
    if isinstance(one, bool) or isinstance(other, bool):
        return one is other
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(same, one, other))
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(same(value, other[name]) for name, value in one.items())
    return one == other


@define
class Conformity:
    """The schemas of one document, and how many looks at them are left."""

    root: object
    _left: int = field(default=MOST_STEPS, init=False)
    _depth: int = field(default=0, init=False)
    _patience: Patience = field(factory=Patience, init=False)
    _patterns: dict[str, Choice] = field(factory=dict, init=False)

    def step(self, looks: int = 1) -> None:
        """Count looks. Raises `Unkept` if they are too many."""
        self._left -= looks
        if self._left < 0:
            raise Unkept(f"it takes more than {MOST_STEPS} steps")

    def conforms(self, value: object, schema: object) -> bool:
        """Whether a value conforms. Raises `Unkept` for a schema that cannot be read."""
        self.step()
        if isinstance(schema, bool):
            return schema
        if self._depth > _MOST_REFERENCES:
            raise Unkept("it refers to itself without end")
        self._depth += 1
        try:
            return all(self._keeps(value, keyword, given, read(schema)) for keyword, given in read(schema).items())
        finally:
            self._depth -= 1

    def resolve(self, reference: object) -> object:
        """Return the schema that a reference names. Raises `Unkept`."""
        found = self.root
        if not isinstance(reference, str) or not reference.startswith("#") or (reference[1:2] not in {"", "/"}):
            raise Unkept(f"the reference {reference!r:.80} does not point into it like '#/$defs/NAME'")
        for part in unquote(reference).split("/")[1:]:
            name = part.replace("~1", "/").replace("~0", "~")
            if isinstance(found, list) and name.isdecimal() and int(name) < len(found):
                found = found[int(name)]
            elif isinstance(found, dict) and name in found:
                found = found[name]
            else:
                raise Unkept(f"the reference {reference!r:.80} points nowhere")
        return found

    def pattern(self, pattern: object) -> Choice:
        """Return the parts of a pattern. Raises `Unkept` for one that is not simple."""
        if not isinstance(pattern, str):
            raise Unkept("a pattern is not a string")
        if pattern not in self._patterns:
            try:
                self._patterns[pattern] = parse(pattern)
            except NotSimple as why:
                raise Unkept(str(why)) from None
        return self._patterns[pattern]

    def _finds(self, pattern: object, text: str) -> bool:
        try:
            return matches(self.pattern(pattern), text, self._patience)
        except NotSimple as why:
            raise Unkept(str(why)) from None

    def _keeps(  # noqa: PLR0911  # a line for each keyword
        self, value: object, keyword: str, given: object, schema: Schema,
    ) -> bool:
        match keyword:
            case "$ref":
                return self.conforms(value, self.resolve(given))
            case "type":
                kinds = given if isinstance(given, list) else [given]
                return any(kind_test(kind)(value) for kind in kinds)
            case "const":
                return same(value, given)
            case "enum":
                return any(self._same(value, one) for one in array(given, keyword))
            case "allOf":
                return all(self.conforms(value, one) for one in array(given, keyword))
            case "anyOf":
                return any(self.conforms(value, one) for one in array(given, keyword))
            case "oneOf":
                return sum(self.conforms(value, one) for one in array(given, keyword)) == 1
            case "not":
                return not self.conforms(value, given)
            case _ if keyword in REFUSED:
                raise Unkept(f"the mock does not keep '{keyword}'")
        if isinstance(value, dict):
            return self._keeps_object(value, keyword, given, schema)
        if isinstance(value, list):
            return self._keeps_array(value, keyword, given, schema)
        if isinstance(value, str):
            return self._keeps_string(value, keyword, given)
        return not is_number(value) or _keeps_number(cast("float", value), keyword, given)

    def _keeps_object(  # noqa: PLR0911  # a line for each keyword
        self, value: dict[str, object], keyword: str, given: object, schema: Schema,
    ) -> bool:
        match keyword:
            case "required":
                return all(name in value for name in array(given, keyword))
            case "properties":
                return all(self.conforms(value[name], one) for name, one in read(given).items() if name in value)
            case "patternProperties":
                return all(
                    self.conforms(inner, one)
                    for pattern, one in read(given).items()
                    for name, inner in value.items() if self._finds(pattern, name)
                )
            case "additionalProperties":
                known, patterns = read(schema.get("properties", {})), read(schema.get("patternProperties", {}))
                others = [
                    name for name in value if name not in known and not any(self._finds(one, name) for one in patterns)
                ]
                return all(self.conforms(value[name], given) for name in others)
            case "propertyNames":
                return all(self.conforms(name, given) for name in value)
            case "minProperties":
                return len(value) >= number(given, keyword)
            case "maxProperties":
                return len(value) <= number(given, keyword)
        return True

    def _keeps_array(  # noqa: PLR0911  # a line for each keyword
        self, value: list[object], keyword: str, given: object, schema: Schema,
    ) -> bool:
        match keyword:
            case "prefixItems":
                return all(map(self.conforms, value, array(given, keyword)))
            case "items" if isinstance(given, list):
                return all(map(self.conforms, value, given))
            case "items":
                start = len(array(schema.get("prefixItems", []), "prefixItems"))
                return all(self.conforms(one, given) for one in value[start:])
            case "minItems":
                return len(value) >= number(given, keyword)
            case "maxItems":
                return len(value) <= number(given, keyword)
            case "uniqueItems":
                return not given or not any(self._repeated(value, at) for at in range(len(value)))
        return True

    def _keeps_string(self, value: str, keyword: str, given: object) -> bool:
        match keyword:
            case "minLength":
                return len(value) >= number(given, keyword)
            case "maxLength":
                return len(value) <= number(given, keyword)
            case "pattern":
                return self._finds(given, value)
        return True

    def _repeated(self, values: Sequence[object], at: int) -> bool:
        return any(self._same(values[at], other) for other in values[:at])

    def _same(self, one: object, other: object) -> bool:
        self.step()
        return same(one, other)


def _keeps_number(value: float, keyword: str, given: object) -> bool:
    match keyword:
        case "minimum":
            return value >= number(given, keyword)
        case "maximum":
            return value <= number(given, keyword)
        case "exclusiveMinimum":
            return value > number(given, keyword)
        case "exclusiveMaximum":
            return value < number(given, keyword)
        case "multipleOf":
            factor = number(given, keyword)
            if factor <= 0:
                raise Unkept("'multipleOf' is not above 0")
            return Fraction(str(value)) % Fraction(str(factor)) == 0
    return True


def read(schema: object) -> Schema:
    """Return an object of a schema. Raises `Unkept` for anything else."""
    if not isinstance(schema, Mapping):
        raise Unkept(f"it has {schema!r:.40} where an object belongs")
    return schema


def array(value: object, keyword: str) -> list[object]:
    """Return an array of a schema. Raises `Unkept` for anything else."""
    if not isinstance(value, list):
        raise Unkept(f"'{keyword}' is not an array")
    return value


def number(value: object, keyword: str) -> int | float:
    """Return a number of a schema. Raises `Unkept` for anything else, and for infinity."""
    if not is_number(value) or abs(cast("float", value)) > 1e300:  # beyond that, sums overflow
        raise Unkept(f"'{keyword}' is not a number that the mock reads")
    return cast("int | float", value)


def kind_test(kind: object) -> Callable[[object], bool]:
    """Return the test for a type. Raises `Unkept` for an unknown one."""
    if not isinstance(kind, str) or kind not in _KINDS:
        raise Unkept(f"there is no type {kind!r:.40}")
    return _KINDS[kind]
