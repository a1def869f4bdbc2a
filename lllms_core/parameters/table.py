"""The table of parameters: what clients may send to each route, and what acts on it.

To add one, write its line here, and a field with its name in `types.Sampling`, or in `types.ChatRequest`,
`TextRequest` or their base, where engines read it; for a synonym, a line that says what it `means`. Anything that a
line does not accept is refused by name.
"""

from collections.abc import Collection, Iterator, Mapping
from typing import Literal

from attrs import frozen

from lllms_core.parameters.excerpts import Excerpts
from lllms_core.parameters.kinds import (
    ANYTHING,
    INT32,
    INT64,
    Biases,
    Described,
    Flag,
    Integer,
    Json,
    Kind,
    Number,
    OneOf,
    Strings,
    Text,
)
from lllms_core.parameters.predictions import Prediction
from lllms_core.parameters.structured import FORMS, UNREAD
from lllms_core.parameters.synonyms import Duration, ThoughtBudget, Thoughts
from lllms_core.parameters.tools import FUNCTION_CALL, FUNCTIONS, TOOL_CHOICE, TOOLS

Route = Literal["chat", "text", "embeddings"]
"""`/chat/completions`, `/completions`, `/embeddings`."""

Verdict = Literal["honoured", "emulated", "named", "refused"]
"""The treatment of a parameter: the engine acts on it; the core does so for the engine; nothing does, because it does
not concern the text, and the answer names it in a header; or it is refused with a 400."""

MAX_STOPS = 64


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
    means: str = ""
    """The parameter of which this is a synonym: `kind` returns that one's values, and the verdict is the same."""
    unread: tuple[str, ...] = ()
    """Members of an object that are accepted, but that nothing reads: the answer names them."""
    fixed: bool = False
    """Whether no engine can act on it."""

    @property
    def own(self) -> bool:
        """Whether we would advise clients to use it: it is no synonym, and not one that nothing ever acts on."""
        return not (self.means or (self.fixed and self.extension))

    def check(self, value: object) -> object:
        """Return `value` in its proper type; None if it asks for nothing. Raises `RequestError` that names this."""
        return self.kind.check(self.name, value)

    def verdict(self, honoured: Collection[str]) -> Verdict:
        """Return the verdict for an engine that declares the parameters `honoured`."""
        return "honoured" if not self.fixed and (self.means or self.name) in honoured else self.otherwise

    def asks_for_nothing(self, value: object) -> bool:
        """Whether a checked value is one of the neutral ones."""
        # True == 1 in Python, and not in JSON.
        return any(isinstance(value, bool) == isinstance(one, bool) and value == one for one in self.neutral)

    def unread_members(self, value: object) -> list[str]:
        """Return the paths of a value's members that nothing reads."""
        given = value if isinstance(value, Mapping) else {}
        asked = (one for one in self.unread if given.get(one) is not None and given[one] is not False)
        return [f"{self.name}.{one}" for one in asked]


def _fixed(
    verdict: Verdict, routes: tuple[Route, ...], names: Mapping[str, tuple[object, ...]], *, extension: bool = True,
) -> Iterator[Parameter]:
    """Yield lines of parameters that no engine acts on, each with the values that ask for nothing."""
    for name, neutral in names.items():
        yield Parameter(name, ANYTHING, routes, verdict, neutral, extension, fixed=True)


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
_EFFORTS = ("none", "on", "minimal", "low", "medium", "high", "xhigh", "max")
_NO_LIMIT = {-1: INT64, -2: INT64}
_LIMIT, _TEXT_LIMIT = Integer(1, same=_NO_LIMIT), Integer(0, same=_NO_LIMIT)  # an upper bound cannot be too high
_REPEAT = Number(0, 2, positive=True)
_REASONING = ("max_tokens", "exclude", "summary", "generate_summary")
_THINKING = ("budget_tokens", "display")

