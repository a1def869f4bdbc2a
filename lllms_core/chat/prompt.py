"""Turn a request into its prompt, with the model's template, and into the expected format of the answer."""

from collections.abc import Callable, Mapping, Sequence

from attrs import field, frozen

from lllms_core.chat.answer_format import AnswerFormat
from lllms_core.chat.template import ChatTemplate, Segment
from lllms_core.errors import UnsupportedParameter
from lllms_core.types import ChatRequest, Message


@frozen
class Prompt:
    """A prompt, and the format of its answer."""

    segments: Sequence[Segment]
    form: AnswerFormat = field(factory=AnswerFormat)
    thinking: bool = False
    """Whether the prompt has opened the thoughts, so that the answer starts with some."""


def chat_prompt(
    template: ChatTemplate, request: ChatRequest, check_length: Callable[[str], None] | None = None,
) -> Prompt:
    """Render a request's conversation with its tools and variables.

    Raises `UnsupportedParameter` for tools or an effort that the template does not support, and the errors of `render`,
    to which `check_length` is passed.
    """
    template = template.fitting(request.tools)
    form = template.answer_format
    if request.tools and form.calls is None:
        raise UnsupportedParameter(
            f"'tools' are not supported by model '{request.model}': its chat template does not reveal how it writes "
            "calls; set options.tool_calls to a template that writes them, or leave the tools out",
            "tools", "unsupported_parameter",
        )
    variables = _variables(template, request)
    segments = template.render(request.messages, tools=request.tools, variables=variables, check_length=check_length)
    return Prompt(segments, form, _opens_thoughts(form, segments, request.messages))


def _variables(template: ChatTemplate, request: ChatRequest) -> Mapping[str, object]:
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
    # Control tokens have their own segments only where a user wrote them.
    return segments[-1].parse_special and segments[-1].text.rstrip().endswith(start)
