"""The values that pass between the rooms: frozen, with no behaviour beyond reading themselves."""

from collections.abc import Mapping
from pathlib import Path
from typing import Literal

from attrs import field, frozen

from lllms_core.errors import LllmsError

Task = Literal["chat", "text", "embed", "rerank", "tokenize", "detokenize", "render"]
"""What can be asked of a model: two kinds of completion, and the queries of `lllms_core.queries`."""

Role = Literal["system", "developer", "user", "assistant", "tool"]
Isolation = Literal["process", "thread"]

ConstraintKind = Literal["json_object", "json_schema", "gbnf", "lark", "regex"]
"""What a `Constraint` is written in: nothing (any JSON object), a JSON schema, a grammar as llama.cpp's or llguidance's
Lark, a regular expression."""

FinishReason = Literal["stop", "tool_calls", "length", "timeout", "cancelled"]
"""Why an answer ended: the model or a stop string ended it, it calls tools and waits for their results, it is as long
as allowed, its time was up, or nobody wants it any more."""

ToolChoice = Literal["auto", "required"]
"""Whether the model may call tools, or must."""

ReasoningEffort = Literal["none", "minimal", "low", "medium", "high", "xhigh", "max"]


@frozen
class ToolCall:
    """A model's wish that a tool be run."""

    id: str
    """Unique in its conversation; the result names it."""
    name: str
    arguments: str
    """A JSON object, as text."""


MediaKind = Literal["image", "audio", "file"]
"""What a message may hold beside text, for engines that take it."""


@frozen
class Media:
    """An image, a sound or a file in a message."""

    kind: MediaKind
    source: str
    """A URL, maybe with the data in it (`data:`); of a sound its data in base64."""
    format: str = ""
    """Of a sound: wav, mp3."""
    param: str = "messages"
    """Where it stands in the request, for an engine's refusal."""


@frozen
class Message:
    """One message of a conversation; `content` is text, "" where there is none."""

    role: Role
    content: str
    name: str | None = None
    """Who speaks; for a tool's result, the tool."""
    tool_calls: tuple[ToolCall, ...] = ()
    """The calls of an assistant's message."""
    tool_call_id: str | None = None
    """Which call the result in a tool's message belongs to."""
    reasoning: str | None = None
    """What an assistant thought before it answered."""
    parts: tuple[str | Media, ...] = ()
    """The texts of `content` and the media between them, where there are any, in their order."""


@frozen
class Tool:
    """A function that a model may call."""

    name: str
    description: str | None = None
    parameters: Mapping[str, object] = field(factory=lambda: {"type": "object", "properties": {}})
    """The JSON schema of its arguments, an object."""
    strict: bool = False
    """Whether every call must keep to `parameters`."""


@frozen
class Sampling:
    """How the next token is chosen. Every value is meant: 0 is a value, not "unset"."""

    temperature: float = 0.8
    """0 takes the likeliest token; above 0, logits are divided by it."""
    top_k: int = 40
    """Keep the k likeliest tokens; 0 keeps all."""
    top_p: float = 0.95
    """Keep the smallest set of tokens whose probabilities sum to p; 1 keeps all."""
    min_p: float = 0.05
    """Drop tokens less likely than this fraction of the likeliest one's probability; 0 keeps all."""
    typical_p: float = 1.0
    """Keep the tokens of about the expected information whose probabilities sum to p; 1 keeps all."""
    xtc_probability: float = 0.0
    """How often the likeliest tokens are dropped, all but one of those above `xtc_threshold`; 0 never."""
    xtc_threshold: float = 0.1
    """See `xtc_probability`."""
    mirostat: int = 0
    """1 or 2: steer towards the surprise `mirostat_tau` by this version of the algorithm, in place of the cuts by
    top_k, top_p, min_p, typical_p and XTC; 0: off."""
    mirostat_tau: float = 5.0
    """The surprise of a token that `mirostat` aims at, in bits."""
    mirostat_eta: float = 0.1
    """How fast `mirostat` learns."""
    repeat_penalty: float = 1.0
    """Divides the logits of recent tokens, prompt included; 1 changes nothing."""
    frequency_penalty: float = 0.0
    """Subtracted from a token's logit once for each time it stands in the answer so far, -2 to 2."""
    presence_penalty: float = 0.0
    """Subtracted from a token's logit if it stands in the answer so far, -2 to 2."""
    dry_multiplier: float = 0.0
    """DRY's penalty on a token that would go on with a repetition: multiplier * base ** (length - allowed length);
    0: none. Like the next four, see https://github.com/oobabooga/text-generation-webui/pull/5677."""
    dry_base: float = 1.75
    dry_allowed_length: int = 2
    dry_penalty_last_n: int = -1
    """How many recent tokens DRY looks at, prompt included; -1: all, 0: none."""
    dry_sequence_breakers: tuple[str, ...] = ("\n", ":", '"', "*")
    """No repetition goes across these."""
    logit_bias: Mapping[int, float] = field(factory=dict)
    """Added to the logits of these tokens; -100 forbids a token, and 100 forces it."""
    ignore_eos: bool = False
    """Whether the model may not end the answer by itself."""
    seed: int | None = None
    """The same seed gives the same answer; None draws one."""


