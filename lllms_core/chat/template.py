"""Rendering a conversation with a model's own chat template."""

from collections.abc import Collection, Mapping, Sequence
from datetime import datetime
from functools import cached_property

from attrs import frozen

from lllms_core.chat.control import ControlTokens, strings
from lllms_core.chat.roles import RoleSupport, fit_roles, probe_roles
from lllms_core.chat.sandbox import SandboxedTemplate
from lllms_core.errors import InvalidRequest
from lllms_core.types import Message

_Conversation = list[dict[str, str]]
_OURS = frozenset({"messages", "add_generation_prompt", "bos_token", "eos_token", "strftime_now", "raise_exception"})


@frozen
class Segment:
    """A piece of a prompt, to be tokenised apart from its neighbours; the pieces' texts in order are the prompt."""

    text: str
    parse_special: bool
    """Whether control tokens are parsed in it: False for what a user wrote of a control token's text."""


class ChatTemplate:
    """A model's Jinja2 template, compiled; sandboxed, so that it can only compute text.

    `control_tokens` are the texts of all tokens that the tokenizer makes of special text (llama.cpp: those of type
    control or unknown). Whatever users write, none of it becomes such a token. Raises `ModelLoadFailed` with line and
    reason when the template does not compile.
    """

    def __init__(
        self, source: str, *, bos_token: str = "", eos_token: str = "", control_tokens: Collection[str] = (),
    ) -> None:
        self._template = SandboxedTemplate(source)
        self._names_developer = "developer" in source
        self._tokens = {"bos_token": bos_token, "eos_token": eos_token}
        self._control = ControlTokens(control_tokens, self._template.literals, source + bos_token + eos_token)

    def render(
        self, messages: Sequence[Message], *, add_generation_prompt: bool = True,
        variables: Mapping[str, object] | None = None,
    ) -> list[Segment]:
        """The prompt: one segment, unless a user wrote the text of a control token.

        It holds all of its special text (BOS too, where the template prints it). A last message of the assistant is
        continued: the prompt ends with its text; without `add_generation_prompt` it is rendered as finished.
        `variables` reach the template under their names. System and developer messages that the template has no place
        for move, see `fit_roles`. Raises `InvalidRequest` when the template refuses the conversation.
        """
        extra = dict(variables or {})
        if taken := sorted(_OURS & extra.keys()):
            raise InvalidRequest(f"the template variable '{taken[0]}' belongs to the server; leave it out", taken[0])
        fitted = [_as_dict(message) for message in fit_roles(messages, self._roles)]
        disguise = self._control.disguise([fitted, extra])
        continued = add_generation_prompt and bool(fitted) and fitted[-1]["role"] == "assistant"
        if continued:
            # What the template puts behind the last answer's text is found behind this mark, and cut off.
            fitted[-1]["content"] += disguise.end
        now = datetime.now().astimezone()

        def output(conversation: _Conversation, extra: Mapping[str, object]) -> str:
            text = self._output(conversation, extra, now, generate=add_generation_prompt and not continued)
            return _up_to(disguise.end, text) if continued else text

        plain = output(fitted, extra)
        if not self._control:
            return [Segment(plain, parse_special=True)]
        hidden = output(
            [{**{key: disguise.text(text) for key, text in each.items()}, "role": each["role"]} for each in fitted],
            {key: disguise.value(item) for key, item in extra.items()},
        )
        shown = disguise.undo(hidden)
        if shown != plain and self._surely_own(plain, hidden, [fitted, extra]):
            return [Segment(plain, parse_special=True)]
        # Where a user's control token made the template act, the output counts in which it could not see that token.
        return [Segment(text, special) for text, special in self._control.separate(shown, hidden)]

    def _surely_own(self, plain: str, hidden: str, given: object) -> bool:
        """Whether a template that rewrites text (upper, sort ...) itself put in all the control tokens of `plain`."""
        if any(self._control.find(text) for text in strings(given)):
            return False
        return self._control.texts(plain) == self._control.texts(hidden)

    def _output(
        self, conversation: _Conversation, extra: Mapping[str, object], now: datetime, *, generate: bool,
    ) -> str:
        given = {"messages": conversation, "add_generation_prompt": generate, **self._tokens}
        return self._template.render({"tools": None, "documents": None, **extra, **given}, now)

    @cached_property
    def _roles(self) -> RoleSupport:
        def render(messages: Sequence[Message]) -> str | None:
            conversation = [_as_dict(message) for message in messages]
            try:
                return self._output(conversation, {}, datetime.now().astimezone(), generate=True)
            except InvalidRequest:
                return None

        return probe_roles(render, names_developer=self._names_developer)


def _as_dict(message: Message) -> dict[str, str]:
    name = {} if message.name is None else {"name": message.name}
    return {"role": message.role, "content": message.content, **name}


def _up_to(mark: str, text: str) -> str:
    head, found, _ = text.rpartition(mark)
    if not found:
        message = "the model's chat template cannot continue an answer; let the last message be the user's"
        raise InvalidRequest(message, "messages")
    return head.replace(mark, "")
