"""The values that pass between the parts of lllms: frozen, with no behaviour but reading themselves."""

from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar, Literal
from uuid import uuid4

from attrs import field, frozen

from lllms_core.errors import LllmsError

Task = Literal["chat", "text", "embed", "rerank", "tokenize", "detokenize", "render"]
"""The tasks of a model: two kinds of completion, and the queries of `lllms_core.queries`."""

Role = Literal["system", "developer", "user", "assistant", "tool"]
Isolation = Literal["process", "thread"]

ConstraintKind = Literal["json_object", "json_schema", "gbnf", "lark", "regex"]
"""The language of a `Constraint`: none (any JSON object), a JSON schema, a grammar in llama.cpp's form or in
llguidance's Lark, a regular expression."""

FinishReason = Literal["stop", "tool_calls", "length", "timeout", "cancelled"]
"""Why an answer ended: the model or a stop string ended it, it calls tools and waits for their results, it reached its
length limit, its time ran out, or it was cancelled."""

ToolChoice = Literal["auto", "required"]
"""Whether the model may call tools, or must."""

ReasoningEffort = Literal["none", "on", "minimal", "low", "medium", "high", "xhigh", "max"]
"""How long a model thinks before it answers; "on": as its template says, even if thinking is off by default."""


@frozen
class ToolCall:
    """A model's request to run a tool."""

    id: str
    """Unique in its conversation; the result names it."""
    name: str
    arguments: str
    """A JSON object, as text."""


MediaKind = Literal["image", "audio", "file"]
"""The kinds of content besides text that a message may hold, for engines that accept them."""


@frozen
class Media:
    """An image, a sound or a file in a message."""

    kind: MediaKind
    source: str
    """A URL, possibly with the data in it (`data:`); for audio, its data in base64."""
    format: str = ""
    """Of audio: wav, mp3."""
    param: str = "messages"
    """Its place in the request, for an engine's refusal."""


@frozen
class Message:
    """One message of a conversation; `content` is text, "" if there is none."""

    role: Role
    content: str
    name: str | None = None
    """The speaker; for a tool's result, the tool."""
    tool_calls: tuple[ToolCall, ...] = ()
    """The calls of an assistant's message."""
    tool_call_id: str | None = None
    """The call that the result in a tool's message belongs to."""
    reasoning: str | None = None
    """The assistant's thoughts before its answer."""
    parts: tuple[str | Media, ...] = ()
    """The texts of `content` and the media between them, if there are any, in order."""


@frozen
class Tool:
    """A function that a model may call."""

    name: str
    description: str | None = None
    parameters: Mapping[str, object] = field(factory=lambda: {"type": "object", "properties": {}})
    """The JSON schema of its arguments, an object."""
    strict: bool = False
    """Whether every call must conform to `parameters`."""


@frozen
class Sampling:
    """How the next token is chosen. Every value counts: 0 is a value, not "unset"."""

    temperature: float = 0.8
    """0 takes the likeliest token; above 0, logits are divided by it."""
    top_k: int = 40
    """Keep the k likeliest tokens; 0 keeps all."""
    top_p: float = 0.95
    """Keep the smallest set of tokens whose probabilities sum to p; 1 keeps all."""
    min_p: float = 0.05
    """Drop tokens less likely than this fraction of the likeliest one's probability; 0 keeps all."""
    typical_p: float = 1.0
    """Keep the tokens of roughly the expected information whose probabilities sum to p; 1 keeps all."""
    xtc_probability: float = 0.0
    """How often the likeliest tokens are dropped, all but one of those above `xtc_threshold`; 0: never."""
    xtc_threshold: float = 0.1
    """See `xtc_probability`."""
    mirostat: int = 0
    """1 or 2: steer towards the surprise `mirostat_tau` by this version of the algorithm, in place of the cuts by
    top_k, top_p, min_p, typical_p and XTC; 0: off."""
    mirostat_tau: float = 5.0
    """The target surprise of a token for `mirostat`, in bits."""
    mirostat_eta: float = 0.1
    """The learning rate of `mirostat`."""
    repeat_penalty: float = 1.0
    """Divides the logits of recent tokens, prompt included; 1 changes nothing."""
    frequency_penalty: float = 0.0
    """Subtracted from a token's logit once per occurrence in the answer so far, -2 to 2."""
    presence_penalty: float = 0.0
    """Subtracted from a token's logit if it occurs in the answer so far, -2 to 2."""
    dry_multiplier: float = 0.0
    """DRY's penalty on a token that would extend a repetition: multiplier * base ** (length - allowed length); 0: none.
    Like the next four, see https://github.com/oobabooga/text-generation-webui/pull/5677."""
    dry_base: float = 1.75
    dry_allowed_length: int = 2
    dry_penalty_last_n: int = -1
    """The number of recent tokens DRY considers, prompt included; -1: all, 0: none."""
    dry_sequence_breakers: tuple[str, ...] = ("\n", ":", '"', "*")
    """No repetition extends across these."""
    logit_bias: Mapping[int, float] = field(factory=dict)
    """Added to the logits of these tokens; -100 forbids a token, 100 forces it."""
    ignore_eos: bool = False
    """Whether the model must not end the answer by itself."""
    seed: int | None = None
    """The same seed gives the same answer; None: a random one."""


