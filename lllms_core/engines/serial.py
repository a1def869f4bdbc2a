"""The base for engines that answer one piece of text at a time: write a generator, get a model."""

from collections.abc import Generator, Iterable, Iterator, Mapping
from inspect import isgenerator
from time import monotonic
from typing import cast

from attrs import define, frozen

from lllms_core.chat.answer_format import AnswerFormat
from lllms_core.chat.parser import NOTHING
from lllms_core.chat.parser import Pieces as Shown
from lllms_core.engines.answer_text import PLAIN, AnswerText
from lllms_core.engines.base import Model, Opening, Opens
from lllms_core.engines.capabilities import Detokenizes, EmbedsTexts, ScoresPrompts, writes
from lllms_core.engines.choices import Choices, choice
from lllms_core.engines.vector_run import VectorRun, check_dimensions
from lllms_core.errors import EngineFailed, InvalidRequest, RequestError
from lllms_core.queries import EmbedRequest
from lllms_core.text import ScoreLog
from lllms_core.text.scores import sound
from lllms_core.types import ChatRequest, Delta, FinishReason, Message, Request, Task, TextRequest, TokenScore, Usage
from lllms_core.values.violations import kind_of


@frozen
class Pause:
    """Yielded in place of a piece: this answer pauses for this many seconds, while the others continue."""

    seconds: float


@frozen
class Reused:
    """Yielded in place of a piece: this many tokens of the prompt did not have to be evaluated again."""

    tokens: int


Piece = str | bytes | TokenScore | Pause | Reused
Pieces = Iterable[Piece] | Generator[Piece, None, Usage | None]
"""What `chat` and `complete` return: the answer, a token at a time; with its score, where an engine declares `logprobs`
and is asked for it. A generator may `return` the exact `Usage`."""

LONGEST_WAIT = 0.005
"""Seconds that a step waits at most while every answer pauses: a new request is not taken before the step returns."""


@define
class _Run:
    """One answer that is being written."""

    request: Request
    choices: "Choices[_Run]"
    index: int
    pieces: Iterator[Piece]
    output: AnswerText
    log: ScoreLog
    limit: int
    """The most tokens that it may have."""
    tokens: int = 0
    cached_tokens: int = 0
    prompt_told: bool = False
    """Whether the prompt's scores have been sent, or were not requested."""
    wake: float = 0.0
    """Paused until then, on the clock of `monotonic`."""

    def note(self, piece: Pause | Reused) -> None:
        if isinstance(piece, Pause):
            self.wake = monotonic() + piece.seconds
        else:
            self.cached_tokens = piece.tokens


