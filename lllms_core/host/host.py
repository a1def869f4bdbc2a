"""The facade that APIs, the command line and embedders talk to: models by name, answers as streams."""

import asyncio
import logging
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from time import monotonic
from types import TracebackType
from typing import Self, TypeVar, overload

from attrs import evolve

from lllms_core.answers import Stream
from lllms_core.apis import Abilities, ModelCard
from lllms_core.apis.request_ids import note_request
from lllms_core.caller import CALLER
from lllms_core.catalog import Catalog, CatalogEntry
from lllms_core.config import Config, changes, check_config, in_force, parse_config
from lllms_core.config.setting_list import list_settings
from lllms_core.curated import known_model
from lllms_core.engines import Engine
from lllms_core.errors import ConfigError, InvalidRequest, ModelLoadFailed, OutOfTime
from lllms_core.events import Observers
from lllms_core.gguf import Scalar
from lllms_core.host.cards import Cards, card
from lllms_core.host.chosen import choose_placement, choose_session_store, open_keeper
from lllms_core.host.conversation import Conversation
from lllms_core.host.documents import open_documents
from lllms_core.host.pulls import Pulls
from lllms_core.host.reloads import Read, Reloads
from lllms_core.host.unused_log import UnusedLog
from lllms_core.host.visibility import OwnDocuments, Visibility, VisibleSessions
from lllms_core.observers.metrics import Metrics, Now
from lllms_core.observers.request_history import History
from lllms_core.observers.request_log import RequestLog
from lllms_core.parameters import Checked, Route
from lllms_core.plugins import Plugins
from lllms_core.pool.models import PoolModel
from lllms_core.pool.needs import session_limits
from lllms_core.pool.pool import Pool
from lllms_core.pool.session_index import SessionIndex
from lllms_core.queries import (
    AnyRequest,
    CountRequest,
    DetokenizeRequest,
    Embeddings,
    EmbedRequest,
    LoadRequest,
    Prepared,
    Query,
    Relevance,
    RenderRequest,
    RerankRequest,
    Text,
    TokenizeRequest,
    Tokens,
)
from lllms_core.requests import build_request, check_parameters
from lllms_core.status import (
    Changes,
    DownloadStatus,
    FailedLoad,
    Lack,
    PoolStatus,
    Problem,
    RequestRecord,
    RequestStatus,
    Setting,
    Waiting,
    moved,
)
from lllms_core.store import Fetcher, download_id
from lllms_core.store.pulled import Pulled
from lllms_core.store.weights import Weights, finder, open_store, recorded_hash
from lllms_core.types import ChatRequest, Constraint, Finish, Message, Request, TextRequest, Tool, new_request_id

T = TypeVar("T")

LOG = logging.getLogger("lllms.host")


def _continued(old: CatalogEntry, new: CatalogEntry) -> CatalogEntry:
    """Return the entry of a model whose instances go on, with its new configuration."""
    if old.config == new.config and old.aliases == new.aliases:
        return old
    return evolve(old, aliases=new.aliases, config=new.config, defaults=new.defaults)


def _takes_requests_of(engine: Engine, former: Engine) -> bool:
    """Whether an engine honours whatever a request for the former one may ask for."""
    return engine is former or (
        former.parameters <= engine.parameters and former.media <= engine.media
        and former.constraints <= engine.constraints
    )


