"""One line of the log for each request, when it has ended; with level `debug` also for each step on its way."""

import logging
from collections.abc import Mapping

from lllms_core.events import Event, RequestAssigned, RequestBegun, RequestRefused, RequestRequeued, RequestSubmitted
from lllms_core.status import RequestRecord

LOG = logging.getLogger("lllms.requests")

Fields = Mapping[str, str | int | float | None]


class RequestLog:
    """Writes the lines. The fields of each are in its text, and in `fields` of the record for other formats."""

    def ended(self, record: RequestRecord) -> None:
        """Log a request that has ended."""
        if LOG.isEnabledFor(logging.INFO):
            _write(logging.INFO, "request", ended_fields(record))

    def __call__(self, event: Event) -> None:
        """Log what was refused before it became a request for a model, and the steps of the others."""
        if isinstance(event, RequestRefused):
            _write(logging.INFO, "refused", refused_fields(event))
        elif LOG.isEnabledFor(logging.DEBUG):
            match event:
                case RequestSubmitted(id=request_id, model=model, task=task, client_id=client_id):
                    step: Fields = {"model": model, "task": task, "client_id": client_id or None}
                    _write(logging.DEBUG, "submitted", {"id": request_id, **step})
                case RequestAssigned(id=request_id, instance=instance, place=place):
                    _write(logging.DEBUG, "assigned", {"id": request_id, "instance": instance, "place": place or None})
                case RequestRequeued(id=request_id, model=model):
                    _write(logging.DEBUG, "requeued", {"id": request_id, "model": model})
                case RequestBegun(id=request_id, admitted=admitted):
                    counts: Fields = {} if admitted is None else {
                        "prompt_tokens": admitted.prompt_tokens, "cached_tokens": admitted.cached_tokens,
                    }
                    _write(logging.DEBUG, "answering", {"id": request_id, **counts})
                case _:
                    pass  # the pool's own lines tell of instances


def ended_fields(record: RequestRecord) -> Fields:
    """Return the fields of the line for a request; times in milliseconds."""
    times, pace = record.timings, record.seconds_per_token
    return {
        "id": record.id,
        "client_id": record.client_id or None,
        "key": record.key or None,
        "model": record.model,
        "task": record.task,
        "instance": record.instance,
        "place": record.place or None,
        "queued_ms": _ms(times.queued),
        "load_ms": _ms(times.load),
        "prompt_ms": _ms(times.prompt),
        "decode_ms": _ms(times.answer),
        "total_ms": _ms(record.seconds),
        "prompt_tokens": record.prompt_tokens,
        "cached_tokens": record.cached_tokens,
        "tokens": record.tokens,
        "tokens_per_second": None if pace is None else round(1 / pace, 1),
        "finish": record.outcome,
        "status": record.status,
    }


def refused_fields(event: RequestRefused) -> Fields:
    """Return the fields of the line for what was refused at the door."""
    return {
        "client_id": event.client_id or None, "key": event.key or None, "method": event.method, "route": event.route,
        "status": event.status,
    }


def as_text(fields: Fields) -> str:
    """Return `key=value` for each field that has one."""
    return " ".join(f"{name}={value}" for name, value in fields.items() if value is not None)


def _write(level: int, event: str, fields: Fields) -> None:
    LOG.log(level, "%s %s", event, _Text(fields), extra={"event": event, "fields": fields})


class _Text:
    """Fields that become text only if their record is written as text."""

    def __init__(self, fields: Fields) -> None:
        self._fields = fields
        self._text: str | None = None

    def __str__(self) -> str:
        self._text = self._text or as_text(self._fields)  # formatters ask several times
        return self._text


def _ms(seconds: float) -> int:
    return round(1000 * seconds)
