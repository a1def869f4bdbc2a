"""A whole answer, put together from its deltas; pure."""

from collections.abc import Sequence
from math import inf

from attrs import frozen

from lllms_core.chat import gather_message
from lllms_core.queries import AnyRequest
from lllms_core.types import Delta, Finish, FinishReason, Message, PromptScores, Request, TokenScore


@frozen
class Choice:
    """One of the answers to a request."""

    message: Message
    """Text, thoughts and calls."""
    reason: FinishReason
    scores: tuple[TokenScore, ...] = ()
    """Of its tokens, if the request asks for them."""
    prompt_scores: PromptScores | None = None
    """Of the prompt's tokens, if the request asks for them."""

    @property
    def likelihood(self) -> float:
        """The mean of its tokens' log-probabilities; without tokens, nothing is likelier than anything else."""
        return sum(score.logprob for score in self.scores) / len(self.scores) if self.scores else -inf


@frozen
class Answer:
    """The answer to a request."""

    id: str
    """Names the instance that gave it: `<model>:<instance>-<request>`."""
    choices: tuple[Choice, ...]
    """`n` of them, by their index; the likeliest first if they are the best of more."""
    finish: Finish
    """The end of the last one that ended, and the usage of all."""
    unenforced: tuple[str, ...] = ()
    """The restrictions of the request's schemas that nothing enforced, as in `Delta`.

    `lllms_core.answers.schema_violations` finds those that the answer breaks.
    """

    @property
    def message(self) -> Message:
        """The message of the first choice."""
        return self.choices[0].message

    @property
    def text(self) -> str:
        """The text of the first choice alone."""
        return self.message.content


def choices(request: AnyRequest, deltas: Sequence[Delta], finish: Finish) -> tuple[Choice, ...]:
    """Put the answers to a request together, and keep the best; queries have one, without text."""
    if not isinstance(request, Request):
        return (Choice(Message("assistant", ""), finish.reason),)
    # Choices without an end of their own ended with the request.
    reasons = dict.fromkeys(range(request.count), finish.reason)
    reasons |= {delta.index: delta.ended for delta in deltas if delta.ended is not None}
    parts: dict[int, list[Delta]] = {index: [] for index in reasons}
    for delta in deltas:
        parts[delta.index].append(delta)
    prompt = next((delta.prompt_scores for delta in deltas if delta.prompt_scores is not None), None)
    found = [_choice(parts[index], reasons[index], prompt) for index in sorted(parts)]
    if request.count > request.n:
        found.sort(key=lambda one: -one.likelihood)
    return tuple(found[: request.n])


def _choice(deltas: Sequence[Delta], reason: FinishReason, prompt: PromptScores | None) -> Choice:
    scores = tuple(score for delta in deltas for score in delta.scores)
    return Choice(gather_message(deltas), reason, scores, prompt)
