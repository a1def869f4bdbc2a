"""The settings of a suite of comparisons."""

from collections.abc import Callable
from pathlib import Path

from attrs import field, frozen


@frozen
class Plan:
    """The settings for all suites; each uses those that concern it."""

    file: Path
    """The GGUF file to measure with."""
    rounds: int = 5
    max_tokens: int = 96
    prompt_tokens: int = 50
    """Words: each is one token of the bench's own model, perhaps a few tokens of another."""
    clients: tuple[int, ...] = (1, 8)
    peers: tuple[str, ...] = ()
    """Commands that start other servers; `{file}` and `{port}` are filled in."""
    sizes: tuple[int, ...] = ()
    """Tokens of the prompts of the suites prompts, long and gaps, and of the system prompt of shared; by default each
    has its own."""
    told: Callable[[str], None] = field(default=lambda _text: None)
    """Called with the current step, to show to the user."""


def people(clients: int) -> str:
    """Return `1 client` or `8 clients`."""
    return f"{clients} client{'' if clients == 1 else 's'}"