TABLE: tuple[Parameter, ...] = (
    # The input. Always there, and handled by the core together with every engine.
    Parameter("model", Text(), _ALL, "honoured"),
    Parameter("messages", Json(("array",)), _CHAT, "honoured"),
    Parameter("prompt", _PROMPTS, _TEXT, "honoured"),
    Parameter("input", _PROMPTS, _EMBED, "honoured"),
    # The form of the answer's delivery.
    Parameter("stream", Flag(), _BOTH, "emulated"),
    Parameter("stream_options", Json(("object",)), _BOTH, "emulated", unread=(
        "include_obfuscation", "continuous_usage_stats",
    )),
    Parameter("timings", Flag(), _BOTH, "emulated", neutral=(False,), extension=True),
    Parameter("encoding_format", OneOf(("float", "base64")), _EMBED, "emulated"),
    Parameter("dimensions", Integer(1, INT32), _EMBED, "emulated"),
    # Limits.
    Parameter("max_tokens", _LIMIT, _CHAT, "emulated"),
    Parameter("max_tokens", _TEXT_LIMIT, _TEXT, "emulated"),
    Parameter("ttl", Duration(), _BOTH, "emulated", extension=True),
    Parameter("timeout", Number(0, positive=True), _BOTH, "emulated", extension=True),
    Parameter("stop", Strings(MAX_STOPS), _BOTH, "emulated", neutral=((),)),
    # Sampling.
    Parameter("temperature", Number(0, 2), _BOTH, "refused", neutral=(1.0,)),
    Parameter("top_p", Number(0, 1), _BOTH, "refused", neutral=(1.0,)),
    Parameter("seed", Integer(), _BOTH, "refused"),
    Parameter("frequency_penalty", Number(-2, 2), _BOTH, "refused", neutral=(0.0,)),
    Parameter("presence_penalty", Number(-2, 2), _BOTH, "refused", neutral=(0.0,)),
    Parameter("logit_bias", Biases(), _BOTH, "refused", neutral=({},)),
    Parameter("top_k", Integer(0, INT32, same={-1: 0}), _BOTH, "refused", neutral=(0,), extension=True),
    Parameter("min_p", Number(0, 1), _BOTH, "refused", neutral=(0.0,), extension=True),
    Parameter("typical_p", Number(0, 1), _BOTH, "refused", neutral=(1.0,), extension=True),
    Parameter("repeat_penalty", _REPEAT, _BOTH, "refused", neutral=(1.0,), extension=True),
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
    Parameter("input_extra", Excerpts(), _TEXT, "refused", neutral=((),), extension=True),
    # Tools, structure, reasoning.
    Parameter("tools", TOOLS, _CHAT, "refused", neutral=([],)),
    Parameter("tool_choice", TOOL_CHOICE, _CHAT, "refused", neutral=("none", "auto")),
    Parameter("parallel_tool_calls", Flag(), _CHAT, "refused", neutral=(True, False)),
    Parameter("functions", FUNCTIONS, _CHAT, "refused", neutral=([],)),
    Parameter("function_call", FUNCTION_CALL, _CHAT, "refused", neutral=("none", "auto")),
    Parameter("reasoning_effort", OneOf(_EFFORTS), _CHAT, "refused"),
    Parameter("chat_template_kwargs", Json(("object",)), _CHAT, "refused", neutral=({},), extension=True),
    Parameter("cache_prompt", Flag(), _BOTH, "emulated", neutral=(True,), extension=True),
    # The form of the answer; `structured.py` says what each means.
    Parameter("response_format", FORMS["response_format"], _CHAT, "refused", neutral=({"type": "text"},)),
    Parameter("json_schema", FORMS["json_schema"], _BOTH, "refused", extension=True),
    Parameter("grammar", FORMS["grammar"], _BOTH, "refused", extension=True),
    Parameter("format", FORMS["format"], _BOTH, "refused", neutral=("",), extension=True),
    Parameter("structured_outputs", FORMS["structured_outputs"], _BOTH, "refused", neutral=({},), extension=True,
              unread=UNREAD),
    *(
        Parameter(name, FORMS[name], _BOTH, "refused", extension=True)
        for name in ("guided_json", "guided_regex", "guided_choice", "guided_grammar")
    ),
    # Synonyms, mostly other servers' names.
    Parameter("max_completion_tokens", _LIMIT, _CHAT, "emulated", means="max_tokens"),
    *(
        Parameter(name, kind, routes, "emulated", extension=True, means="max_tokens")
        for name in ("max_new_tokens", "n_predict", "num_predict")
        for kind, routes in ((_LIMIT, _CHAT), (_TEXT_LIMIT, _TEXT))
    ),
    Parameter("keep_alive", Duration(), _BOTH, "emulated", extension=True, means="ttl"),
    Parameter("repetition_penalty", _REPEAT, _BOTH, "refused", extension=True, means="repeat_penalty"),
    Parameter("rep_pen", _REPEAT, _BOTH, "refused", extension=True, means="repeat_penalty"),
    Parameter("typical", Number(0, 1), _BOTH, "refused", extension=True, means="typical_p"),
    Parameter("mirostat_mode", Integer(0, 2), _BOTH, "refused", extension=True, means="mirostat"),
    Parameter("think", Thoughts(), _CHAT, "refused", extension=True, means="reasoning_effort"),
    Parameter("enable_thinking", Thoughts(), _CHAT, "refused", extension=True, means="reasoning_effort"),
    Parameter("thinking", Thoughts(_THINKING), _CHAT, "refused", extension=True, means="reasoning_effort",
              unread=_THINKING),
    Parameter("reasoning", Thoughts(_REASONING), _CHAT, "refused", extension=True, means="reasoning_effort",
              unread=_REASONING),
    Parameter("reasoning_budget", ThoughtBudget(), _CHAT, "refused", extension=True, means="reasoning_effort"),
    Parameter("thinking_budget", ThoughtBudget(), _CHAT, "refused", extension=True, means="reasoning_effort"),
    # Speed.
    Parameter("prediction", Prediction(), _CHAT, "named"),
    # These ask for another text or another kind of answer, unless they have one of these values.
    *_fixed("refused", _CHAT, {
        "modalities": (["text"],), "audio": (), "moderation": (), "web_search_options": (),
    }, extension=False),
    *_fixed("refused", _CHAT, {
        "echo": (False,), "best_of": (0, 1), "add_generation_prompt": (True,), "continue_final_message": (False,),
        "chat_template": (), "include_reasoning": (True,), "reasoning_format": ("auto", "deepseek"),
    }),
    *_fixed("refused", _BOTH, {
        "min_tokens": (0,), "length_penalty": (1,), "use_beam_search": (False,), "early_stopping": (False,),
        "repeat_last_n": (64,), "tfs_z": (1,), "top_a": (0,), "top_n_sigma": (-1, 0), "dynatemp_range": (0,),
        "dynatemp_exponent": (1,), "smoothing_factor": (0,), "samplers": ([],), "lora": ([],),
        "stop_token_ids": ([],), "include_stop_str_in_output": (False,), "bad_words": ([],), "banned_strings": ([],),
        "allowed_token_ids": ([],), "skip_special_tokens": (True,), "spaces_between_special_tokens": (True,),
        "add_special_tokens": (True,), "truncate_prompt_tokens": (-1,), "prompt_logprobs": (0,), "n_probs": (0,),
        "post_sampling_probs": (False,), "return_token_ids": (False,), "return_tokens_as_token_ids": (False,),
    }),
    # These do not concern the text: they are the bookkeeping of clients, gateways and servers ...
    *_fixed("named", _ALL, {"user": ()}, extension=False),
    *_fixed("named", _CHAT, {
        "metadata": ({},), "safety_identifier": (), "prompt_cache_key": (), "prompt_cache_options": ({},),
        "prompt_cache_retention": ("in_memory",), "store": (False,), "service_tier": ("auto", "default"),
        "verbosity": ("medium",),
    }, extension=False),
    *_fixed("named", ("text", "embeddings"), {
        "metadata": ({},), "safety_identifier": (), "prompt_cache_key": (), "store": (False,),
        "service_tier": ("auto", "default"),
    }),
    *_fixed("named", _ALL, {
        "provider": ({},), "route": (), "models": ([],), "transforms": ([],), "usage": (), "plugins": ([],),
        "session_id": (), "chat_id": (), "id": (), "request_id": (), "features": ({},), "files": ([],),
        "drop_params": (), "caching": (), "cache_salt": (), "priority": (0,), "guided_decoding_backend": (),
        "id_slot": (-1,), "timings_per_token": (False,), "return_progress": (False,),
    }),
    # ... or are about the instance, which the configuration decides.
    *_fixed("named", _ALL, {
        "num_ctx": (), "n_ctx": (), "context_length": (), "truncation_length": (), "num_keep": (), "n_keep": (),
        "num_batch": (), "num_thread": (), "num_gpu": (), "main_gpu": (), "low_vram": (), "use_mmap": (),
        "use_mlock": (), "numa": (), "draft_model": (),
    }),
    *_fixed("named", _EMBED, {"keep_alive": (), "ttl": ()}),
)

ROUTES: Mapping[Route, Mapping[str, Parameter]] = {
    route: {parameter.name: parameter for parameter in TABLE if route in parameter.routes} for route in _ALL
}
"""The lines of the table by route and name."""


def verdicts(honoured: Collection[str]) -> dict[Route, dict[str, Verdict]]:
    """Return the verdict on every parameter, by route and name, for an engine that declares `honoured`."""
    return {route: {p.name: p.verdict(honoured) for p in names.values()} for route, names in ROUTES.items()}
