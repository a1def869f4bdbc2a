"""Grammar rules for the arguments of one tool, in any notation; pure."""

import json
from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence

from attrs import define, field, frozen

from lllms_core.chat.answer_format import CallFormat
from lllms_core.chat.item_chain import Chain
from lllms_core.chat.lark import Speller, literal
from lllms_core.chat.object_fields import Fields
from lllms_core.chat.schema_words import Inexpressible, JsonSchema
from lllms_core.chat.text_grammar import both, containing, search, whole, without
from lllms_core.chat.tool_schema import ToolSchema, together

_KEY = r"/[A-Za-z_][A-Za-z0-9_-]{0,63}/"
"""The keys that a schema does not name."""
_MOST_RULES = 400


@frozen
class Notation:
    """How the fields of an object are written."""

    item: Callable[[str, JsonSchema], str | None]
    """Returns the expression for a key and its value; None if it cannot be written."""
    other_item: Callable[[str, JsonSchema], str | None]
    """The same for any key that an expression of terminals describes."""
    separator: str = ""


@define(eq=False)
class ArgumentRules:
    """Writes the rules of one tool's arguments."""

    form: CallFormat
    parameters: Mapping[str, object]
    prefix: str
    spell: Speller
    schema: ToolSchema = field(init=False)
    _rules: dict[str, str] = field(factory=dict)
    """The rules by their names, in order."""
    _unwritten: list[str] = field(factory=list)
    """Required keys that are not allowed, or that the form cannot write."""
    _count: int = 0
    _known: dict[str, str] = field(factory=dict)
    """The expressions of values, by their schemas."""

    def __attrs_post_init__(self) -> None:
        self.schema = ToolSchema(self.parameters)

    def rules(self, name: str, rule: str) -> list[str]:
        """Return all rules, the first of which is `rule`, for a call of the tool `name`."""
        form, ways = self.form, self.schema.ways(self.parameters)
        arguments = self.alternatives(ways, self.notation)
        first = f"{rule}: {self.spell(name + form.name_end)} {arguments} {self.spell(form.arguments_end)}"
        return [first, *(f"{name}: {text}" for name, text in self._rules.items())]

    @property
    @abstractmethod
    def notation(self) -> Notation:
        """The notation of the arguments."""

    # -- objects ------------------------------------------------------------------------------------------------------

    def alternatives(self, ways: Sequence[Fields], notation: Notation) -> str:
        """Return the expression for an object's fields, in any of these ways."""
        found = [chain for way in ways if (chain := self._fields(way, notation)) is not None]
        if not found:
            keys = ", ".join(f"'{key[:80]}'" for key in dict.fromkeys(self._unwritten))
            raise Inexpressible(f"nothing can be written for {keys}" if keys else "no object can conform to it")
        return f"({' | '.join(dict.fromkeys(found))})"

    def _fields(self, way: Fields, notation: Notation) -> str | None:
        """Return the expression for fields in the order of their schema; None if they cannot be written."""
        items: list[tuple[str, bool]] = []
        for key in dict.fromkeys((*way.properties, *way.required)):
            schemas, required = way.of(key), key in way.required
            written = None if schemas is None else notation.item(key, together(schemas))
            if written is None and required:
                self._unwritten.append(key)
                return None
            if written is not None:
                items.append((written, required))
        others = self._others(way, notation) if way.open else None
        return Chain(self.rule, items, others, notation.separator, way.least, way.most).start()

    def _others(self, way: Fields, notation: Notation) -> str | None:
        """Return the expression for a key that the schema does not name, with its value."""
        named = [literal(key) for key in dict.fromkeys((*way.properties, *way.required))]
        found = []
        matched = {pattern: search(pattern) for pattern in way.patterns}
        for pattern, schema in way.patterns.items():
            unwanted = [one for other, one in matched.items() if other != pattern]
            keys = without(both(_KEY, matched[pattern]), *named, *unwanted)
            found.append(notation.other_item(keys or _KEY, schema))
        if way.others is not None:
            keys = without(_KEY, *named, *matched.values())
            found.append(notation.other_item(keys or _KEY, together(way.others)))
        options = [one for one in found if one is not None]
        return f"({' | '.join(options)})" if options else None

    # -- rules --------------------------------------------------------------------------------------------------------

    def rule(self, text: str) -> str:
        """Return the name of a new rule."""
        name = self.name()
        self._rules[name] = text
        return name

    def terminal(self, text: str) -> str:
        """Return the name of a new terminal."""
        name = self.name().upper()
        self._rules[name] = text
        return name

    def name(self) -> str:
        """Return a new name for a rule."""
        self._count += 1
        if self._count > _MOST_RULES:
            raise Inexpressible("it is too large")
        return f"part_{self.prefix}_{self._count}"

    def closed(self, text: str, end: str) -> str:
        """Return the expression for a text up to and including its end."""
        return self._ended(self.spell.closed(self.name(), f"({whole(text)} & ~{containing(end)})", end))

    def wrapped(self, start: str, text: str, inner: str, end: str) -> str:
        """Return the expression for `start`, a text without `inner` in it, and `end`."""
        body = f"{literal(start)} ({whole(text)} & ~{containing(inner)})"
        return self._ended(self.spell.closed(self.name(), body, end))

    def _ended(self, found: tuple[str, list[str]]) -> str:
        expression, rules = found
        for rule in rules:
            name, _, text = rule.partition(": ")
            self._rules[name] = text
        return expression

    def known(self, schema: JsonSchema, make: Callable[[], str]) -> str:
        """Return the rule of a value, made only once for each schema: it may refer to itself."""
        key = json.dumps(schema, sort_keys=True)
        if key not in self._known:
            name = self._known[key] = self.name()
            self._rules[name] = make()
        return self._known[key]

    def json(self, schema: JsonSchema, kinds: frozenset[str]) -> str:
        """Return the expression for the JSON values of these types that conform to a schema."""
        if self.schema.types(schema) <= kinds:
            return f"%json {self.schema.document(schema)}"
        return f"%json {self.schema.document({'allOf': [schema, {'type': sorted(kinds)}]})}"