@frozen
class Constraint:
    """A grammar that an answer must match. A truncated answer is a prefix of a match."""

    kind: ConstraintKind
    text: str = ""
    """The JSON schema, the grammar or the regular expression; "" for `json_object`."""
    param: str = "response_format"
    """The parameter that sets it, for refusals to name."""
    strict: bool = False
    """Whether only an engine that enforces it will do."""


@frozen(kw_only=True)
class CompletionRequest:
    """The settings that chats and texts share."""

    n: int = 1
    """The number of answers to return."""
    best_of: int | None = None
    """The number of answers to generate; the `n` likeliest, by their mean token log-probability, are returned."""
    top_logprobs: int | None = None
    """The number of likeliest tokens to return with each token's log-probability; None: no log-probabilities at all."""
    sampling: Sampling = Sampling()
    max_tokens: int | None = None
    """The most generated tokens, as far as they fit the context; None: no limit but the context."""
    stop: tuple[str, ...] = ()
    """The answer ends before the first of these strings, which is not part of it."""
    timeout: float | None = None
    """Seconds from the moment the request gets its slot; None: no limit."""
    ttl: float | None = None
    """Idle seconds after this request until its instance is unloaded; None: as the model's configuration says."""
    constraint: Constraint | None = None
    """The grammar that the answer must match; None: no constraint."""
    cache_prompt: bool = True
    """Whether the request may reuse what others have evaluated, and leave its own evaluation for others."""
    unused: tuple[str, ...] = ()
    """The names of parameters that the client set but nothing acts on; answers name them in a header."""

    @property
    def count(self) -> int:
        """The number of answers to generate."""
        return max(self.n, self.best_of or 0)

    @property
    def scored(self) -> bool:
        """Whether the answers' tokens have scores."""
        return self.top_logprobs is not None or self.count > self.n

    @property
    def scores_prompt(self) -> bool:
        """Whether the prompt's tokens have scores."""
        return False


@frozen
class ChatRequest(CompletionRequest):
    """A conversation to be answered."""

    task: ClassVar[Task] = "chat"
    source: ClassVar[str] = "messages"
    """The parameter that holds the prompt; for error messages."""

    id: str
    model: str
    messages: tuple[Message, ...]
    tools: tuple[Tool, ...] = field(default=(), kw_only=True)
    """The tools that this answer may call."""
    tool_choice: ToolChoice = field(default="auto", kw_only=True)
    parallel_tool_calls: bool = field(default=True, kw_only=True)
    """Whether one answer may call several tools; if not, it ends with its first call."""
    reasoning_effort: ReasoningEffort | None = field(default=None, kw_only=True)
    """How long a reasoning model thinks first; None: its template's default."""
    chat_template_kwargs: Mapping[str, object] = field(factory=dict, kw_only=True)
    """Variables for the model's chat template."""
    prediction: str = field(default="", kw_only=True)
    """A text that the answer is expected to be much like: it changes the speed of the answer, and nothing else."""

    @property
    def continued(self) -> bool:
        """Whether the answer continues the conversation's last message, which is the assistant's."""
        return bool(self.messages) and self.messages[-1].role == "assistant"


@frozen
class Excerpt:
    """A piece of another text, which helps to fill a gap in this one."""

    text: str
    name: str = ""
    """The name of its file, "" if it has none."""


@frozen
class TextRequest(CompletionRequest):
    """A text to be continued."""

    task: ClassVar[Task] = "text"
    source: ClassVar[str] = "prompt"

    id: str
    model: str
    prompt: str | tuple[int, ...]
    """A text, or its tokens."""
    suffix: str | None = field(default=None, kw_only=True)
    """The answer is the text between the prompt and this suffix; None: no suffix."""
    input_extra: tuple[Excerpt, ...] | None = field(default=None, kw_only=True)
    """Excerpts for a model that fills the gap after the prompt, even without a suffix; the last ones matter most.

    Whatever does not fit the context is left out: excerpts, the prompt's beginning, the suffix's end, in this order.
    None: there are none, and nothing is left out.
    """
    echo: bool = field(default=False, kw_only=True)
    """Whether to return the prompt, too; if tokens have log-probabilities, so do its own."""

    @property
    def fills_gap(self) -> bool:
        """Whether the answer belongs into a gap after the prompt."""
        return self.suffix is not None or self.input_extra is not None

    @property
    def scores_prompt(self) -> bool:
        """Whether the prompt's tokens have scores."""
        return self.echo and self.top_logprobs is not None


