"""How a suite of comparisons is run."""

from collections.abc import Callable
from pathlib import Path

from attrs import field, frozen


@frozen
class Plan:
    """What all suites are told; each takes from it what concerns it."""

    file: Path
    """The GGUF that is measured with."""
    rounds: int = 5
    max_tokens: int = 96
    prompt_tokens: int = 50
    """Words, each one token of the bench's own model and perhaps a few of another."""
    clients: tuple[int, ...] = (1, 8)
    peers: tuple[str, ...] = ()
    """Commands that start other servers; `{file}` and `{port}` are filled in."""
    told: Callable[[str], None] = field(default=lambda _text: None)
    """Told what is being done, for people who wait."""


def people(clients: int) -> str:
    """Return `1 client` or `8 clients`."""
    return f"{clients} client{'' if clients == 1 else 's'}"
