"""Translates JSON schemas for llguidance, and finds the restrictions that it cannot enforce; pure."""

import json
from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from typing import cast

from attrs import frozen

from lllms_core.text.pointers import Path, read_pointer, write_pointer
from lllms_llamacpp.combinations import COMPOSED, count_merges, find_combined
from lllms_llamacpp.keywords import BOUNDS, ENFORCED, EVALUATING, MANY, NAMED, ONE, restricts
from lllms_llamacpp.numbers import Inexact, inexact, is_empty, tighten
from lllms_llamacpp.omissions import Fault, leave_out
from lllms_llamacpp.patterns import Unreadable, translate_pattern
from lllms_llamacpp.proofs import ALL_TYPES, Proofs, names_of, type_of, types_of
from lllms_llamacpp.rewriting import restrict_names, with_null
from lllms_llamacpp.unique import UniqueArrays

_OF_WHOLES = frozenset({"propertyNames", "uniqueItems", "nullable"})
"""Keywords that are translated after the others, because they change them."""
_OF_OBJECTS = frozenset({"properties", "patternProperties", "minProperties", "maxProperties", "additionalProperties"})
_OF_ARRAYS = frozenset({"type", "items", "minItems", "maxItems"})
MAX_LENGTH = 256 * 1024
"""The most characters of a schema, as of any grammar."""
_LARGE = 8 * 1024
_ROUNDS = 4
"""Leaving parts out may reveal other faults."""


@frozen
class Fitted:
    """A schema for llguidance."""

    schema: object
    """It allows nothing that the given schema forbids, except through the faults."""
    faults: tuple[Fault, ...]

    @property
    def exclusive(self) -> bool:
        """Whether the alternatives of each `oneOf` are known to exclude each other, so that it equals `anyOf`."""
        return not any(fault.target[-1:] == ("oneOf",) for fault in self.faults)


def fit(schema: object) -> Fitted:
    """Translate a schema, and find the parts that llguidance would silently ignore, or not enforce exactly."""
    fitter = _Fitter(schema)
    return Fitted(fitter.fit(schema, ()), tuple(fitter.faults))


def relax(text: str) -> tuple[str, tuple[str, ...]]:
    """Return the part of a schema that can be enforced, and JSON pointers to the restrictions that are left out.

    A schema that is malformed, too long or fully enforceable is returned unchanged. Any thread may call this; clients
    send the same tools again and again, so results are cached.
    """
    if len(text) > MAX_LENGTH:
        return text, ()
    return (_relax_large if len(text) > _LARGE else _relax_small)(text)


def _relax(text: str) -> tuple[str, tuple[str, ...]]:
    try:
        schema = json.loads(text)
    except ValueError:
        return text, ()
    left_out: list[str] = []
    for _ in range(_ROUNDS):
        faults = fit(schema).faults
        if not faults or not all(fault.target for fault in faults):
            break
        left_out += [write_pointer(fault.target) for fault in faults]
        leave_out(schema, faults)
    return (json.dumps(schema), tuple(dict.fromkeys(left_out))) if left_out else (text, ())


_relax_small, _relax_large = lru_cache(maxsize=512)(_relax), lru_cache(maxsize=16)(_relax)


