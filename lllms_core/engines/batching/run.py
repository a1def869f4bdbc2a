"""One answer on its way through a batching model."""

from collections.abc import Callable, Sequence
from concurrent.futures import Future
from enum import Enum, auto
from functools import partial
from operator import index
from typing import TYPE_CHECKING, cast

from attrs import define, evolve

from lllms_core.chat import LazyGrammar
from lllms_core.chat.parser import NOTHING, Pieces
from lllms_core.engines.answer_text import AnswerText
from lllms_core.engines.base import ContractBroken
from lllms_core.engines.batching.joining import joined
from lllms_core.engines.batching.kept_calls import KeptCalls
from lllms_core.engines.capabilities import Scores
from lllms_core.engines.samplers import Matcher, Sampler
from lllms_core.engines.session_link import Session
from lllms_core.engines.tokens import Feed, TokenModel
from lllms_core.errors import EngineFailed, RequestError
from lllms_core.text import ScoreLog
from lllms_core.text.scores import sound
from lllms_core.types import Constraint, Delta, FinishReason, PromptScores, Request, TokenScore
from lllms_core.values.violations import kind_of

if TYPE_CHECKING:
    from lllms_core.engines.batching.speculation import Guesses
    from lllms_core.engines.choices import Choices

MOST_FORCED = 32
"""The most tokens that a grammar forces in one step."""


class Phase(Enum):
    """What a run is waiting for, or doing."""

    MATCHER = auto()
    """The matcher of its constraint is being made."""
    READY = auto()
    """It can be admitted, but a session lookup may come first."""
    LOOKUP = auto()
    """A session lookup is pending."""
    ROOM = auto()
    """It can be admitted, without another session lookup."""
    RUNNING = auto()
    """It has a sequence: its prompt is evaluated, or its answer written."""
    OVER = auto()
    """It has ended."""