Request = ChatRequest | TextRequest


def new_request_id() -> str:
    """Return an id for a request, unique without coordination."""
    return uuid4().hex[:12]


@frozen
class Usage:
    """Token counts of one request."""

    prompt_tokens: int
    completion_tokens: int
    cached_tokens: int = 0
    """The number of prompt tokens that did not have to be evaluated again."""
    reasoning_tokens: int = 0
    """The number of completion tokens that are the model's thoughts."""
    accepted_tokens: int = field(default=0, eq=False)
    """The number of completion tokens that were drafted, and only verified by the model; not compared, like the next
    one, since how much is drafted for equal answers depends on the time that it takes."""
    rejected_tokens: int = field(default=0, eq=False)
    """The number of drafted tokens that the model did not confirm; they are no completion tokens."""


@frozen
class Timings:
    """How a request's time was spent, in seconds."""

    queued: float = 0.0
    """In the queue, except for loads."""
    load: float = 0.0
    """In the queue, while the instance that took the request was being loaded, or its files fetched."""
    prompt: float = 0.0
    """In the instance, up to the first piece of the answer."""
    answer: float = 0.0
    """From there to the end."""


@frozen
class Reuse:
    """The conversation in an instance's cache that a prompt shared most with, and where they part."""

    common: int
    """The number of leading tokens that are equal."""
    held: int
    """The length of that conversation, in tokens; 0: the cache was empty."""
    start: int = 0
    """The index of the first token of `prompt` and `past`."""
    prompt: tuple[int, ...] = field(default=(), repr=False)
    """The prompt's tokens around the place where they part; none if the prompt continues the conversation."""
    past: tuple[int, ...] = field(default=(), repr=False)
    """Those of the conversation."""


@frozen
class Finish:
    """The end of an answer."""

    reason: FinishReason
    usage: Usage
    result: object = None
    """The answer to a query, see `lllms_core.queries`; None for a completion, or if the time ran out."""
    stop: str | None = None
    """The stop string that ended the answer; with several answers, the last one's."""
    timings: Timings = field(default=Timings(), eq=False)
    """Filled in by the worker and the pool; not compared, since equal ends may take different times."""
    reuse: Reuse | None = field(default=None, eq=False)
    """How the prompt met what was cached, if the engine tells; not compared, like the timings."""


@frozen
class TokenScore:
    """The probability of an answer's token."""

    piece: bytes
    """The token's bytes, possibly part of a character."""
    logprob: float
    """The logarithm of its probability, in the model's own distribution over the allowed tokens."""
    top: tuple[tuple[bytes, float], ...] = ()
    """The requested number of likeliest tokens with their log-probabilities, the likeliest first."""


@frozen
class PromptScores:
    """The probabilities of a prompt's tokens, each given those before it."""

    first: bytes
    """The first token: it has no probability, because nothing precedes it."""
    rest: tuple[TokenScore, ...] = ()


@frozen
class CallPiece:
    """A piece of a call: a call's first piece has its id and name, the others more of its arguments."""

    index: int
    """The index of the call within the answer, from 0."""
    id: str = ""
    name: str = ""
    arguments: str = ""


@frozen
class Delta:
    """A piece of an answer. The last one of a request, and only that, carries `finish` or `error`."""

    request_id: str
    text: str = ""
    tokens: int = 0
    """The number of generated tokens that this piece accounts for: text can lag behind while a character or a stop
    string is incomplete."""
    finish: Finish | None = None
    error: LllmsError | None = None
    reasoning: str = ""
    """A piece of the model's thoughts before its answer."""
    calls: tuple[CallPiece, ...] = ()
    """Pieces of the answer's calls, in order."""
    index: int = 0
    """The index of the answer within the request's `n`."""
    ended: FinishReason | None = None
    """Why this answer is complete while others of the request are not; the last one brings `finish`."""
    scores: tuple[TokenScore, ...] = ()
    """Of the tokens that begin in this piece's text, if requested."""
    prompt_scores: PromptScores | None = None
    """Of the prompt's tokens, once, before the text of any answer, if requested."""
    admitted: Usage | None = None
    """The counts of the prompt's tokens and of the reused ones, sent once, with the first piece of any answer."""
    unenforced: tuple[str, ...] = ()
    """The restrictions of the request's schemas that its grammar does not enforce, sent once, like `admitted`: the
    parameter (`response_format`, `tools.NAME`), then a JSON pointer into its schema:
    `response_format#/properties/a/not`."""

    @property
    def last(self) -> bool:
        """Whether the request ends with this piece."""
        return self.finish is not None or self.error is not None


