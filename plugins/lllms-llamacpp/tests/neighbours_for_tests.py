"""A worker process of tiny-chat in which one client, the neighbour, generates all the time, beside any requests."""

import asyncio
from itertools import count
from time import perf_counter

from lllms_llamacpp.engine import LlamaCppEngine
from lllms_llamacpp.options import Options

from lllms_core.queries import AnyRequest
from lllms_core.types import Delta, ModelSpec, Sampling, TextRequest
from lllms_core.worker.start import start_worker
from lllms_core.worker.wire import Close, Deltas, FromWorker, Load, Loaded, Open, encode

GUARD = 60.0


class Street:
    """Collects a worker's messages, times the neighbour's deltas, and repeats its request when an answer ends."""

    def __init__(self) -> None:
        self.worker = None
        self.loaded = asyncio.get_running_loop().create_future()
        self.end = asyncio.get_running_loop().create_future()
        self.times: list[float] = []
        self._answers: dict[str, asyncio.Future[Delta]] = {}
        self._heard = asyncio.Event()
        self._numbers = count()

    @classmethod
    async def start(cls, file: object, **options: object) -> "Street":
        """Load the model and start the neighbour."""
        street = cls()
        spec = ModelSpec("tiny", Options(**{"threads": 1, "slots": 4, **options}), file)
        street.worker = await start_worker(Load(LlamaCppEngine(), spec), "process", street)
        async with asyncio.timeout(GUARD):
            await street.loaded
        street.go_on()
        return street

    def message(self, message: FromWorker) -> None:
        if isinstance(message, Loaded):
            self.loaded.set_result(None)
        for delta in message.deltas if isinstance(message, Deltas) else ():
            if delta.request_id in self._answers:
                if delta.last:
                    self._answers.pop(delta.request_id).set_result(delta)
                continue
            assert delta.error is None
            self.times.append(perf_counter())
            self._heard.set()
            if delta.last:
                self.go_on()

    def ended(self, reason: str) -> None:
        self.end.set_result(reason)
        for answer in self._answers.values():
            answer.set_exception(RuntimeError(reason))

    def go_on(self) -> None:
        """Send the neighbour's next request."""
        name = f"neighbour-{next(self._numbers)}"
        sampling = Sampling(temperature=1.5, logit_bias={2: -100.0})
        self.worker.send(Open(TextRequest(name, "tiny", prompt="Once", sampling=sampling, max_tokens=900)))

    def send(self, request: AnyRequest) -> "asyncio.Future[Delta]":
        """Send a request, and time the neighbour from now on; the future resolves to the last delta."""
        answer = self._answers[request.id] = asyncio.get_running_loop().create_future()
        frame = encode(Open(request))  # not timed: encoding is not the worker's work
        self.times[:] = [perf_counter()]
        self.worker._wire.write(frame)
        return answer

    async def heard(self) -> None:
        """Wait until the neighbour has received more deltas."""
        for _ in range(3):
            self._heard.clear()
            async with asyncio.timeout(GUARD):
                await self._heard.wait()

    async def close(self) -> None:
        """End the worker."""
        self.worker.send(Close())
        async with asyncio.timeout(GUARD):
            await self.end

    def longest_gap(self) -> float:
        """The longest time between two of the neighbour's deltas, in seconds."""
        return max(b - a for a, b in zip(self.times, self.times[1:], strict=False))