@frozen
class Constraint:
    """What an answer must be: a text of this grammar. An answer that is cut is the beginning of one."""

    kind: ConstraintKind
    text: str = ""
    """The JSON schema, the grammar or the regular expression; "" for `json_object`."""
    param: str = "response_format"
    """The parameter that asks for it, which a refusal names."""
    strict: bool = False
    """Whether nothing less will do than an engine that makes the model keep to it."""


@frozen
class Request:
    """One completion that is asked of a model: a chat (`messages`) or a text to continue (`prompt`), never both."""

    id: str
    model: str
    messages: tuple[Message, ...] | None = None
    prompt: str | tuple[int, ...] | None = None
    """A text, or the tokens of one."""
    suffix: str | None = None
    """The answer to a prompt is what comes between it and this; None: whatever follows."""
    n: int = 1
    """How many answers are wanted."""
    best_of: int | None = None
    """So many answers are written, and the `n` likeliest (by the mean of their tokens' log-probabilities) are kept."""
    top_logprobs: int | None = None
    """With each token's log-probability, those of so many likeliest ones are told; None: not even the token's own."""
    echo: bool = False
    """Whether the prompt belongs to what is told: where tokens have log-probabilities, its own have them, too."""
    sampling: Sampling = Sampling()
    max_tokens: int | None = None
    """At most so many generated tokens; None: as many as the context has room for."""
    stop: tuple[str, ...] = ()
    """The answer ends before the first of these strings, which is not part of it."""
    tools: tuple[Tool, ...] = ()
    """The tools that this answer may call."""
    tool_choice: ToolChoice = "auto"
    parallel_tool_calls: bool = True
    """Whether one answer may call several tools; if not, it ends with its first call."""
    reasoning_effort: ReasoningEffort | None = None
    """How much a reasoning model thinks first; None: as its template does by itself."""
    chat_template_kwargs: Mapping[str, object] = field(factory=dict)
    """Variables for the model's chat template."""
    timeout: float | None = None
    """Seconds from the moment the request gets its slot; None: no limit."""
    ttl: float | None = None
    """Idle seconds after this request until its instance is unloaded; None: as the model's configuration says."""
    constraint: Constraint | None = None
    """What the answer must be; None: whatever the model says."""
    cache_prompt: bool = True
    """Whether the request may use what others have evaluated, and leave what it evaluates for others."""

    @property
    def task(self) -> Task:
        """Which of the two kinds of completion this is."""
        return "text" if self.messages is None else "chat"

    @property
    def count(self) -> int:
        """How many answers are written."""
        return max(self.n, self.best_of or 0)

    @property
    def scored(self) -> bool:
        """Whether the answers' tokens have scores."""
        return self.top_logprobs is not None or self.count > self.n

    @property
    def scores_prompt(self) -> bool:
        """Whether the prompt's tokens have scores."""
        return self.echo and self.top_logprobs is not None


@frozen
class Usage:
    """Token counts of one request."""

    prompt_tokens: int
    completion_tokens: int
    cached_tokens: int = 0
    """How many of the prompt's tokens did not have to be evaluated again."""
    reasoning_tokens: int = 0
    """How many of the completion's tokens are the model's thoughts."""


