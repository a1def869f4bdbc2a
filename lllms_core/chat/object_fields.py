"""The ways in which an object conforms to a schema; pure."""

from collections.abc import Mapping, Sequence

from attrs import field, frozen

from lllms_core.chat.schema_words import Inexpressible, JsonSchema, count, listed, same

_MOST_WAYS = 32


@frozen
class Fields:
    """One way in which an object conforms to a schema."""

    properties: Mapping[str, tuple[JsonSchema, ...]] = field(factory=dict)
    """By key, the schemas that its value must conform to."""
    required: tuple[str, ...] = ()
    others: tuple[JsonSchema, ...] | None = ()
    """The schemas for the values of all other keys; None if other keys are not allowed."""
    patterns: Mapping[str, JsonSchema] = field(factory=dict)
    """By pattern, the schema for the values of the keys that match it; `others` does not apply to them.

    Then there are no `properties`, since checking them against a pattern may take forever.
    """
    least: int = 0
    most: int | None = None

    @property
    def open(self) -> bool:
        """Whether other keys are worth writing: the schema names no keys, or mentions others."""
        return bool(self.patterns) or (self.others is not None and bool(self.others or not self.properties))

    def of(self, key: str) -> tuple[JsonSchema, ...] | None:
        """Return the schemas for a key; None if it is not allowed."""
        return self.properties.get(key, self.others)


def fields_of(schema: Mapping[str, object]) -> Fields:
    """Return what a schema's own keywords say about objects."""
    named = schema.get("properties")
    properties = named if isinstance(named, Mapping) else {}
    patterns = schema.get("patternProperties")
    others = schema.get("additionalProperties")
    found = Fields(
        {key: () if one is True else (one,) for key, one in properties.items()},
        tuple(str(key) for key in listed(schema.get("required"))),
        None if others is False else () if others is None else (others,),
        dict(patterns) if isinstance(patterns, Mapping) else {},
        count(schema.get("minProperties")) or 0, count(schema.get("maxProperties")),
    )
    if found.patterns and (found.properties or found.required):
        raise Inexpressible("it has 'patternProperties' beside other keys")
    return found


def exactly(value: Mapping[str, object]) -> Fields:
    """Return the only way to be this object."""
    return Fields({key: ({"const": one},) for key, one in value.items()}, tuple(value), None)


def combined(some: Sequence[Fields], others: Sequence[Fields]) -> list[Fields]:
    """Return all ways to match one of `some` and one of `others`. Raises `Inexpressible` for too many."""
    found = [way for one in some for other in others if (way := _merged(one, other)) is not None]
    return few(found)


def few(ways: list[Fields]) -> list[Fields]:
    """Return these ways. Raises `Inexpressible` for too many."""
    if len(ways) > _MOST_WAYS:
        raise Inexpressible(f"its combinations allow more than {_MOST_WAYS} kinds of objects")
    return ways


def _merged(one: Fields, other: Fields) -> Fields | None:
    """Return the way to match both; None if it is impossible."""
    for this, that in ((one, other), (other, one)):
        if this.patterns and (that.patterns or that.properties or that.required or that.others != ()):
            raise Inexpressible("it has 'patternProperties' beside other keys")
    properties = {}
    for key in dict.fromkeys((*one.properties, *other.properties)):
        here, there = one.of(key), other.of(key)
        if here is None or there is None:
            if key in one.required or key in other.required:
                return None
        else:
            properties[key] = _distinct((*here, *there))
    bounds = [most for most in (one.most, other.most) if most is not None]
    return Fields(
        properties, tuple(dict.fromkeys((*one.required, *other.required))),
        None if one.others is None or other.others is None else (*one.others, *other.others),
        {**one.patterns, **other.patterns}, max(one.least, other.least), min(bounds) if bounds else None,
    )


def _distinct(schemas: Sequence[JsonSchema]) -> tuple[JsonSchema, ...]:
    found: list[JsonSchema] = []
    for schema in schemas:
        if not any(same(schema, one) for one in found):
            found.append(schema)
    return tuple(found)