class _Fitter:
    """Translates one schema, and collects its faults."""

    def __init__(self, root: object) -> None:
        self.faults: list[Fault] = []
        self._proofs = Proofs(root)
        self._arrays = UniqueArrays(self._proofs, count_merges(root))
        self._references: set[Path] | None = None
        self._on_the_way: set[Path] = set()
        """The places that references pass through."""
        self._root = root

    def fit(
        self, schema: object, path: Path, types: frozenset[str] = ALL_TYPES, *, merged: bool = False,
    ) -> object:
        """Translate a schema for llguidance.

        The schemas around it allow these types, and may have it `merged` with other restrictions of objects.
        """
        if isinstance(schema, bool):
            return schema
        if not isinstance(schema, Mapping):
            self._fault(path, f"a schema is an object or a boolean, not {json.dumps(schema)[:40]}")
            return True
        types &= types_of(schema)
        fitted: dict[str, object] = {}
        for keyword, value in schema.items():
            here = (*path, keyword)
            if keyword in BOUNDS or keyword in _OF_WHOLES or not restricts(schema, keyword, value):
                continue
            if keyword in MANY and isinstance(value, list):
                parts = self._fit_many(schema, keyword, value, here, (types, merged))
                # Those of `pattern` may be there, and come last: references count the parts.
                fitted[keyword] = [*parts, *cast("list[object]", fitted.get(keyword, []))]
            elif keyword in NAMED and isinstance(value, Mapping):
                fitted[keyword] = self._fit_named(keyword, value, here, schema)
            elif keyword == "pattern" and isinstance(value, str):
                fitted |= self._fit_pattern(value, here, fitted)
            elif keyword == "unevaluatedProperties" and not schema.keys() & EVALUATING:
                fitted["additionalProperties"] = self.fit(value, here)
            elif keyword in ENFORCED:
                fitted[keyword] = self.fit(value, here) if keyword in ONE else self._fit_value(keyword, value, here)
            elif self._is_referenced(here):
                fitted[keyword] = self._fit_container(value, here)
            else:
                self._fault(path, f"the keyword '{keyword}' is not supported{_way_out(keyword)}", here)
        self._fit_bounds(schema, path, fitted)
        self.faults += find_combined(schema, path, merged=merged or bool(schema.keys() & COMPOSED))
        return self._fit_whole(schema, fitted, path)

    def _fit_many(
        self, schema: Mapping[str, object], keyword: str, parts: Sequence[object], here: Path,
        around: tuple[frozenset[str], bool],
    ) -> Sequence[object]:
        """Translate a schema's alternatives or conditions, or the schemas of items; `around` is as in `fit`."""
        types, merged = around
        if keyword not in COMPOSED:
            return [self.fit(one, (*here, index)) for index, one in enumerate(parts)]
        if keyword == "oneOf" and not self._proofs.exclude_each_other(parts, types, names_of(schema)):
            # llguidance has other proofs, for schemas that it has merged.
            text = "the alternatives of 'oneOf' do not visibly exclude each other; use 'anyOf'"
            self.faults.append(Fault(here[:-1], text, here, {"anyOf": parts}, sure=False))
        merged = merged or bool(schema.keys() & (_OF_OBJECTS | COMPOSED - {keyword})) or (
            keyword == "allOf" and len(parts) > 1
        )
        return [self.fit(one, (*here, index), types, merged=merged) for index, one in enumerate(parts)]

    def _fit_value(self, keyword: str, value: object, here: Path) -> object:
        """Return the value of a keyword that is not a schema, after checking its numbers and texts."""
        if keyword in {"const", "enum"}:
            listed = value if keyword == "enum" and isinstance(value, list) else [value]
            self._find_inexact(value, here, here, {"type": sorted({*map(type_of, listed)})} if listed else {})
        elif keyword == "multipleOf" or (keyword == "required" and isinstance(value, list)):
            self._find_inexact(value, here, here)
        return value

    def _fit_named(
        self, keyword: str, schemas: Mapping[str, object], here: Path, schema: Mapping[str, object],
    ) -> Mapping[str, object]:
        fitted = {}
        for name, one in schemas.items():
            inner = (*here, name)
            self._find_inexact(name, here, inner)
            key = name
            if keyword == "patternProperties":
                key, fault = _name_pattern(name)
                if fault or key in fitted:
                    # Names that should match it are then not forbidden.
                    instead = {"additionalProperties": True} if schema.get("additionalProperties") is False else {}
                    self._fault(here, f"the expression {json.dumps(name)[:80]} has {fault}", inner, instead)
            fitted[key] = self.fit(one, inner)
        return fitted

    def _fit_container(self, value: object, here: Path) -> object:
        """Translate the value of an unknown keyword that contains schemas that references name."""
        references = self._references or set()
        if here in references:
            return self.fit(value, here)
        if isinstance(value, Mapping):
            return {key: self._fit_container(one, (*here, key)) for key, one in value.items()
                    if self._is_referenced((*here, key))}
        return value

    def _is_referenced(self, here: Path) -> bool:
        if self._references is None:
            self._references = {tuple(read_pointer(one) or ()) for one in _references(self._root)}
            self._on_the_way = {path[:length] for path in self._references for length in range(1, len(path) + 1)}
        return here in self._on_the_way

    def _fit_pattern(self, pattern: str, here: Path, fitted: Mapping[str, object]) -> Mapping[str, object]:
        """Return the keywords for an expression, beside the existing ones."""
        try:
            first, *others = translate_pattern(pattern)
        except Unreadable as error:
            self._fault(here, f"the expression has {error}, which is not supported", here)
            return {}
        conditions = [*cast("list[object]", fitted.get("allOf", [])), *({"pattern": one} for one in others)]
        return {"pattern": first, **({"allOf": conditions} if others else {})}

    def _fit_bounds(self, schema: Mapping[str, object], path: Path, fitted: dict[str, object]) -> None:
        """Tighten the bounds of numbers to those that are exact."""
        types, changed = types_of(schema), []
        for keyword in sorted(BOUNDS & schema.keys()):
            value, here = schema[keyword], (*path, keyword)
            fitted[keyword] = value
            if isinstance(value, bool) or not isinstance(value, int | float):
                continue
            try:
                fitted[keyword] = near = tighten(keyword, value, types)
            except Inexact as error:
                self._fault(here, str(error), here)
                continue
            if near != value:
                changed.append(keyword)
        if changed and is_empty(fitted) and not is_empty(schema):
            for keyword in changed:
                here = (*path, keyword)
                self._fault(here, "the numbers in this range have too many digits to be exact", here)

    def _fit_whole(self, schema: Mapping[str, object], fitted: dict[str, object], path: Path) -> object:
        """Translate the keywords that change others."""
        if "propertyNames" in schema and restricts(schema, "propertyNames", schema["propertyNames"]):
            names = self._proofs.resolve(schema["propertyNames"])
            if not restrict_names(fitted, names, self._proofs):
                self._fault(path, "the keyword 'propertyNames' is not supported here; leave it out",
                            (*path, "propertyNames"))
        if schema.get("uniqueItems") is True and restricts(schema, "uniqueItems", value=True):
            alternatives = self._arrays.write(schema)
            if alternatives is None:
                text = "the keyword 'uniqueItems' is only supported for arrays of few, known values; leave it out"
                self._fault(path, text, (*path, "uniqueItems"))
            else:
                kept = {key: one for key, one in fitted.items() if key not in _OF_ARRAYS}
                fitted = {**kept, "anyOf": alternatives}
        return with_null(fitted) if schema.get("nullable") is True else fitted

    def _find_inexact(
        self, value: object, shown: Path, target: Path, instead: Mapping[str, object] | None = None,
    ) -> None:
        for text in inexact(value):
            self._fault(shown, text, target, instead)
            return

    def _fault(
        self, path: Path, text: str, target: Path = (), instead: Mapping[str, object] | None = None,
    ) -> None:
        self.faults.append(Fault(path, text, target, instead or {}))


def _name_pattern(name: str) -> tuple[str, str]:
    """Return the expression for property names in llguidance's syntax, and its fault."""
    try:
        first, *others = translate_pattern(name)
    except Unreadable as error:
        return name, f"{error}, which is not supported"
    return first, "lookaheads, which are not supported here" if others else ""


def _references(schema: object) -> Iterator[str]:
    """Yield all references to a part by its path."""
    if isinstance(schema, Mapping):
        reference = schema.get("$ref")
        if isinstance(reference, str) and reference.startswith("#/"):
            yield reference
        for one in schema.values():
            yield from _references(one)
    elif isinstance(schema, list):
        for one in schema:
            yield from _references(one)


def _way_out(keyword: str) -> str:
    if keyword == "x-guidance":
        return ", because it would change the meaning of the others"
    return "; leave it out"
