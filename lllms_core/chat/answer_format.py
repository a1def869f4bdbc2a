"""How a model writes what is not plain text in its answers: its thoughts, and its calls of tools."""

import re
from typing import Literal, Self

from attrs import frozen

CallShape = Literal["object", "named", "tagged", "keyword"]
"""A call is a JSON object that holds name and arguments; or the name, then the arguments as a JSON object; or the name,
then each argument between tags; or the name, then keys and values in brackets, which are nearly JSON."""


ANY_ID = "\ue000"
"""In a text of a `CallFormat`: the id of the call stands here."""
ANY_NUMBER = "\ue001"
"""In a text of a `CallFormat`: the number of the call stands here."""


@frozen
class CallFormat:
    """The texts around and inside of calls; `ANY_ID` and `ANY_NUMBER` in them stand for what differs from call to call.

    Calls are written

        section_start call_start CALL call_end [separator call_start CALL call_end]... section_end

    where each of the texts may be empty. White space at their edges is what the model's template writes; a parser takes
    more or less of it.
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
    """The tag behind all calls with which the answer ends, where that is another one than without calls."""
    name_path: tuple[str, ...] = ("name",)
    """Shape `object`: the keys that lead to the name."""
    arguments_path: tuple[str, ...] = ("arguments",)
    """Shape `object`: the keys that lead to the arguments."""
    parts: tuple[str, str, str] = ('{"name": ', ', "arguments": ', "}")
    """Shape `object`: what stands before, between and behind name and arguments, both written as JSON."""
    name_end: str = ""
    """All shapes but `object`: between the name and the arguments."""
    parameter_start: str = ""
    """Shape `tagged`: before each argument's key."""
    key_end: str = ""
    """Shapes `tagged` and `keyword`: between key and value."""
    other_key_end: str = ""
    """Shape `tagged`: the same before values that are no strings, where that differs; else ""."""
    value_end: str = ""
    """Shape `tagged`: behind each value."""
    cdata: bool = False
    """Shape `tagged`: a value with markup in it stands in a `<![CDATA[...]]>` of XML."""
    quote: str = ""
    """Shape `keyword`: around strings. Those of Python and JSON, with their escapes, are read besides."""
    arguments_end: str = ""
    """Shape `keyword`: behind the arguments, the bracket that closes them."""

    @property
    def python(self) -> bool:
        """Whether values are Python's."""
        return self.shape == "keyword" and self.quote in {"'", '"'}

    @property
    def trigger(self) -> str:
        """What tells that calls begin; "" where a call stands for itself, as the whole answer."""
        return (self.section_start + self.call_start).strip()

    @property
    def mark(self) -> str:
        """The trigger as far as it is the same for every call."""
        return re.split(f"[{ANY_ID}{ANY_NUMBER}]", self.trigger)[0]

    @property
    def markers(self) -> tuple[str, ...]:
        """Every fixed text that a parser has to see, also where control tokens of the vocabulary spell it."""
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
        """Return the format that a text like `<think>...</think>` shows. Raises `ValueError` for any other text."""
        start, dots, end = (part.strip() for part in marks.partition("..."))
        if not (start and dots and end):
            raise ValueError(f"{marks!r} does not show where thoughts stand; write it like <think>...</think>")
        return cls(start, end)


@frozen
class ChannelFormat:
    """The texts around the messages of which an answer is made, without white space at their edges.

    Behind a prompt that ends with `opening`, an answer is written

        HEADER body TEXT end [opening HEADER body TEXT end]...

    where a header tells the channel of its message, `channel` and a word. That of a call also tells its recipient,
    `address`, `namespace` and the name of a tool, before the channel or behind it, and the kind of the arguments.
    """

    opening: str
    """Before each header; the prompt ends with it."""
    channel: str
    body: str
    """Behind each header."""
    ends: tuple[str, ...]
    """Behind each text: that of thoughts comes first."""
    text: str
    """The channel of the answer's text."""
    thoughts: str
    """The channel of the thoughts."""
    calls: str
    """The channel of calls, and of text that is said before them."""
    address: str
    namespace: str
    kind: str = ""
    """What a header says of arguments."""
    kind_mark: str = "<|constrain|>"
    """What a model may write before the kind, which no template shows."""

    @property
    def first(self) -> frozenset[str]:
        """The characters with which the border between two messages may begin."""
        return frozenset(mark[0] for mark in (self.opening, self.channel, *self.ends))

    @property
    def markers(self) -> tuple[str, ...]:
        """Every fixed text that a parser has to see."""
        return (self.opening, self.channel, self.body, self.kind_mark, *self.ends)


@frozen
class AnswerFormat:
    """What a parser looks for in an answer; None: nothing of that kind."""

    calls: CallFormat | None = None
    reasoning: ReasoningFormat | None = None
    text_start: str = ""
    """What stands before the text, behind the thoughts: the words with which some models say that it is one."""
    channels: ChannelFormat | None = None
    """How an answer is made of messages, where it is; then this tells what they are, and they may come in any order."""

    @property
    def markers(self) -> tuple[str, ...]:
        """Every fixed text that a parser has to see."""
        text = (self.text_start,) if self.text_start else ()
        thoughts = text if self.reasoning is None else (self.reasoning.start, self.reasoning.end, *text)
        marks = thoughts if self.calls is None else (*thoughts, *self.calls.markers)
        return marks if self.channels is None else (*marks, *self.channels.markers)


HERMES = CallFormat("object", call_start="<tool_call>\n", call_end="\n</tool_call>", separator="\n")
"""The form that most models know, for engines that have no template to learn one from."""
