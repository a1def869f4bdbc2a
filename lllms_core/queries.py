"""What is asked of a loaded model besides completions, and what it answers: frozen, like `types`.

Queries travel as completions do: through the queue, into a slot, to the worker; the answer comes whole, as the `result`
of the `Finish`.
"""

from collections.abc import Mapping, Sequence
from typing import Literal

from attrs import frozen

from lllms_core.types import Request, Task

Text = str | tuple[int, ...]
"""What is embedded: a text, or the tokens of one."""


@frozen
class EmbedRequest:
    """Vectors that are asked for, one for each input."""

    id: str
    model: str
    inputs: tuple[Text, ...]
    dimensions: int | None = None
    """Keep only so many leading numbers of each vector; None: all."""
    timeout: float | None = None
    """Seconds from the moment the request gets its slot; None: no limit."""
    task: Literal["embed"] = "embed"


@frozen
class Embeddings:
    """The answer: a vector for each input, in their order. Clients get them as `array("f")`, of length 1."""

    vectors: Sequence[Sequence[float]]
    tokens: int
    """Of all inputs together, those that the model adds included."""


@frozen
class RerankRequest:
    """How well each document answers a query."""

    id: str
    model: str
    query: str
    documents: tuple[str, ...]
    timeout: float | None = None
    task: Literal["rerank"] = "rerank"


@frozen
class Scores:
    """The answer: 0 (not at all) to 1, in the order of the documents."""

    scores: tuple[float, ...]
    tokens: int


@frozen
class TokenizeRequest:
    """The tokens of a text."""

    id: str
    model: str
    text: str
    add_special: bool = False
    """Whether those are added that a prompt begins or ends with."""
    timeout: float | None = None
    task: Literal["tokenize"] = "tokenize"


@frozen
class Tokens:
    """The answer: each token and the bytes that it stands for, which can be a part of a character."""

    ids: tuple[int, ...]
    pieces: tuple[bytes, ...]


@frozen
class DetokenizeRequest:
    """The text of some tokens; the answer is a `str`."""

    id: str
    model: str
    tokens: tuple[int, ...]
    timeout: float | None = None
    space: str | None = None
    """Refused unless the model's sessions are of this space; None: whatever they are."""
    task: Literal["detokenize"] = "detokenize"


@frozen
class RenderRequest:
    """The prompt that a model would be given for a chat; the answer is a `str`."""

    id: str
    model: str
    chat: Request
    timeout: float | None = None
    task: Literal["render"] = "render"


Query = EmbedRequest | RerankRequest | TokenizeRequest | DetokenizeRequest | RenderRequest
AnyRequest = Request | Query

LABELS: Mapping[Task, str] = {
    "chat": "chat",
    "text": "continue text",
    "embed": "embed texts",
    "rerank": "rerank documents",
    "tokenize": "show its tokens",
    "detokenize": "show its tokens as text",
    "render": "show its prompts",
}
"""What a model can do that has the task, for messages."""
