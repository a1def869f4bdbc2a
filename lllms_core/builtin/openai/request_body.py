"""Turn the JSON of a request into a completion: nothing is ignored silently, and each fault has its `param`."""

from collections.abc import Mapping
from typing import cast

from attrs import frozen

from lllms_core.apis.bodies import read_object, take, take_text
from lllms_core.apis.messages import read_messages
from lllms_core.builtin.openai.prompts import Prompt, read_prompts
from lllms_core.parameters import ROUTES
from lllms_core.parameters.bounds import LEVELS
from lllms_core.parameters.wording import unknown, wrong_type
from lllms_core.types import Message


@frozen
class Completion:
    """A client's request for a completion: a chat (`messages`) or texts to continue (`prompts`)."""

    model: str
    parameters: Mapping[str, object]
    """All other members, unchecked."""
    messages: tuple[Message, ...] | None
    prompts: tuple[Prompt, ...]
    """One answer, or `n`, to each; none for a chat."""
    stream: bool
    include_usage: bool
    unused: tuple[str, ...] = ()
    """The names of the members that were read but have no effect."""
    timings: bool = False
    """Whether the answer shall tell how its time was spent."""

    @property
    def functions(self) -> bool:
        """Whether tools are given in the deprecated form, in which their calls are then shown."""
        return "functions" in self.parameters


def read_chat(body: bytes, levels: int = LEVELS) -> Completion:
    """Read the body of `POST /chat/completions`, nested `levels` deep at most. Raises `RequestError`."""
    values = read_object(body, levels)
    messages = read_messages(take(values, "messages"))
    return _read_rest(values, messages, ())


def read_text(body: bytes, levels: int = LEVELS) -> Completion:
    """Read the body of `POST /completions`, nested `levels` deep at most. Raises `RequestError`."""
    values = read_object(body, levels)
    prompts = read_prompts("prompt", take(values, "prompt"))
    return _read_rest(values, None, prompts)


def _read_rest(
    values: dict[str, object], messages: tuple[Message, ...] | None, prompts: tuple[Prompt, ...],
) -> Completion:
    model = take_text(values, "model")
    stream = read_flag("stream", values.pop("stream", False))
    include_usage, unused = read_stream_options(values.pop("stream_options", None), stream=stream)
    wanted = values.pop("timings", None)
    timings = wanted is not None and read_flag("timings", wanted)
    return Completion(model, values, messages, prompts, stream, include_usage, unused, timings)


def read_flag(name: str, value: object) -> bool:
    """Return a boolean. Raises `InvalidRequest`."""
    if not isinstance(value, bool):
        raise wrong_type(name, "a boolean", value)
    return value


def read_stream_options(options: object, *, stream: bool) -> tuple[bool, tuple[str, ...]]:
    """Return whether token counts are wanted, and the members without effect."""
    if options is None:
        return False, ()
    if not isinstance(options, dict):
        raise wrong_type("stream_options", "an object", options)
    line = ROUTES["chat"]["stream_options"]
    wanted = {name: value for name, value in cast("dict[str, object]", options).items() if value is not None}
    for name in wanted.keys() - {"include_usage", *line.unread}:
        raise unknown(f"stream_options.{name}")
    include_usage = read_flag("stream_options.include_usage", wanted.get("include_usage", False))
    if not stream:
        return False, (("stream_options",) if wanted else ())
    return include_usage, tuple(line.unread_members(wanted))
