"""Checks of values against JSON schemas, which clients write: within a time limit, and without the network; pure.

Keywords have the meaning of the latest draft; those that only older drafts have are also supported. `format` is checked
for the formats that engines enforce, and OpenAPI's `nullable` is supported.
"""

import json
from collections.abc import Callable, Iterator, Mapping
from contextvars import ContextVar
from functools import cache
from itertools import islice
from time import thread_time
from typing import Any
from urllib.parse import clear_cache  # type: ignore[attr-defined]  # undocumented, and as old as the cache

import regex
from attrs import define, field, frozen
from jsonschema import Draft7Validator, Draft201909Validator, Draft202012Validator, FormatChecker
from jsonschema.exceptions import ValidationError
from jsonschema.validators import extend, validator_for
from jsonschema_specifications import REGISTRY
from referencing import Registry
from referencing.exceptions import Unresolvable

from lllms_core.text.formats import FORMATS
from lllms_core.text.pointers import Path, read_pointer

SECONDS = 0.25
"""The processor time of a check, unless its caller says otherwise: a busy machine is no fault of a schema."""
_SMALL = 1_000
"""This many rules are evaluated in any case: a check that small may coincide with a garbage collection or a first use,
which take longer than its limit.
"""
_PATIENCE = 2
"""By the clock, an expression may take so many times the processor time that is left."""
_EXPRESSION_SECONDS, _EXPRESSION_RULES = 0.1, 100
"""What an expression may take by the clock in a small check without time left, and the number of rules it counts as."""
_MOST_ERRORS = 50
_LONGEST_REASON = 300
_LONGEST_PATTERN = 10_000

_Rule = Callable[[Any, Any, Any, Any], Iterator[ValidationError]]
_Expressions = dict[str, Any]
"""Compiled expressions, by their texts."""


class Unchecked(Exception):
    """A value could not be checked; the text says why, and quotes no value."""


class NoSchema(ValueError):
    """A JSON schema is invalid; the text says why."""


@define
class _Run:
    """A check that is going on."""

    deadline: float
    """By the thread's processor time."""
    expressions: _Expressions = field(factory=dict)
    rules: int = 0
    """How many have been evaluated."""

    def spend(self, rules: int = 1) -> float:
        """Count evaluated rules; return the seconds that are left. Raises `Unchecked` if nothing is."""
        self.rules += rules
        left = self.deadline - thread_time()
        if left <= 0 and self.rules > _SMALL:
            raise Unchecked("it takes too long")
        return max(left, 0.0)


_RUN: ContextVar[_Run] = ContextVar("run")


class SchemaCheck:
    """Checks values against one schema; nothing of it is kept for longer."""

    def __init__(self, schema: object, seconds: float = SECONDS) -> None:
        """Take any JSON value. Raises `NoSchema` if it is no schema, `Unchecked` if that takes too long to decide."""
        if not isinstance(schema, dict | bool):
            raise NoSchema("it is neither an object nor true or false")
        # Without a draft named in the schema, this one covers all supported keywords.
        try:
            kind = validator_for(schema, default=Draft201909Validator)
        except (AttributeError, TypeError, ValueError):
            raise NoSchema("its '$schema' is not the address of a draft") from None
        checker = _formats({"regex": _is_expression})
        meta = _bounded_draft(kind)(kind.META_SCHEMA, registry=REGISTRY, format_checker=checker)
        self._expressions: _Expressions = {}
        for error in self._run(meta, schema, seconds, most=1):
            raise NoSchema(error.message[:_LONGEST_REASON])
        # Beside each other the library reads expressions without a limit.
        text = json.dumps(schema)
        self._limitless = '"unevaluatedProperties"' in text and '"patternProperties"' in text
        # By default, the library would fetch the references of a schema.
        self._validator = _CHECKER(schema, registry=Registry(), format_checker=_formats(FORMATS))

    def find_violations(self, value: object, seconds: float = SECONDS) -> list[Path]:
        """Return the keywords that a value breaks, up to a limit; an `if` precedes its `then`.

        Raises `Unchecked`.
        """
        if self._limitless:
            raise Unchecked("it has 'unevaluatedProperties' beside 'patternProperties'")
        errors = self._run(self._validator, value, seconds, _MOST_ERRORS)
        return list(dict.fromkeys(map(_path, errors)))

    def _run(self, validator: Any, value: object, seconds: float, most: int) -> list[ValidationError]:  # untyped
        token = _RUN.set(_Run(thread_time() + seconds, self._expressions))
        try:
            return list(islice(validator.iter_errors(value), most))
        except Unresolvable as error:
            raise Unchecked(f"the schema refers to {error.ref!r}, which is not in it") from None
        except RecursionError:
            raise Unchecked("it is nested too deeply") from None
        except Unchecked:
            raise
        except Exception as error:  # the library trusts schemas; this one may have faults that no metaschema detects
            raise Unchecked(f"the schema has a fault ({type(error).__name__})") from error
        finally:
            _RUN.reset(token)
            # Both keep hundreds of texts, which clients wrote and may have made as long as a body.
            regex.purge()
            clear_cache()


