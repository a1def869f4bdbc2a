"""Answers that end by their lines, or a while after their beginning, as editors want them."""

import asyncio
from time import monotonic

from attrs import evolve

from lllms_compat.cut import LineCut
from lllms_core.answers import Stream
from lllms_core.apis import Server
from lllms_core.errors import LllmsError
from lllms_core.queries import Prepared
from lllms_core.types import Delta, Finish, Request, Timings, Usage


def submit_cut(server: Server, asked: Request | Prepared, indent: int, seconds: float | None) -> Stream:
    """Submit a request, and return its answer up to the line that `LineCut` refuses.

    Once it has a whole line, it also ends `seconds` after its first token. Closing it cancels the request. Call it in
    an event loop.
    """
    source = server.submit(asked)
    if not indent and seconds is None:
        return source
    told = Stream(source.request, lambda _: stop())

    async def pass_on() -> None:
        try:
            await _pass_on(source, told, LineCut(indent), seconds)
        except LllmsError as error:
            told.fail(error)
        finally:
            await source.aclose()

    tasks = [asyncio.create_task(pass_on())]

    def stop() -> None:
        tasks[0].cancel()
        tasks.append(asyncio.create_task(source.aclose()))

    return told


async def _pass_on(source: Stream, told: Stream, cut: LineCut, seconds: float | None) -> None:
    """Pass deltas on, to the end of the answer or to where it is cut."""
    begun, end = monotonic(), None
    admitted, tokens = Usage(0, 0), 0
    submitted = begun
    while True:
        late = end is not None and cut.lines > 0 and monotonic() >= end
        if not late and end is not None and cut.lines > 0:
            late = not await source.wait(max(0.0, end - monotonic()))
        if cut.over or late:
            spent = Timings(prompt=begun - submitted, answer=monotonic() - begun)
            usage = Usage(admitted.prompt_tokens, tokens, admitted.cached_tokens)
            told.put(Delta(source.request.id, text=cut.rest(), finish=Finish("length", usage, timings=spent)))
            return
        deltas = await source.take()
        if not deltas:
            return
        if end is None:
            begun = monotonic()
            end = begun + seconds if seconds is not None else None
        told.instance, told.fingerprint = source.instance, source.fingerprint
        for delta in deltas:
            admitted, tokens = delta.admitted or admitted, tokens + delta.tokens
            text = cut.feed(delta.text)
            if delta.finish is None:
                told.put(evolve(delta, text=text))
            elif cut.over:
                told.put(evolve(delta, text=text, finish=evolve(delta.finish, reason="length", stop=None)))
                return
            else:
                told.put(evolve(delta, text=text + cut.rest()))
                return
            if cut.over:
                break