@frozen
class Finish:
    """The end of an answer."""

    reason: FinishReason
    usage: Usage
    result: object = None
    """What a query asked for, see `lllms_core.queries`; None for a completion, or if there was no time."""


@frozen
class TokenScore:
    """How likely a token of an answer was."""

    piece: bytes
    """The token; it may be a part of a character."""
    logprob: float
    """The logarithm of its probability, of the model's own distribution over the tokens that were allowed."""
    top: tuple[tuple[bytes, float], ...] = ()
    """The likeliest tokens with their log-probabilities, the likeliest first, as many as were asked for."""


@frozen
class PromptScores:
    """How likely the tokens of a prompt were, each behind those before it."""

    first: bytes
    """The first token: nothing stands before it, so it has no probability."""
    rest: tuple[TokenScore, ...] = ()


@frozen
class CallPiece:
    """A piece of a call: the first one of each call brings its id and name, the others more of its arguments."""

    index: int
    """Which of the answer's calls this is, from 0."""
    id: str = ""
    name: str = ""
    arguments: str = ""


@frozen
class Delta:
    """A piece of an answer. The last one of a request carries `finish` or `error`, and no other does."""

    request_id: str
    text: str = ""
    tokens: int = 0
    """How many generated tokens this piece accounts for: text can lag behind tokens, while a character or a stop
    string is incomplete."""
    finish: Finish | None = None
    error: LllmsError | None = None
    reasoning: str = ""
    """A piece of what the model thinks before it answers."""
    calls: tuple[CallPiece, ...] = ()
    """Pieces of the answer's calls, in their order."""
    index: int = 0
    """Which of the request's `n` answers this belongs to."""
    ended: FinishReason | None = None
    """Why this answer is complete, while others of the request are not; with the last one comes `finish`."""
    scores: tuple[TokenScore, ...] = ()
    """Of the tokens that begin in this piece's text, if the request asks for them."""
    prompt_scores: PromptScores | None = None
    """Of the prompt's tokens, once, before the text of any answer, if the request asks for them."""

    @property
    def last(self) -> bool:
        """Whether the request ends with this piece."""
        return self.finish is not None or self.error is not None


@frozen
class Preload:
    """What conversations or texts of a model begin with: `messages`, perhaps with `tools`, or the text `prefix`."""

    messages: tuple[Message, ...] = ()
    tools: tuple[Tool, ...] = ()
    prefix: str | None = None


@frozen
class ModelSpec:
    """What an engine is asked to load."""

    name: str
    """The name that clients use."""
    options: object
    """An instance of the engine's `Options`."""
    file: Path | None = None
    """The model's weights, for engines that read any; it exists when `Engine.load` is called."""
    threads: int = 1
    """The cores that the pool grants to begin with; `Model.use_threads` tells of changes."""
    preload: Preload | None = None
    """What is evaluated once, and kept for all that begin so; `Model.preload` is told to."""


@frozen
class Memory:
    """What a loaded model takes, in bytes: an engine's estimate before it is loaded."""

    weights: int = 0
    kv: int = 0
    """What is kept of requests, in all slots together: KV cache, recurrent state."""
    compute: int = 0
    """The buffers of the largest step, and its logits."""
    longest: int = 0
    """What of `compute` is taken only once a text as long as the context has come, and kept from then on."""
    mapped: bool = False
    """Whether the weights stay in their file's pages: instances of one model share them, and the system may take them
    back and read them again."""

    @property
    def total(self) -> int:
        """All of it together, for one instance."""
        return self.weights + self.kv + self.compute


@frozen
class ModelInfo:
    """What a loaded model can do, as its worker reports it."""

    tasks: frozenset[Task]
    slots: int
    context_length: int
    details: Mapping[str, str | int | float] = field(factory=dict)
    """Whatever else is worth showing (architecture, parameters, quantisation ...)."""


@frozen
class ModelOffer:
    """A model that a plugin offers without any configuration (`lllms_models`)."""

    name: str
    engine: str
    file: Path | None = None
    options: Mapping[str, object] = field(factory=dict)
    description: str = ""