@define(eq=False)
class Run:
    """One answer to a request. It knows its text and its tokens, and nothing of the KV cache."""

    request: Request
    choices: "Choices[Run]"
    index: int
    """Which of the answers."""
    tokens: list[int]
    """The prompt and what was generated; those from `evaluated` on are still to be fed."""
    prompt_length: int
    limit: int
    """How many tokens it may hold at its end."""
    output: AnswerText
    log: ScoreLog | None = None
    """Holds back the tokens' scores, if requested."""
    matcher: Future[Matcher] | None = None
    """Done before the run is admitted."""
    calls: KeptCalls | None = None
    """Constrains the calls of an otherwise free answer."""
    opening: int | None = None
    """The token with which a constrained answer may begin to think."""
    prompt_scores: list[TokenScore] | None = None
    """The scores of the prompt's tokens from the second on, if requested and not sent yet."""
    pin: bool = False
    """Whether it is the preload, which stays."""
    phase: Phase = Phase.READY
    session: Session | None = None
    """The stored session of its conversation."""
    leader: "Run | None" = None
    """The running request whose reading it waits for, see `leading`."""
    shared: int = 0
    """The number of leading tokens that both have."""
    sampler: Sampler | None = None
    prediction: Sequence[int] = ()
    """The tokens that the client expects."""
    guesses: "Guesses | None" = None
    """How it may continue, if the model speculates."""
    expected: int | None = None
    """The drafted token with which the next one is compared."""
    forces: bool = False
    """Whether tokens that its grammar forces are written without asking the model."""
    sequence: int = -1
    evaluated: int = 0
    cached: int = 0

    @property
    def generated(self) -> int:
        """How many tokens the model has added."""
        return len(self.tokens) - self.prompt_length

    @property
    def alone(self) -> bool:
        """Whether it evaluates all of its prompt itself."""
        return self.prompt_scores is not None or not self.request.cache_prompt

    @property
    def read(self) -> float:
        """How much of the prompt has been evaluated, 0 to 1, not counting what was reused."""
        return (self.evaluated - self.cached) / max(1, self.prompt_length - self.cached)

    @property
    def pending(self) -> int:
        """How many tokens are still to be evaluated."""
        return len(self.tokens) - self.evaluated

    @property
    def writing(self) -> bool:
        """Whether the next step lets it write: only its last tokens are still to be evaluated."""
        pending = len(self.tokens) - self.evaluated
        return pending == 1 or (self.forces and 1 < pending <= MOST_FORCED + 1 and self.generated > 0)

    @property
    def over(self) -> bool:
        """Whether it has ended."""
        return self.phase is Phase.OVER

    @property
    def stalled(self) -> bool:
        """Whether it cannot be fed yet, because its next token needs a grammar that is being made."""
        return self.calls is not None and self.calls.stalled

    @property
    def making(self) -> Future[Matcher] | None:
        """The matcher it is waiting for, in the queue or in the middle of its answer."""
        if not self.stalled and not self.lacks_matcher():
            return None
        return self.matcher if self.calls is None else self.calls.making

    @property
    def refusal(self) -> BaseException | None:
        """Why its constraint turned out to be impossible."""
        if self.calls is not None:
            return self.calls.refusal
        return self.matcher.exception() if self.matcher is not None and self.matcher.done() else None

    def lacks_matcher(self) -> bool:
        """Whether its admission waits for a matcher that is being made."""
        if self.phase is Phase.MATCHER and not self._unmade():
            self.phase = Phase.READY
        return self.phase is Phase.MATCHER

    def constrain(
        self, constraint: Constraint | LazyGrammar, make: Callable[[Constraint], Future[Matcher]],
    ) -> None:
        """Constrain the answer by a matcher that `make` starts to make, or its calls by their lazy grammar.

        The matcher of a whole answer, or of calls of strict tools, is made before the run is admitted, as it may be
        refused. That of other calls is made meanwhile.
        """
        if isinstance(constraint, Constraint):
            self.matcher = make(constraint)
        else:
            self.calls = KeptCalls(constraint, make, self.output.thinking)
        if self.calls is None or self.calls.grammar.needed:
            self.phase = Phase.MATCHER

    def admit(self, sequence: int, keep: int, sampler: Sampler) -> None:
        """Run in this sequence, which already holds the first `keep` tokens."""
        self.phase, self.session, self.leader = Phase.RUNNING, None, None
        self.sequence, self.sampler = sequence, sampler
        self._reuse(keep)

    def restart(self) -> None:
        """Evaluate everything again, because the sequence has lost its tokens."""
        self._reuse(0)
        if self.prompt_scores:
            self.prompt_scores.clear()

    def feed(self, count: int) -> Feed:
        """Return the next `count` tokens to evaluate."""
        start, end, scored = self.evaluated, self.evaluated + count, self.prompt_scores is not None
        tokens = self.tokens[start:end]
        return Feed(self.sequence, start, tokens, logits=scored or end == len(self.tokens), all_logits=scored)

    def feed_draft(self, draft: Sequence[int]) -> Feed:
        """Return its last token and those of a draft, to be evaluated together."""
        tokens = [self.tokens[-1], *draft]
        return Feed(self.sequence, self.evaluated, tokens, logits=True, all_logits=True)

    def take(self, model: TokenModel, feed: Feed, row: int) -> list[Delta]:
        """Use the logits after a feed's tokens, the last of which are in `row`; [] while the prompt has more tokens.

        The run may have ended afterwards; with an error, so have the others of its request.
        """
        try:
            if self.prompt_scores is not None:
                self._score_prompt(model, feed, row)
        except (RequestError, EngineFailed) as error:
            return [self.fail(error)]
        if len(self.tokens) > self.evaluated:
            return []
        if feed.all_logits and self.prompt_scores is None:
            deltas = self._compare_draft(model, feed, row)
        else:
            deltas = [self._next(model, row)]
        if self.forces and not self.over:
            deltas += self._forced(model, row)
        if self.prompt_scores is not None:
            scores = PromptScores(shown(model, self.tokens[0]), tuple(self.prompt_scores))
            self.prompt_scores = None
            deltas[0] = evolve(deltas[0], prompt_scores=scores)
        return deltas if len(deltas) == 1 else joined(deltas)

    def end(self, reason: FinishReason, pieces: Pieces = NOTHING, tokens: int = 0) -> Delta:
        """End the answer with these last pieces; return its last delta."""
        self.phase = Phase.OVER
        rest, reason = self.output.end(reason)
        pieces = pieces.followed_by(rest)
        self.choices.reasoning_tokens += self.output.reasoning_tokens
        return self.choices.end(
            self.index, reason, self.generated, text=pieces.text, tokens=tokens,
            scores=() if self.log is None else self.log.rest(), reasoning=pieces.reasoning, calls=pieces.calls,
            stop=self.output.stop, unenforced=() if self.calls is None else self.calls.given_up(self.request),
        )

    def fail(self, error: RequestError | EngineFailed) -> Delta:
        """End the request because this answer failed; return its last delta."""
        self.phase = Phase.OVER
        rest, _ = self.output.end("cancelled")
        return Delta(self.request.id, rest.text, error=error, index=self.index)

    def close(self) -> None:
        """Free the sampler; the run is over."""
        self.drop()
        if self.sampler is not None:
            self.sampler.close()

    def drop(self) -> None:
        """Cancel the matchers that are being made; the run is over."""
        self.phase = Phase.OVER
        if self.matcher is not None:
            self.matcher.cancel()
        if self.calls is not None:
            self.calls.cancel()

    # -- how it works -------------------------------------------------------------------------------------------------

    def _unmade(self) -> bool:
        if self.calls is not None:
            return self.calls.unmade()
        return self.matcher is not None and not self.matcher.done()

    def _reuse(self, keep: int) -> None:
        self.evaluated = self.cached = keep
        if self.index == 0:
            self.choices.cached_tokens = keep

    def _score_prompt(self, model: TokenModel, feed: Feed, row: int) -> None:
        """Record the scores of the prompt's tokens that follow those of a feed."""
        assert self.prompt_scores is not None  # noqa: S101  # all logits are requested only then
        scorer = cast(Scores, model)
        first = row - len(feed.tokens) + 1
        for at, token in enumerate(self.tokens[feed.position + 1 : self.evaluated + 1]):
            score = scorer.score(first + at, token, self.request.top_logprobs or 0)
            self.prompt_scores.append(evolve(sound(score), piece=shown(model, token)))

    def _next(self, model: TokenModel, row: int) -> Delta:
        try:
            if len(self.tokens) >= self.limit:
                return self.end("length")
            return self._add(model, row, *self._sample(model, row))
        except (RequestError, EngineFailed) as error:
            return self.fail(error)

    def _compare_draft(self, model: TokenModel, feed: Feed, row: int) -> list[Delta]:
        """Choose tokens as long as they are those of the draft, and the one after them; note what was evaluated."""
        deltas = []
        draft = feed.tokens[1:]
        first = row - len(draft)
        self.choices.rejected_tokens += len(draft)
        for place, self.expected in enumerate((*draft, None)):
            deltas.append(self._next(model, first + place))
            if self.over or self.stalled or self.tokens[-1] != self.expected:
                break
            self.evaluated += 1
        self.expected = None
        return deltas

    def _forced(self, model: TokenModel, row: int) -> list[Delta]:
        """Write the tokens that the grammar allows no alternative to."""
        deltas: list[Delta] = []
        while not self.over and not self.output.thinking and len(deltas) < MOST_FORCED:
            sampler, matcher = self.sampler, None if self.matcher is None else self.matcher.result()
            keeper = self.calls if matcher is None else matcher
            assert sampler is not None and keeper is not None  # noqa: PT018, S101  # the caller has checked
            try:
                token = keeper.sample_forced(sampler, row)
                if token is None:
                    break
                deltas.append(self._add(model, row, token, matcher))
            except (RequestError, EngineFailed) as error:
                deltas.append(self.fail(error))
        return deltas

    def _add(self, model: TokenModel, row: int, chosen: int, matcher: Matcher | None) -> Delta:
        """Take a chosen token into the answer, which it may end."""
        try:
            token = index(chosen)
        except TypeError:
            by = "its sampler" if matcher is None else "its matcher"
            raise ContractBroken(
                f"`sample` of {by} returned {kind_of(chosen)}; it must return a token, an integer",
            ) from None
        if model.is_end(token):
            return self.end("stop")
        self.tokens.append(token)
        if token == self.expected:
            self.choices.accepted_tokens += 1
            self.choices.rejected_tokens -= 1
        output, log = self.output, self.log
        piece = self._piece(model, token)
        if not isinstance(piece, bytes):
            raise ContractBroken(f"`piece` returned {kind_of(piece)}; it must return the bytes of a token")
        if log is not None:
            score = cast(Scores, model).score(row, token, self.request.top_logprobs or 0)
            log.add(evolve(score, piece=piece))
        if self.calls is not None:
            output.kept = self.calls.active  # arguments stream while a grammar keeps their call
        pieces = output.feed(piece)
        if self.calls is not None:
            self.calls.take(piece, thinking=output.thinking)
        if output.stopped or (matcher is not None and matcher.complete):
            return self.end("stop", pieces, 1)
        if len(self.tokens) >= self.limit:
            return self.end("length", pieces, 1)
        scores = () if log is None else log.take()
        text, thought, calls = pieces
        choices = self.choices
        admitted, unenforced = (choices.admitted(), choices.unenforced) if choices.untold else (None, ())
        return Delta(
            self.request.id, text, 1, reasoning=thought, calls=calls, index=self.index, scores=scores,
            admitted=admitted, unenforced=unenforced,
        )

    def _piece(self, model: TokenModel, token: int) -> bytes:
        """Return the bytes of a token of the answer; for a control token, those of its text if that is a mark."""
        return model.piece(token) or self.output.mark(model.control_text(token))

    def _sample(self, model: TokenModel, row: int) -> tuple[int, Matcher | None]:
        sampler = self.sampler
        assert sampler is not None  # noqa: S101  # only admitted runs are fed
        if self.calls is not None:
            return self.calls.sample(sampler, row, partial(self._piece, model)), None
        if self.matcher is None:
            return sampler.sample(row), None
        matcher = self.matcher.result()
        if self.output.thinking:
            # Thoughts are free; the constraint applies to the answer after them.
            return matcher.sample_thought(sampler, row), matcher
        return matcher.sample(sampler, row, None if self.generated else self.opening), matcher


def shown(model: TokenModel, token: int) -> bytes:
    """Return the bytes of a token; for a control token, those of its text."""
    return model.piece(token) or model.control_text(token).encode()
