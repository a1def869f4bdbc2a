"""The table of parameters: what clients may send to each route, and who acts on it.

To add one, write its line here, and a field of its name in `types.Sampling`, or in `types.ChatRequest`,
`TextRequest` or their base, where engines read it.
Anything that a line does not accept is refused by name.
"""

from collections.abc import Collection, Mapping
from typing import Literal

from attrs import frozen

from lllms_core.parameters.kinds import (
    INT32,
    Biases,
    Described,
    Flag,
    Integer,
    Json,
    Kind,
    Labels,
    Number,
    OneOf,
    Strings,
    Text,
)
from lllms_core.parameters.structured import Grammar, ResponseFormat
from lllms_core.parameters.tools import FUNCTION_CALL, FUNCTIONS, TOOL_CHOICE, TOOLS

Route = Literal["chat", "text", "embeddings"]
"""`/chat/completions`, `/completions`, `/embeddings`."""

Verdict = Literal["honoured", "emulated", "harmless", "refused"]
"""What becomes of a parameter: the engine acts on it, the core does so for the engine, it does not affect the answer,
or it is a 400."""

MAX_STOPS = 4


@frozen
class Parameter:
    """One parameter of one or several routes."""

    name: str
    kind: Kind
    routes: tuple[Route, ...]
    otherwise: Verdict
    """The verdict where the engine does not declare the parameter in its `parameters`."""
    neutral: tuple[object, ...] = ()
    """Values that request nothing, or only the default behaviour: accepted whatever the verdict."""
    extension: bool = False
    """Whether OpenAI's specification lacks it."""

    def check(self, value: object) -> object:
        """Return `value` in its proper type. Raises `RequestError` with this parameter's name as `param`."""
        return self.kind.check(self.name, value)

    def verdict(self, honoured: Collection[str]) -> Verdict:
        """Return the verdict for an engine that declares the parameters `honoured`."""
        return "honoured" if self.name in honoured else self.otherwise

    def asks_for_nothing(self, value: object) -> bool:
        """Whether a checked value is one of the neutral ones."""
        # True == 1 in Python, and not in JSON.
        return any(type(value) is type(one) and value == one for one in self.neutral)


_CHAT: tuple[Route, ...] = ("chat",)
_TEXT: tuple[Route, ...] = ("text",)
_BOTH: tuple[Route, ...] = ("chat", "text")
_EMBED: tuple[Route, ...] = ("embeddings",)
_ALL: tuple[Route, ...] = ("chat", "text", "embeddings")

_INTEGERS: Mapping[str, object] = {"type": "array", "minItems": 1, "items": {"type": "integer", "minimum": 0}}
_PROMPTS = Described({
    "anyOf": [
        {"type": "string"}, {"type": "array", "minItems": 1, "items": {"type": "string"}}, _INTEGERS,
        {"type": "array", "minItems": 1, "items": _INTEGERS},
    ],
})
_EFFORTS = ("none", "minimal", "low", "medium", "high", "xhigh", "max")
_TIERS = ("auto", "default", "flex", "scale", "priority", "fast")

