"""When tokens arrived, and the figures derived from it: pure functions of times in seconds."""

import math
from collections.abc import Sequence
from itertools import pairwise
from statistics import fmean, median, pstdev

from attrs import frozen


@frozen
class Timeline:
    """One request: when it was sent, and when and how much arrived."""

    start: float
    arrivals: tuple[tuple[float, int], ...] = ()
    """(time, tokens) of every piece of the answer with text, in order."""
    prompt_tokens: int = 0
    cached_tokens: int = 0
    text: str = ""
    error: str | None = None

    @property
    def tokens(self) -> int:
        """The number of tokens of the answer."""
        return sum(tokens for _, tokens in self.arrivals)

    @property
    def end(self) -> float:
        """When the last piece arrived; the start if none did."""
        return self.arrivals[-1][0] if self.arrivals else self.start

    @property
    def ttft(self) -> float:
        """Time to first token; NaN if none arrived."""
        return self.arrivals[0][0] - self.start if self.arrivals else math.nan

    @property
    def tpot(self) -> float:
        """Time per output token after the first piece; NaN for an answer of one piece."""
        later = self.tokens - self.arrivals[0][1] if self.arrivals else 0
        return (self.end - self.arrivals[0][0]) / later if later else math.nan

    @property
    def gaps(self) -> list[float]:
        """The inter-token latencies: the times between consecutive pieces."""
        return [later - earlier for (earlier, _), (later, _) in pairwise(self.arrivals)]


def percentile(values: Sequence[float], percent: float) -> float:
    """Return the value below which `percent` of the values (at least one) lie, interpolated."""
    ordered = sorted(values)
    place = (len(ordered) - 1) * percent / 100
    below = math.floor(place)
    above = min(below + 1, len(ordered) - 1)
    between = ordered[below] + (ordered[above] - ordered[below]) * (place - below)
    return min(between, ordered[above])  # rounding must not exceed it


def decode_rate(timelines: Sequence[Timeline]) -> float:
    """Return the tokens per second of all requests together, while all of them were generating.

    That is from the last first token until the first end; 0 if they never generated at the same time.
    """
    if not timelines or not all(timeline.arrivals for timeline in timelines):
        return 0.0
    begin = max(timeline.arrivals[0][0] for timeline in timelines)
    end = min(timeline.end for timeline in timelines)
    tokens = sum(tokens for timeline in timelines for time, tokens in timeline.arrivals if begin < time <= end)
    return tokens / (end - begin) if end > begin else 0.0


def output_rate(timelines: Sequence[Timeline]) -> float:
    """Return the tokens per second of all requests together, from the first one's start to the last one's end."""
    duration = _duration(timelines)
    return sum(timeline.tokens for timeline in timelines) / duration if duration else 0.0


def summarise(timelines: Sequence[Timeline], clients: int) -> dict[str, float | None]:
    """Return the figures of a load test, under the names of `vllm bench serve`; times in milliseconds.

    Undefined figures, like the time between the tokens of an answer that has only one, are None.
    """
    completed = [timeline for timeline in timelines if timeline.error is None]
    duration = _duration(completed)
    generated = sum(timeline.tokens for timeline in completed)
    prompts = sum(timeline.prompt_tokens for timeline in completed)
    figures: dict[str, float | None] = {
        "max_concurrency": clients,
        "duration": duration,
        "completed": len(completed),
        "failed": len(timelines) - len(completed),
        "total_input_tokens": prompts,
        "total_cached_tokens": sum(timeline.cached_tokens for timeline in completed),
        "total_output_tokens": generated,
        "request_throughput": len(completed) / duration if duration else 0.0,
        "output_throughput": generated / duration if duration else 0.0,
        "total_token_throughput": (prompts + generated) / duration if duration else 0.0,
    }
    samples = {
        "ttft": [timeline.ttft for timeline in completed],
        "tpot": [timeline.tpot for timeline in completed],
        "itl": [gap for timeline in completed for gap in timeline.gaps],
        "e2el": [timeline.end - timeline.start for timeline in completed],
    }
    for name, values in samples.items():
        known = [value * 1000 for value in values if not math.isnan(value)]
        figures[f"mean_{name}_ms"] = fmean(known) if known else None
        figures[f"median_{name}_ms"] = median(known) if known else None
        figures[f"std_{name}_ms"] = pstdev(known) if known else None
        figures[f"p99_{name}_ms"] = percentile(known, 99) if known else None
    return figures


def _duration(timelines: Sequence[Timeline]) -> float:
    if not timelines:
        return 0.0
    return max(timeline.end for timeline in timelines) - min(timeline.start for timeline in timelines)
