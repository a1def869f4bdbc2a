"""The token-level methods that an engine with continuous batching implements."""

from abc import abstractmethod
from collections.abc import Mapping, Sequence

from attrs import frozen

from lllms_core.chat import Segment
from lllms_core.engines.base import Model
from lllms_core.engines.samplers import Sampler
from lllms_core.types import Sampling


class Interrupted(Exception):
    """Raised by `decode` when it stopped because `interrupt` was set."""


class KVCacheFull(Exception):
    """Raised by `decode` when the KV cache has no room; nothing was evaluated."""


@frozen
class Feed:
    """Tokens to evaluate: `tokens` of `sequence`, the first of them at `position`."""

    sequence: int
    position: int
    tokens: Sequence[int]
    logits: bool
    """Whether the logits after the last token are wanted."""
    all_logits: bool = False
    """Whether those after every other token are wanted, too; only if the engine declares `echo`, or speculates."""


class TokenModel(Model):
    """The token-level methods of a model; `BatchingModel` derives the rest from them.

    `tokenize`, `infill`, `longest_token`, `control_token`, `grammar_names` and `relax` are parts of `prepare`: any
    thread may call them, several at once.

    An engine that declares more implements more: `Scores` for `logprobs`, `Constrains` for constraints, `Infills` for
    `suffix`, `Exports` for a `state_key`; see `lllms_core.engines.capabilities`.
    """

    @abstractmethod
    def tokenize(self, segments: Sequence[Segment]) -> list[int]:
        """Tokens of a prompt, beginning with the vocabulary's BOS if it wants one; segments are tokenised apart.

        It may stop when there are more than `enough_tokens`; see `lllms_core.engines.slices` for long texts.
        """

    @abstractmethod
    def piece(self, token: int) -> bytes:
        """The bytes that a token stands for; control tokens stand for none."""

    @abstractmethod
    def is_end(self, token: int) -> bool:
        """Whether the model ends its answer with this token."""

    @abstractmethod
    def sampler(self, sampling: Sampling, prompt: Sequence[int]) -> Sampler:
        """A fresh sampler for a request; the penalties may look at its prompt."""

    @abstractmethod
    def decode(self, feeds: Sequence[Feed]) -> Sequence[int]:
        """Evaluate all feeds in one pass and return, for each that wants logits, the row of those after its last token.

        The rows of the tokens before that one, of a feed that wants them, are the numbers before it.
        Raises `Interrupted` if it stopped because `interrupt` was set, `KVCacheFull` if there is no room.
        """

    @abstractmethod
    def trim(self, sequence: int, length: int) -> bool:
        """Keep only the first `length` tokens of a sequence; False if this model cannot, and nothing was changed.

        Length 0 always works.
        """

    @abstractmethod
    def copy(self, source: int, target: int, length: int) -> None:
        """Make the empty sequence `target` begin with the first `length` tokens of `source`."""

    def earliest_cut(self, sequence: int) -> int:  # noqa: ARG002  # the base forgets nothing
        """The shortest prefix that `trim` and `copy` can leave of a sequence (other than all or none of it).

        A model with a sliding window may have lost the cells that a shorter one needs.
        """
        return 0

    def control_text(self, token: int) -> str:  # noqa: ARG002  # the base knows of none
        """The text of a control token, by which templates mark calls and thoughts; "" for any other."""
        return ""

    @property
    def longest_token(self) -> int | None:
        """The most bytes of text that one token stands for; None if unknown. Asked only for long texts."""
        return None

    def control_token(self, text: str) -> int | None:  # noqa: ARG002  # the base knows of none
        """The one token that a mark of the template is; None for a text of several."""
        return None

    def grammar_names(self) -> Mapping[str, int]:
        """The tokens that a Lark grammar can only name, not spell, with their ids; for an engine that keeps those."""
        return {}

    def relax(self, schema: str) -> tuple[str, Sequence[str]]:
        """Return the part of a JSON schema that a grammar can enforce, and JSON pointers to the rest.

        Called for schemas that are not strict, if the engine declares constraints; the base enforces all of a schema. A
        malformed schema is returned unchanged: `matcher` refuses it. Any thread may call this, several at once.
        """
        return schema, ()
