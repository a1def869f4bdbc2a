"""A small conversation for a template to render, to learn from its output."""

from collections.abc import Callable, Mapping, Sequence

from attrs import field, frozen

from lllms_core.chat.history import CallStyle
from lllms_core.types import Message, Tool


@frozen
class TemplateProbe:
    """The conversation to render, with the start of an answer unless `generate` is false."""

    messages: Sequence[Message]
    tools: Sequence[Tool] = ()
    style: CallStyle = field(factory=CallStyle)
    variables: Mapping[str, object] = field(factory=dict)
    generate: bool = field(default=True, kw_only=True)


Render = Callable[[TemplateProbe], str | None]
"""Returns the output; None if the template refuses the conversation."""
