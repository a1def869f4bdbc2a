"""The arguments in the address of a request."""

from collections.abc import Mapping

from quart import request

from lllms_core.errors import InvalidRequest
from lllms_core.parameters.wording import cut, unknown, wrong_choice, wrong_value


def take_arguments(*known: str) -> Mapping[str, str]:
    """Return the arguments. Raises `InvalidRequest` for one that is not known."""
    for name in request.args.keys() - set(known):
        raise unknown(name)
    return request.args.to_dict()


def read_switch(arguments: Mapping[str, str], name: str) -> bool:
    """Return whether an argument is true; it is false if it is left out. Raises `InvalidRequest`."""
    value = arguments.get(name, "false").lower()
    if value not in {"true", "false"}:
        raise wrong_choice(name, value, "true", "false")
    return value == "true"


def read_number(
    arguments: Mapping[str, str], name: str, default: int, *, least: int = 0, most: int = 2**31 - 1,
) -> int:
    """Return a whole number. Raises `InvalidRequest`."""
    text = arguments.get(name, str(default))
    try:
        number = int(text) if len(text) < 20 else None
    except ValueError:
        number = None
    if number is None or not text.isascii():
        raise InvalidRequest(f"Invalid '{name}': '{cut(text)}' is not an integer.", name, "invalid_type")
    if not least <= number <= most:
        raise wrong_value(name, "integer out of range", f"{least} to {most}", number, "invalid_value")
    return number
