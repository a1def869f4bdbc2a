"""Render a conversation with a model's own chat template."""

from collections.abc import Callable, Collection, Mapping, Sequence
from datetime import datetime
from functools import cached_property
from typing import cast

from attrs import evolve, frozen

from lllms_core.chat.answer_format import HERMES, AnswerFormat, CallFormat, ChannelFormat, ReasoningFormat
from lllms_core.chat.control import ControlTokens, Disguise, strings
from lllms_core.chat.fit_tools import fit_tools, write_calls
from lllms_core.chat.history import CallStyle, message_values, tool_values
from lllms_core.chat.learn_calls import ToolSupport, learn_calls, learn_tools
from lllms_core.chat.learn_channels import learn_channels
from lllms_core.chat.learn_reasoning import ReasoningSupport, has_heading, learn_reasoning
from lllms_core.chat.plain_schema import plainer_tools
from lllms_core.chat.probe import TemplateProbe
from lllms_core.chat.roles import RoleSupport, fit_roles, probe_roles
from lllms_core.chat.sandbox import SandboxedTemplate
from lllms_core.errors import InvalidRequest, ModelLoadFailed
from lllms_core.types import Message, Tool, ToolCall

_OURS = frozenset(
    {"messages", "tools", "add_generation_prompt", "bos_token", "eos_token", "strftime_now", "raise_exception"},
)


@frozen
class Segment:
    """A piece of a prompt, to be tokenised separately from its neighbours; the pieces in order are the prompt."""

    text: str
    parse_special: bool
    """Whether control tokens are parsed in it: False where a user wrote the text of a control token."""


