"""The classes that an engine author implements; for models mostly `SerialModel` or `BatchingModel`."""

import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import ClassVar, Self, cast

from attrs import frozen

from lllms_core.engines.capabilities import Embeds, Ranks
from lllms_core.engines.session_link import Resident
from lllms_core.errors import ContextOverflow, InvalidRequest, ModelLoadFailed, UnsupportedParameter
from lllms_core.parameters import TABLE
from lllms_core.parameters.structured import NAMES
from lllms_core.queries import LABELS, EmbedRequest, Query, RerankRequest
from lllms_core.types import (
    ConstraintKind,
    Delta,
    Device,
    Finding,
    Isolation,
    MediaKind,
    Memory,
    ModelInfo,
    ModelSpec,
    Request,
    Task,
    TextRequest,
)

Progress = Callable[[float], None]
"""A callback for the progress of a load, 0 to 1, called as often as the engine likes."""
Opens = Request | EmbedRequest | RerankRequest
"""The requests that a model opens: for an answer, vectors or scores."""
Opening = Callable[[], None]
"""The rest of opening a prepared request."""
TOOL_PARAMETERS = frozenset({"tools", "tool_choice", "parallel_tool_calls", "functions", "function_call"})
"""Declared by an engine whose models can call tools; the bases for models read the calls."""
TEMPLATE_PARAMETERS = TOOL_PARAMETERS | {"reasoning_effort", "chat_template_kwargs"}
"""Declared by an engine whose models have chat templates."""


_MOST_TOKENS = 1 << 17
"""Tokens that a `TokenizeRequest` is answered with, and a `DetokenizeRequest` may have, at most, unless the model's
context holds more."""


class ContractBroken(Exception):
    """A model returned something that its contract forbids, so its instance ends.

    The text says which method must return what; all clients with open requests read it, so it quotes no request.
    """


class Interrupt(threading.Event):
    """Asks a long step to return, and counts how often the step has looked: a step that looks is not stuck."""

    _looks = 0

    @property
    def looks(self) -> int:
        """The number of looks so far."""
        return self._looks

    def is_set(self) -> bool:
        """Whether a cancel is pending."""
        self._looks += 1
        return super().is_set()

    def wait(self, timeout: float | None = None) -> bool:
        """Pause a step until a cancel is pending, for at most `timeout` seconds; return whether one is."""
        self._looks += 1
        return super().wait(timeout)


@frozen
class NoOptions:
    """For engines that have nothing to configure."""