def _matches(pattern: str, text: str) -> bool:
    if len(pattern) > _LONGEST_PATTERN:
        raise Unchecked(f"an expression has more than {_LONGEST_PATTERN} characters")
    left = _RUN.get().spend(_EXPRESSION_RULES)
    try:
        timeout = max(_PATIENCE * left, _EXPRESSION_SECONDS)
        return _compiled(pattern).search(text, timeout=timeout, concurrent=True) is not None
    except TimeoutError:
        raise Unchecked("it takes too long") from None
    except regex.error as error:
        raise Unchecked(f"the expression {pattern[:40]!r} cannot be read: {error}") from None


def _compiled(pattern: str) -> Any:  # untyped
    known = _RUN.get().expressions
    if pattern not in known:
        known[pattern] = regex.compile(pattern, cache_pattern=False)
    return known[pattern]


# -- the rules of keywords, where the library's are not enough ---------------------------------------------------------


@frozen
class _Jump:
    """An element of a keyword path: a reference leads to another part of the schema here."""

    reference: str


def _timed(name: str, rule: _Rule) -> _Rule:
    """Return a rule that checks the time limit, and supports `nullable`."""
    def check(validator: Any, value: Any, instance: Any, schema: Any) -> Iterator[ValidationError]:  # as the library's
        _RUN.get().spend()
        if instance is None and schema.get("nullable") is True and name not in {"enum", "const"}:
            return
        for error in rule(validator, value, instance, schema) or ():
            if name == "$ref":
                error.schema_path.appendleft(_Jump(value))
            if name == "if":
                error.schema_path.appendleft(name)
            yield error

    return check


def _pattern(_: object, pattern: str, instance: object, __: object) -> Iterator[ValidationError]:
    if isinstance(instance, str) and not _matches(pattern, instance):
        yield ValidationError("it does not match the expression")


def _pattern_properties(
    validator: Any, patterns: Mapping[str, object], instance: object, _: object,  # untyped
) -> Iterator[ValidationError]:
    if isinstance(instance, dict):
        for pattern, schema in patterns.items():
            for name, one in instance.items():
                if _matches(pattern, name):
                    yield from validator.descend(one, schema, path=name, schema_path=pattern)


def _additional_properties(
    validator: Any, others: object, instance: object, schema: Mapping[str, Mapping[str, object]],
) -> Iterator[ValidationError]:
    if not isinstance(instance, dict):
        return
    patterns = list(schema.get("patternProperties", {}))
    for name, one in instance.items():
        if name not in schema.get("properties", {}) and not any(_matches(pattern, name) for pattern in patterns):
            yield from validator.descend(one, others, path=name)


def _unique_items(_: object, wanted: object, instance: object, __: object) -> Iterator[ValidationError]:
    if wanted is True and isinstance(instance, list):
        _RUN.get().spend(len(instance))
        if len({*map(_key, instance)}) < len(instance):
            yield ValidationError("it has repetitions")


def _items(validator: Any, items: object, instance: object, schema: object) -> Iterator[ValidationError]:
    kind = Draft201909Validator if isinstance(items, list) else Draft202012Validator
    yield from kind.VALIDATORS["items"](validator, items, instance, schema) or ()


def _key(value: object) -> str:
    """Return a text that is the same for values that JSON schemas consider equal."""
    return json.dumps(_plain(value), sort_keys=True)


def _plain(value: object) -> object:
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if isinstance(value, dict):
        return {key: _plain(one) for key, one in value.items()}
    return [_plain(one) for one in value] if isinstance(value, list) else value


_RULES: Mapping[str, _Rule] = {
    "pattern": _pattern, "patternProperties": _pattern_properties, "additionalProperties": _additional_properties,
    "uniqueItems": _unique_items,
}
_OWN: Mapping[str, _Rule] = {
    "items": _items, "additionalItems": Draft201909Validator.VALIDATORS["additionalItems"],
    "dependencies": Draft7Validator.VALIDATORS["dependencies"],
}


def _bounded(kind: Any, own: Mapping[str, _Rule] | None = None) -> Any:  # classes made by the library
    rules = {**kind.VALIDATORS, **_RULES, **(own or {})}
    return extend(kind, {name: _timed(name, rule) for name, rule in rules.items()})


@cache
def _bounded_draft(kind: Any) -> Any:
    """Return the class for one of the library's drafts, which are few; each costs as much as a check."""
    return _bounded(kind)


_CHECKER = _bounded(Draft202012Validator, _OWN)
KEYWORDS = frozenset(_CHECKER.VALIDATORS)
"""The keywords that are checked."""


def _is_expression(text: str) -> bool:
    if len(text) > _LONGEST_PATTERN:
        return True  # no check reads it
    try:
        _compiled(text)
    except regex.error:
        return False
    return True


def _formats(formats: Mapping[str, Callable[[str], bool]]) -> FormatChecker:
    checker = FormatChecker(formats=())
    for name, fits in formats.items():
        checker.checks(name)(lambda value, fits=fits: not isinstance(value, str) or fits(value))
    return checker


def _path(error: ValidationError) -> Path:
    """Return the place of the keyword that an error is about, with references followed."""
    path: list[str | int] = []
    for part in error.absolute_schema_path:
        if isinstance(part, _Jump):
            target = read_pointer(part.reference)
            path = [*path, "$ref"] if target is None else [*target]
        else:
            path.append(part if isinstance(part, str | int) else str(part))
    return tuple(path)