class Host:
    """A server without HTTP: the plugins, the models of a configuration, and the pool that runs them.

        async with Host(parse_config({"models": {"tiny": {"engine": "llamacpp", "file": "tiny.gguf"}}})) as host:
            async with host.submit(host.request("tiny", messages=[Message("user", "Hi!")])) as stream:
                print((await stream.gather()).text)
    """

    def __init__(
        self, config: Config | None = None, plugins: Plugins | None = None, *, read: Read | None = None,
    ) -> None:
        """Read plugins and configuration; raises `ConfigError` or `PluginError`. Nothing is started yet.

        `read` reads the configuration again, for `reload`.
        """
        self.config = parse_config({}) if config is None else config
        self.plugins = Plugins.discover(disable=self.config.disabled_plugins) if plugins is None else plugins
        self.store = open_store(self.config, self.plugins)
        self.fetcher = Fetcher(self.store)
        self.catalog = Catalog.build(self.config, self.plugins, finder(self.store))
        self._pulls = Pulls(self.config, self.plugins, self.fetcher, self.catalog)
        self._pulls.restore()
        files = {entry.name: files for entry in self.catalog.entries if (files := self._files(entry)) is not None}
        self.sessions = open_keeper(self.config, self.plugins)
        self.history, self.metrics, log = History(), Metrics(self._measured), RequestLog()
        self.observers = Observers([self.history, self.metrics, log])
        self.history.on_end(self.metrics.ended)
        self.history.on_end(log.ended)
        self.pool = Pool.of(
            self.catalog, self.config.server, self.sessions, files, self.observers,
            far=choose_placement(self.config, self.plugins), recorded=partial(recorded_hash, self.store),
        )
        self._visibility = Visibility(self.catalog)
        self._index = SessionIndex(self.pool, self.sessions)
        self.session_index = VisibleSessions(self._index, self._visibility)
        kept, chosen = self.config.sessions, choose_session_store(self.config, self.plugins)
        self._documents = open_documents(
            kept.responses_size, kept.responses_ttl, None if chosen is None else chosen[0].documents_folder,
        )
        self.documents = OwnDocuments(self._documents)
        self._cards = Cards(self.pool)
        self._examines = False
        self._examining: asyncio.Task[None] | None = None
        self._foreseen: dict[str, str] = {}
        """By model: what speaks against a load, as it was logged."""
        self._unused = UnusedLog()
        self._started = False
        self.reloads = Reloads(read, self._prepare_reload)

    @property
    def ready(self) -> bool:
        """Whether every model that should be preloaded is loaded, and the host is not shutting down."""
        return self._started and self.pool.open

    async def warm(self) -> None:
        """Start the spare workers already; `close` ends them, even without a `start`."""
        await self.pool.warm()

    async def start(self) -> None:
        """Start the pool; returns once `min_instances` of every model are loaded, or have failed to."""
        self.reloads.begin()
        await self.pool.start()
        self._started = True

    async def close(self, grace: float | None = None) -> None:
        """Take no more requests, let the running ones finish for `grace` seconds, end everything.

        The default is `server.shutdown_timeout`. Safe to call again: a shorter grace hastens the end. Downloads end at
        once; the bytes received are kept.
        """
        self.reloads.close()
        if self._examining is not None:
            self._examining.cancel()
        self.pool.stop()  # first, so that those who wait for a download learn the true reason
        await self.fetcher.close()
        await self.pool.close(self.config.server.shutdown_timeout if grace is None else grace)
        await self._documents.close()

    @property
    def json_levels(self) -> int:
        """The maximum nesting depth of JSON in a request."""
        return self.config.server.max_json_depth

    def models(self) -> list[ModelCard]:
        """Return all models that can be served."""
        return [card(entry) for entry in self.catalog.usable(CALLER.get())]

    def model(self, name: str) -> ModelCard:
        """Look up a model by name or alias; raises `ModelUnknown`, or `ModelLoadFailed` for an offer with a problem."""
        return card(self._entry(name))

    async def abilities(self, name: str) -> Abilities:
        """Return what a model can do. Before it is first loaded, this reads the header of its file, in a thread.

        Raises `ModelUnknown`, or `ModelLoadFailed` for a file that can never be loaded.
        """
        return await self._cards.abilities(self._entry(name))

    async def metadata(self, name: str) -> Mapping[str, Scalar]:
        """Return the header of a model's GGUF file, without arrays; its template is the one of the options, if any.

        Empty if there is no such file. Raises `ModelUnknown`.
        """
        return await self._cards.metadata(self._entry(name))

    def problems(self) -> tuple[Problem, ...]:
        """Return the models that cannot be served, and those whose load would fail, as far as `examine` has found.

        Why a new configuration is not in force is a problem without a name.
        """
        told = {one.model for one in self.pool.failed_loads()} | {one.model for one in self.pool.lacks()}
        found = [
            Problem(entry.name, text, configured=entry.name in self.config.models)
            for entry in self.catalog.entries if entry.name not in told and (text := self._cards.problem(entry))
        ]
        reload = [] if self.reloads.problem is None else [Problem("", self.reloads.problem, configured=True)]
        return self._visibility.of_problems([*self.catalog.problems, *found, *reload])

    async def examine(self) -> None:
        """Look at the files of the models that are not loaded, and log which of them could not be loaded, and why.

        `problems` tells of them from then on, until their files change. Models of later configurations are looked at as
        soon as these are in force.
        """
        self._examines = True
        for entry in self.catalog.entries:
            text = await self._cards.look(entry) if entry.here else ""
            if text and text != self._foreseen.get(entry.name):
                LOG.warning("model %s will not load: %s", entry.name, text)
            self._foreseen[entry.name] = text

    async def problem(self, name: str) -> str:
        """Return why a model cannot be used now; "" if it can, as far as known without a load.

        Looks into its file if that has not been done. Raises `ModelUnknown`.
        """
        try:
            entry = self._entry(name)
        except ModelLoadFailed as error:
            return error.message
        failed = [one.problem for one in self.pool.failed_loads() if one.model == entry.name]
        lacks = [one.problem for one in self.pool.lacks() if one.model == entry.name and not one.ready]
        return next(filter(None, [*failed, *lacks]), "") or await self._cards.look(entry)

    async def reload(self) -> Changes:
        """Read the configuration again and take what has changed, and nothing else. Raises `LllmsError`.

        One with a fault changes nothing. Running requests are answered by the instances that they have; waiting ones
        take the new configuration, or are refused if their model is gone.
        """
        changed = await self.reloads.reload()
        if self._examines:
            self._examining = asyncio.create_task(self.examine())
        return changed

    def settings(self) -> Sequence[Setting]:
        """Return the settings that are in force, with their origins and without secrets."""
        return list_settings(self.config)

    def _prepare_reload(self, read: Config) -> tuple[Changes, Callable[[], None]]:
        """Check a new configuration, in a thread; return the changes, and what makes them."""
        examined = Catalog.build(read, self.plugins, finder(self.store))
        choose_session_store(read, self.plugins)
        config = in_force(self.config, read)
        if config != read:
            try:
                check_config(config)
            except ConfigError as error:
                raise ConfigError(f"it needs a restart, since with what stays until then: {error}") from error
        pulled = self._pulls.recorded()
        return self._compare(read, examined), lambda: self._take(config, examined, pulled)

    def _compare(self, new: Config, examined: Catalog) -> Changes:
        """Return what a configuration with these models changes in those that are served now."""
        old = evolve(self.config, models={entry.name: entry.config for entry in self.catalog.entries})
        found = changes(old, evolve(new, models={entry.name: entry.config for entry in examined.entries}))
        if not new.server.may_pull:
            return found
        gone = (name for name in found.removed if name in self.config.models or not self._pulls.added(name))
        return evolve(found, removed=tuple(gone))

    def _take(self, config: Config, examined: Catalog, pulled: Sequence[Pulled]) -> None:
        """Put a configuration in force."""
        replaced = {*self._compare(config, examined).replaced}  # once more: clients may have fetched models meanwhile
        before = {entry.name: entry for entry in self.catalog.entries}
        kept = {entry.name: entry for entry in examined.entries if entry.name in before and entry.name not in replaced}
        self.config = config
        self.catalog.take(
            [_continued(before[one.name], one) if one.name in kept else one for one in examined.entries],
            examined.problems,
        )
        self._pulls.reconfigure(config, [*before.values()], pulled)
        entries = self.catalog.entries
        models = {
            entry.name: PoolModel.of(
                entry, self._files(entry), partial(self.catalog.place, entry.name), partial(recorded_hash, self.store),
            )
            for entry in entries
        }
        fresh = {entry.name for entry in entries if entry.name not in before or entry.name in replaced}
        unfit = {
            entry.name for entry in entries if entry.name in replaced
            and not _takes_requests_of(entry.engine, before[entry.name].engine)
        }
        if self.sessions is not None:
            in_memory = self.sessions.store.in_memory
            self.sessions.limits = session_limits(config.server, config.sessions, in_memory=in_memory)
        self.pool.reconfigure(models, config.server, fresh, unfit)
        self._cards.keep(models)
        for name in self._foreseen.keys() - models.keys():
            del self._foreseen[name]
        wanted = {entry.source for entry in entries}
        for entry in before.values():
            if entry.source is not None and entry.source not in wanted:
                self.fetcher.cancel(download_id(entry.source))

    def _files(self, entry: CatalogEntry) -> Weights | None:
        if entry.source is None:
            return None
        return Weights(self.fetcher, self.catalog, entry.name, entry.source, entry.config.sha256)

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
        """Make a request: `parameters` have the names of the OpenAI API, and override the model's defaults.

        `unused` names what the client sent and is not among the parameters, for `Request.unused`.
        Raises `ModelUnknown`, `InvalidRequest`, or `UnsupportedParameter` for what the model's engine does not honour.
        """
        server = self.config.server
        request = build_request(
            self._entry(model), new_request_id(), messages, prompt, parameters or {}, constraint=constraint,
            levels=server.max_json_depth, unknown_names=server.unknown_parameters, unused=unused,
        )
        self._unused.tell(request.model, request.unused)
        return request

    def check(self, route: Route, model: str, parameters: Mapping[str, object]) -> Checked:
        """Return the checked parameters that ask for something, for a route that makes no `Request`.

        Raises `ModelUnknown`, `InvalidRequest`, or `UnsupportedParameter` for what the model's engine does not honour.
        """
        entry = self._entry(model)
        checked = check_parameters(route, entry, parameters, self.config.server.unknown_parameters)
        self._unused.tell(entry.name, checked.unused)
        return checked

    def prepare(self, request: AnyRequest) -> Prepared:
        """Do the costly part of submitting a large request, in any thread. Raises `LllmsError`."""
        return self.pool.prepare(request)

    def submit(self, request: AnyRequest | Prepared) -> Stream:
        """Queue a request and return the stream of its answer; a refusal is the stream's only delta."""
        stream = self.pool.submit(request)
        note_request(stream.request.id)
        return stream

    def submit_all(self, requests: Sequence[AnyRequest | Prepared]) -> list[Stream]:
        """Queue requests that belong together, a few at a time: no number of them is too large for the queue."""
        streams = self.pool.submit_all(requests)
        note_request(streams[0].request.id)
        return streams

    def converse(
        self,
        model: str,
        *,
        messages: Sequence[Message],
        tools: Sequence[Tool],
        parameters: Mapping[str, object] | None = None,
        max_rounds: int = 8,
    ) -> Conversation:
        """Ask for an answer, and run the tools that have a handler (`ServerTool`) until there is one.

        Raises `InvalidRequest` for parameters that a conversation cannot have; other faults, when it is iterated.
        """
        def submit(messages: Sequence[Message], parameters: Mapping[str, object]) -> Stream:
            return self.submit(self.request(model, messages=messages, parameters=parameters))

        return Conversation(submit, messages, tools, parameters or {}, max_rounds)

    async def embed(self, model: str, inputs: Sequence[Text], *, dimensions: int | None = None) -> Embeddings:
        """Return a vector of length 1 for each text (or tuple of tokens). Raises `LllmsError`.

        The model keeps only the first `dimensions` numbers, if it was trained for that.
        """
        entry = self._entry(model)
        empty = next((index for index, one in enumerate(inputs) if not one), None)
        if empty is not None or not inputs:
            name = "input" if empty is None else f"input[{empty}]"
            raise InvalidRequest(f"'{name}' is empty; there is nothing to embed", name, "invalid_value")
        query = EmbedRequest(new_request_id(), entry.name, tuple(inputs), dimensions, entry.config.timeout)
        finish = await self._finish(query)
        found = finish.result
        assert isinstance(found, Embeddings)  # noqa: S101  # what the engine's contract says
        return evolve(found, timings=finish.timings)

    async def rerank(self, model: str, query: str, documents: Sequence[str]) -> Relevance:
        """Return how well each document answers the query, 0 to 1. Raises `LllmsError`."""
        entry = self._entry(model)
        if not documents:
            raise InvalidRequest("'documents' is empty; there is nothing to rank", "documents", "empty_array")
        asked = RerankRequest(new_request_id(), entry.name, query, tuple(documents), entry.config.timeout)
        return await self.ask(asked, Relevance)

    async def tokenize(self, model: str, text: str, *, add_special: bool = False) -> Tokens:
        """Return the tokens of a text, on request with those that the model adds around it. Raises `LllmsError`."""
        entry = self._entry(model)
        query = TokenizeRequest(new_request_id(), entry.name, text, add_special, entry.config.timeout)
        return await self.ask(query, Tokens)

    async def detokenize(self, model: str, tokens: Sequence[int]) -> str:
        """Return the text of tokens, control tokens as their texts. Raises `LllmsError`."""
        entry = self._entry(model)
        query = DetokenizeRequest(new_request_id(), entry.name, tuple(tokens), entry.config.timeout)
        return await self.ask(query, str)

    async def session_text(self, session_id: str) -> str | None:
        """Return the text of a session, control tokens as their texts; None if there is no such session.

        Loads its model if necessary. Raises `LllmsError`, also if the session belongs to another file or version of the
        model, and `TimeoutError` if the store does not answer.
        """
        found = await self._index.tokens(session_id)
        if found is None or not self._visibility.of_models([found]):
            return None
        entry = self._entry(found.model)
        return await self.ask(
            DetokenizeRequest(new_request_id(), entry.name, found.tokens, entry.config.timeout, found.space), str,
        )

    async def render(self, chat: ChatRequest) -> str:
        """Return the prompt from which a chat would be answered. Raises `LllmsError`."""
        return await self.ask(RenderRequest(chat.id, chat.model, chat, chat.timeout), str)

    async def count(self, request: Request) -> int:
        """Return the number of tokens in a request's prompt without submitting it. Raises `LllmsError`."""
        return await self.ask(CountRequest(new_request_id(), request.model, request, request.timeout), int)

    async def load(self, name: str, *, ttl: float | None = None) -> None:
        """Return once an instance of a model is loaded, fetching its files if necessary. Raises `LllmsError`.

        It may be idle for `ttl` seconds before it is unloaded; None: as the model's configuration says. After a failed
        load, for which requests are refused for a while, this tries again at once.
        """
        entry = self._entry(name)
        async with self.submit(LoadRequest(new_request_id(), entry.name, ttl)) as stream:
            await stream.gather()

    async def unload(self, name: str) -> None:
        """Unload the instances of a model beyond its `min_instances`; busy ones, once they are idle.

        Returns when the idle ones are gone. Raises `ModelUnknown`.
        """
        await self.pool.unload(self._entry(name).name)

    def known_source(self, name: str) -> str | None:
        """Return the source of the catalogue's model of this name, in any spelling; None if it has none."""
        known = known_model(name)
        return None if known is None else known.source

    async def pull(self, name: str, source: str | None = None) -> ModelCard:
        """Fetch the missing files of a model, and return it; an unknown one is fetched from `source`.

        That one is served as `name` from now on, also by later servers. `download_of` tells the progress. Cancelling
        the caller cancels the download, unless others wait for it; the bytes received are kept. Raises `ModelUnknown`
        for an unknown model without a source, `InvalidRequest` if clients may not add models (`server.pull`),
        `DownloadError`.
        """
        if CALLER.get().models is not None:
            self._entry(name)  # a key with a list of models adds none to it
        return card(await self._pulls.pull(name, source, self.pool))

    async def ask(self, asked: Query | Prepared, kind: type[T]) -> T:
        """Return the answer to a query, which is of this `kind`. Raises `LllmsError`."""
        finish = await self._finish(asked)
        assert isinstance(finish.result, kind)  # noqa: S101  # what the engine's contract says
        return finish.result

    async def _finish(self, asked: Query | Prepared) -> Finish:
        query = asked.request if isinstance(asked, Prepared) else asked
        async with self.submit(asked) as stream:
            finish = (await stream.gather()).finish
        if finish.reason == "timeout":
            raise OutOfTime(
                f"model '{query.model}' did not finish within its timeout of {query.timeout:g} s; "
                f"ask for less at once, or raise models.{query.model}.timeout",
            )
        return finish

    def status(self) -> PoolStatus:
        """Return the loaded instances, and the counts of running and waiting requests."""
        return self._visibility.of_status(self.pool.status())

    def lacks(self) -> tuple[Lack, ...]:
        """Return the models that have fewer instances ready than they keep, with the reasons."""
        return self._visibility.of_models(self.pool.lacks())

    def failed_loads(self) -> tuple[FailedLoad, ...]:
        """Return the models whose last load failed, with the causes and the next tries."""
        return self._visibility.of_models(self.pool.failed_loads())

    def downloads(self) -> tuple[DownloadStatus, ...]:
        """Return the running downloads, to this machine and to others, then those that failed last time."""
        return self._visibility.of_downloads([*self.pool.fetches(), *self.fetcher.statuses])

    def download_of(self, source: str) -> DownloadStatus | None:
        """Return the progress of a source's running download; None if there is none."""
        return self.fetcher.status(self.store.canonical(source))

    def cancel_download(self, download_id: str) -> bool:
        """Cancel the downloads with this id, and allow a failed one to be retried; return whether any existed."""
        if not self._visibility.shows_download(download_id):
            return False
        return any([self.fetcher.cancel(download_id), self.pool.cancel_fetch(download_id)])

    def waiting(self, request: AnyRequest) -> Waiting | None:
        """Return why a submitted request has no answer yet; None if its answer has begun, or if it has ended."""
        return self._with_download(request.model, self.pool.waiting(request.id))

    def requests(self) -> tuple[RequestStatus, ...]:
        """Return the running requests, then the waiting ones; nothing of their texts."""
        requests = self._visibility.of_models(self.pool.requests())
        return tuple(evolve(one, waiting=self._with_download(one.model, one.waiting)) for one in requests)

    def cancel_request(self, request_id: str) -> bool:
        """Cancel a request, whose answer then ends with `RequestCancelled`; return whether there was one.

        With a client's own id, all open requests to which it gave that are cancelled.
        """
        visible = {one.id for one in self.requests()}
        ids = [one for one in self.history.open_ids(request_id) if one in visible]
        return any([self.pool.cancel(one) for one in ids])  # noqa: C419  # each of them

    def find_request(self, request_id: str) -> RequestRecord | None:
        """Return a running or recently ended request with its timeline; by its id, its client's, or its answer's."""
        found = self.history.find(request_id, monotonic())
        return found if found is not None and self._visibility.of_models([found]) else None

    def ended_requests(self) -> tuple[RequestRecord, ...]:
        """Return the requests that ended last, the latest first."""
        return self._visibility.of_models(self.history.ended)

    def measurements(self, accept: str = "") -> tuple[bytes, str]:
        """Return what Prometheus scrapes, and the type of its content, one of those that the scraper accepts."""
        return self.metrics.write(accept)

    def _measured(self) -> Now:
        fetched = [(entry.name, entry.source) for entry in self.catalog.entries if entry.source is not None]
        downloads = [(name, self.fetcher.status(source)) for name, source in fetched]
        return Now(
            self.pool.status(), self.pool.requests(), tuple(entry.name for entry in self.catalog.entries),
            tuple((name, one) for name, one in downloads if one is not None),
        )

    def _with_download(self, model: str, waiting: Waiting | None) -> Waiting | None:
        if waiting is None or waiting.state != "downloading" or waiting.download is not None:
            return waiting
        source = self.catalog.get(model).source
        download = None if source is None else self.fetcher.status(source)
        if download is None:
            return waiting
        return evolve(waiting, progress=moved(download) / download.total if download.total else None, download=download)

    def _entry(self, name: str) -> CatalogEntry:
        """Look up a model that the caller may use; to others it is unknown. Raises as `Catalog.get`."""
        return self.catalog.get(name, CALLER.get())

    async def __aenter__(self) -> Self:
        try:
            await self.start()
        except BaseException:  # such as Ctrl-C during a long load: nothing else would end the workers
            await self.close(grace=0)
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None,
    ) -> None:
        await self.close()
