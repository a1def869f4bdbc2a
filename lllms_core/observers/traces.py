"""Traces for OpenTelemetry: one span for each request, with the names of its conventions for generative AI.

They need `lllms-core[otel]`. A span is made when its request has ended, from its record: it holds nothing of its text.
"""

import asyncio
import logging
import os
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from importlib.metadata import version
from typing import TYPE_CHECKING

from lllms_core.observers.request_history import History
from lllms_core.status import RequestRecord

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.trace import TracerProvider as AnyProvider

LOG = logging.getLogger("lllms.traces")

ENDPOINTS = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")
"""The variables of OpenTelemetry that say where to send traces; without one of them, none are made."""
FLUSH_SECONDS = 3.0
OPERATIONS = {"chat": "chat", "text": "text_completion", "embed": "embeddings"}

Attribute = str | int | float | tuple[str, ...]


class Traces:
    """Makes the spans: `host.history.on_end(Traces(provider).ended)`, which `serve` does if the environment says so."""

    def __init__(self, provider: "AnyProvider") -> None:
        """`provider` is any of OpenTelemetry's."""
        self._tracer = provider.get_tracer("lllms", version("lllms-core"))

    def ended(self, record: RequestRecord) -> None:
        """Make the span of a request that has ended."""
        from opentelemetry.trace import SpanKind, Status, StatusCode
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

        context = TraceContextTextMapPropagator().extract({"traceparent": record.trace}) if record.trace else None
        span = self._tracer.start_span(
            f"{OPERATIONS.get(record.task, record.task)} {record.model}", context, SpanKind.SERVER,
            attributes=dict(attributes(record)), start_time=_nanoseconds(record.submitted),
        )
        for moment in record.moments:
            told = {"lllms.detail": moment.detail} if moment.detail else None
            span.add_event(moment.what, told, _nanoseconds(record.submitted + moment.seconds))
        if (record.status or 0) >= 500:
            span.set_status(Status(StatusCode.ERROR))
        span.end(_nanoseconds(record.submitted + record.seconds))


def attributes(record: RequestRecord) -> Mapping[str, Attribute]:
    """Return the attributes of a request's span; pure."""
    found: dict[str, Attribute | None] = {
        "gen_ai.operation.name": OPERATIONS.get(record.task, record.task),
        "gen_ai.provider.name": "lllms",
        "gen_ai.request.model": record.model,
        "gen_ai.response.model": record.model,
        "gen_ai.response.id": record.id,
        "gen_ai.usage.input_tokens": record.prompt_tokens,
        "gen_ai.usage.cache_read.input_tokens": record.cached_tokens,
        "gen_ai.usage.output_tokens": record.tokens,
        "gen_ai.response.time_to_first_chunk": record.first_piece,
        "lllms.instance": record.instance,
        "lllms.place": record.place or None,
        "lllms.key": record.key or None,
        "lllms.client_id": record.client_id or None,
        "lllms.queued": record.timings.queued,
        "lllms.load": record.timings.load,
        "lllms.prompt": record.timings.prompt,
        "lllms.answer": record.timings.answer,
        "http.response.status_code": record.status,
    }
    if record.outcome is not None:
        failed = (record.status or 0) >= 400
        found["error.type" if failed else "gen_ai.response.finish_reasons"] = (
            record.outcome if failed else (record.outcome,)
        )
    return {name: value for name, value in found.items() if value is not None}


@asynccontextmanager
async def exporting(history: History) -> AsyncIterator[None]:
    """Send a span for each request to where OpenTelemetry's variables say, if they say anything."""
    provider = _provider() if any(os.environ.get(name) for name in ENDPOINTS) else None
    if provider is None:
        yield
        return
    history.on_end(Traces(provider).ended)
    try:
        yield
    finally:
        await asyncio.to_thread(_finish, provider)


def _provider() -> "TracerProvider | None":
    try:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.resources import SERVICE_NAME, Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
    except ImportError:
        LOG.warning("%s is set, but traces need more packages: pip install 'lllms-core[otel]'", " or ".join(ENDPOINTS))
        return None
    name = os.environ.get("OTEL_SERVICE_NAME") or "lllms"
    provider = TracerProvider(resource=Resource.create({SERVICE_NAME: name}), shutdown_on_exit=False)
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    return provider


def _finish(provider: "TracerProvider") -> None:
    provider.force_flush(round(1000 * FLUSH_SECONDS))
    provider.shutdown()


def _nanoseconds(seconds: float) -> int:
    return round(1e9 * seconds)
