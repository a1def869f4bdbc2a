"""The `[models.X.options]` of the mock engine."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Literal, get_args

from attrs import Attribute, field, frozen
from attrs.validators import ge, gt, in_, optional

Fault = Literal["refuse", "fail", "raise-open", "raise-step", "hang", "kill", "segfault"]
"""The fault of a request; the README's table shows what each looks like from outside."""

LoadFault = Literal["fail", "raise", "kill", "segfault"]
"""The fault of a load: a clear error, any exception, or the end of the process."""

Tokenizer = Literal["words", "bytes"]


def _regular_expression(_line: object, attribute: "Attribute[str]", value: str) -> None:
    try:
        re.compile(value)
    except re.error as error:
        raise ValueError(f"'{attribute.name}' is not a regular expression: {error}: {value!r}") from error


@frozen(kw_only=True)
class Call:
    """A tool call."""

    name: str
    arguments: Mapping[str, object] = field(factory=dict)


@frozen(kw_only=True)
class Line:
    """The mock's answer, and its fault, for a matching input."""

    when: str = field(default="", validator=_regular_expression)
    """Searched in the last user message, or in the prompt, ignoring case; "" matches everything."""
    replies: tuple[str, ...] = ()
    """Answered word for word: the first in a conversation's first turn, the next in the next, in a cycle. Empty: the
    chatbot answers."""
    calls: tuple[Call, ...] = ()
    """Tools to call first, as far as the request offers them; the replies answer their results."""
    thinks: str = ""
    """Thoughts before the answer; omitted if `reasoning_effort` is none."""
    tokens: int | None = field(default=None, validator=optional(ge(0)))
    """The answer, repeated up to exactly this many tokens; None: once."""
    fault: Fault | None = field(default=None, validator=optional(in_(get_args(Fault))))
    """The fault; None: none."""
    after: int = field(default=0, validator=ge(0))
    """The fault strikes after this many tokens, or at the end of a shorter answer."""


@frozen(kw_only=True)
class Options:
    """All settings of a mock model; by default it is a chatbot without delays."""

    rules: Path | None = None
    """The file with the chatbot's rules; None: the built-in rules."""
    script: tuple[Line, ...] = ()
    """The first line that matches decides; if none does, the chatbot answers."""
    slots: int = field(default=4, validator=ge(1))
    """Requests that one instance runs at once."""
    context_length: int = field(default=4096, validator=ge(1))
    """Tokens of prompt and answer together, at most."""
    tokenizer: Tokenizer = field(default="words", validator=in_(get_args(Tokenizer)))
    """The kind of token: a word with the space before it, or a byte (so that characters come in parts)."""
    first_token: float = field(default=0.0, validator=ge(0))
    """Seconds until an answer starts."""
    tokens_per_second: float | None = field(default=None, validator=optional(gt(0)))
    """The speed of each answer after its first token; None: as fast as possible."""
    load_seconds: float = field(default=0.0, validator=ge(0))
    """Seconds that loading takes."""
    load_fault: LoadFault | None = field(default=None, validator=optional(in_(get_args(LoadFault))))
    """The fault at the end of loading; None: none."""
    dimensions: int = field(default=64, validator=ge(1))
    """The length of an embedding."""
    truncate: bool = False
    """Whether texts that are too long to embed are truncated, instead of refused."""
    token_inputs: bool = False
    """Whether texts to embed may be arrays of tokens."""
    sessions: bool = False
    """Whether it stores sessions, and recognises prompts by them: for trying a store without a model."""
    memory: int = field(default=0, validator=ge(0))
    """Bytes that the model claims to need; it uses none."""

    @property
    def deadly(self) -> bool:
        """Whether this can end the model's process."""
        faults = {self.load_fault, *(line.fault for line in self.script)}
        return not faults.isdisjoint({"kill", "segfault"})
