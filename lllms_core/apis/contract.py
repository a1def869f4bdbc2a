"""The interface that an HTTP API implements (`Api`, `Encoder`), and the one that the server offers it (`Server`)."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, ClassVar, Protocol, TypeVar, overload

from lllms_core.answers import Stream
from lllms_core.apis.card import Abilities, ModelCard
from lllms_core.apis.explanations import openai_shape
from lllms_core.apis.fault import Fault
from lllms_core.parameters import Checked, Route
from lllms_core.queries import AnyRequest, Embeddings, Prepared, Query, Relevance, Text, Tokens
from lllms_core.status import (
    Changes,
    DownloadStatus,
    FailedLoad,
    Lack,
    PoolStatus,
    Problem,
    RequestRecord,
    RequestStatus,
    SessionInfo,
    Setting,
    Waiting,
)
from lllms_core.types import ChatRequest, Constraint, Delta, Finish, Message, Request, TextRequest

if TYPE_CHECKING:
    from quart import Blueprint

T = TypeVar("T")

Paths = Mapping[str, Mapping[str, object]]
"""The `paths` of an OpenAPI document: by path, then by method."""


class Api(ABC):
    """Routes over a server. The app mounts every API that the installed plugins provide.

    Errors raised by a route are answered by `fault`: no blueprint needs its own handler. Requests that reach no route,
    for example because of a wrong method, are answered in OpenAI's shape, unless they have the `header` of another API.
    """

    name: ClassVar[str]
    """Unique among APIs; `lllms plugins` shows it."""
    header: ClassVar[str | None] = None
    """A header that all clients of this dialect send, and no others. On a path that several APIs serve, it selects this
    one (`lllms_core.apis.same_paths`)."""

    @abstractmethod
    def blueprint(self, server: "Server") -> "Blueprint":
        """Return the routes; called once for each app. Quart is imported in here, not at module top.

        If the blueprint has the name that `foreign_paths` gives to this API, clients with a wrong base URL learn the
        right one from their 404.
        """

    def describe(self, server: "Server") -> Paths:  # noqa: ARG002  # the base describes nothing
        """Return this API's part of `/openapi.json`, without the prefix under which it may be mounted."""
        return {}

    def fault(self, fault: Fault) -> object:
        """Return the JSON that reports an error to a client; in OpenAI's shape unless overridden."""
        return openai_shape(fault)

    def status(self, fault: Fault) -> int:
        """Return the HTTP status of an error; the usual one unless overridden."""
        return fault.status


class Encoder(Protocol):
    """Writes one streamed answer, see `lllms_core.apis.streaming.stream_answer`; inherit it, or match its shape."""

    @property
    def content_type(self) -> str:
        """The response's content type, like `text/event-stream` or `application/x-ndjson`."""

    @abstractmethod
    def delta(self, delta: Delta) -> bytes:
        """Return the bytes for a piece of the answer, also for the text of the last one; b"" if there are none."""

    @abstractmethod
    def end(self, finish: Finish) -> bytes:
        """Return the end of the answer; the last call."""

    @abstractmethod
    def fault(self, fault: Fault) -> bytes:
        """Return the end of an answer that failed after its headers were sent; the last call."""

    def ping(self, waiting: str) -> bytes:  # noqa: ARG002  # the base has none
        """Return a keep-alive, which may give the reason for the wait; b"" if the dialect has none.

        `waiting` is the text of `Server.waiting(request)`, whose values a dialect with events of its own may use.
        """
        return b""


class Sessions(Protocol):
    """The stored conversations. Every method raises `TimeoutError` if the store or an instance does not answer."""

    async def list(self, model: str | None = None) -> Sequence[SessionInfo]:
        """Return all sessions, or those of one model, most recently used first."""

    async def forget(self, session_id: str) -> Sequence[str]:
        """Forget a session; return the ids of all sessions dropped with it, its own first; none if it is unknown."""

    async def forget_all(self, model: str | None = None) -> Sequence[str]:
        """Forget all sessions, or those of one model; return their ids."""


