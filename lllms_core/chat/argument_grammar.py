"""Grammar rules for arguments that are not a JSON object, from a tool's schema; pure."""

import json
from collections.abc import Mapping, Sequence
from typing import cast

from lllms_core.chat.answer_format import CallFormat
from lllms_core.chat.lark import Speller, literal
from lllms_core.types import Tool

_NOTES = frozenset({"type", "title", "description", "default", "examples"})
"""The keys that the schema of an unrestricted string may have."""
_JSON, _PYTHON = ("true", "false"), ("True", "False")
_SINGLE = r"/'(\\[^\n]|[^'\\\n])*'/"
"""A string in Python's single quotes."""
_BETWEEN = "/, ?/"
"""Between two arguments in brackets."""


def tagged_rules(form: CallFormat, tool: Tool, at: int, spell: Speller) -> list[str]:
    """Return the rule `call_N` of a call with arguments between tags, and the rules that it needs."""
    rules, parts = [], []
    for number, (key, kind, required) in enumerate(_fields(tool)):
        value, needed = _tagged_value(form, kind, f"value_{at}_{number}", spell)
        rules += needed
        parts.append(f"({spell(form.parameter_start + key)} {value}){'' if required else '?'}")
    return [f"call_{at}: {spell(tool.name + form.name_end)} {' '.join(parts)}".rstrip(), *rules]


def keyword_rules(form: CallFormat, tool: Tool, at: int, spell: Speller) -> list[str]:
    """The same for a call with keys and values in brackets; a comma only separates two of them."""
    fields = _fields(tool)
    rules, items = [], []
    for number, (key, kind, _) in enumerate(fields):
        value, needed = _keyword_value(form, kind, f"value_{at}_{number}", spell)
        rules += [*needed, f"item_{at}_{number}: {spell(key + form.key_end)} {value}"]
        items.append(f"item_{at}_{number}")
    firsts = []
    for number, (_, _, required) in enumerate(fields):
        firsts.append(f"{items[number]} more_{at}_{number + 1}")
        if required:
            break
    else:
        firsts.append('""')
    for number in range(1, len(fields)):
        rest = f"{_BETWEEN} {items[number]}"
        rest = rest if fields[number][2] else f"({rest})?"
        rules.append(f"more_{at}_{number}: {rest} more_{at}_{number + 1}")
    rules += [f'more_{at}_{len(fields)}: ""'] if fields else []
    start, end = spell(tool.name + form.name_end), spell(form.arguments_end)
    return [f"call_{at}: {start} ({' | '.join(firsts)}) {end}", *rules]


def _fields(tool: Tool) -> list[tuple[str, object, bool]]:
    """Return key, schema, and whether it is required, of each argument."""
    properties, required = tool.parameters.get("properties"), tool.parameters.get("required")
    fields = cast("Mapping[str, object]", properties) if isinstance(properties, Mapping) else {}
    wanted = required if isinstance(required, list | tuple) else ()
    return [(key, kind, key in wanted) for key, kind in fields.items()]


def _tagged_value(form: CallFormat, kind: object, rule: str, spell: Speller) -> tuple[str, list[str]]:
    """Return the expression for the part after a key, and the rules that it needs."""
    other_end = form.other_key_end or form.key_end
    if values := _enum(kind):
        shown = (
            f"{spell(form.key_end)} {literal(one)}" if isinstance(one, str) else f"{spell(other_end)} {_spelt(one)}"
            for one in values
        )
        return f"({' | '.join(shown)}) {spell(form.value_end)}", []
    if _is_string(kind) and (_is_any_string(kind) or not form.other_key_end):
        text, rules = spell.until(rule, form.value_end)
        return f"{spell(form.key_end)} {text}", rules
    # If tags do not show the kind of a value, many templates write it in Python's notation.
    words = _JSON if form.other_key_end else (*_JSON, *_PYTHON)
    return f"{spell(other_end)} {rule} {spell(form.value_end)}", [f"{rule}: {_json_value(kind, *words)}"]


def _keyword_value(form: CallFormat, kind: object, rule: str, spell: Speller) -> tuple[str, list[str]]:
    if form.python:
        single = " | " + _SINGLE if _is_any_string(kind) else ""
        return rule, [f"{rule}: {_json_value(kind, *_PYTHON, *_JSON)}{single}"]
    if values := _enum(kind):
        shown = (f"{form.quote}{one}{form.quote}" if isinstance(one, str) else json.dumps(one) for one in values)
        return f"({' | '.join(map(spell, shown))})", []
    if _is_any_string(kind):
        text, rules = spell.until(rule, form.quote)
        return f"{spell(form.quote)} {text}", rules
    if isinstance(kind, Mapping) and kind.get("type") == "array" and kind.keys() <= {*_NOTES, "items"}:
        item, rules = _keyword_value(form, kind.get("items"), f"{rule}_0", spell)
        return rule, [f'{rule}: "[" ({item} ({_BETWEEN} {item})*)? "]"', *rules]
    return rule, [f"{rule}: {_json_value(kind, *_JSON)}"]


def _json_value(kind: object, *words: str) -> str:
    """Return the rule of a JSON value; for a plain boolean, a choice of `words`."""
    if isinstance(kind, Mapping) and kind.get("type") == "boolean" and "enum" not in kind:
        return " | ".join(map(literal, words))
    return f"%json {json.dumps(kind if isinstance(kind, Mapping) else {})}"


def _enum(kind: object) -> Sequence[object]:
    values = kind.get("enum") if isinstance(kind, Mapping) else None
    return values if isinstance(values, list | tuple) else ()


def _spelt(value: object) -> str:
    return literal(json.dumps(value, ensure_ascii=False))


def _is_string(kind: object) -> bool:
    return isinstance(kind, Mapping) and kind.get("type") == "string"


def _is_any_string(kind: object) -> bool:
    return isinstance(kind, Mapping) and kind.get("type") == "string" and not kind.keys() - _NOTES
