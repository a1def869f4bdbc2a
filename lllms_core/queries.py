"""Requests to a loaded model besides completions, and their answers: frozen, like `types`.

Queries travel like completions: through the queue, into a slot, to the worker; the answer comes whole, as the
`result` of the `Finish`.
"""

from collections.abc import Hashable, Mapping, Sequence
from typing import Literal

from attrs import field, frozen

from lllms_core.types import ChatRequest, Request, Task, Timings

Text = str | tuple[int, ...]
"""An input to embed: a text, or its tokens."""


@frozen
class EmbedRequest:
    """A request for vectors, one for each input."""

    id: str
    model: str
    inputs: tuple[Text, ...]
    dimensions: int | None = None
    """Keep only this many leading numbers of each vector; None: all."""
    timeout: float | None = None
    """Seconds from the moment the request gets its slot; None: no limit."""
    task: Literal["embed"] = "embed"


@frozen
class Embeddings:
    """The answer: a vector for each input, in order. Clients get them as `array("f")`, normalised to length 1."""

    vectors: Sequence[Sequence[float]]
    tokens: int
    """Of all inputs together, including those that the model adds."""
    timings: Timings = field(default=Timings(), eq=False)
    """Filled in by the host; not compared, as in `Finish`."""


@frozen
class RerankRequest:
    """A request to score how well each document answers a query."""

    id: str
    model: str
    query: str
    documents: tuple[str, ...]
    timeout: float | None = None
    task: Literal["rerank"] = "rerank"


@frozen
class Relevance:
    """The answer: 0 (not at all) to 1, in the order of the documents."""

    scores: tuple[float, ...]
    tokens: int


@frozen
class TokenizeRequest:
    """A request for the tokens of a text."""

    id: str
    model: str
    text: str
    add_special: bool = False
    """Whether to add the special tokens at the start or end of a prompt."""
    timeout: float | None = None
    task: Literal["tokenize"] = "tokenize"


@frozen
class Tokens:
    """The answer: each token and its bytes, which may be part of a character."""

    ids: tuple[int, ...]
    pieces: tuple[bytes, ...]


@frozen
class DetokenizeRequest:
    """A request for the text of some tokens; the answer is a `str`."""

    id: str
    model: str
    tokens: tuple[int, ...]
    timeout: float | None = None
    space: str | None = None
    """Refused unless the model's sessions are of this space; None: any space."""
    task: Literal["detokenize"] = "detokenize"


@frozen
class RenderRequest:
    """A request for the prompt that a model would be given for a chat; the answer is a `str`."""

    id: str
    model: str
    chat: ChatRequest
    timeout: float | None = None
    task: Literal["render"] = "render"


@frozen
class CountRequest:
    """A request for the number of tokens in the prompt of a completion; the answer is an `int`."""

    id: str
    model: str
    completion: Request
    timeout: float | None = None

    @property
    def task(self) -> Task:
        """The completion's task: a model that can do it can also count its prompt."""
        return self.completion.task


@frozen
class LoadRequest:
    """A request that only needs a loaded instance; the answer says that there is one."""

    id: str
    model: str
    ttl: float | None = None
    """The idle seconds after this request before the instance is unloaded; None: as the model's configuration says."""
    timeout: float | None = None
    task: Literal["load"] = "load"


Query = EmbedRequest | RerankRequest | TokenizeRequest | DetokenizeRequest | RenderRequest | CountRequest
AnyRequest = Request | Query | LoadRequest


@frozen
class Prepared:
    """A request that is ready to be submitted, with everything that is costly to derive from a large one."""

    request: AnyRequest
    prefixes: Sequence[Hashable] = ()
    """The keys of its conversation's prefixes, shortest first."""
    frame: bytes | None = field(default=None, repr=False)
    """The bytes for a worker process; None if they are made when they are sent."""


LABELS: Mapping[Task, str] = {
    "chat": "chat",
    "text": "continue text",
    "embed": "embed texts",
    "rerank": "rerank documents",
    "tokenize": "show its tokens",
    "detokenize": "show its tokens as text",
    "render": "show its prompts",
}
"""The ability of a model with the task, for messages."""
