"""The body of `POST /responses`, read as a chat's: nothing is ignored silently, and each fault has its `param`."""

from collections.abc import Mapping
from json import dumps

from attrs import evolve, field, frozen

from lllms_core.apis.bodies import read_object, take, take_text
from lllms_core.apis.fields import read_fields, read_list
from lllms_core.builtin.openai.request_body import read_flag, read_stream_options
from lllms_core.builtin.openai.responses.input_items import Placed, left_out, read_input
from lllms_core.builtin.openai.responses.toolbox import Toolbox, read_choice, read_tools
from lllms_core.errors import InvalidRequest, RequestError
from lllms_core.parameters.kinds import Integer, OneOf
from lllms_core.parameters.structured import check_named
from lllms_core.parameters.wording import missing, unknown, unsupported, wrong_choice, wrong_type
from lllms_core.types import Constraint

INCLUDES = (
    "message.output_text.logprobs", "reasoning.encrypted_content", "file_search_call.results",
    "web_search_call.results", "web_search_call.action.sources", "message.input_image.image_url",
    "computer_call_output.output.image_url", "code_interpreter_call.outputs",
)
"""The first is done; the others are about encrypted thoughts, which we have not, or other servers' tools."""
ELSEWHERE = frozenset({"messages", "n", "functions", "function_call", "logprobs"})
"""Parameters of chats that answers of this API cannot show."""
LIKELIEST = Integer(0, 20)
OURS: Mapping[str, str] = {
    "max_tokens": "max_output_tokens", "logprobs": "include", "messages": "input",
    "reasoning_effort": "reasoning.effort",
}
"""This API's names of a chat's parameters."""
ECHOED = ("parallel_tool_calls", "prompt_cache_key", "prompt_cache_retention", "safety_identifier", "user")
"""Parameters that an answer repeats as they were sent."""


@frozen
class Creation:
    """A client's request for a response."""

    model: str
    items: tuple[Placed, ...]
    """Of the new input; references are not resolved yet."""
    instructions: str | None = None
    previous: str | None = None
    """The id of the response to continue."""
    stream: bool = False
    background: bool = False
    store: bool = True
    parameters: Mapping[str, object] = field(factory=dict)
    """By a chat's names, unchecked."""
    constraint: Constraint | None = None
    toolbox: Toolbox = field(factory=Toolbox)
    echo: Mapping[str, object] = field(factory=dict)
    """What the answer repeats of the request."""
    unused: tuple[str, ...] = ()
    """The names of what was read but has no effect."""


def read_creation(body: bytes, levels: int) -> Creation:
    """Read a body, nested `levels` deep at most. Raises `RequestError`."""
    values = read_object(body, levels)
    model = take_text(values, "model")
    previous = take_text(values, "previous_response_id") if "previous_response_id" in values else None
    items = read_input(take(values, "input")) if "input" in values or previous is None else []
    for name in ("conversation", "prompt"):
        if name in values:
            raise unsupported(name)
    for name in ELSEWHERE & values.keys():
        raise unknown(name)
    made = Creation(model, tuple(items), previous=previous, unused=tuple(left_out(items)))
    if "instructions" in values:
        made = evolve(made, instructions=take_text(values, "instructions"))
    for read in (_read_delivery, _read_tools, _read_text, _read_reasoning, _read_others):
        made = read(made, values)
    return evolve(made, parameters={**values, **made.parameters})


def in_our_words(error: RequestError) -> RequestError:
    """Return the error that a chat's check found, with this API's names."""
    param, text = error.param or "", error.text
    for theirs, ours in OURS.items():
        text = text.replace(f"'{theirs}'", f"'{ours}'")
        if param == theirs or param.startswith(f"{theirs}["):
            param = ours
    return type(error)(text, param or None, error.code)


def _read_delivery(made: Creation, values: dict[str, object]) -> Creation:
    stream, background = _flag(values, "stream", default=False), _flag(values, "background", default=False)
    store = _flag(values, "store", default=True)
    if background and not store:
        raise InvalidRequest("'background' needs 'store', which is false: leave it out", "background", "invalid_value")
    _, unused = read_stream_options(values.pop("stream_options", None), stream=stream)
    echo: dict[str, object] = {"background": background, "store": store}
    return evolve(
        made, stream=stream, background=background, store=store, echo={**made.echo, **echo},
        unused=(*made.unused, *unused),
    )


