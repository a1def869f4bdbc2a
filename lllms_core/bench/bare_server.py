"""The minimum that Quart and Hypercorn need: a handler that yields ready-made events. A program.

    python -m lllms_core.bench.bare_server

It prints `listening on http://127.0.0.1:PORT`, and answers POST /v1/completions with `max_tokens` events.
"""

import asyncio
import signal
import socket
import sys
from collections.abc import AsyncIterator

from hypercorn.asyncio import serve
from hypercorn.config import Config
from quart import Quart, Response, request

CHUNK = (
    b'data: {"id":"cmpl-bench:AbCdEfGh-0123456789ab","object":"text_completion","created":1700000000,"model":"bench",'
    b'"system_fingerprint":"fp_0123456789","choices":[{"index":0,"text":" token","logprobs":null,'
    b'"finish_reason":null}]}\n\n'
)


def create_app() -> Quart:
    """Return the app with its one route."""
    app = Quart(__name__)

    @app.post("/v1/completions")
    async def complete() -> Response:
        tokens = int((await request.get_json())["max_tokens"])

        async def events() -> AsyncIterator[bytes]:
            for _ in range(tokens):
                yield CHUNK
            yield b"data: [DONE]\n\n"

        response = Response(events(), content_type="text/event-stream")
        response.timeout = None
        return response

    return app


async def main() -> None:
    """Serve until SIGTERM."""
    ended = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, ended.set)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        config = Config()
        config.bind = [f"fd://{listener.fileno()}"]
        config.errorlog = None
        sys.stdout.write(f"listening on http://127.0.0.1:{listener.getsockname()[1]}\n")
        sys.stdout.flush()
        await serve(create_app(), config, shutdown_trigger=ended.wait)


if __name__ == "__main__":
    asyncio.run(main())
