"""One answer on its way through a batching model."""

from concurrent.futures import Future
from typing import TYPE_CHECKING

from attrs import define

from lllms_core.engines.answer import AnswerText
from lllms_core.engines.sessions import Session
from lllms_core.engines.tokens import Matcher, Sampler
from lllms_core.text import ScoreLog
from lllms_core.types import Request, TokenScore

if TYPE_CHECKING:
    from lllms_core.engines.choices import Choices


@define(eq=False)
class Run:
    """One answer to a request, in its sequence."""

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
    log: ScoreLog | None
    """Where the tokens' scores are wanted."""
    matcher: Future[Matcher] | None = None
    """Done before it is admitted."""
    opening: int | None = None
    """The token with which a constrained answer may begin to think."""
    sampler: Sampler | None = None
    sequence: int = -1
    evaluated: int = 0
    cached: int = 0
    session: Session | None = None
    """What was stored of its conversation."""
    asked: bool = False
    asking: bool = False
    """Whether it waits for the answer to whether there is a session."""
    prompt_scores: list[TokenScore] | None = None
    """Of the prompt's tokens from the second on, where they are wanted and were not told yet."""
    pin: bool = False
    """Whether it is the preload, which stays."""

    @property
    def key(self) -> tuple[str, int]:
        """Which answer to which request."""
        return self.request.id, self.index

    @property
    def generated(self) -> int:
        """How many tokens the model has added."""
        return len(self.tokens) - self.prompt_length

    @property
    def alone(self) -> bool:
        """Whether it evaluates all of its prompt itself."""
        return self.prompt_scores is not None or not self.request.cache_prompt

    @property
    def pending(self) -> int:
        """How many tokens are still to be evaluated."""
        return len(self.tokens) - self.evaluated
