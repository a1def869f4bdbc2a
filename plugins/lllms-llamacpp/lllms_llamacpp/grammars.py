"""Translates a constraint into a grammar for llguidance; pure. Refuses what could not be enforced, with the reason."""

import json
import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, cast

from attrs import evolve
from llguidance import LLMatcher
from llguidance.gbnf_to_lark import gbnf_to_lark

from lllms_core.errors import InvalidRequest
from lllms_core.types import Constraint
from lllms_llamacpp.schemas import MAX_LENGTH, fit
from lllms_llamacpp.spaces import schemas_in, spaced

if TYPE_CHECKING:
    from llguidance._lib import JsonCompileOptions

_OPTIONS: "JsonCompileOptions" = {
    "lenient": False, "coerce_one_of": False,
    # A space, or a new line with its indentation: without a limit small models write white space forever.
    "whitespace_pattern": r" |\n[ \t]{0,40}",
    # Not \\uXXXX, which could spell the name of a property a second time.
    "json_allowed_escapes": 'nrbtf\\"',
}
_LONGEST_REASON = 500

_NAMES = {"json_object": "JSON", "json_schema": "schema", "gbnf": "grammar", "lark": "grammar", "regex": "expression"}
_GBNF_ESCAPE = re.compile(r"\\(?:\\|x([0-9a-fA-F]{2})|u([0-9a-fA-F]{4})|U([0-9a-fA-F]{8}))")
_TOKEN_ID = re.compile(r"<\[([0-9]{1,9})\]>")
_TOKEN_IN_LARK = re.compile(rf'"(?:\\.|[^"\\])*"|/(?:\\.|[^/\\])*/|{_TOKEN_ID.pattern}')
"""Strings and regular expressions, which are skipped, and a token by its id."""
_TEMPERATURE_IN_LARK = re.compile(r"^\s*[\w-]+\[[^\]\n]*\btemperature\s*=", re.MULTILINE)
"""A temperature among the options of a rule."""


def translate(constraint: Constraint, *, spaces: bool = False) -> str:
    """Return the grammar. Raises `InvalidRequest` for faults that are visible before it is compiled.

    With `spaces`, SentencePiece's mark of a space means a space here, too. Some texts take minutes to read; see
    `Trial`.
    """
    check_length(constraint)
    try:
        return _translate(evolve(constraint, text=spaced(constraint)) if spaces else constraint)
    except RecursionError as error:
        raise refusal(constraint, "it is nested too deeply") from error


def check_length(constraint: Constraint) -> None:
    """Raise `InvalidRequest` for a constraint that is too long to be read."""
    if len(constraint.text) > MAX_LENGTH:
        raise refusal(constraint, f"it has {len(constraint.text)} characters, and at most {MAX_LENGTH} are allowed")


def _translate(constraint: Constraint) -> str:
    match constraint.kind:
        case "json_object":
            return _from_schema(constraint, {"type": "object"})
        case "json_schema":
            return _from_schema(constraint, _parse(constraint))
        case "gbnf":
            return _from_gbnf(constraint)
        case "lark":
            return _from_lark(constraint)
        case "regex":
            grammar: str = LLMatcher.grammar_from_regex(constraint.text)
            return grammar


def named_tokens(lark: str) -> set[int]:
    """Return the ids of the tokens that a grammar may name."""
    return {int(found[1]) for found in _TOKEN_ID.finditer(lark)}


def spell_tokens(lark: str, texts: Mapping[int, str]) -> str:
    """Return a grammar of the same texts that names no token by its id, for use without the vocabulary."""
    return _TOKEN_IN_LARK.sub(
        lambda found: found[0] if found[1] is None else json.dumps(texts.get(int(found[1]), "")), lark,
    )


def refusal(constraint: Constraint, reason: str) -> InvalidRequest:
    """Return the error for a constraint that cannot be enforced, with the reason."""
    return refused(constraint, f"Invalid {_NAMES[constraint.kind]} for '{constraint.param}': {reason}.")


def refused(constraint: Constraint, message: str) -> InvalidRequest:
    """Return the error with this message."""
    code = "invalid_json_schema" if constraint.kind == "json_schema" else "invalid_grammar"
    return InvalidRequest(message, constraint.param, code)


def explain(error: str) -> str:
    """Return the part of llguidance's error that is meant for people."""
    text = " ".join(error.partition("<state>")[0].replace("<non-verbose/>", "").split())
    if text.startswith("NoExtension"):
        return "no text can match it"
    if "coerce_one_of" in text:
        return "the alternatives of 'oneOf' do not visibly exclude each other; use 'anyOf'"
    return text[:_LONGEST_REASON]


def _parse(constraint: Constraint) -> object:
    try:
        return json.loads(constraint.text)
    except (ValueError, RecursionError) as error:
        reason = "it is nested too deeply" if isinstance(error, RecursionError) else f"it is not JSON: {error}"
        raise refusal(constraint, reason) from error


def _from_schema(constraint: Constraint, schema: object) -> str:
    if not isinstance(schema, dict):
        raise refusal(constraint, "it is not a JSON object")
    fitted, options = _fit(constraint, schema)
    try:
        grammar: str = LLMatcher.grammar_from_json_schema(json.dumps(fitted), overrides=options)
    except ValueError as error:  # more than about 120 levels, or a lone surrogate
        deep = "recursion limit" in str(error)
        raise refusal(constraint, "it is nested too deeply" if deep else f"it cannot be read: {error}") from error
    return grammar


def _fit(
    constraint: Constraint, schema: Mapping[str, object], where: str = "",
) -> "tuple[Mapping[str, object], JsonCompileOptions]":
    """Translate a schema for llguidance, with its options. Raises `InvalidRequest` for parts that it would ignore."""
    fitted = fit(schema)
    fault = next((one for one in fitted.faults if one.sure), None)
    if fault is not None:
        raise refusal(constraint, f"{where}{fault}")
    return cast("Mapping[str, object]", fitted.schema), {**_OPTIONS, "coerce_one_of": fitted.exclusive}


def _from_gbnf(constraint: Constraint) -> str:
    try:
        lark: str = gbnf_to_lark(_GBNF_ESCAPE.sub(_unescape, constraint.text))
    except Exception as error:  # the translator may raise anything
        reason = str(error) or type(error).__name__
        raise refusal(constraint, f"it cannot be read as GBNF: {reason}") from error
    return lark


def _unescape(escape: "re.Match[str]") -> str:
    """Return the character itself where possible: the translator loses zeros, and Lark has other escapes."""
    digits = escape[1] or escape[2] or escape[3]
    if not digits:
        return escape[0]
    character = chr(int(digits, 16))
    if character in '"\\[]':
        return "\\" + character
    return character if character.isprintable() and character not in "^-" else escape[0]


def _from_lark(constraint: Constraint) -> str:
    if _TEMPERATURE_IN_LARK.search(constraint.text):
        raise refusal(constraint, "a temperature inside a grammar is not supported; send 'temperature' instead")
    pieces, end = [], 0
    for start, stop, schema in schemas_in(constraint.text):
        fitted, options = _fit(constraint, schema, "in %json, ")
        pieces += [constraint.text[end:start], json.dumps({**fitted, "x-guidance": options})]
        end = stop
    return "".join([*pieces, constraint.text[end:]])
