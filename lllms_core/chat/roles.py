"""Fitting a conversation to the roles that a template has a place for; found out by trying, not by model families."""

from collections.abc import Callable, Sequence
from typing import Literal

from attrs import evolve, frozen

from lllms_core.types import Message

_INSTRUCTIONS = ("system", "developer")


@frozen
class RoleSupport:
    """What a template does with the messages that instruct the model."""

    developer: bool
    """It knows the role `developer`."""
    system: Literal["anywhere", "first", "nowhere"]
    """Where a system message may stand and still reach the prompt."""


def probe_roles(render: Callable[[Sequence[Message]], str | None], *, names_developer: bool) -> RoleSupport:
    """Ask a template, by rendering small conversations (`render` returns None where it refuses one).

    `names_developer`: the template's source contains the word. Without it a template that prints any role would pass
    for one that knows this one, and the model would read a header that it was never trained on.
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
    """The same conversation in the roles that the template supports; nothing that anyone wrote is dropped.

    - `developer` becomes `system`, where the template does not know it.
    - Where only a first system message is supported, all instructions are joined into one at the front, in their order.
    - Where none is, they open the first message of the user; a conversation that does not start with the user gets
      such a message. Texts are joined by an empty line.
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
