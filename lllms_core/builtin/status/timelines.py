"""Requests and their timelines in JSON's types, and in a sentence; pure."""

from collections.abc import Mapping

from lllms_core.builtin.status.report import Report
from lllms_core.status import RequestRecord
from lllms_core.types import Reuse


def summary(record: RequestRecord) -> Report:
    """Return a request without its timeline."""
    pace = record.seconds_per_token
    return {
        "id": record.id, "object": "request", "client_id": record.client_id or None, "key": record.key or None,
        "model": record.model, "task": record.task, "instance": record.instance, "place": record.place or None,
        "submitted": round(record.submitted, 3), "seconds": round(record.seconds, 3),
        "state": "running" if record.outcome is None else "ended", "outcome": record.outcome, "status": record.status,
        "prompt_tokens": record.prompt_tokens, "cached_tokens": record.cached_tokens, "tokens": record.tokens,
        "tokens_per_second": None if pace is None else round(1 / pace, 1),
    }


def timing_values(record: RequestRecord) -> Report:
    """Return how the time of a request was spent, in seconds."""
    times, first = record.timings, record.first_piece
    return {
        "queued": round(times.queued, 3), "load": round(times.load, 3), "prompt": round(times.prompt, 3),
        "answer": round(times.answer, 3), "first_piece": None if first is None else round(first, 3),
    }


def record_values(record: RequestRecord) -> Report:
    """Return a request with its timeline."""
    return {
        **summary(record),
        "timings": timing_values(record),
        "cache": None if record.reuse is None else _cache(record, record.reuse),
        "timeline": [
            {"seconds": round(one.seconds, 3), "what": one.what, "detail": one.detail} for one in record.moments
        ],
    }


def parting(reuse: Reuse) -> Mapping[str, tuple[int, ...]] | None:
    """Return the tokens before the place where a prompt parts from what was cached, and those after it in both.

    None if it does not part.
    """
    if not reuse.prompt:
        return None
    before = reuse.common - reuse.start
    return {"before": reuse.prompt[:before], "prompt": reuse.prompt[before:], "cached": reuse.past[before:]}


def _cache(record: RequestRecord, reuse: Reuse) -> Report:
    return {
        "cached_tokens": record.cached_tokens,
        "common_tokens": reuse.common,
        "held_tokens": reuse.held,
        "diverged_at": reuse.common if reuse.prompt and reuse.held else None,
        "explanation": explanation(record.prompt_tokens, record.cached_tokens, reuse),
    }


def explanation(prompt: int, cached: int, reuse: Reuse) -> str:
    """Say how much of a prompt was reused, and why not more."""
    if not reuse.held:
        return f"nothing of its {prompt} tokens was cached: the instance held no conversation"
    told = f"{cached} of its {prompt} prompt tokens were cached"
    if not reuse.common:
        return f"{told}: it differs from every conversation in the cache from the first token on"
    if reuse.prompt:
        told += f"; it differs from the most similar conversation, of {reuse.held} tokens, from token {reuse.common} on"
    elif reuse.common >= reuse.held:
        told += f"; it continues a conversation of {reuse.held} tokens"
    else:
        told += f"; it is the beginning of a conversation of {reuse.held} tokens"
    if cached < min(reuse.common, prompt - 1):
        told += (
            f"; the other {min(reuse.common, prompt - 1) - cached} tokens that they share could not be reused: the"
            " model cannot be resumed from there, or restoring a stored session would have taken longer"
        )
    return told