class Documents(Protocol):
    """What APIs keep for their clients, such as answers that a later request continues: JSON values by name.

    They are bounded in number, bytes and time (`sessions.responses_size`, `responses_ttl`), and outlive the server if
    its sessions do. Names consist of 1 to 100 letters, digits, `_` and `-`; begin them with the name of your API.
    """

    def keep(self, name: str, value: object) -> None:
        """Keep a value, which must not change any more; it can be found at once, and is written in a thread."""

    async def find(self, name: str) -> object:
        """Return a value; None if it is unknown or expired, or has made room for others."""

    async def drop(self, name: str) -> bool:
        """Delete a value; return whether it existed."""

    async def there(self, names: Sequence[str]) -> Sequence[str]:
        """Return those of these names that have a value; unlike `find`, this does not count as its use."""


class Server(Protocol):
    """What a server offers to APIs; `lllms_core.Host` is one.

    Call it from the event loop, except `prepare`, `request` and `check`, which any thread may call. Methods raise
    `LllmsError`.
    """

    @property
    def json_levels(self) -> int:
        """The maximum nesting depth of JSON in a request."""

    @property
    def ready(self) -> bool:
        """Whether requests are accepted, and every model that should be preloaded is loaded."""

    @property
    def session_index(self) -> Sessions:
        """The stored conversations."""

    @property
    def documents(self) -> Documents:
        """What APIs keep for their clients."""

    # -- models -------------------------------------------------------------------------------------------------------

    def models(self) -> Sequence[ModelCard]:
        """Return all models that can be served."""

    def model(self, name: str) -> ModelCard:
        """Return the model with this name or alias. Raises `ModelUnknown`, or `ModelLoadFailed` if it has a problem."""

    async def load(self, name: str, *, ttl: float | None = None) -> None:
        """Return once an instance of a model is loaded; it may stay idle for `ttl` seconds (None: as configured).

        Unlike a request, it does not wait for the pause after a failed load.
        """

    async def unload(self, name: str) -> None:
        """Unload the instances of a model beyond its `min_instances`; busy ones, once they are idle."""

    async def abilities(self, name: str) -> Abilities:
        """Return the abilities of a model. Before its first load, this reads the header of its file, in a thread."""

    async def metadata(self, name: str) -> Mapping[str, str | int | float]:
        """Return the header of a model's GGUF file, without arrays; its template is the one of the options, if any."""

    def known_source(self, name: str) -> str | None:
        """Return the source of the catalogue's model of this name, in any spelling; None if it has none."""

    async def pull(self, name: str, source: str | None = None) -> ModelCard:
        """Fetch the missing files of a model. An unknown one is fetched from `source`, and served as `name` afterwards.

        If the caller is cancelled, so is the download, unless others wait for it.
        """

    def problems(self) -> Sequence[Problem]:
        """Return the models that cannot be served, and those whose load would fail, as far as known."""

    async def problem(self, name: str) -> str:
        """Return why a model cannot be used now; "" if it can, as far as known without a load.

        Looks into its file if that has not been done. Raises `ModelUnknown`.
        """

    async def reload(self) -> Changes:
        """Read the configuration again and take what has changed. Raises `ConfigError` if it has faults."""

    def settings(self) -> Sequence[Setting]:
        """Return the settings that are in force, with their origins and without secrets."""

    # -- requests -----------------------------------------------------------------------------------------------------

    @overload
    def request(
        self, model: str, *, messages: Sequence[Message], parameters: Mapping[str, object] | None = None,
        constraint: Constraint | None = None, unused: Sequence[str] = (),
    ) -> ChatRequest: ...

    @overload
    def request(
        self, model: str, *, prompt: str | tuple[int, ...], parameters: Mapping[str, object] | None = None,
        constraint: Constraint | None = None, unused: Sequence[str] = (),
    ) -> TextRequest: ...

    def request(
        self,
        model: str,
        *,
        messages: Sequence[Message] | None = None,
        prompt: str | tuple[int, ...] | None = None,
        parameters: Mapping[str, object] | None = None,
        constraint: Constraint | None = None,
        unused: Sequence[str] = (),
    ) -> Request:
        """Return a request; `parameters` have the names of the OpenAI API, and override the model's defaults.

        `unused` names what the client sent and the dialect left out. Together with the parameters that nothing acts on,
        it becomes `Request.unused`, which answers name in a header: `stream_answer` by itself, others through `reply`.
        Raises `ModelUnknown`, `InvalidRequest`, or `UnsupportedParameter`.
        """

    def check(self, route: Route, model: str, parameters: Mapping[str, object]) -> Checked:
        """Return the checked parameters that ask for something, for a route that makes no `Request`."""

    def prepare(self, request: AnyRequest) -> Prepared:
        """Do the costly part of submitting a large request; any thread may call this."""

    def submit(self, request: AnyRequest | Prepared) -> Stream:
        """Queue a request and return its answer; a refusal comes as the stream's only delta."""

    def submit_all(self, requests: Sequence[AnyRequest | Prepared]) -> list[Stream]:
        """Queue requests that belong together, a few at a time."""

    def waiting(self, request: AnyRequest) -> Waiting | None:
        """Return why a submitted request has no answer yet; None if its answer has begun, or if it has ended."""

    def requests(self) -> tuple[RequestStatus, ...]:
        """Return the running requests, then the waiting ones; nothing of their texts."""

    def cancel_request(self, request_id: str) -> bool:
        """Cancel a request, whose answer then ends with `RequestCancelled`; return whether there was one."""

    def find_request(self, request_id: str) -> RequestRecord | None:
        """Return a running or recently ended request with its timeline; by its id, its client's, or its answer's."""

    def ended_requests(self) -> tuple[RequestRecord, ...]:
        """Return the requests that ended last, the latest first."""

    def measurements(self, accept: str = "") -> tuple[bytes, str]:
        """Return what Prometheus scrapes, and the type of its content, one of those that the scraper accepts."""

    # -- queries ------------------------------------------------------------------------------------------------------

    async def ask(self, asked: Query | Prepared, kind: type[T]) -> T:
        """Return the answer to a query, which is of this `kind`."""

    async def embed(self, model: str, inputs: Sequence[Text], *, dimensions: int | None = None) -> Embeddings:
        """Return a vector of length 1 for each text (or tuple of tokens)."""

    async def rerank(self, model: str, query: str, documents: Sequence[str]) -> Relevance:
        """Return each document's relevance to the query, 0 to 1."""

    async def tokenize(self, model: str, text: str, *, add_special: bool = False) -> Tokens:
        """Return the tokens of a text."""

    async def detokenize(self, model: str, tokens: Sequence[int]) -> str:
        """Return the text of tokens."""

    async def render(self, chat: ChatRequest) -> str:
        """Return the prompt that would answer a chat."""

    async def count(self, request: Request) -> int:
        """Return the exact number of tokens in the prompt of a request that is not submitted."""

    # -- state --------------------------------------------------------------------------------------------------------

    def status(self) -> PoolStatus:
        """Return the instances and the state of the queue."""

    def lacks(self) -> tuple[Lack, ...]:
        """Return the models that have fewer instances ready than they keep, with the reasons."""

    def failed_loads(self) -> tuple[FailedLoad, ...]:
        """Return the models whose last load failed, with the causes and the next tries."""

    def downloads(self) -> tuple[DownloadStatus, ...]:
        """Return the running downloads, then those that failed last time."""

    def download_of(self, source: str) -> DownloadStatus | None:
        """Return the progress of a source's running download; None if there is none."""

    def cancel_download(self, download_id: str) -> bool:
        """Cancel the downloads with this id, and allow a failed one to be retried; return whether any existed."""

    async def session_text(self, session_id: str) -> str | None:
        """Return the text of a session; None if it is unknown. Loads its model if necessary."""
