"""String formats that JSON schemas name and engines enforce, for checks of answers; pure."""

import re
from collections.abc import Callable, Mapping
from datetime import date
from ipaddress import AddressValueError, IPv4Address, IPv6Address

_TIME = r"([01]\d|2[0-3]):[0-5]\d:([0-5]\d|60)(\.\d+)?([zZ]|[+-]([01]\d|2[0-3]):[0-5]\d)"
_PATTERNS: Mapping[str, str] = {
    "date": r"\d{4}-\d{2}-\d{2}",
    "time": _TIME,
    "date-time": rf"\d{{4}}-\d{{2}}-\d{{2}}[tT]{_TIME}",
    "duration": r"P(?!$)(\d+W|(\d+Y)?(\d+M)?(\d+D)?(T(?=\d)(\d+H)?(\d+M)?(\d+S)?)?)",
    "email": r"[^@\s]+@[^@\s]+",
    "hostname": r"(?=.{1,253}$)[A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?"
                r"(\.[A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?)*",
    "uri": r"[A-Za-z][A-Za-z0-9+.-]*:[^\s<>\"{}|\\^`]*",
    "uuid": r"[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}",
}


def _spelt(name: str) -> Callable[[str], bool]:
    pattern = re.compile(_PATTERNS[name], re.ASCII)
    return lambda text: pattern.fullmatch(text) is not None


def _is_day(text: str) -> bool:
    try:
        date.fromisoformat(text[:10])
    except ValueError:
        return False
    return True


def _is_address(kind: type[IPv4Address] | type[IPv6Address]) -> Callable[[str], bool]:
    def fits(text: str) -> bool:
        try:
            kind(text)
        except AddressValueError:
            return False
        return "%" not in text

    return fits


_SPELT = {name: _spelt(name) for name in _PATTERNS}
FORMATS: Mapping[str, Callable[[str], bool]] = {
    **_SPELT,
    "date": lambda text: _SPELT["date"](text) and _is_day(text),
    "date-time": lambda text: _SPELT["date-time"](text) and _is_day(text),
    "ipv4": _is_address(IPv4Address),
    "ipv6": _is_address(IPv6Address),
}
"""Whether a string has a format, by the format's name."""
