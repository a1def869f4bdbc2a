"""What `[models.X.options]` says to the mock engine."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Literal, get_args

from attrs import Attribute, field, frozen
from attrs.validators import ge, gt, in_, optional

Fault = Literal["refuse", "fail", "raise-open", "raise-step", "hang", "kill", "segfault"]
"""What goes wrong with a request; the README's table tells what each looks like from outside."""

LoadFault = Literal["fail", "raise", "kill", "segfault"]
"""What goes wrong with a load: a clear error, any exception, or the end of the process."""

Tokenizer = Literal["words", "bytes"]


def _regular_expression(_line: object, attribute: "Attribute[str]", value: str) -> None:
    try:
        re.compile(value)
    except re.error as error:
        raise ValueError(f"'{attribute.name}' is no regular expression: {error}: {value!r}") from error


@frozen(kw_only=True)
class Call:
    """A call of a tool."""

    name: str
    arguments: Mapping[str, object] = field(factory=dict)


@frozen(kw_only=True)
class Line:
    """What the mock answers, and what goes wrong, when it hears something."""

    when: str = field(default="", validator=_regular_expression)
    """Searched in the last user message, or in the prompt, without regard to case; "" hears everything."""
    replies: tuple[str, ...] = ()
    """Said word for word: the first in a conversation's first turn, the next in the next, round and round. None: the
    chatbot answers."""
    calls: tuple[Call, ...] = ()
    """Tools that are called first, as far as the request offers them; the replies are said to their results."""
    thinks: str = ""
    """Thoughts before the answer; `reasoning_effort` none leaves them out."""
    tokens: int | None = field(default=None, validator=optional(ge(0)))
    """The answer, said again and again, up to exactly so many tokens; None: once."""
    fault: Fault | None = field(default=None, validator=optional(in_(get_args(Fault))))
    """What goes wrong; None: nothing."""
    after: int = field(default=0, validator=ge(0))
    """The fault strikes after so many tokens, or at the end of a shorter answer."""


@frozen(kw_only=True)
class Options:
    """Everything that can be said about a mock model; by default it is a chatbot, as fast as it can be."""

    rules: Path | None = None
    """The file with the chatbot's rules; None: the rules that come along."""
    script: tuple[Line, ...] = ()
    """The first line that hears the user decides; where none does, the chatbot answers."""
    slots: int = field(default=4, validator=ge(1))
    """How many requests one instance runs at once."""
    context_length: int = field(default=4096, validator=ge(1))
    """How many tokens prompt and answer may have together."""
    tokenizer: Tokenizer = field(default="words", validator=in_(get_args(Tokenizer)))
    """What a token is: a word with the space before it, or a byte (so that characters come in parts)."""
    first_token: float = field(default=0.0, validator=ge(0))
    """Seconds until an answer begins."""
    tokens_per_second: float | None = field(default=None, validator=optional(gt(0)))
    """The speed of each answer after its first token; None: as fast as possible."""
    load_seconds: float = field(default=0.0, validator=ge(0))
    """How long it takes to load."""
    load_fault: LoadFault | None = field(default=None, validator=optional(in_(get_args(LoadFault))))
    """What goes wrong at the end of loading; None: nothing."""
    dimensions: int = field(default=64, validator=ge(1))
    """How many numbers an embedding has."""
    truncate: bool = False
    """Whether texts that are too long to embed are cut, rather than refused."""
    sessions: bool = False
    """Whether it stores sessions, and tells by them which prompts it has heard: to try a store without a model."""
    memory: int = field(default=0, validator=ge(0))
    """Bytes that the model says it needs; it takes none."""

    @property
    def deadly(self) -> bool:
        """Whether this can end the process that the model lives in."""
        faults = {self.load_fault, *(line.fault for line in self.script)}
        return not faults.isdisjoint({"kill", "segfault"})
