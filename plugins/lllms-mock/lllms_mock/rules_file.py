"""Read a file of rules, in the format described by the README."""

import re
import tomllib
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import TypeVar

from lllms_core.errors import ModelLoadFailed
from lllms_core.machine import read_text
from lllms_mock.rules import PLACE, Rule, Rules, fits

T = TypeVar("T")


def read_rules(path: Path) -> Rules:
    """Return the rules of a file. Raises `ModelLoadFailed` that names the file and the faulty rule."""
    try:
        return _parse(tomllib.loads(read_text(path)))
    except (OSError, ValueError) as error:
        raise ModelLoadFailed(f"cannot use the rules in {path}: {error}") from error


# Each of these raises ValueError, with a text that says where.


def _parse(table: Mapping[str, object]) -> Rules:
    _refuse_unknown(table, {"otherwise", "rules", "swap"}, "the file")
    tables = _typed(table.get("rules", []), list, "an array of tables, each [[rules]]", "rules")
    rules = [_rule(_typed(rule, dict, "a table", f"rule {at}"), at) for at, rule in enumerate(tables, 1)]
    otherwise = Rule(re.compile(""), _strings(table.get("otherwise", ["Please go on."]), "otherwise"))
    rules.append(otherwise)
    swap = {word.lower(): other for word, other in _string_table(table.get("swap", {}), "swap").items()}
    names = {name for rule in rules for name in rule.remember}
    for at, rule in enumerate(rules, 1):
        where = "otherwise" if rule is otherwise else f"rule {at} (pattern '{rule.pattern.pattern}')"
        _check_places(rule, names, swap, where)
    if not any(fits(reply, {"text"}) for reply in otherwise.replies):
        raise ValueError("otherwise: one reply must use no place but {text}, so that there is always something to say")
    return Rules(tuple(rules), swap)


def _rule(table: Mapping[str, object], at: int) -> Rule:
    where = f"rule {at}"
    _refuse_unknown(table, {"pattern", "replies", "remember"}, where)
    if "pattern" not in table:
        raise ValueError(f"{where}: 'pattern' is missing")
    pattern = _typed(table["pattern"], str, "a string", f"{where}: 'pattern'")
    where = f"{where} (pattern '{pattern}')"
    try:
        compiled = re.compile(pattern, re.IGNORECASE)
    except re.error as error:
        raise ValueError(f"{where}: not a regular expression: {error}") from error
    replies = _strings(table.get("replies", []), f"{where}: 'replies'")
    remember = _string_table(table.get("remember", {}), f"{where}: 'remember'")
    for name in remember:
        if not name.isidentifier() or name == "text":
            raise ValueError(f"{where}: cannot remember '{name}': a name is a word of letters and '_', not 'text'")
    if not replies and not remember:
        raise ValueError(f"{where}: needs 'replies', 'remember' or both")
    return Rule(compiled, replies, remember)


def _check_places(rule: Rule, names: Collection[str], swap: Mapping[str, str], where: str) -> None:
    for swapped, name in PLACE.findall(" ".join([*rule.replies, *rule.remember.values()])):
        place = f"{{{swapped}{name}}}"
        if name.isdecimal() and name not in map(str, range(1, rule.pattern.groups + 1)):
            raise ValueError(f"{where}: {place} is used, but the pattern has {rule.pattern.groups} groups")
        if not name.isdecimal() and name not in {"text", *rule.pattern.groupindex, *names}:
            raise ValueError(f"{where}: {place} is used, but no rule remembers '{name}'")
        if swapped and not swap:
            raise ValueError(f"{where}: {place} swaps words, but the file has no [swap]")


def _refuse_unknown(table: Mapping[str, object], known: Collection[str], where: str) -> None:
    for key in table:
        if key not in known:
            raise ValueError(f"{where}: unknown key '{key}' (there are: {', '.join(sorted(known))})")


def _typed(value: object, kind: type[T], expected: str, where: str) -> T:
    if not isinstance(value, kind):
        raise ValueError(f"{where} must be {expected}, not {value!r}")  # noqa: TRY004  # the value is of a file
    return value


def _strings(value: object, where: str) -> tuple[str, ...]:
    return tuple(_typed(one, str, "an array of strings", where) for one in _typed(value, list, "an array", where))


def _string_table(value: object, where: str) -> dict[str, str]:
    table = _typed(value, dict, "a table of strings", where)
    return {str(name): _typed(one, str, "a table of strings", where) for name, one in table.items()}
