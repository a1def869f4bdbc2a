"""Calls that a model makes of its own accord, constrained from their mark on; all other text is free."""

import logging
from collections.abc import Callable
from concurrent.futures import Future

from attrs import define, field

from lllms_core.chat import CallWatch, LazyGrammar
from lllms_core.engines.samplers import Matcher, Sampler
from lllms_core.errors import EngineFailed, RequestError
from lllms_core.types import ChatRequest, Constraint, Request

logger = logging.getLogger("lllms.engines")

MOST_TRIES = 64
"""The most tokens rejected in one place: such a token completes a mark in its middle, but continues wrongly."""


@define(eq=False)
class KeptCalls:
    """Switches the grammar of an answer's calls on when it sees their mark, and off after each call."""

    grammar: LazyGrammar
    make: Callable[[Constraint], Future[Matcher]]
    """Starts making a matcher; see `Constrains.matcher`."""
    thinking: bool = False
    """Whether the next token belongs to the thoughts, where a mark starts no call."""
    error: BaseException | None = None
    """Why no matcher could be made."""
    watch: CallWatch = field(init=False)
    making: Future[Matcher] | None = field(init=False)
    """None once no matcher can be made."""
    _weaker: Callable[[], Constraint] | None = field(init=False)
    _active: Matcher | None = None
    """The matcher of the call that is being written."""
    _written: bytes | None = None
    """The text after a mark that the matcher has not seen yet."""

    def __attrs_post_init__(self) -> None:
        self.watch = CallWatch(self.grammar.cue)
        self.making = self.make(self.grammar.constraint)
        self._weaker = self.grammar.weaker

    @property
    def stalled(self) -> bool:
        """Whether the next token must wait for the grammar."""
        return self._written is not None and self.unmade()

    @property
    def refusal(self) -> BaseException | None:
        """The error that ends the request: the schema of a strict tool cannot be enforced."""
        return self.error if self.grammar.needed and not self.unmade() and self.making is None else None

    @property
    def active(self) -> bool:
        """Whether the grammar chooses the tokens now: a call has begun and not ended."""
        return self._active is not None

    def given_up(self, request: Request) -> tuple[str, ...]:
        """The tools whose schemas are not enforced, because the grammar with all of them cannot be (see `Delta`)."""
        if self.error is None or not isinstance(request, ChatRequest):
            return ()
        return tuple(f"tools.{tool.name}#" for tool in request.tools if not tool.strict)

    def unmade(self) -> bool:
        """Whether the matcher is still being made; if that has failed, start making a weaker one."""
        while self.making is not None and self.making.done():
            if (error := self.making.exception()) is None:
                return False
            # Only the type: a message may quote a schema.
            logger.debug("calls are not kept to the schemas of their tools: %s", type(error).__name__)
            weaker, self._weaker, self.error = self._weaker, None, error
            self.making = None if weaker is None else self.make(weaker())
        return self.making is not None

    def sample(self, sampler: Sampler, row: int, piece: Callable[[int], bytes]) -> int:
        """Let `sampler` choose the next token; in a call, among those that its grammar allows.

        `piece` returns the bytes of a token. Raises `RequestError` if the grammar of a strict tool turns out to be
        impossible.
        """
        if self._written is not None:
            self._begin(self._written)
            self._written = None
        if self._active is not None:
            return self._sample_in_call(sampler, row)
        token = sampler.sample(row)
        if self.thinking or self.making is None:
            return token
        rejected: list[int] = []
        while (found := self.watch.look(piece(token))) is not None:
            if self.unmade():
                self._written = found
            elif not self._begin(found) and self._matcher is not None and len(rejected) < MOST_TRIES:
                rejected.append(token)
                token = self._matcher.sample_except(sampler, row, rejected)
                continue
            break
        return token

    def sample_forced(self, sampler: Sampler, row: int) -> int | None:
        """Let `sampler` choose the next token if the grammar of the call allows only one; else return None."""
        if self._active is None:
            return None
        try:
            token = self._active.sample_forced(sampler, row)
        except (RequestError, EngineFailed):
            if self.grammar.needed:
                raise
            self._active = self.making = None
            return None
        if self._active.complete:
            self._active = None
        return token

    def take(self, piece: bytes, *, thinking: bool) -> None:
        """Record the bytes of the chosen token, and whether the model is thinking after it."""
        thought, self.thinking = self.thinking, thinking
        if self._active is not None or self._written is not None or thinking:
            self.watch.restart()
        elif thought and self.making is not None and (found := self.watch.look(piece)) is not None:
            self._written = found  # the token that ended the thoughts also completes a mark
            self.watch.restart()
        else:
            self.watch.take(piece)

    def cancel(self) -> None:
        """Give up the matcher if it is still being made."""
        if self.making is not None:
            self.making.cancel()

    # -- how it works -------------------------------------------------------------------------------------------------

    @property
    def _matcher(self) -> Matcher | None:
        """The matcher, once it is made."""
        return None if self.making is None else self.making.result()

    def _begin(self, written: bytes) -> bool:
        """Begin a call with the text that the model wrote after its mark; False if no call can begin so."""
        matcher = self._matcher
        if matcher is None or not matcher.begin(written):
            return False
        self._active = None if matcher.complete else matcher
        return True

    def _sample_in_call(self, sampler: Sampler, row: int) -> int:
        assert self._active is not None  # noqa: S101  # the caller has checked
        try:
            token = self._active.sample(sampler, row, None)
        except (RequestError, EngineFailed):
            if self.grammar.needed:
                raise
            self._active = self.making = None
            return sampler.sample(row)
        if self._active.complete:
            self._active = None
        return token
