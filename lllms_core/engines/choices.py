"""The several answers (`n`) to one request."""

from typing import Generic, TypeVar

from attrs import Factory, define, evolve

from lllms_core.types import CallPiece, Delta, Finish, FinishReason, Request, Reuse, TokenScore, Usage

RunT = TypeVar("RunT")


@define(eq=False)
class Choices(Generic[RunT]):
    """The state that the answers to one request share; the request ends with the last of them."""

    request: Request
    prompt_tokens: int
    open: int
    """The number of answers that have not ended."""
    held: list[RunT] = Factory(list)
    """Answers that begin once the first one has evaluated the prompt."""
    completion_tokens: int = 0
    """Of those that have ended."""
    cached_tokens: int = 0
    reasoning_tokens: int = 0
    """Of those that have ended, and are thoughts."""
    accepted_tokens: int = 0
    """Drafted tokens that became part of an answer."""
    rejected_tokens: int = 0
    """Drafted tokens that did not."""
    untold: bool = True
    """Whether the admission has not been reported with a piece of any answer yet."""
    unenforced: tuple[str, ...] = ()
    """As in `Delta`."""
    reuse: Reuse | None = None
    """How the prompt met what was cached, if that is known."""

    def end(
        self, index: int, reason: FinishReason, generated: int, *, text: str, tokens: int,
        scores: tuple[TokenScore, ...], reasoning: str = "", calls: tuple[CallPiece, ...] = (),
        usage: Usage | None = None, stop: str | None = None, unenforced: tuple[str, ...] = (),
    ) -> Delta:
        """Return the last delta of an answer with `generated` tokens; `usage` overrides it if the engine knows better.

        `stop` is the stop string that ended it; `unenforced` is as in `Delta`, of what turned out on the way.
        """
        self.open -= 1
        if usage is not None:
            self.prompt_tokens, self.cached_tokens = usage.prompt_tokens, usage.cached_tokens
        self.completion_tokens += generated if usage is None else usage.completion_tokens
        ended = None if self.open == 0 else reason
        finish = Finish(reason, self.usage, stop=stop, reuse=self.reuse) if self.open == 0 else None
        unenforced = (*self.unenforced, *unenforced) if self.untold else unenforced
        return Delta(
            self.request.id, text, tokens, finish, reasoning=reasoning, calls=calls, index=index, ended=ended,
            scores=scores, admitted=self.admitted() if self.untold else None, unenforced=unenforced,
        )

    def admitted(self) -> Usage:
        """Return the prompt's token counts, to send with the first piece of any answer."""
        self.untold = False
        return Usage(self.prompt_tokens, 0, self.cached_tokens)

    @property
    def usage(self) -> Usage:
        """The token counts of all answers that have ended; the prompt counts once."""
        return Usage(
            self.prompt_tokens, self.completion_tokens, self.cached_tokens, self.reasoning_tokens,
            self.accepted_tokens, self.rejected_tokens,
        )


def choice(request: Request, index: int) -> Request:
    """The request for one of its answers: each has a seed of its own."""
    seed = request.sampling.seed
    if index == 0 or seed is None:
        return request
    return evolve(request, sampling=evolve(request.sampling, seed=seed + index))
