"""Several prompts, one answer: the streams of their requests as one."""

import asyncio
from collections.abc import Collection, Iterable, Iterator, Sequence

from attrs import evolve

from lllms_core.answers.stream import Stream
from lllms_core.errors import LllmsError
from lllms_core.types import Delta, Finish, Timings, Usage


def merge(streams: Sequence[Stream], count: int) -> Stream:
    """Return one stream with the deltas of all, each of which has `count` choices: they are numbered through.

    It ends with the last of them, and has their usage together; an error in one is an error of all. Closing it closes
    them all. Call it in an event loop.
    """
    merged = Stream(streams[0].request, lambda _: stop())
    finishes: list[Finish] = []

    async def pump(number: int, stream: Stream) -> None:
        ended: set[int] = set()
        try:
            async for delta in stream:
                merged.instance = merged.instance or stream.instance
                if delta.ended is not None:
                    ended.add(delta.index)
                for one in [delta] if delta.finish is None else finish(delta, ended):
                    merged.put(evolve(one, index=number * count + one.index))
        except LllmsError as error:
            merged.fail(error)
            stop()

    def finish(delta: Delta, ended: Collection[int]) -> Iterator[Delta]:
        """Turn a last delta into the end of its request's choices, and of the whole answer if it is the last one."""
        assert delta.finish is not None  # noqa: S101  # it is a last one
        finishes.append(delta.finish)
        reason = delta.finish.reason
        for index in range(count):
            if index != delta.index and index not in ended:
                yield Delta(delta.request_id, index=index, ended=reason)
        if len(finishes) < len(streams):
            yield evolve(delta, finish=None, ended=reason)
        else:
            usage, times = total(one.usage for one in finishes), slowest([one.timings for one in finishes])
            yield evolve(delta, finish=evolve(delta.finish, usage=usage, timings=times))

    tasks = [asyncio.create_task(pump(number, stream)) for number, stream in enumerate(streams)]

    def stop() -> None:
        tasks.extend([asyncio.create_task(stream.aclose()) for stream in reversed(streams)])

    return merged


def slowest(timings: Sequence[Timings]) -> Timings:
    """Return the timings of the request that took longest."""
    return max(timings, key=lambda one: one.queued + one.load + one.prompt + one.answer)


def total(usages: Iterable[Usage]) -> Usage:
    """Return the token counts of several requests together."""
    counts = list(usages)
    return Usage(
        sum(one.prompt_tokens for one in counts), sum(one.completion_tokens for one in counts),
        sum(one.cached_tokens for one in counts), sum(one.reasoning_tokens for one in counts),
        sum(one.accepted_tokens for one in counts), sum(one.rejected_tokens for one in counts),
    )