class ChatTemplate:
    """A model's Jinja2 template, compiled; sandboxed, so that it can only compute text.

    `control_tokens` are the texts of all tokens that the tokenizer makes from special text (llama.cpp: those of type
    control or unknown). No text of a user becomes such a token. Raises `ModelLoadFailed` with line and reason if the
    template does not compile.
    """

    def __init__(
        self, source: str, *, bos_token: str = "", eos_token: str = "", control_tokens: Collection[str] = (),
        call_template: str | None = None, reasoning: str = "auto", tool_use: str | None = None,
    ) -> None:
        """Compile `source`, and `tool_use`, the model's own template for conversations with tools.

        Two arguments override what is learnt from them: `call_template`, Jinja2 that writes `tool_calls`, and
        `reasoning`, "none" for thoughts as ordinary text, or a format for `ReasoningFormat.read`.
        """
        self._template = SandboxedTemplate(source)
        self._names_developer = "developer" in source
        self._tokens = {"bos_token": bos_token, "eos_token": eos_token}
        self._control = ControlTokens(control_tokens, self._template.literals, source + bos_token + eos_token)
        self._reasoning = reasoning
        self._call_template = None if call_template is None else SandboxedTemplate(call_template)
        self._tool_use = None if not tool_use or tool_use == source else ChatTemplate(
            tool_use, bos_token=bos_token, eos_token=eos_token, control_tokens=control_tokens,
            call_template=call_template, reasoning=reasoning,
        )

    def fitting(self, tools: Sequence[Tool]) -> "ChatTemplate":
        """Return the template for a conversation with these tools: this one, or the model's own for tools."""
        return self._tool_use if tools and self._tool_use is not None else self

    def render(
        self, messages: Sequence[Message], *, tools: Sequence[Tool] = (), add_generation_prompt: bool = True,
        variables: Mapping[str, object] | None = None, check_length: Callable[[str], None] | None = None,
    ) -> list[Segment]:
        """Return the prompt: one segment, unless a user wrote the text of a control token.

        It holds all of its special text (BOS too, if the template prints it). A last message of the assistant is
        continued: the prompt ends with its text, after which calls that were cut are written anew; without
        `add_generation_prompt` it is rendered as finished.
        `variables` reach the template under their names. System and developer messages are moved if the template does
        not support their place, see `fit_roles`; unsupported tools, calls and results are put into words, see
        `fit_tools`; schemas that make it fail are shown plainer, see `plainer_tools`. Raises `InvalidRequest` if the
        template refuses the conversation. `check_length` is called with the text, which a template may have made
        shorter than the messages, before the most expensive work.
        """
        extra = dict(variables or {})
        if taken := sorted(_OURS & extra.keys()):
            raise InvalidRequest(f"the template variable '{taken[0]}' belongs to the server; leave it out", taken[0])
        if add_generation_prompt:
            messages = _to_continue(messages)
        style = CallStyle()
        if tools or any(message.tool_calls or message.role == "tool" for message in messages):
            messages, tools = fit_tools(messages, tools, self.tools, self._written_calls)
            style = self.tools.style or style
        if any(message.reasoning is not None for message in messages):
            style = evolve(style, thoughts=self.reasoning.key)
        fitted = fit_roles(messages, self._roles, offered=bool(tools))

        def segments(tools: Sequence[Tool]) -> list[Segment]:
            given = {"messages": message_values(fitted, style), "tools": tool_values(tools, style)}
            return self._segments(given, extra, check_length, generate=add_generation_prompt)

        try:
            return segments(tools)
        except InvalidRequest:
            ask = Message("user", "probe-ask")
            plainer = plainer_tools(tools, lambda tool: self._output_of(TemplateProbe([ask], [tool], style)))
            if plainer == [*tools]:
                raise
        return segments(plainer)

    @cached_property
    def tools(self) -> ToolSupport:
        """This template's support for tools."""
        learnt = self._learnt_tools
        if self._call_template is None:
            headed = has_heading(self.reasoning.text_start) and self._channels is None
            return evolve(learnt, calls=None if headed else self._after_thoughts(learnt.calls))
        calls = learn_calls(self._written_calls)
        if calls is None:
            raise ModelLoadFailed(
                "the template for tool calls does not write them: from the list `tool_calls`, in the form of OpenAI's "
                "API, it has to write the name and the arguments of each",
            )
        return evolve(learnt, calls=calls)

    @cached_property
    def _learnt_tools(self) -> ToolSupport:
        return learn_tools(self._probe, self._tokens["eos_token"], self._learnt_reasoning.key)

    @cached_property
    def _channels(self) -> ChannelFormat | None:
        """The channels of the model's answers, unless a setting overrides their parts."""
        if self._call_template is not None or self._reasoning not in {"auto", "none"}:
            return None
        ask, reply = Message("user", "probe-ask"), Message("assistant", "probe-reply")
        said = self._probe(TemplateProbe([ask, reply], generate=False)) or ""
        thoughts, tools = self._learnt_reasoning, self._learnt_tools
        return learn_channels(
            calls=tools.calls, thoughts=thoughts.form, text_start=thoughts.text_start,
            text_end=said.rpartition(reply.content)[2], prompt=self._probe(TemplateProbe([ask])) or "",
        )

    def _after_thoughts(self, calls: CallFormat | None) -> CallFormat | None:
        """Return the form without the end of thoughts, which a template may write before calls."""
        form = self.reasoning.form
        if calls is None or form is None or form.end not in calls.section_start + calls.call_start:
            return calls
        start, call = (text.rpartition(form.end)[2].lstrip() if form.end in text else text for text in (
            calls.section_start, calls.call_start,
        ))
        return evolve(calls, section_start=start, call_start=call)

    @cached_property
    def reasoning(self) -> ReasoningSupport:
        """This template's support for thoughts."""
        learnt = self._learnt_reasoning
        if self._reasoning == "auto":
            return learnt
        return evolve(learnt, form=None if self._reasoning == "none" else ReasoningFormat.read(self._reasoning))

    @cached_property
    def _learnt_reasoning(self) -> ReasoningSupport:
        return learn_reasoning(self._probe, self._template.variables, self._template.literals)

    @property
    def answer_format(self) -> AnswerFormat:
        """The format of calls and thoughts; Hermes' form for calls if the template does not support tools."""
        calls = self.tools.calls or (None if self.tools.declares else HERMES)
        text_start = "" if self._reasoning == "none" else self.reasoning.text_start
        return AnswerFormat(calls, self.reasoning.form, text_start, self._channels)

    def _segments(
        self, given: Mapping[str, object], extra: Mapping[str, object], check_length: Callable[[str], None] | None, *,
        generate: bool,
    ) -> list[Segment]:
        messages = cast("list[dict[str, object]]", given["messages"])
        disguise = self._control.disguise([given, extra])
        continued = generate and bool(messages) and messages[-1]["role"] == "assistant"
        if continued:
            # Marks the end of the last answer's text, so that anything the template adds after it can be cut off.
            messages[-1]["content"] = f"{messages[-1]['content'] or ''}{disguise.end}"
        now = datetime.now().astimezone()

        def output(given: Mapping[str, object], extra: Mapping[str, object]) -> str:
            text = self._output(given, extra, now, generate=generate and not continued)
            return _up_to(disguise.end, text) if continued else text

        plain = output(given, extra)
        if check_length is not None:
            check_length(plain)
        if not self._control:
            return [Segment(plain, parse_special=True)]
        hidden = output(_disguised(given, disguise), {key: disguise.value(item) for key, item in extra.items()})
        shown = disguise.undo(hidden)
        if shown != plain and self._surely_own(plain, hidden, [given, extra]):
            return [Segment(plain, parse_special=True)]
        # If a user's control token made the template act, the output in which it could not see that token counts.
        return [Segment(text, special) for text, special in self._control.separate(shown, hidden)]

    def _surely_own(self, plain: str, hidden: str, given: object) -> bool:
        """Whether a template that rewrites text (upper, sort ...) added all the control tokens of `plain` itself."""
        if any(self._control.find(text) for text in strings(given)):
            return False
        return self._control.texts(plain) == self._control.texts(hidden)

    def _output(
        self, given: Mapping[str, object], extra: Mapping[str, object], now: datetime, *, generate: bool,
    ) -> str:
        ours = {**given, "add_generation_prompt": generate, **self._tokens}
        if given["tools"] is None and self._wants_no_tools:
            del ours["tools"]
        return self._template.render({"documents": None, **extra, **ours}, now)

    @cached_property
    def _wants_no_tools(self) -> bool:
        """Whether the template fails with `tools` set to None, as most do not, but works without the variable."""
        given = {"messages": [{"role": "user", "content": "probe-ask"}], "add_generation_prompt": True, **self._tokens}
        return not self._renders({**given, "tools": None}) and self._renders(given)

    def _renders(self, variables: Mapping[str, object]) -> bool:
        try:
            self._template.render({"documents": None, **variables}, datetime.now().astimezone())
        except InvalidRequest:
            return False
        return True

    @cached_property
    def _roles(self) -> RoleSupport:
        return probe_roles(self._probe, self.tools, names_developer=self._names_developer)

    def _probe(self, probe: TemplateProbe) -> str | None:
        try:
            return self._output_of(probe)
        except InvalidRequest:
            return None

    def _output_of(self, probe: TemplateProbe) -> str:
        given = {
            "messages": message_values(probe.messages, probe.style),
            "tools": tool_values(probe.tools, probe.style),
        }
        return self._output(given, probe.variables, datetime.now().astimezone(), generate=probe.generate)

    def _written_calls(self, calls: Sequence[ToolCall]) -> str:
        """Write calls as the model should: as configured, as learnt, or in the default form."""
        if self._call_template is None:
            return write_calls(calls, self.answer_format.calls or HERMES)
        [value] = message_values([Message("assistant", "", tool_calls=tuple(calls))], CallStyle())
        return self._call_template.render(value, datetime.now().astimezone())


def _disguised(given: Mapping[str, object], disguise: Disguise) -> dict[str, object]:
    """Return messages and tools disguised, except the roles, by which templates tell messages apart."""
    messages = cast("list[dict[str, object]]", given["messages"])
    hidden = [{**cast("dict[str, object]", disguise.value(each)), "role": each["role"]} for each in messages]
    return {"messages": hidden, "tools": disguise.value(given["tools"])}


def _to_continue(messages: Sequence[Message]) -> Sequence[Message]:
    """Return the conversation without the calls in which its last answer was cut, since the model writes them again."""
    if not messages or messages[-1].role != "assistant" or not messages[-1].tool_calls:
        return messages
    *before, last = messages
    return [*before, evolve(last, tool_calls=())] if last.content or last.reasoning else before


def _up_to(mark: str, text: str) -> str:
    head, found, _ = text.rpartition(mark)
    if not found:
        message = "the model's chat template cannot continue an answer; let the last message be the user's"
        raise InvalidRequest(message, "messages")
    return head.replace(mark, "")