class Engine(ABC):
    """Knows how to load one kind of model and run it. Engines hold no state: they travel to the worker by pickle."""

    name: ClassVar[str]
    """What `engine = "..."` in the configuration says."""
    Options: ClassVar[type] = NoOptions
    """An attrs class: the keys of `[models.X.options]`, with their types and defaults. Unknown keys are refused."""
    parameters: ClassVar[frozenset[str]] = frozenset()
    """The request parameters that this engine acts on, by the names of `lllms_core.parameters.TABLE`. Most of the
    others are refused by name; some the core does itself, as the table says."""
    media: ClassVar[frozenset[MediaKind]] = frozenset()
    """What this engine takes in messages beside text, from `Message.parts`; a request with other media is refused."""
    constraints: ClassVar[frozenset[ConstraintKind]] = frozenset()
    """The kinds of constraint that this engine keeps; a request with one of another kind is refused. A `BatchingModel`
    writes `matcher` for them; the generator of a `SerialModel` keeps `request.constraint` by itself."""
    checked_constraints: ClassVar[frozenset[ConstraintKind]] = frozenset()
    """The kinds that this engine does not enforce but checks: the answer conforms, or the request fails. A `strict`
    request is refused."""
    keeps_calls: ClassVar[bool] = False
    """Whether its models themselves obey `tool_choice` required and the schemas of strict tools. If its `constraints`
    include `lark`, a grammar makes them."""
    can_preload: ClassVar[bool] = False
    """Whether its models write `preload` (`Preloads`)."""
    isolation: ClassVar[Isolation] = "process"
    """`process` survives whatever native code does; `thread` is for engines of harmless, pure Python."""
    environment: ClassVar[Mapping[str, str]] = {}
    """Environment variables for its worker processes, unless the user has set them: for settings that are read before
    any code of the engine runs. Workers in threads do not get them."""
    watchdog: ClassVar[float] = 30.0
    """Seconds without a sign of life after which a busy worker is killed, with all its requests; 0: never. Every `step`
    that returns is a sign of life, and so is every look at `Model.interrupt`. An engine whose models block for longer,
    for example in a native call that writes a whole answer, sets more. Users can change it (`models.X.watchdog`). Loads
    have a limit of their own."""
    needs_file: ClassVar[bool] = True
    """Whether a model of this engine needs a file of weights."""
    file_suffixes: ClassVar[tuple[str, ...]] = ()
    """Endings of the files that this engine loads, like `.gguf`: `serve --model FILE` finds the engine by them."""
    yields_files: ClassVar[bool] = False
    """Whether another installed engine that loads the same file goes first, unless the configuration names this one."""

    def inspect(self, spec: ModelSpec) -> Mapping[str, str | int | float]:  # noqa: ARG002  # the base looks at nothing
        """Inspect a model without loading it; runs in the server, so it reads little and imports nothing heavy.

        Returns whatever is worth showing about it. Two keys are known: `context_length`, the tokens that a request will
        hold, and `tasks`, the model's tasks with commas between them. Raises `ModelLoadFailed` for a file that can
        never be loaded.
        """
        return {}

    def examine(self, spec: ModelSpec) -> Iterable[Finding]:
        """Yield everything about a model that its user should know before it is loaded: faults and warnings.

        For `lllms check`, which loads nothing but has a few seconds. It reports what `load` refuses, in the same words.
        The base yields the fault that `inspect` raises.
        """
        try:
            self.inspect(spec)
        except ModelLoadFailed as error:
            yield Finding(error.message)

    def recommended(self, spec: ModelSpec) -> Mapping[str, object]:  # noqa: ARG002  # the base looks at nothing
        """Return generation parameters that a model's file recommends, for requests and configurations that set none.

        The names are those of `[models.X.defaults]`; values that are out of range, or not among `parameters`, are left
        out. This runs in the server, once for each file, so it reads little. Raises `ModelLoadFailed` for a file that
        can never be loaded.
        """
        return {}

    def rehearse(self, spec: ModelSpec) -> None:
        """Go through a load without using its memory, and raise or log what it would; in a worker, for `lllms check`.

        This finds faults that only native code detects. It is called for models for which `examine` yields no fault.
        The base does nothing, and then no worker is started.
        """

    def __init_subclass__(cls, **kwargs: object) -> None:
        """Refuse an engine that declares parameters that no client can send; add those implied by its `constraints`."""
        super().__init_subclass__(**kwargs)
        kinds = cls.constraints | cls.checked_constraints
        cls.parameters |= {name for name in NAMES if not kinds.isdisjoint(NAMES[name])}
        unknown = cls.parameters - {line.name for line in TABLE if not line.fixed and not line.means}
        if unknown:
            raise TypeError(f"{cls.__name__}.parameters: there are no parameters named {', '.join(sorted(unknown))}")

    def estimate(self, spec: ModelSpec) -> Memory:
        """Return the memory that the model will take, without loading it; the base counts the bytes of its file.

        Options that are "auto" are chosen so that this is at most `spec.memory`, if possible, and `load` chooses the
        same. Runs in the server, like `inspect`, and raises `ModelLoadFailed` as that does.
        """
        if spec.file is None:
            return Memory()
        try:
            return Memory(weights=spec.file.stat().st_size)
        except OSError as error:
            raise ModelLoadFailed(f"'{spec.file}' cannot be read: {error.strerror}") from None

    def smaller(self, spec: ModelSpec, fits: Callable[[Memory], bool]) -> Iterable[str]:  # noqa: ARG002  # no options
        """Yield changes of the options, in words, each of which would make an estimate that `fits`.

        For a model that is too large; like `options.context_length = 8192`, the largest that fits. The base has none.
        """
        return ()

    def devices(self) -> Sequence[Device]:
        """Return the GPUs that this engine uses, with the memory that is free now; the base has none.

        Runs in the server, in any thread. It may take seconds, but must not keep memory of a GPU: let a short-lived
        process look. `Memory.devices` has the same names.
        """
        return ()

    def hardware(self, spec: ModelSpec | None = None) -> str:  # noqa: ARG002  # the base knows nothing
        """Say on what its models compute, or what this one would: on which GPUs, or why on none; "" if unknown.

        For people, in a line: `lllms plugins`, `check` and the start of a server show it. Runs like `devices`.
        """
        return ""

    def warm(self) -> None:
        """Import what `load` will need, in a spare worker that does not know its model yet.

        It should take little memory, and start no threads: they might keep a low priority for ever. Whatever it raises
        ends the spare, and loads do without. The base does nothing: the engine's module is imported anyway.
        """

    @abstractmethod
    def load(self, spec: ModelSpec, progress: Progress) -> "Model":
        """Load the model and return it; blocking. Runs in the worker: heavy imports belong in here.

        Raises `ModelLoadFailed` when the file or the options are at fault. Whatever else it raises is reported so too.
        """


