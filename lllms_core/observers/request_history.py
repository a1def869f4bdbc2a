"""The timelines of the requests, running and ended; pure, except for its clock."""

import re
import time
from collections import deque
from collections.abc import Callable, Iterator
from typing import Any

from attrs import define, evolve, field

from lllms_core.apis.explanations import explain
from lllms_core.errors import DownloadError, LllmsError, ModelError, Overloaded
from lllms_core.events import (
    Event,
    FilesBegun,
    FilesEnded,
    LoadBegun,
    LoadEnded,
    RequestAssigned,
    RequestBegun,
    RequestEnded,
    RequestRequeued,
    RequestSubmitted,
    RequestsWait,
    UnloadBegun,
)
from lllms_core.status import Moment, RequestRecord
from lllms_core.types import Timings

KEPT = 256
"""The ended requests that are remembered."""
MOST_MOMENTS = 64
"""Of one request; later ones are left out, but not its end."""
CODE = re.compile(r"[a-z][a-z_]{0,39}")
CLIENT_LEFT = 499

OnEnd = Callable[[RequestRecord], None]


@define(eq=False)
class _Open:
    """A request that has not ended."""

    record: RequestRecord
    began: float
    """On the clock of `monotonic`."""
    moments: list[Moment] = field(factory=list)
    waits: bool = True
    wait: tuple[str, str] = ("", "")
    """What it was last said to wait for, and why."""
    known: dict[str, Any] = field(factory=dict)
    """What has become known since: fields of the record."""

    def note(self, at: float, what: str, detail: str = "") -> None:
        if len(self.moments) < MOST_MOMENTS or what == "ended":
            self.moments.append(Moment(max(0.0, at - self.began), what, detail))

    def shown(self, now: float) -> RequestRecord:
        seconds = max(0.0, now - self.began)
        return evolve(self.record, seconds=seconds, moments=tuple(self.moments), **self.known)


