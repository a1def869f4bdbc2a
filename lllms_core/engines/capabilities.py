"""The abilities that a model may have besides answering: implement the methods of those that its engine declares.

A class may inherit from the protocols, so that type checkers and Python itself find a missing method, or just implement
the methods. Once a model is loaded, its worker compares them with the declarations; see `lllms_core.engines.promises`.
"""

from abc import abstractmethod
from collections.abc import Sequence
from concurrent.futures import Future
from typing import Protocol

from lllms_core.engines.samplers import Matcher
from lllms_core.engines.session_link import Resident, Session, SessionLink, State
from lllms_core.queries import Embeddings, EmbedRequest, RerankRequest, Tokens
from lllms_core.types import ChatRequest, Constraint, Preload, PromptScores, TextRequest, TokenScore

# -- any model, for its tasks ----------------------------------------------------------------------------------------


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
        """Return the tokens of a text; control tokens in it are parsed.

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
        """Return the prompt for a chat's answer. Called from any thread. Raises `RequestError`."""


# -- any model, for what outlives a request --------------------------------------------------------------------------


class Preloads(Protocol):
    """`Engine.can_preload`: a common prefix of many conversations is evaluated once."""

    @abstractmethod
    def preload(self, request_id: str, preload: Preload) -> None:
        """Open a request that evaluates the prefix without an answer, and keep it for all requests that begin with it.

        Called once, before any other request. Raises `ModelLoadFailed` if there is no room or no sequence for it.
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
        """Return the conversations that the model holds, including those in use but not the preload."""

    @abstractmethod
    def forget(self, key: int) -> None:
        """Never reuse this conversation again; if a request is using it, from the end of that request."""


# -- a `SerialModel` -------------------------------------------------------------------------------------------------


class ScoresPrompts(Protocol):
    """The parameters `echo` and `logprobs`: the tokens of prompts have scores."""

    @abstractmethod
    def score_prompt(self, prompt: str, request: TextRequest) -> PromptScores:
        """Return the scores of a prompt's tokens."""


class EmbedsTexts(Protocol):
    """Task `embed`, with vectors from one call."""

    @abstractmethod
    def embed(self, texts: Sequence[str]) -> Embeddings:
        """Return a vector of any length but 0 for each text, and how many tokens the texts have together.

        It is called with up to `embed_at_once` texts. Raises `RequestError`, or `EngineFailed`, for the request.
        """


# -- an `EmbeddingModel` ---------------------------------------------------------------------------------------------


class Pairs(Protocol):
    """`ranks`: a model that scores documents."""

    @abstractmethod
    def pair(self, query: str, document: str, room: int | None) -> list[int]:
        """Return the tokens of a query and a document, as the model reads them; the document is cut to fit `room`."""


# -- a `BatchingModel` -----------------------------------------------------------------------------------------------


class Scores(Protocol):
    """The parameter `logprobs`: tokens have scores."""

    @abstractmethod
    def score(self, row: int, token: int, top: int) -> TokenScore:
        """Return the scores of `token` and the `top` likeliest ones, by the logits in this row of the last decode.

        Raises `EngineFailed` if a score is not a number.
        """


class Constrains(Protocol):
    """`Engine.constraints`: answers match grammars."""

    @abstractmethod
    def matcher(self, constraint: Constraint) -> Future[Matcher]:
        """Start making a fresh matcher, for one of the declared kinds of constraint.

        For a request with tools, the calls that the model may make bring one of the kind `lark`; if it is refused, and
        no tool is strict, the calls are free.
        Its future raises `RequestError` for an impossible constraint, or `EngineFailed`. Others generate meanwhile.
        It is cancelled when its request ends before it is done.
        """


class Infills(Protocol):
    """The parameters `suffix` and `input_extra`: answers fill a gap."""

    @abstractmethod
    def infill(self, request: TextRequest) -> list[int]:
        """Return the tokens of a prompt for an answer between `request.prompt` and `request.suffix`, if there is one.

        A model that honours `input_extra` puts the excerpts first, and leaves out what does not fit.

        It may stop as `tokenize` does. Called from any thread. Raises `RequestError` if the model was not trained for
        that.
        """


class Exports(Protocol):
    """A `state_key`: the evaluated tokens of a sequence can be copied out of the KV cache, and back."""

    @abstractmethod
    def state_size(self, sequence: int) -> int:
        """Return the number of bytes that `export_state` would return now."""

    @abstractmethod
    def export_state(self, sequence: int) -> State:
        """Copy the state of a sequence; nothing changes."""

    @abstractmethod
    def import_state(self, sequence: int, state: State) -> bool:
        """Fill an empty sequence with an exported state; False, with the sequence still empty, if that is impossible.

        The state comes from a model of the same `state_key`, and was not damaged on its way.
        """


def writes(cls: type, method: str) -> bool:
    """Whether a class implements a method, beyond the empty one of a protocol."""
    found = getattr(cls, method, None)
    return callable(found) and not getattr(found, "__isabstractmethod__", False)
