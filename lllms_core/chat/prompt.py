"""From a request to the prompt that its model's template makes of it, and to what can be expected of the answer."""

from collections.abc import Callable, Mapping, Sequence

from attrs import field, frozen

from lllms_core.chat.answer_format import AnswerFormat
from lllms_core.chat.template import ChatTemplate, Segment
from lllms_core.errors import UnsupportedParameter
from lllms_core.types import Message, Request


@frozen
class Prompt:
    """A prompt, and how its answer is to be read."""

    segments: Sequence[Segment]
    form: AnswerFormat = field(factory=AnswerFormat)
    thinking: bool = False
    """Whether the prompt has opened the thoughts, so that the answer begins with some."""


def chat_prompt(
    template: ChatTemplate, request: Request, check_length: Callable[[str], None] | None = None,
) -> Prompt:
    """Render a request's conversation with its tools, and with the variables that it asks for.

    Raises `UnsupportedParameter` for tools or an effort that the template has nothing for, and what `render` raises;
    that is given `check_length`.
    """
    form = template.answer_format
    if request.tools and form.calls is None:
        raise UnsupportedParameter(
            f"'tools' are not supported by model '{request.model}': how it writes calls could not be learnt from its "
            "chat template; set options.tool_calls to a template that writes them, or leave the tools out",
            "tools", "unsupported_parameter",
        )
    messages = request.messages or ()
    variables = _variables(template, request)
    segments = template.render(messages, tools=request.tools, variables=variables, check_length=check_length)
    return Prompt(segments, form, _opens_thoughts(form, segments, messages))


def _variables(template: ChatTemplate, request: Request) -> Mapping[str, object]:
    effort = request.reasoning_effort
    chosen = {} if effort is None else template.reasoning.variables(effort, request.model)
    return {**chosen, **request.chat_template_kwargs}


def _opens_thoughts(form: AnswerFormat, segments: Sequence[Segment], messages: Sequence[Message]) -> bool:
    if form.reasoning is None:
        return False
    last = messages[-1] if messages else None
    if last is not None and last.role == "assistant" and form.reasoning.end in last.content:
        return False
    start = form.reasoning.start
    if last is not None and last.role == "assistant" and last.content.lstrip().startswith(start):
        return True
    # Control tokens stand in segments of their own only where a user wrote them.
    return segments[-1].parse_special and segments[-1].text.rstrip().endswith(start)