class SerialModel(Model):
    """A model that writes its answers with a Python generator.

    Implement `chat(request)`, `complete(prompt, request)` or both; each piece that they yield counts as one token.
    Implement `embed(texts)` for vectors (`EmbedsTexts`); further abilities are in `lllms_core.engines.capabilities`.
    `count_tokens`, `prompt_tokens` and `prompt_text` are parts of `prepare`: any thread may call them, several at once.
    Several requests (`slots`) take turns, a piece at a time. A generator that raises `RequestError` or `EngineFailed`
    fails only its own request. One that is silent for longer than `Engine.watchdog` between two pieces must check
    `self.interrupt.is_set()` meanwhile, or its worker is taken for stuck. Prompt and answer together, as
    `count_tokens` counts them, stay within `context_length`.
    """

    context_length = 4096
    answer_format: AnswerFormat = PLAIN
    """How the answers mark thoughts and calls of tools, for an engine that declares `TOOL_PARAMETERS`."""
    embed_at_once: int = 16
    """The most texts that `embed` is given at a time: a cancel is not handled before it returns."""
    can_shorten: bool = False
    """Whether the first numbers of a vector mean much the same as all, so that requests may ask for fewer."""

    def __init_subclass__(cls, **kwargs: object) -> None:
        """Derive `tasks` from the methods that the subclass writes."""
        super().__init_subclass__(**kwargs)
        written: set[Task] = set()
        if cls.chat is not SerialModel.chat:
            written.add("chat")
        if cls.complete is not SerialModel.complete:
            written.add("text")
        methods: dict[str, Task] = {
            "embed": "embed", "to_tokens": "tokenize", "to_text": "detokenize", "to_prompt": "render",
        }
        written |= {task for method, task in methods.items() if writes(cls, method)}
        cls.tasks = frozenset(written)

    def chat(self, request: ChatRequest) -> Pieces:
        """Answer the conversation `request.messages`, piece by piece."""
        raise InvalidRequest(f"model '{request.model}' cannot chat; use /v1/completions", "messages")

    def complete(self, prompt: str, request: TextRequest) -> Pieces:  # noqa: ARG002  # the base refuses whatever is asked
        """Continue `prompt`, piece by piece."""
        raise InvalidRequest(f"model '{request.model}' cannot continue text; use /v1/chat/completions", "prompt")

    def count_tokens(self, text: str) -> int:
        """How many tokens `text` has; words, unless the engine knows better."""
        return len(text.split())

    def prompt_tokens(self, request: Request) -> int:
        """How many tokens the prompt of a request has; an engine with a chat template counts what that adds, too."""
        if isinstance(request, TextRequest):
            return self.count_tokens(self.prompt_text(request))
        return sum(self.count_tokens(text) for message in request.messages for text in _texts(message))

    def count_prompt(self, request: Request) -> int:
        """Return the number of tokens in the prompt, as `prepare` counts them."""
        return self.prompt_tokens(request)

    def prompt_text(self, request: TextRequest) -> str:
        """The text to continue; that of tokens, if `to_text` is written. Raises `InvalidRequest` if it is not."""
        if not isinstance(request.prompt, tuple):
            return request.prompt
        if "detokenize" not in self.tasks:
            raise InvalidRequest(f"model '{request.model}' continues texts, not tokens; send strings", "prompt")
        return cast(Detokenizes, self).to_text(request.prompt)

    def answer_text(self, request: Request, index: int) -> AnswerText:
        """How the bytes of an answer are read; an engine whose prompts open the thoughts says so here."""
        return AnswerText(request, self.answer_format, index=index)

    @property
    def thinks(self) -> bool | None:
        """Whether its answers mark thoughts."""
        return self.answer_format.reasoning is not None

    @property
    def idle(self) -> bool:
        """Whether no request is open."""
        return not self._open and not self._embedding

    @property
    def _embedding(self) -> dict[str, VectorRun]:
        runs: dict[str, VectorRun] = self.__dict__.setdefault("_vector_runs", {})
        return runs

    @property
    def _open(self) -> dict[str, _Run]:
        # Authors need not call super().__init__(): the state comes into being when first needed.
        runs: dict[str, _Run] = self.__dict__.setdefault("_runs", {})
        return runs

    def prepare(self, request: Opens) -> Opening:
        """Count the prompt's tokens. Raises `ContextOverflow` if they leave no room for an answer."""
        if not isinstance(request, Request):
            return super().prepare(request)
        prompt_tokens = self.prompt_tokens(request)
        limit = self.answer_limit(request, prompt_tokens)
        return lambda: self._start(Choices(request, prompt_tokens, request.count), 0, limit)

    def open(self, request: Request) -> None:
        """Start the generator of a request that was not prepared."""
        self.prepare(request)()

    def open_embed(self, request: EmbedRequest) -> None:
        """Take the request; if it accepts tokens, their texts (`to_text`) are embedded in their place."""
        self._embedding[request.id] = VectorRun(request)

    def step(self) -> Iterable[Delta]:
        """Take the next piece of every open request; while all pause, wait for a moment, or for `interrupt`."""
        now = monotonic()
        runs = list(self._open.values())
        deltas = [delta for run in runs if run.wake <= now and (delta := self._turn(run)) is not None]
        if self._embedding:
            return deltas + [d for run in list(self._embedding.values()) if (d := self._embed_next(run)) is not None]
        if runs and not deltas:
            pause = min(run.wake for run in runs) - monotonic()
            self.interrupt.wait(min(max(pause, 0), LONGEST_WAIT))
        return deltas

    def prompt_progress(self) -> Mapping[str, float]:
        """How many of the texts of each query have their vectors."""
        return {request_id: len(run.results) / run.total for request_id, run in self._embedding.items()}

    def cancel(self, request_id: str) -> Iterable[Delta]:
        """Close the generator of this request."""
        if (vectors := self._embedding.pop(request_id, None)) is not None:
            return [vectors.finish("cancelled")]
        run = self._open.get(request_id)
        if run is None:
            return []
        run.choices.open = 1  # the others are not even begun
        return [self._finish(run, "cancelled")]

    def _start(self, choices: "Choices[_Run]", index: int, limit: int) -> None:
        """Begin an answer; the request's answers come one after another."""
        request = choice(choices.request, index)
        if isinstance(request, TextRequest):
            pieces = self.complete(self.prompt_text(request), request)
        else:
            pieces = self.chat(request)
        output = self.answer_text(request, index)
        run = _Run(request, choices, index, iter(pieces), output, ScoreLog(output), limit)
        run.prompt_told = index > 0 or not request.scores_prompt
        self._open[request.id] = run

    def _turn(self, run: _Run) -> Delta | None:
        return self._advance(run) if run.prompt_told else self._tell_prompt(run)

    def _advance(self, run: _Run) -> Delta | None:
        if run.tokens >= run.limit:
            return self._finish(run, "length")
        try:
            pieces = self._read_piece(run, next(run.pieces))
        except StopIteration as end:
            return self._finish(run, "stop", usage=end.value)
        except (RequestError, EngineFailed) as error:
            return self._fail(run, error)
        if pieces is None:
            return None
        if run.output.stopped or run.tokens == run.limit:
            return self._finish(run, "stop" if run.output.stopped else "length", pieces, 1)
        text, thought, calls = pieces
        scores = run.log.take()
        choices = run.choices
        if choices.untold:
            choices.cached_tokens = run.cached_tokens
        admitted = choices.admitted() if choices.untold else None
        return Delta(
            run.request.id, text, 1, reasoning=thought, calls=calls, index=run.index, scores=scores, admitted=admitted,
        )

    def _read_piece(self, run: _Run, piece: Piece) -> Shown | None:
        """Return what a piece adds to the answer; None if it is no token."""
        if isinstance(piece, Pause | Reused):
            run.note(piece)
            return None
        run.tokens += 1
        if isinstance(piece, TokenScore):
            run.log.add(piece)
            return run.output.feed(piece.piece)
        if run.request.scored or not isinstance(piece, str | bytes):
            raise EngineFailed(_wrong(run.request, piece))
        return run.output.feed(piece.encode(errors="replace") if isinstance(piece, str) else piece)

    def _tell_prompt(self, run: _Run) -> Delta:
        run.prompt_told = True
        request = cast(TextRequest, run.request)  # chats do not request their prompt's scores
        try:
            scores = cast(ScoresPrompts, self).score_prompt(self.prompt_text(request), request)
            for score in scores.rest:
                sound(score)
        except (RequestError, EngineFailed) as error:
            return self._fail(run, error)
        return Delta(run.request.id, prompt_scores=scores)

    def _fail(self, run: _Run, error: RequestError | EngineFailed) -> Delta:
        del self._open[run.request.id]
        if isgenerator(run.pieces):
            run.pieces.close()
        rest, _ = run.output.end("cancelled")
        return Delta(run.request.id, rest.text, error=error, index=run.index)

    def _embed_next(self, run: VectorRun) -> Delta | None:
        request, start = run.request, len(run.results)
        assert isinstance(request, EmbedRequest)  # noqa: S101  # the only kind that is opened
        chosen = request.inputs[start : start + self.embed_at_once]
        try:
            reader = cast(Detokenizes, self)
            answer = cast(EmbedsTexts, self).embed(
                [one if isinstance(one, str) else reader.to_text(one) for one in chosen],
            )
            if len(answer.vectors) != len(chosen):
                raise ValueError(f"embed gave {len(answer.vectors)} vectors for {len(chosen)} texts")
            check_dimensions(request, len(answer.vectors[0]), can_shorten=self.can_shorten)
            for vector in answer.vectors:
                run.take(vector, 0)
        except (RequestError, EngineFailed) as error:
            del self._embedding[request.id]
            return Delta(request.id, error=error)
        run.tokens += answer.tokens
        if len(run.results) < run.total:
            return None
        del self._embedding[request.id]
        return run.finish()

    def _finish(
        self, run: _Run, reason: FinishReason, pieces: Shown = NOTHING, tokens: int = 0, *, usage: object = None,
    ) -> Delta:
        del self._open[run.request.id]
        if isgenerator(run.pieces):
            run.pieces.close()
        choices = run.choices
        if run.index == 0:
            choices.cached_tokens = run.cached_tokens
        exact = usage if isinstance(usage, Usage) else None
        rest, reason = run.output.end(reason)
        pieces = pieces.followed_by(rest)
        choices.reasoning_tokens += run.output.reasoning_tokens
        last = choices.end(
            run.index, reason, run.tokens, text=pieces.text, tokens=tokens, scores=run.log.rest(),
            reasoning=pieces.reasoning, calls=pieces.calls, usage=exact, stop=run.output.stop,
        )
        if choices.open:
            self._start(choices, run.index + 1, run.limit)
        return last


def _wrong(request: Request, piece: object) -> str:
    """Say which piece a generator should have yielded."""
    method = "complete" if isinstance(request, TextRequest) else "chat"
    yielded = f"`{method}` of model '{request.model}' yielded {kind_of(piece)}"
    if request.scored and isinstance(piece, str | bytes):
        return f"{yielded} where scores were asked for, which its engine declares; it must yield TokenScore"
    return f"{yielded}; it must yield str, bytes, TokenScore, Pause or Reused"


def _texts(message: Message) -> Iterator[str]:
    """What a message says: its content, and its calls."""
    yield message.content
    for call in message.tool_calls:
        yield from (call.name, call.arguments)