@frozen
class Preload:
    """The common start of a model's conversations or texts: `messages`, perhaps with `tools`, or the text `prefix`."""

    messages: tuple[Message, ...] = ()
    tools: tuple[Tool, ...] = ()
    prefix: str | None = None


@frozen
class ModelSpec:
    """The model that an engine is asked to load."""

    name: str
    """The name that clients use."""
    options: object
    """An instance of the engine's `Options`."""
    file: Path | None = None
    """The model's weights, for engines that read a file; it exists when `Engine.load` is called."""
    threads: int = 1
    """The cores that the pool grants initially; `Model.use_threads` reports changes."""
    preload: Preload | None = None
    """A prefix to evaluate once and keep for all requests that begin with it; `Model.preload` triggers it."""
    memory: int | None = None
    """Bytes that the model may take, for the options that are "auto"; None: as the engine sees fit. An engine settles
    such options so that `Engine.estimate(spec).total` is no more than this, if it can be."""
    device_memory: Mapping[str, int] | None = None
    """Bytes that the model may take of each GPU, by `Device.name`, for the options that are "auto"; None: as the engine
    sees fit."""
    devices: tuple["Device", ...] | None = None
    """The GPUs of the machine that it would run on, for an estimate (`Engine.estimate`, `Engine.smaller`) on another
    one; None: those of this machine."""
    identities: Mapping[Path, str] = field(factory=dict)
    """By path: what identifies some of its files on every machine, such as a hash of their contents; in place of
    `machine.file_identity`, which differs between copies."""


@frozen
class Memory:
    """The memory of a loaded model, in bytes: an engine's estimate before it is loaded."""

    weights: int = 0
    kv: int = 0
    """The state of requests, in all slots together: KV cache, recurrent state."""
    compute: int = 0
    """The buffers of the largest step, and its logits."""
    longest: int = 0
    """The part of `compute` that is only taken with the first text as long as the context, and kept from then on."""
    overhead: int = 0
    """Everything else: the engine's libraries, the model's vocabulary."""
    mapped: bool = False
    """Whether the weights stay in their file's pages: instances of one model share them, and the system may evict and
    reread them."""
    copied: int = 0
    """The part of `weights` that each instance copies even if they are `mapped`, for example into a form that the
    processor reads faster."""
    offloaded: bool = False
    """Whether part of it may be in the memory of a GPU."""
    device: int = 0
    """The part of weights, KV cache and buffers that is in the memory of GPUs, of all together; the other fields are
    about main memory."""
    devices: Mapping[str, int] = field(factory=dict)
    """The share of each GPU in `device`, by `Device.name`; empty if that is unknown."""

    @property
    def total(self) -> int:
        """The sum, for one instance."""
        return self.main + self.device

    @property
    def main(self) -> int:
        """The sum in main memory, for one instance."""
        return self.weights + self.kv + self.compute + self.overhead

    @property
    def shared(self) -> int:
        """The bytes that all instances of the file share."""
        return self.weights - self.copied if self.mapped else 0


@frozen
class Device:
    """A GPU with memory of its own, as an engine sees it."""

    name: str
    total: int
    """Bytes of its memory."""
    free: int
    """The bytes that no program holds now."""


@frozen
class Finding:
    """Something found about a model without loading it (`Engine.examine`)."""

    text: str
    """A sentence that names the thing, the limit and the way out."""
    fatal: bool = True
    """Whether the model cannot be loaded or served; otherwise it is a warning."""


@frozen
class ModelInfo:
    """The abilities of a loaded model, as its worker reports them."""

    tasks: frozenset[Task]
    slots: int
    context_length: int
    details: Mapping[str, str | int | float] = field(factory=dict)
    """Other facts worth showing (architecture, parameters, quantisation ...)."""
    thinks: bool | None = None
    """Whether the model writes thoughts before its answers; None if that is unknown."""


@frozen
class ModelOffer:
    """A model that a plugin offers without any configuration (`lllms_models`)."""

    name: str
    engine: str
    file: Path | None = None
    options: Mapping[str, object] = field(factory=dict)
    description: str = ""