class Model(ABC):
    """A loaded model in its worker. All methods but five are called from one thread, never two at once.

    Its other abilities are in `lllms_core.engines.capabilities`: it implements those that its engine declares.

    `prepare`, `to_tokens`, `to_text`, `to_prompt` and `count_prompt` are called from any thread, several at once, and
    while the model is in any other method: they only read what does not change after the load. They may take long. If
    they call `lllms_core.cancellation.check_cancelled` every few milliseconds, they stop when their request has ended.
    Running out of stack (`RecursionError`) or memory there is the request's fault.
    """

    tasks: frozenset[Task] = frozenset({"chat", "text"})
    """The tasks it can do; it has the methods for them (`Embeds`, `Ranks`, `Tokenizes`, `Detokenizes`, `Renders`).
    Queries for other tasks do not reach it."""
    way_out: Mapping[Task, str] = {}
    """The way out for a task that it lacks, for the refusal."""
    token_inputs: bool | None = None
    """Whether texts to embed may be given as the model's own tokens; False if `options.token_inputs` can allow it, None
    for a model that never takes them."""
    slots: int = 1
    """The most requests open at once."""
    context_length: int
    """The most tokens of one request, prompt and answer together."""
    state_key: str | None = None
    """Identifies everything that a session depends on besides its tokens and the model's file: versions, options. None:
    nothing of a request outlives the model, and it gets no `SessionLink`; otherwise it implements `Resumes`."""
    interrupt: Interrupt
    """Set from another thread while a cancel waits to be handled: a long `step` should look at it (`is_set`) now and
    then, and return. Each look also shows that the step is not stuck, see `Engine.watchdog`."""

    def __new__(cls, *_args: object, **_kwargs: object) -> Self:
        """Give every model its `interrupt`, whether or not its author calls `super().__init__`."""
        model = super().__new__(cls)
        model.interrupt = Interrupt()
        return model

    @property
    def most_tokens(self) -> int:
        """The most tokens that a `TokenizeRequest` returns, and a `DetokenizeRequest` may have."""
        return max(self.context_length, _MOST_TOKENS)

    @property
    def enough_tokens(self) -> int:
        """A prompt of more tokens is refused anyway, so counting may stop there."""
        return 2 * self.context_length

    @property
    def thinks(self) -> bool | None:
        """Whether it writes thoughts before its answers; None if that is unknown."""
        return None

    @property
    def info(self) -> ModelInfo:
        """The facts that the pool and `GET /v1/models` show about this model."""
        return ModelInfo(self.tasks, self.slots, self.context_length, self.details(), self.thinks)

    def details(self) -> Mapping[str, str | int | float]:
        """Other facts worth showing about the model."""
        return {}

    def prepare(self, request: Opens) -> Opening:
        """Do the slow part of opening a request, and return the rest, which the model's thread calls.

        Other requests step meanwhile: render, tokenise and refuse here, as `open` does. The base leaves everything to
        `open`, `open_embed` or `open_rerank`, also for a class that overrides only one of these. If the request is
        cancelled, the rest is never called.
        """
        match request:
            case EmbedRequest():
                return partial(cast(Embeds, self).open_embed, request)
            case RerankRequest():
                return partial(cast(Ranks, self).open_rerank, request)
        return partial(self.open, request)

    @abstractmethod
    def open(self, request: Request) -> None:
        """Take a request; at most `slots` are open at once. Raises `RequestError` if it can never be served.

        Any other exception means that the model is broken: its worker ends, and every request in it fails.
        """

    @abstractmethod
    def step(self) -> Iterable[Delta]:
        """Advance everything that is open, once. Exceptions mean that the model is broken, as in `open`."""

    @abstractmethod
    def cancel(self, request_id: str) -> Iterable[Delta]:
        """End a request now: its last delta says `cancelled`. Unknown ids are fine and yield nothing."""

    @property
    @abstractmethod
    def idle(self) -> bool:
        """Whether nothing is open, so that there is nothing to `step`."""

    def count_prompt(self, request: Request) -> int:
        """Return the number of tokens in a request's prompt, as `open` would count them. Raises `RequestError`."""
        raise InvalidRequest(f"model '{request.model}' cannot count the tokens of a prompt before it answers", "model")

    def check_task(self, query: Query) -> None:
        """Raise `InvalidRequest` if this model cannot answer the query, or takes no tokens to embed."""
        if query.task not in self.tasks:
            able = ", ".join(label for task, label in LABELS.items() if task in self.tasks)
            way_out = f"; {self.way_out[query.task]}" if query.task in self.way_out else ""
            raise InvalidRequest(
                f"model '{query.model}' cannot {LABELS[query.task]}{way_out}; it can {able}", "model",
            )
        tokens = isinstance(query, EmbedRequest) and any(isinstance(one, tuple) for one in query.inputs)
        if tokens and not self.token_inputs:
            # The vectors of another vocabulary's ids look like any others, and mean nothing.
            own = "" if self.token_inputs is None else "; if they are this model's own, set options.token_inputs = true"
            raise UnsupportedParameter(
                f"'input' holds ids of tokens, most likely of another vocabulary than that of model '{query.model}'; "
                f"send texts (LangChain does with OpenAIEmbeddings(check_embedding_ctx_length=False)){own}",
                "input", "unsupported_parameter",
            )

    def prompt_progress(self) -> Mapping[str, float]:
        """Return how much of the prompts that are being read has been read, 0 to 1, by request; as far as known.

        Called between steps, a few times a second, while an answer has not begun; clients see it.
        """
        return {}

    def residents(self) -> Sequence[Resident]:
        """Return the conversations that the model holds; one that has any also implements `forget` (`Remembers`)."""
        return ()

    def store_sessions(self) -> None:
        """Store the past conversations; the last call before `close`."""

    def use_threads(self, count: int) -> None:
        """Compute with at most `count` cores from now on; engines that compute little may ignore it."""

    def close(self) -> None:
        """Free everything that the model holds. The last call."""

    def answer_limit(self, request: Request, prompt_tokens: int) -> int:
        """Return the most tokens of an answer to a prompt of `prompt_tokens`: `max_tokens`, or fewer if fewer fit.

        Raises `ContextOverflow` if there is no room for even one, unless none is wanted.
        """
        wanted, room = request.max_tokens, self.context_length - prompt_tokens
        if room > 0 or (room == 0 and wanted == 0):
            return room if wanted is None else min(wanted, room)
        given = isinstance(request, TextRequest) and isinstance(request.prompt, tuple)
        counted = given or prompt_tokens <= self.enough_tokens
        least = "" if counted else "at least "
        raise ContextOverflow(
            f"the request has {least}{prompt_tokens} tokens in its prompt, which leaves no room for an answer, because "
            f"model '{request.model}' holds {self.context_length}; shorten it, or raise options.context_length",
            request.source,
            "context_length_exceeded",
        )
