"""The preparation of a request before its model takes it: in a thread of its own if the request is large."""

from collections.abc import Callable, Iterable, Mapping
from functools import cache
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
    CountRequest,
    DetokenizeRequest,
    EmbedRequest,
    LoadRequest,
    RenderRequest,
    RerankRequest,
    TokenizeRequest,
    Tokens,
)
from lllms_core.types import Delta, Finish, Request, Usage

SMALL = 1 << 14
"""The most characters, tokens and other parts of a request that is prepared at once, in a few milliseconds."""
LONGEST_STOP = 2.0
"""Seconds that threads have to notice that their requests were cancelled."""

Taking = Callable[[], Iterable[Delta]]
"""The rest of the work on a prepared request, in the model's thread."""


def is_small(request: AnyRequest) -> bool:
    """Whether a request has at most `SMALL` characters, tokens and other parts in all."""
    size = 0
    pending: list[Any] = [request]
    while pending and size <= SMALL:
        value = pending.pop()
        if isinstance(value, str):
            size += len(value)
        elif isinstance(value, list | tuple):
            size += 2 * len(value)
            pending += value if size <= SMALL else ()
        elif names := _names(type(value)):  # type: ignore[arg-type]  # types can be hashed
            pending += [getattr(value, name) for name in names]
        elif value is not None and not isinstance(value, float | int) and isinstance(value, Mapping):
            size += 2 * len(value)
            pending += [*value, *value.values()] if size <= SMALL else ()
    return size <= SMALL


@cache
def _names(kind: type) -> tuple[str, ...]:
    """The fields of a class of attrs; none of any other class."""
    return tuple(one.name for one in fields(kind)) if has(kind) else ()


def prepare(model: Model, request: AnyRequest) -> Taking:
    """Do the long part of the work, in any thread. Raises the model's errors.

    Nesting that is too deep, and a lack of memory, count as faults of the request.
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
    if isinstance(request, LoadRequest):
        return lambda: [Delta(request.id, finish=Finish("stop", Usage(0, 0)))]
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
                text = f"there are {count} tokens, and at most {model.most_tokens} are allowed; send them in parts"
                raise InvalidRequest(text, "tokens")
            result = cast(Detokenizes, model).to_text(request.tokens)
        case RenderRequest():
            result = cast(Renders, model).to_prompt(request.chat)
        case CountRequest():
            result = model.count_prompt(request.completion)
    return lambda: [Delta(request.id, finish=Finish("stop", Usage(0, 0), result))]


def _opening(model: Model, request: Opens, opener: str) -> Opening:
    """Return the result of `prepare`; the default one if the model's class overrides `opener` but not `prepare`."""
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
class PreparedOpening:
    """To the loop, from a thread of its worker: this request is ready to be taken, or has failed."""

    request: AnyRequest
    cancelled: Event = field(factory=Event)
    take: Taking | None = None
    error: BaseException | None = None


class Preparations:
    """The requests that are being prepared, each in a thread of its own, so that none waits for another."""

    def __init__(self, model: Model, report: Callable[[PreparedOpening], None]) -> None:
        """Prepare for `model`; `report` is called in the threads, once for each request that is not cancelled."""
        self._model = model
        self._report = report
        self._cancelled: dict[str, Event] = {}
        self._threads: set[Thread] = set()

    def start(self, request: AnyRequest) -> None:
        """Start to prepare a request."""
        cancelled = self._cancelled[request.id] = Event()
        # A daemon, so that a program that ends does not wait for it.
        thread = Thread(target=self._run, args=[request, cancelled], name=f"prepare {request.id}", daemon=True)
        self._threads = {thread, *(one for one in self._threads if one.is_alive())}
        thread.start()

    def cancel(self, request_id: str) -> bool:
        """Cancel a request, and return whether it was being prepared; its thread ends soon and reports nothing."""
        cancelled = self._cancelled.pop(request_id, None)
        if cancelled is not None:
            cancelled.set()
        return cancelled is not None

    def take(self, prepared: PreparedOpening) -> Iterable[Delta]:
        """Pass a request that was not cancelled to the model, in its thread. Raises the preparation's error."""
        del self._cancelled[prepared.request.id]
        if prepared.error is not None:
            raise prepared.error
        assert prepared.take is not None  # noqa: S101  # there is an error otherwise
        return prepared.take()

    def stop(self) -> bool:
        """Cancel all requests; return whether all threads have ended, so that the model may be freed."""
        for request_id in list(self._cancelled):
            self.cancel(request_id)
        end = monotonic() + LONGEST_STOP
        for thread in self._threads:
            thread.join(max(0.0, end - monotonic()))
        return not any(thread.is_alive() for thread in self._threads)

    def _run(self, request: AnyRequest, cancelled: Event) -> None:
        try:
            with cancelled_by(cancelled):
                prepared = PreparedOpening(request, cancelled, take=prepare(self._model, request))
        except WorkCancelled:
            return
        except BaseException as error:  # noqa: BLE001  # raised again in the loop, which distinguishes them
            prepared = PreparedOpening(request, cancelled, error=error)
        self._report(prepared)
