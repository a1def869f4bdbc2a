"""What is done to a request before its model takes it: in a thread of its own if it is large."""

from collections.abc import Callable, Iterable, Mapping
from threading import Event, Thread
from time import monotonic
from typing import Any, cast

from attrs import field, fields, frozen, has

from lllms_core.cancellation import WorkCancelled, cancelled_by
from lllms_core.engines import Detokenizes, Model, Renders, Tokenizes
from lllms_core.engines.base import Opening, Opens
from lllms_core.errors import EngineFailed, InvalidRequest
from lllms_core.queries import (
    AnyRequest,
    DetokenizeRequest,
    EmbedRequest,
    RenderRequest,
    RerankRequest,
    TokenizeRequest,
    Tokens,
)
from lllms_core.types import Delta, Finish, Request, Usage

SMALL = 1 << 14
"""Characters, tokens and other parts of a request that is prepared at once: in a few milliseconds."""
LONGEST_STOP = 2.0
"""Seconds that threads get to notice that nobody waits for them."""

Taking = Callable[[], Iterable[Delta]]
"""What is left to do for a prepared request, in the model's thread."""


def is_small(request: AnyRequest) -> bool:
    """Whether all the texts, tokens and other parts of a request are few together."""
    size = 0
    pending: list[Any] = [request]
    while pending and size <= SMALL:
        value = pending.pop()
        size += len(value) if isinstance(value, str) else 1
        if isinstance(value, Mapping):
            size += len(value)
            pending += [*value, *value.values()] if size <= SMALL else []
        elif isinstance(value, list | tuple):
            size += len(value)
            pending += value if size <= SMALL else []
        elif has(type(value)):
            pending += [getattr(value, one.name) for one in fields(type(value))]
    return size <= SMALL


def prepare(model: Model, request: AnyRequest) -> Taking:
    """Do what takes long, in any thread. Raises what the model raises.

    A request that is nested too deeply, or takes more memory than there is, is at fault itself.
    """
    try:
        return _prepare(model, request)
    except RecursionError:
        raise InvalidRequest(
            f"the request is nested too deeply for model '{request.model}'; nest its tools, arguments and schemas less",
        ) from None
    except MemoryError:
        raise EngineFailed("there was not enough memory to read the request; send a shorter one") from None


def _prepare(model: Model, request: AnyRequest) -> Taking:
    if isinstance(request, Request):
        return _taking(_opening(model, request, "open"))
    model.check_task(request)
    result: object
    match request:
        case EmbedRequest():
            return _taking(_opening(model, request, "open_embed"))
        case RerankRequest():
            return _taking(_opening(model, request, "open_rerank"))
        case TokenizeRequest():
            result = _few(model, cast(Tokenizes, model).to_tokens(request.text, add_special=request.add_special))
        case DetokenizeRequest():
            if len(request.tokens) > model.most_tokens:
                count = len(request.tokens)
                text = f"there are {count} tokens, and {model.most_tokens} are allowed at once; send them in parts"
                raise InvalidRequest(text, "tokens")
            result = cast(Detokenizes, model).to_text(request.tokens)
        case RenderRequest():
            result = cast(Renders, model).to_prompt(request.chat)
    return lambda: [Delta(request.id, finish=Finish("stop", Usage(0, 0), result))]


def _opening(model: Model, request: Opens, opener: str) -> Opening:
    """What `prepare` returns, unless a class has overridden the method that it is a part of without it."""
    owner = next(cls for cls in type(model).__mro__ if not vars(cls).keys().isdisjoint({opener, "prepare"}))
    return model.prepare(request) if "prepare" in vars(owner) else Model.prepare(model, request)


def _taking(opening: Opening) -> Taking:
    def take() -> Iterable[Delta]:
        opening()
        return ()

    return take


def _few(model: Model, tokens: Tokens) -> Tokens:
    if len(tokens.ids) > model.most_tokens:
        raise InvalidRequest(
            f"the text has more than {model.most_tokens} tokens, too many for one answer; send it in parts", "text",
        )
    return tokens


@frozen(eq=False)
class Prepared:
    """To the loop, from a thread of its worker: this request can be taken, or failed."""

    request: AnyRequest
    cancelled: Event = field(factory=Event)
    take: Taking | None = None
    error: BaseException | None = None


class Preparations:
    """The requests that are being prepared, each in a thread of its own, so that none waits for another."""

    def __init__(self, model: Model, report: Callable[[Prepared], None]) -> None:
        """Prepare for `model`; `report` is called in the threads, once for each request that is not cancelled."""
        self._model = model
        self._report = report
        self._cancelled: dict[str, Event] = {}
        self._threads: set[Thread] = set()

    def start(self, request: AnyRequest) -> None:
        """Begin to prepare a request."""
        cancelled = self._cancelled[request.id] = Event()
        # A daemon: a program that ends does not wait for it.
        thread = Thread(target=self._run, args=[request, cancelled], name=f"prepare {request.id}", daemon=True)
        self._threads = {thread, *(one for one in self._threads if one.is_alive())}
        thread.start()

    def cancel(self, request_id: str) -> bool:
        """Give a request up, and say whether it was being prepared; its thread ends soon, and is heard no more."""
        cancelled = self._cancelled.pop(request_id, None)
        if cancelled is not None:
            cancelled.set()
        return cancelled is not None

    def take(self, prepared: Prepared) -> Iterable[Delta]:
        """Let the model take a request that was not cancelled, in its own thread. Raises what went wrong."""
        del self._cancelled[prepared.request.id]
        if prepared.error is not None:
            raise prepared.error
        assert prepared.take is not None  # noqa: S101  # there is an error otherwise
        return prepared.take()

    def stop(self) -> bool:
        """Give all requests up; whether all threads have ended, so that the model may be freed."""
        for request_id in list(self._cancelled):
            self.cancel(request_id)
        end = monotonic() + LONGEST_STOP
        for thread in self._threads:
            thread.join(max(0.0, end - monotonic()))
        return not any(thread.is_alive() for thread in self._threads)

    def _run(self, request: AnyRequest, cancelled: Event) -> None:
        try:
            with cancelled_by(cancelled):
                prepared = Prepared(request, cancelled, take=prepare(self._model, request))
        except WorkCancelled:
            return
        except BaseException as error:  # noqa: BLE001  # raised again in the loop, which tells them apart
            prepared = Prepared(request, cancelled, error=error)
        self._report(prepared)
