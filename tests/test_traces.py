"""The spans that OpenTelemetry gets, from a real server to a real collector."""

import asyncio
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import httpx
import lllms_llamacpp
import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from serving_for_tests import serving
from waits_for_tests import GUARD

from lllms_core.errors import EngineDied, LllmsError
from lllms_core.events import RequestEnded, RequestSubmitted
from lllms_core.observers.request_history import History
from lllms_core.observers.traces import ENDPOINTS, Traces, exporting
from lllms_core.types import Finish, Usage

pytestmark = pytest.mark.slow

TINY = Path(lllms_llamacpp.__file__).parent / "models" / "tiny-chat.gguf"
TRACE, PARENT = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
SPANS = "http://127.0.0.1:{}"


@pytest.fixture
def collected(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Any]]:
    """The spans that a collector has received."""
    spans: list[Any] = []

    class Collector(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = ExportTraceServiceRequest.FromString(self.rfile.read(int(self.headers["Content-Length"])))
            spans.extend(
                (one, resource.resource) for resource in body.resource_spans for scope in resource.scope_spans
                for one in scope.spans
            )
            self.send_response(200)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_: Any) -> None:
            """Say nothing."""

    server = HTTPServer(("127.0.0.1", 0), Collector)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    monkeypatch.setenv(ENDPOINTS[0], SPANS.format(server.server_port))
    yield spans
    server.shutdown()
    server.server_close()
    thread.join(GUARD)


async def test_a_collector_gets_a_span_of_each_request(collected: list[Any]) -> None:
    """It continues the client's trace, has the names of the conventions and the timeline, and nothing of the text."""
    model = {"engine": "llamacpp", "file": str(TINY), "isolation": "thread", "options": {"context_length": 512}}
    config = {"server": {"port": 0}, "models": {"tiny": model}}
    async with asyncio.timeout(GUARD), serving(config) as url, httpx.AsyncClient(base_url=url, timeout=GUARD) as client:
        body = {"model": "tiny", "messages": [{"role": "user", "content": "sEcReT"}], "max_tokens": 4,
                "temperature": 0, "ignore_eos": True}
        traced = {"traceparent": f"00-{TRACE}-{PARENT}-01"}
        answer = await client.post("/v1/chat/completions", json=body, headers=traced)
        await client.post("/v1/chat/completions", json=body, headers={"traceparent": "sEcReT"})
    (span, resource), (other, _) = collected
    usage = answer.json()["usage"]
    assert (span.trace_id.hex(), span.parent_span_id.hex(), span.name) == (TRACE, PARENT, "chat tiny")
    assert other.trace_id.hex() != TRACE
    told = {one.key: one.value for one in span.attributes}
    assert told["gen_ai.operation.name"].string_value == "chat"
    assert told["gen_ai.request.model"].string_value == "tiny"
    assert told["gen_ai.response.id"].string_value == answer.headers["x-request-id"]
    assert told["gen_ai.usage.input_tokens"].int_value == usage["prompt_tokens"]
    assert told["gen_ai.usage.output_tokens"].int_value == 4
    assert [one.string_value for one in told["gen_ai.response.finish_reasons"].array_value.values] == ["length"]
    assert [one.name for one in span.events][-4:] == ["loaded", "assigned", "answering", "ended"]
    times = [span.start_time_unix_nano, *(one.time_unix_nano for one in span.events), span.end_time_unix_nano]
    assert times == sorted(times)
    assert [one.value.string_value for one in resource.attributes if one.key == "service.name"] == ["lllms"]
    assert "sEcReT" not in str(collected)


@pytest.mark.parametrize(("error", "kind", "failed"), [(EngineDied("x"), "engine_died", True), (None, None, False)])
def test_only_faults_of_the_server_are_errors(error: LllmsError | None, kind: str | None, failed: bool) -> None:
    """An embedding program passes its own provider; a fault has `error.type` and the status of an error."""
    exporter, provider = InMemorySpanExporter(), TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    history = History()
    history.on_end(Traces(provider).ended)
    history(RequestSubmitted("r1", "m", "embed", 1.0))
    history(RequestEnded("r1", 2.0, None if error else Finish("stop", Usage(3, 0)), error))
    [span] = exporter.get_finished_spans()
    assert span.attributes is not None
    assert span.attributes["gen_ai.operation.name"] == "embeddings"
    assert span.attributes.get("error.type") == kind
    assert (not span.status.is_ok and not span.status.is_unset) == failed
    provider.shutdown()


async def test_without_an_address_nothing_is_traced(monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither spans nor imports cost anything then."""
    for name in ENDPOINTS:
        monkeypatch.delenv(name, raising=False)
    history = History()
    async with exporting(history):
        assert history._on_end == []