def _read_tools(made: Creation, values: dict[str, object]) -> Creation:
    toolbox = read_tools(values.pop("tools", []))
    choice = values.pop("tool_choice", "auto")
    parameters = dict(made.parameters)
    if toolbox.functions:
        parameters["tools"] = [*toolbox.functions]
    if choice != "auto":
        parameters["tool_choice"] = read_choice(choice, toolbox)
    echo = {**made.echo, "tools": [*toolbox.echo], "tool_choice": choice}
    return evolve(
        made, toolbox=toolbox, parameters=parameters, echo=echo, unused=(*made.unused, *toolbox.unused),
    )


def _read_text(made: Creation, values: dict[str, object]) -> Creation:
    text = read_fields(values.pop("text", {}), "text")
    for name in text.keys() - {"format", "verbosity"}:
        raise unknown(f"text.{name}")
    wanted = read_fields(text.get("format", {"type": "text"}), "text.format")
    kind = OneOf(("text", "json_object", "json_schema")).check("text.format.type", _kind(wanted))
    constraint = made.constraint
    if kind == "json_schema":
        named = check_named("text.format", {name: one for name, one in wanted.items() if name != "type"})
        strict = named.get("strict") is True
        constraint = Constraint("json_schema", dumps(named["schema"]), "text.format", strict=strict)
    elif kind == "json_object":
        constraint = Constraint("json_object", param="text.format")
    parameters = dict(made.parameters)
    if "verbosity" in text:
        parameters["verbosity"] = text["verbosity"]
    echo = {**made.echo, "text": {**text, "format": wanted}}
    return evolve(made, constraint=constraint, parameters=parameters, echo=echo)


def _kind(fields: Mapping[str, object]) -> object:
    if "type" not in fields:
        raise missing("text.format.type")
    return fields["type"]


def _read_reasoning(made: Creation, values: dict[str, object]) -> Creation:
    reasoning = read_fields(values.pop("reasoning", {}), "reasoning")
    parameters = dict(made.parameters)
    if "effort" in reasoning:
        parameters["reasoning_effort"] = reasoning["effort"]
    unused = [f"reasoning.{name}" for name in reasoning if name != "effort"]
    echo = {**made.echo, "reasoning": {"effort": None, "summary": None, **reasoning}}
    return evolve(made, parameters=parameters, echo=echo, unused=(*made.unused, *unused))


def _read_others(made: Creation, values: dict[str, object]) -> Creation:
    parameters, unused = dict(made.parameters), list(made.unused)
    echo = {name: values[name] for name in ECHOED if name in values}
    echo["metadata"] = read_fields(values.pop("metadata", {}), "metadata")
    if "max_output_tokens" in values:
        parameters["max_tokens"] = echo["max_output_tokens"] = values.pop("max_output_tokens")
    wanted, others = _read_include(values.pop("include", []))
    unused += others
    likeliest = LIKELIEST.check("top_logprobs", values.pop("top_logprobs", 0))
    if wanted or likeliest:
        parameters |= {"logprobs": True, "top_logprobs": likeliest}
    echo["top_logprobs"] = likeliest
    echo["truncation"] = OneOf(("auto", "disabled")).check("truncation", values.pop("truncation", "disabled"))
    if echo["truncation"] == "auto":
        unused.append("truncation")
    for name in ("client_metadata", "context_management", "max_tool_calls"):
        if values.pop(name, None) is not None:
            unused.append(name)
    return evolve(made, parameters=parameters, echo={**made.echo, **echo}, unused=tuple(unused))


def _read_include(value: object) -> tuple[bool, list[str]]:
    """Return whether log-probabilities are wanted, and the names of what is not included."""
    wanted = []
    for index, one in enumerate(read_list(value, "include")):
        if not isinstance(one, str):
            raise wrong_type(f"include[{index}]", "a string", one)
        if one not in INCLUDES:
            raise wrong_choice(f"include[{index}]", one, *INCLUDES)
        wanted.append(one)
    return INCLUDES[0] in wanted, [f"include.{one}" for one in wanted if one != INCLUDES[0]]


def _flag(values: dict[str, object], name: str, *, default: bool) -> bool:
    return read_flag(name, values.pop(name, default))