class History:
    """Listens to events; remembers the open requests and the last ended ones, and passes each on when it ends."""

    def __init__(self, clock: Callable[[], float] = time.time, kept: int = KEPT) -> None:
        """`clock` tells the seconds since 1970."""
        self._clock = clock
        self._open: dict[str, _Open] = {}
        self._ended: deque[RequestRecord] = deque(maxlen=kept)
        self._on_end: list[OnEnd] = []

    def on_end(self, call: OnEnd) -> None:
        """Call this with the record of each request that ends."""
        self._on_end.append(call)

    @property
    def ended(self) -> tuple[RequestRecord, ...]:
        """The last ended requests, the latest first."""
        return tuple(reversed(self._ended))

    def find(self, request_id: str, now: float) -> RequestRecord | None:
        """Return a request by its id, its client's id for it, or the id of its answer; of several, the latest."""
        every = [*self._ended, *(one.shown(now) for one in self._open.values())]
        for fits in (
            lambda one: one.id == request_id,
            lambda one: one.client_id == request_id,
            lambda one: request_id.endswith(f"-{one.id}"),
        ):
            if found := [one for one in every if fits(one)]:
                return found[-1]
        return None

    def open_ids(self, request_id: str) -> list[str]:
        """Return the ids of the open requests with this id, or which their client calls so."""
        if request_id in self._open:
            return [request_id]
        return [one.record.id for one in self._open.values() if one.record.client_id == request_id]

    def __call__(self, event: Event) -> None:
        """Take note of an event."""
        match event:
            case RequestSubmitted():
                self._submit(event)
            case RequestEnded():
                self._end(event)
            case RequestAssigned(instance=instance, at=at, place=place) if one := self._open.get(event.id):
                one.waits = False
                one.known |= {"instance": instance, "place": place}
                one.note(at, "assigned", _at(instance, place))
            case RequestRequeued(reason=reason, at=at) if one := self._open.get(event.id):
                one.waits, one.wait = True, ("", "")
                one.known |= {"instance": None, "place": ""}
                one.note(at, "queued again", reason)
            case RequestBegun() if one := self._open.get(event.id):
                self._begin(one, event)
            case RequestsWait(model=model, state=state, reason=reason, at=at):
                for one in self._waiting(model):
                    if event.id in {None, one.record.id} and one.wait != (state, reason):
                        one.wait = state, reason
                        one.note(at, f"waits: {state}", reason)
            case _:
                self._note_change(event)

    def _submit(self, event: RequestSubmitted) -> None:
        record = RequestRecord(
            event.id, event.model, event.task, self._clock(), 0.0, key=event.key, client_id=event.client_id,
            trace=event.trace,
        )
        self._open[event.id] = one = _Open(record, event.at)
        one.note(event.at, "submitted")

    def _begin(self, one: _Open, event: RequestBegun) -> None:
        known = event.admitted
        one.known["first_piece"] = event.at - one.began
        if known is None:
            one.note(event.at, "answering")
            return
        one.known |= {"prompt_tokens": known.prompt_tokens, "cached_tokens": known.cached_tokens}
        one.note(event.at, "answering", f"{known.cached_tokens} of {known.prompt_tokens} prompt tokens were cached")

    def _end(self, event: RequestEnded) -> None:
        one = self._open.pop(event.id, None)
        if one is None:
            return
        why = ""
        if event.error is not None:
            outcome, status = outcome_of(event.error)
            why = event.error.message if isinstance(event.error, ModelError | DownloadError | Overloaded) else ""
            one.known["tokens"] = event.tokens
            if one.waits:
                one.known["timings"] = Timings(queued=event.at - one.began)
        elif event.finish is not None:
            finish, usage = event.finish, event.finish.usage
            outcome, status = finish.reason, CLIENT_LEFT if finish.reason == "cancelled" else 200
            one.known |= {
                "timings": finish.timings, "reuse": finish.reuse, "prompt_tokens": usage.prompt_tokens,
                "cached_tokens": usage.cached_tokens, "tokens": max(event.tokens, usage.completion_tokens),
                "accepted_tokens": usage.accepted_tokens, "rejected_tokens": usage.rejected_tokens,
            }
        else:
            raise ValueError("an end needs a finish or an error")
        one.known |= {"outcome": outcome, "status": status}
        one.note(event.at, "ended", f"{outcome}: {why}" if why else outcome)
        done = one.shown(event.at)
        self._ended.append(done)
        for call in self._on_end:
            call(done)

    def _note_change(self, event: Event) -> None:
        """Note what happens to instances and files for the requests that wait for it."""
        match event:
            case LoadBegun(instance=instance, model=model, at=at, place=place):
                self._note(model, at, "loading", _at(instance, place))
            case LoadEnded(instance=instance, model=model, at=at, problem=problem, place=place):
                where = _at(instance, place)
                told = ("loaded", where) if problem is None else ("load failed", f"{where}: {problem}")
                self._note(model, at, *told)
            case UnloadBegun(instance=instance, room_for=str(model), at=at):
                self._note(model, at, "evicting", instance)
            case FilesBegun(model=model, at=at):
                self._note(model, at, "downloading")
            case FilesEnded(model=model, at=at, result=result):
                self._note(model, at, f"download {result}")
            case _:
                pass  # of no interest to requests, which have ends of their own

    def _note(self, model: str, at: float, what: str, detail: str = "") -> None:
        for one in self._waiting(model):
            one.note(at, what, detail)

    def _waiting(self, model: str) -> Iterator[_Open]:
        return (one for one in self._open.values() if one.waits and one.record.model == model)


def _at(instance: str, place: str) -> str:
    return f"{instance} at {place}" if place else instance


def outcome_of(error: LllmsError) -> tuple[str, int]:
    """Return the code and the HTTP status of an error; a code that is no plain word is not shown."""
    fault = explain(error)
    code = fault.code or ""
    return (code if CODE.fullmatch(code) else "error"), fault.status
