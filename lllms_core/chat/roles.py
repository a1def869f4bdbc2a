"""Fit a conversation to the roles that a template supports; found out by trying, not by model families."""

from collections.abc import Callable, Sequence
from typing import Literal

from attrs import evolve, frozen

from lllms_core.types import Message

_INSTRUCTIONS = ("system", "developer")


@frozen
class RoleSupport:
    """A template's support for messages that instruct the model."""

    developer: bool
    """Whether it knows the role `developer`."""
    system: Literal["anywhere", "first", "nowhere"]
    """Where a system message may be and still reach the prompt."""


def probe_roles(render: Callable[[Sequence[Message]], str | None], *, names_developer: bool) -> RoleSupport:
    """Find out by rendering small conversations (`render` returns None if the template refuses one).

    `names_developer`: the template's source contains the word. Otherwise, a template that prints any role would appear
    to know this one, and the model would read a header that it was never trained on.
    """

    def shows(*messages: Message) -> bool:
        output = render(messages)
        return output is not None and all(message.content in output for message in messages)

    user, again = Message("user", "probe-ask"), Message("user", "probe-next")
    answer = Message("assistant", "probe-reply")
    one, two, three = (Message("system", f"probe-rule-{number}") for number in ("one", "two", "three"))
    developer = names_developer and shows(Message("developer", "probe-rule"), user)
    if shows(one, two, user, answer, three, again):
        return RoleSupport(developer, "anywhere")
    return RoleSupport(developer, "first" if shows(one, user) else "nowhere")


def fit_roles(messages: Sequence[Message], support: RoleSupport) -> list[Message]:
    """Return the conversation in the roles that the template supports; no text is dropped.

    - `developer` becomes `system`, if the template does not know it.
    - If only a first system message is supported, all instructions are joined into one at the start, in order.
    - If none is, they open the first message of the user; a conversation that does not start with the user gets such
      a message. Texts are joined by an empty line.
    """
    fitted = [
        evolve(message, role="system") if message.role == "developer" and not support.developer else message
        for message in messages
    ]
    instructions = [message for message in fitted if message.role in _INSTRUCTIONS]
    if not instructions or support.system == "anywhere":
        return fitted
    others = [message for message in fitted if message.role not in _INSTRUCTIONS]
    rules = "\n\n".join(message.content for message in instructions)
    if support.system == "first":
        return [evolve(instructions[0], content=rules), *others]
    if others and others[0].role == "user":
        return [evolve(others[0], content=f"{rules}\n\n{others[0].content}"), *others[1:]]
    return [Message("user", rules), *others]
