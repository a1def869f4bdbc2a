"""The notation of a model's answers beyond plain text: its thoughts and its tool calls."""

import re
from typing import Literal, Self

from attrs import frozen

CallShape = Literal["object", "named", "tagged", "keyword"]
"""A call is a JSON object that holds name and arguments; or the name, then the arguments as a JSON object; or the name,
then each argument between tags; or the name, then keys and values in brackets, in near-JSON."""


ANY_ID = "\ue000"
"""In a text of a `CallFormat`: placeholder for the id of the call."""
ANY_NUMBER = "\ue001"
"""In a text of a `CallFormat`: placeholder for the number of the call."""


@frozen
class CallFormat:
    """The texts around and inside calls; `ANY_ID` and `ANY_NUMBER` in them stand for the parts that vary between calls.

    Calls are written

        section_start call_start CALL call_end [separator call_start CALL call_end]... section_end

    where each of the texts may be empty. White space at their edges is as the model's template writes it; a parser
    accepts more or less of it.
    """

    shape: CallShape
    section_start: str = ""
    call_start: str = ""
    call_end: str = ""
    separator: str = ""
    section_end: str = ""
    parallel: bool = True
    """Whether one answer may hold several calls."""
    answer_end: str = ""
    """The tag after all calls that ends the answer, if it differs from the one without calls."""
    name_path: tuple[str, ...] = ("name",)
    """Shape `object`: the keys that lead to the name."""
    arguments_path: tuple[str, ...] = ("arguments",)
    """Shape `object`: the keys that lead to the arguments."""
    parts: tuple[str, str, str] = ('{"name": ', ', "arguments": ', "}")
    """Shape `object`: the text before, between and after name and arguments, which are both written as JSON."""
    name_end: str = ""
    """All shapes but `object`: the text between the name and the arguments."""
    parameter_start: str = ""
    """Shape `tagged`: before each argument's key."""
    key_end: str = ""
    """Shapes `tagged` and `keyword`: between key and value."""
    other_key_end: str = ""
    """Shape `tagged`: the same before values that are not strings, if that differs; else ""."""
    value_end: str = ""
    """Shape `tagged`: after each value."""
    cdata: bool = False
    """Shape `tagged`: whether a value with markup in it is in an XML `<![CDATA[...]]>`."""
    quote: str = ""
    """Shape `keyword`: around strings. Python's and JSON's quotes, with their escapes, are read as well."""
    arguments_end: str = ""
    """Shape `keyword`: the bracket after the arguments."""

    @property
    def python(self) -> bool:
        """Whether values are in Python's notation."""
        return self.shape == "keyword" and self.quote in {"'", '"'}

    @property
    def trigger(self) -> str:
        """The text that announces calls; "" if a call is unannounced, as the whole answer."""
        return (self.section_start + self.call_start).strip()

    @property
    def mark(self) -> str:
        """The constant start of the trigger, which is the same for every call."""
        return re.split(f"[{ANY_ID}{ANY_NUMBER}]", self.trigger)[0]

    @property
    def markers(self) -> tuple[str, ...]:
        """Every fixed text that a parser has to see, even where it consists of control tokens of the vocabulary."""
        return (
            self.section_start, self.call_start, self.call_end, self.separator, self.section_end, self.name_end,
            self.parameter_start, self.key_end, self.other_key_end, self.value_end, self.quote, self.answer_end,
        )


@frozen
class ReasoningFormat:
    """The texts around a model's thoughts, without white space at their edges."""

    start: str = "<think>"
    end: str = "</think>"

    @classmethod
    def read(cls, marks: str) -> Self:
        """Return the format described by a text like `<think>...</think>`. Raises `ValueError` for any other text."""
        start, dots, end = (part.strip() for part in marks.partition("..."))
        if not (start and dots and end):
            raise ValueError(f"{marks!r} does not show the marks around thoughts; write it like <think>...</think>")
        return cls(start, end)


@frozen
class ChannelFormat:
    """The texts around the messages of an answer, without white space at their edges.

    After a prompt that ends with `opening`, an answer is written

        HEADER body TEXT end [opening HEADER body TEXT end]...

    where a header names the channel of its message: `channel` and a word. The header of a call also names its
    recipient, `address`, `namespace` and the name of a tool, before or after the channel, and the arguments' kind.
    """

    opening: str
    """Before each header; the prompt ends with it."""
    channel: str
    body: str
    """After each header."""
    ends: tuple[str, ...]
    """After each text: the end of thoughts comes first."""
    text: str
    """The channel of the answer's text."""
    thoughts: str
    """The channel of the thoughts."""
    calls: str
    """The channel of calls, and of text before them."""
    address: str
    namespace: str
    kind: str = ""
    """The kind of the arguments, in a header."""
    kind_mark: str = "<|constrain|>"
    """A mark that a model may write before the kind, though no template shows it."""

    @property
    def first(self) -> frozenset[str]:
        """The possible first characters of a border between two messages."""
        return frozenset(mark[0] for mark in (self.opening, self.channel, *self.ends))

    @property
    def borders(self) -> tuple[str, ...]:
        """The marks that start a border between two messages."""
        return (f"{self.opening}{self.channel}", self.channel, *self.ends)

    @property
    def markers(self) -> tuple[str, ...]:
        """Every fixed text that a parser has to see."""
        return (self.opening, self.channel, self.body, self.kind_mark, *self.ends)


@frozen
class AnswerFormat:
    """The notations to parse in an answer; None: not used."""

    calls: CallFormat | None = None
    reasoning: ReasoningFormat | None = None
    text_start: str = ""
    """The text before the answer's text, after the thoughts: some models announce the text in words."""
    channels: ChannelFormat | None = None
    """For an answer made of messages, their format; then they may come in any order."""

    @property
    def markers(self) -> tuple[str, ...]:
        """Every fixed text that a parser has to see."""
        text = (self.text_start,) if self.text_start else ()
        thoughts = text if self.reasoning is None else (self.reasoning.start, self.reasoning.end, *text)
        marks = thoughts if self.calls is None else (*thoughts, *self.calls.markers)
        return marks if self.channels is None else (*marks, *self.channels.markers)


HERMES = CallFormat("object", call_start="<tool_call>\n", call_end="\n</tool_call>", separator="\n")
"""The form that most models know, for engines without a template to learn one from."""
