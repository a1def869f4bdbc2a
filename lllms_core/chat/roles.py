"""Fit a conversation to the roles that a template supports; found out by trying, not by model families."""

from collections.abc import Iterator, Sequence
from typing import Literal

from attrs import evolve, frozen

from lllms_core.chat.history import CallStyle
from lllms_core.chat.learn_calls import ToolSupport
from lllms_core.chat.probe import Render, TemplateProbe
from lllms_core.types import Media, Message, Role, Tool, ToolCall

_INSTRUCTIONS = ("system", "developer")
_TOOL = Tool("probe_tool", "probe-purpose")
_CALL = ToolCall("callprob1", _TOOL.name, "{}")
_USER, _AGAIN = Message("user", "probe-ask"), Message("user", "probe-next")
_ANSWER, _MORE = Message("assistant", "probe-reply"), Message("assistant", "probe-more")
_RESULT = Message("tool", "probe-result", _TOOL.name, tool_call_id=_CALL.id)


Ending = tuple[Role, bool]
"""The role of a conversation's last message ("system" if it is the only one), and whether tools are offered."""


@frozen
class RoleSupport:
    """A template's support for messages that instruct the model, and for messages in a row."""

    developer: bool
    """Whether it knows the role `developer`."""
    system: Literal["anywhere", "first", "nowhere"]
    """Where a system message may be and still reach the prompt."""
    hidden: frozenset[Ending] = frozenset()
    """The endings of conversations for which it drops a system message."""
    beside_last: bool = False
    """Whether it shows the system message with the user's last message, not at the start."""
    repeated: frozenset[Role] = frozenset({"user", "assistant"})
    """The roles that may have two messages in a row."""
    needs_answer: bool = False
    """Whether a user's message must follow an answer in words, not a tool's result."""
    blank: str = ""
    """The text for an empty answer, since some templates refuse those."""


def probe_roles(render: Render, tools: ToolSupport, *, names_developer: bool) -> RoleSupport:
    """Find out a template's support by rendering small conversations.

    `names_developer`: the template's source contains that word. Otherwise, a template that prints any role would appear
    to know this one, and the model would read a header that it was never trained on.
    """

    def rendered(*messages: Message, offered: bool = False) -> str | None:
        style = tools.style or CallStyle()
        generate = messages[-1].role != "assistant"
        return render(TemplateProbe(messages, [_TOOL] if offered else (), style, generate=generate))

    def shows(*messages: Message) -> bool:
        output = rendered(*messages)
        return output is not None and all(message.content in output for message in messages)

    def drops(*messages: Message, offered: bool) -> bool:
        output = rendered(one, *messages, offered=offered)
        return (output is None and not messages) or (output is not None and one.content not in output)

    one, two, three = (Message("system", f"probe-rule-{number}") for number in ("one", "two", "three"))
    call = evolve(_ANSWER, content="", tool_calls=(_CALL,)) if tools.style is not None else _ANSWER
    developer = names_developer and shows(Message("developer", "probe-rule"), _USER)
    endings: dict[Role, Sequence[Message]] = {
        "system": (), "user": (_USER,), "assistant": (_USER, _ANSWER), "tool": (_USER, call, _RESULT),
    }
    offers = (False, True) if tools.declares else (False,)
    later = rendered(one, _USER, _ANSWER, _AGAIN) or ""
    rows: dict[Role, Sequence[Message]] = {"user": (_USER, _AGAIN), "assistant": (_USER, _ANSWER, _MORE, _AGAIN)}
    alike = not shows(_USER, _ANSWER, _AGAIN)  # it rewrites texts, so nothing can be inferred
    blank = next((text for text in ("", " ") if shows(_USER, evolve(_ANSWER, content=text), _AGAIN)), "")
    turn = (_USER, call, _RESULT) if tools.results else (_USER, _ANSWER)
    return RoleSupport(
        developer,
        "anywhere" if shows(one, two, _USER, _ANSWER, three, _AGAIN) else "first" if shows(one, _USER) else "nowhere",
        frozenset(
            (role, offered) for role, messages in endings.items() for offered in offers
            if drops(*messages, offered=offered)
        ),
        -1 < later.find(_USER.content) < later.find(one.content),
        frozenset(role for role, messages in rows.items() if alike or shows(*messages)),
        needs_answer=not shows(*turn, _AGAIN) and shows(*turn, evolve(_ANSWER, content=blank), _AGAIN),
        blank=blank,
    )


def fit_roles(messages: Sequence[Message], support: RoleSupport, *, offered: bool = False) -> list[Message]:
    """Return the conversation in the roles that the template supports, with tools `offered` or not; no text is dropped.

    - `developer` becomes `system`, if the template does not know it.
    - If only a first system message is supported, all instructions are joined into one at the start, in order.
    - If no system message is supported, they open a user's message: the first, or the last if the template itself puts
      them there. A conversation that does not start with the user gets such a message.
    - Messages in a row are joined, by an empty line, if the template does not take them.
    """
    fitted = [
        evolve(message, role="system") if message.role == "developer" and not support.developer else message
        for message in messages
    ]
    return _take_turns(_fit_instructions(fitted, support, offered=offered), support)


def _fit_instructions(messages: list[Message], support: RoleSupport, *, offered: bool) -> list[Message]:
    instructions = [message for message in messages if message.role in _INSTRUCTIONS]
    others = [message for message in messages if message.role not in _INSTRUCTIONS]
    dropped = (others[-1].role if others else "system", offered) in support.hidden
    if not instructions or (support.system == "anywhere" and not dropped):
        return messages
    rules = "\n\n".join(message.content for message in instructions)
    if support.system == "first" and not dropped:
        return [evolve(instructions[0], content=rules), *others]
    users = [at for at, message in enumerate(others) if message.role == "user"]
    if users and (support.beside_last or users[0] == 0):
        at = users[-1] if support.beside_last else 0
        return [*others[:at], _together(Message("user", rules), others[at]), *others[at + 1 :]]
    return [Message("user", rules), *others]


def _take_turns(messages: list[Message], support: RoleSupport) -> list[Message]:
    """Join messages in a row, separate a user's message from an earlier result, fill answers, as the template needs.

    A final answer is not filled, since it may be continued.
    """
    joined: list[Message] = []
    for message in messages:
        before = joined[-1] if joined else None
        if before is not None and _in_a_row(before, message) and message.role not in support.repeated:
            joined[-1] = _together(before, message)
            continue
        if support.needs_answer and message.role == "user" and before is not None and (
            before.role == "tool" or before.tool_calls
        ):
            joined.append(Message("assistant", ""))
        joined.append(message)
    return [*(_filled(message, support.blank) for message in joined[:-1]), *joined[-1:]]


def _filled(message: Message, blank: str) -> Message:
    empty = message.role == "assistant" and not message.content and not message.tool_calls
    return evolve(message, content=blank) if empty and blank else message


def _in_a_row(one: Message, other: Message) -> bool:
    return one.role == other.role and one.role in {"user", "assistant"} and not (one.tool_calls or other.tool_calls)


def _together(one: Message, other: Message) -> Message:
    """Return one message with the content of both."""
    parts = (*_parts(one), *_parts(other)) if one.parts or other.parts else ()
    thoughts = "\n\n".join(text for text in (one.reasoning, other.reasoning) if text) or None
    text = "\n\n".join(text for text in (one.content, other.content) if text)
    return evolve(other, content=text, parts=parts, reasoning=thoughts)


def _parts(message: Message) -> Iterator[str | Media]:
    yield from message.parts or ((message.content,) if message.content else ())
