"""The abilities that a model may have beside answering: write the methods of those that its engine declares.

A class may name the protocols among its bases, so that type checkers and Python itself find a missing method, or just
write the methods. Once a model is loaded, its worker compares them with the declarations; see
`lllms_core.engines.promises`.
"""

from abc import abstractmethod
from collections.abc import Sequence
from concurrent.futures import Future
from typing import Protocol

from lllms_core.engines.samplers import Matcher
from lllms_core.engines.session_link import Resident, Session, SessionLink, State
from lllms_core.queries import Embeddings, EmbedRequest, RerankRequest, Tokens
from lllms_core.types import ChatRequest, Constraint, Preload, PromptScores, TextRequest, TokenScore

# -- of any model, for its tasks -------------------------------------------------------------------------------------


class Embeds(Protocol):
    """Task `embed`: vectors of texts."""

    @abstractmethod
    def open_embed(self, request: EmbedRequest) -> None:
        """Take a request for vectors, as `open` takes one for text; its last delta's `Finish` holds `Embeddings`."""


class Ranks(Protocol):
    """Task `rerank`: scores of documents."""

    @abstractmethod
    def open_rerank(self, request: RerankRequest) -> None:
        """Take a request to rank documents; its last delta's `Finish` holds `Scores`."""


class Tokenizes(Protocol):
    """Task `tokenize`."""

    @abstractmethod
    def to_tokens(self, text: str, *, add_special: bool) -> Tokens:
        """Return the tokens of a text, in which control tokens are parsed.

        More than `most_tokens` are refused, so it may stop when it has more. Called from any thread.
        """


class Detokenizes(Protocol):
    """Task `detokenize`."""

    @abstractmethod
    def to_text(self, tokens: Sequence[int]) -> str:
        """Return the text of tokens, control tokens as their texts. Called from any thread. Raises `RequestError`."""


class Renders(Protocol):
    """Task `render`."""

    @abstractmethod
    def to_prompt(self, request: ChatRequest) -> str:
        """Return the prompt that answers a chat. Called from any thread. Raises `RequestError`."""


# -- of any model, for what outlives a request -----------------------------------------------------------------------


class Preloads(Protocol):
    """`Engine.can_preload`: a prefix of many conversations is evaluated once."""

    @abstractmethod
    def preload(self, request_id: str, preload: Preload) -> None:
        """Open a request that evaluates the prefix without an answer, and keep it for all requests that begin so.

        Called once, before any other request. Raises `ModelLoadFailed` if there is no room or no place for it.
        """


class Resumes(Protocol):
    """A `state_key`: conversations are stored, and resumed from their stored sessions."""

    @abstractmethod
    def use_sessions(self, link: SessionLink) -> None:
        """Exchange sessions over this link from now on; called at most once, before the first request."""

    @abstractmethod
    def found(self, request_id: str, session: Session | None) -> None:
        """Deliver the result of `SessionLink.find`; the request may have ended meanwhile."""


class Remembers(Protocol):
    """Conversations stay in the model's own memory after their requests."""

    @abstractmethod
    def residents(self) -> Sequence[Resident]:
        """Return the conversations that the model holds, those in use included; a preload is none."""

    @abstractmethod
    def forget(self, key: int) -> None:
        """Never reuse this conversation again; if a request is using it, from that request's end on."""


# -- of a `SerialModel` ----------------------------------------------------------------------------------------------


class ScoresPrompts(Protocol):
    """The parameters `echo` and `logprobs`: the tokens of prompts have scores."""

    @abstractmethod
    def score_prompt(self, prompt: str, request: TextRequest) -> PromptScores:
        """Say how likely a prompt's tokens are."""


class EmbedsTexts(Protocol):
    """Task `embed`, with vectors from one call."""

    @abstractmethod
    def embed(self, texts: Sequence[str]) -> Embeddings:
        """Return a vector of any length but 0 for each text, and how many tokens the texts have together.

        It is called with up to `embed_at_once` texts. Raises `RequestError`, or `EngineFailed`, for the request.
        """


# -- of an `EmbeddingModel` ------------------------------------------------------------------------------------------


class Pairs(Protocol):
    """`ranks`: a model that scores documents."""

    @abstractmethod
    def pair(self, query: str, document: str, room: int | None) -> list[int]:
        """Return the tokens of a query and a document, as the model reads them; the document's are cut for `room`."""


# -- of a `BatchingModel` --------------------------------------------------------------------------------------------


class Scores(Protocol):
    """The parameter `logprobs`: tokens have scores."""

    @abstractmethod
    def score(self, row: int, token: int, top: int) -> TokenScore:
        """Return how likely `token` was, and the `top` likeliest ones, by the logits in this row of the last decode.

        Raises `EngineFailed` if that is no number.
        """


class Constrains(Protocol):
    """`Engine.constraints`: answers match grammars."""

    @abstractmethod
    def matcher(self, constraint: Constraint) -> Future[Matcher]:
        """Begin to make a fresh matcher, for one of the declared kinds of constraint.

        For a request with tools, the calls that the model may make bring one of the kind `lark`; if it is refused, and
        no tool is strict, the calls are free.
        Its future raises `RequestError` for an impossible constraint, or `EngineFailed`. Others generate meanwhile.
        It is cancelled when its request ends before it is done.
        """


class Infills(Protocol):
    """The parameter `suffix`: answers fill a gap."""

    @abstractmethod
    def infill(self, request: TextRequest) -> list[int]:
        """Return the tokens of a prompt whose answer belongs between `request.prompt` and `request.suffix`.

        It may stop as `tokenize` does. Called from any thread. Raises `RequestError` if the model was not trained for
        that.
        """


class Exports(Protocol):
    """A `state_key`: the evaluated tokens of a sequence can be copied out of the KV cache, and back."""

    @abstractmethod
    def state_size(self, sequence: int) -> int:
        """Return how many bytes `export_state` would return now."""

    @abstractmethod
    def export_state(self, sequence: int) -> State:
        """Copy the state of a sequence; nothing changes."""

    @abstractmethod
    def import_state(self, sequence: int, state: State) -> bool:
        """Fill an empty sequence with an exported state; False if that is impossible, and the sequence is still empty.

        The state comes from a model of the same `state_key`, and was not damaged on its way.
        """


def writes(cls: type, method: str) -> bool:
    """Whether a class has a method that is more than the empty one of a protocol."""
    found = getattr(cls, method, None)
    return callable(found) and not getattr(found, "__isabstractmethod__", False)
