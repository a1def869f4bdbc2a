"""Answers in the shape of llama-server; pure."""

from collections.abc import Mapping, Sequence

from attrs import asdict, frozen

from lllms_core.types import Finish, TextRequest, TokenScore

IMPOSSIBLE = -9999.0
"""The logarithm of a probability of 0."""


@frozen
class Frame:
    """What the end of an answer tells besides the answer."""

    model: str
    context_length: int | None
    """None: unknown."""
    prompt: str
    stream: bool = False


def answer_value(
    request: TextRequest, frame: Frame, finish: Finish, text: str, *, index: int = 0, breaks: bool | None = None,
    scores: Sequence[TokenScore] = (),
) -> dict[str, object]:
    """Return a whole answer, or the end of a streamed one, whose `text` is "" and may have had line `breaks`."""
    usage = finish.usage
    full = frame.context_length is not None and usage.prompt_tokens + usage.completion_tokens >= frame.context_length
    limited = finish.reason in {"length", "timeout", "cancelled"}
    value: dict[str, object] = {
        "index": index,
        "content": text,
        "tokens": [],
        "stop": True,
        "model": frame.model,
        "tokens_predicted": usage.completion_tokens,
        "tokens_evaluated": usage.prompt_tokens,
        "generation_settings": settings(request, frame),
        "prompt": frame.prompt,
        "has_new_line": "\n" in text if breaks is None else breaks,
        "truncated": limited and full,
        "stop_type": "limit" if limited else "eos" if finish.stop is None else "word",
        "stopping_word": finish.stop or "",
        "tokens_cached": usage.cached_tokens,
        "timings": timings(finish),
    }
    if request.top_logprobs is not None and scores:
        value["completion_probabilities"] = probabilities(scores)
    return value


def timings(finish: Finish) -> dict[str, object]:
    """Return the times, in milliseconds; `prompt_n` are the tokens that were evaluated, without the cached ones."""
    usage, spent = finish.usage, finish.timings
    return {
        "cache_n": usage.cached_tokens,
        **_pace("prompt", usage.prompt_tokens - usage.cached_tokens, spent.prompt),
        **_pace("predicted", usage.completion_tokens, spent.answer),
    }


def _pace(what: str, count: int, seconds: float) -> dict[str, object]:
    return {
        f"{what}_n": count,
        f"{what}_ms": round(seconds * 1000, 3),
        f"{what}_per_token_ms": round(seconds * 1000 / count, 6) if count else 0.0,
        f"{what}_per_second": round(count / seconds, 3) if seconds else 0.0,
    }


def settings(request: TextRequest, frame: Frame) -> dict[str, object]:
    """Return the settings by which an answer was made."""
    sampling = asdict(request.sampling, recurse=False)
    constraint = request.constraint
    limit = -1 if request.max_tokens is None else request.max_tokens
    return {
        **sampling,
        "seed": -1 if request.sampling.seed is None else request.sampling.seed,
        "dry_sequence_breakers": [*request.sampling.dry_sequence_breakers],
        "logit_bias": [{"token": token, "bias": bias} for token, bias in request.sampling.logit_bias.items()],
        "n_ctx": frame.context_length,
        "n_predict": limit,
        "max_tokens": limit,
        "stop": [*request.stop],
        "stream": frame.stream,
        "n_probs": request.top_logprobs or 0,
        "grammar": constraint.text if constraint is not None and constraint.kind == "gbnf" else "",
    }


def probabilities(scores: Sequence[TokenScore]) -> list[dict[str, object]]:
    """Return the log-probabilities of tokens, each with the likeliest ones in its place."""
    return [
        {**_score(one.piece, one.logprob), "top_logprobs": [_score(*likely) for likely in one.top]} for one in scores
    ]


def _score(piece: bytes, logprob: float) -> dict[str, object]:
    return {"token": piece.decode(errors="replace"), "bytes": [*piece], "logprob": max(logprob, IMPOSSIBLE)}


def selected(value: Mapping[str, object], paths: Sequence[str] | None) -> Mapping[str, object]:
    """Return the fields at these paths (`timings/prompt_n`), each under its whole path; those that exist.

    None: all fields, as they are.
    """
    if paths is None:
        return value
    found: dict[str, object] = {}
    for path in paths:
        at: object = value
        for part in path.split("/"):
            at = at.get(part, found) if isinstance(at, Mapping) else found
        if at is not found:
            found[path] = at
    return found