TABLE: tuple[Parameter, ...] = (
    # The input. Always there, and handled by the core together with every engine.
    Parameter("model", Text(), _ALL, "honoured"),
    Parameter("messages", Json(("array",)), _CHAT, "honoured"),
    Parameter("prompt", _PROMPTS, _TEXT, "honoured"),
    Parameter("input", _PROMPTS, _EMBED, "honoured"),
    # The form of the answer's delivery.
    Parameter("stream", Flag(), _BOTH, "emulated"),
    Parameter("stream_options", Json(("object",)), _BOTH, "emulated"),
    Parameter("encoding_format", OneOf(("float", "base64")), _EMBED, "emulated"),
    Parameter("dimensions", Integer(1, INT32), _EMBED, "emulated"),
    # Limits.
    Parameter("max_tokens", Integer(1, INT32), _CHAT, "emulated"),
    Parameter("max_tokens", Integer(0, INT32), _TEXT, "emulated"),
    Parameter("max_completion_tokens", Integer(1, INT32), _CHAT, "emulated"),
    Parameter("ttl", Number(0), _BOTH, "emulated", extension=True),
    Parameter("timeout", Number(0, positive=True), _BOTH, "emulated", extension=True),
    Parameter("stop", Strings(MAX_STOPS), _BOTH, "emulated", neutral=((),)),
    # Sampling.
    Parameter("temperature", Number(0, 2), _BOTH, "refused", neutral=(1.0,)),
    Parameter("top_p", Number(0, 1), _BOTH, "refused", neutral=(1.0,)),
    Parameter("seed", Integer(), _BOTH, "refused"),
    Parameter("frequency_penalty", Number(-2, 2), _BOTH, "refused", neutral=(0.0,)),
    Parameter("presence_penalty", Number(-2, 2), _BOTH, "refused", neutral=(0.0,)),
    Parameter("logit_bias", Biases(), _BOTH, "refused", neutral=({},)),
    Parameter("top_k", Integer(0, INT32), _BOTH, "refused", neutral=(0,), extension=True),
    Parameter("min_p", Number(0, 1), _BOTH, "refused", neutral=(0.0,), extension=True),
    Parameter("typical_p", Number(0, 1), _BOTH, "refused", neutral=(1.0,), extension=True),
    Parameter("repeat_penalty", Number(0, 2, positive=True), _BOTH, "refused", neutral=(1.0,), extension=True),
    Parameter("dry_multiplier", Number(0, 100), _BOTH, "refused", neutral=(0.0,), extension=True),
    Parameter("dry_base", Number(1, 100), _BOTH, "refused", neutral=(1.75,), extension=True),
    Parameter("dry_allowed_length", Integer(0, INT32), _BOTH, "refused", neutral=(2,), extension=True),
    Parameter("dry_penalty_last_n", Integer(-1, INT32), _BOTH, "refused", neutral=(-1,), extension=True),
    Parameter("dry_sequence_breakers", Strings(32), _BOTH, "refused", extension=True),
    Parameter("xtc_probability", Number(0, 1), _BOTH, "refused", neutral=(0.0,), extension=True),
    Parameter("xtc_threshold", Number(0, 1), _BOTH, "refused", neutral=(0.1,), extension=True),
    Parameter("mirostat", Integer(0, 2), _BOTH, "refused", neutral=(0,), extension=True),
    Parameter("mirostat_tau", Number(0, 100), _BOTH, "refused", neutral=(5.0,), extension=True),
    Parameter("mirostat_eta", Number(0, 1), _BOTH, "refused", neutral=(0.1,), extension=True),
    Parameter("ignore_eos", Flag(), _BOTH, "refused", neutral=(False,), extension=True),
    # Several answers, and their details.
    Parameter("n", Integer(1, 128), _BOTH, "emulated", neutral=(1,)),
    Parameter("best_of", Integer(0, 20), _TEXT, "refused", neutral=(0, 1)),
    Parameter("logprobs", Flag(), _CHAT, "refused", neutral=(False,)),
    Parameter("top_logprobs", Integer(0, 20), _CHAT, "refused", neutral=(0,)),
    Parameter("logprobs", Integer(0, 5), _TEXT, "refused"),
    Parameter("echo", Flag(), _TEXT, "emulated", neutral=(False,)),
    Parameter("suffix", Text(), _TEXT, "refused", neutral=("",)),
    # Tools, structure, reasoning.
    Parameter("tools", TOOLS, _CHAT, "refused", neutral=([],)),
    Parameter("tool_choice", TOOL_CHOICE, _CHAT, "refused", neutral=("none", "auto")),
    Parameter("parallel_tool_calls", Flag(), _CHAT, "refused", neutral=(True, False)),
    Parameter("functions", FUNCTIONS, _CHAT, "refused", neutral=([],)),
    Parameter("function_call", FUNCTION_CALL, _CHAT, "refused", neutral=("none", "auto")),
    Parameter("response_format", ResponseFormat(), _CHAT, "refused", neutral=({"type": "text"},)),
    Parameter("json_schema", Json(("object",)), _BOTH, "refused", extension=True),
    Parameter("grammar", Grammar(), _BOTH, "refused", extension=True),
    Parameter("reasoning_effort", OneOf(_EFFORTS), _CHAT, "refused"),
    Parameter("chat_template_kwargs", Json(("object",)), _CHAT, "refused", neutral=({},), extension=True),
    Parameter("cache_prompt", Flag(), _BOTH, "emulated", neutral=(True,), extension=True),
    # OpenAI's own concerns.
    Parameter("user", Text(), _ALL, "harmless"),
    Parameter("metadata", Labels(), _CHAT, "harmless"),
    Parameter("safety_identifier", Text(64), _CHAT, "harmless"),
    Parameter("prompt_cache_key", Text(), _CHAT, "harmless"),
    Parameter("prompt_cache_options", Json(("object",)), _CHAT, "refused", neutral=({},)),
    Parameter("prompt_cache_retention", OneOf(("in_memory", "24h")), _CHAT, "refused", neutral=("in_memory",)),
    Parameter("store", Flag(), _CHAT, "refused", neutral=(False,)),
    Parameter("service_tier", OneOf(_TIERS), _CHAT, "refused", neutral=("auto", "default")),
    Parameter("verbosity", OneOf(("low", "medium", "high")), _CHAT, "refused", neutral=("medium",)),
    Parameter("modalities", Json(("array",)), _CHAT, "refused", neutral=(["text"],)),
    Parameter("audio", Json(("object",)), _CHAT, "refused"),
    Parameter("prediction", Json(("object",)), _CHAT, "refused"),
    Parameter("moderation", Json(("object",)), _CHAT, "refused"),
    Parameter("web_search_options", Json(("object",)), _CHAT, "refused"),
)

ROUTES: Mapping[Route, Mapping[str, Parameter]] = {
    route: {parameter.name: parameter for parameter in TABLE if route in parameter.routes} for route in _ALL
}
"""The lines of the table by route and name."""


def verdicts(honoured: Collection[str]) -> dict[Route, dict[str, Verdict]]:
    """Return the verdict on every parameter, by route and name, for an engine that declares `honoured`."""
    return {route: {p.name: p.verdict(honoured) for p in names.values()} for route, names in ROUTES.items()}
