"""The log-probabilities of an answer's tokens, in step with its text."""

from collections import deque
from math import isnan
from typing import Protocol

from lllms_core.errors import EngineFailed
from lllms_core.types import TokenScore


def sound(score: TokenScore) -> TokenScore:
    """Return the score. Raises `EngineFailed` if one of its log-probabilities is not a number."""
    if isnan(score.logprob) or any(isnan(logprob) for _, logprob in score.top):
        raise EngineFailed(
            "the model's log-probabilities are not numbers (NaN); its weights, or how they are quantised, are at fault",
        )
    return score


class Output(Protocol):
    """The text that scores keep step with; see `OutputText`."""

    @property
    def decoded(self) -> int:
        """The number of complete characters, shown or not."""

    @property
    def passed(self) -> int:
        """The number of those that are safe to show."""

    @property
    def stopped(self) -> bool:
        """Whether the answer has ended, so that held-back scores stay hidden."""


class ScoreLog:
    """Holds back the score of each token until the text that begins with it is shown.

    So the scores of a hidden stop string stay hidden, too, and scores never come before their text.
    """

    def __init__(self, output: Output) -> None:
        self._output = output
        self._waiting: deque[tuple[int, TokenScore]] = deque()
        """Each score with the number of characters before its token."""

    def add(self, score: TokenScore) -> None:
        """Take the score of the token whose bytes are fed to the text next. Raises `EngineFailed`, see `sound`."""
        self._waiting.append((self._output.decoded, sound(score)))

    def take(self) -> tuple[TokenScore, ...]:
        """Return the scores, not returned before, whose tokens begin in the text shown."""
        taken = []
        while self._waiting and self._waiting[0][0] < self._output.passed:
            taken.append(self._waiting.popleft()[1])
        return tuple(taken)

    def rest(self) -> tuple[TokenScore, ...]:
        """Return the remaining scores at the end of the answer: all, unless a stop string ended it."""
        if self._output.stopped:
            return self.take()
        taken = tuple(score for _, score in self._waiting)
        self._waiting.clear()
        return taken
