"""The comparisons of the bench, each in its own module, with the target that the house has set itself."""

from collections.abc import Callable, Coroutine, Mapping

from lllms_core.bench.comparisons import Comparison
from lllms_core.bench.suite_plan import Plan
from lllms_core.bench.suites import (
    busy,
    cancel,
    drafts,
    gaps,
    http,
    long,
    masks,
    prompts,
    raw,
    sessions,
    shared,
    short,
    start,
    stored,
    swap,
    turns,
    two_models,
    wire,
)

Suite = Callable[[Plan], Coroutine[None, None, list[Comparison]]]

SUITES: Mapping[str, Suite] = {
    "raw": raw.run,
    "busy": busy.run,
    "two-models": two_models.run,
    "turns": turns.run,
    "sessions": sessions.run,
    "http": http.run,
    "wire": wire.run,
    "cancel": cancel.run,
    "masks": masks.run,
    "swap": swap.run,
    "start": start.run,
    "drafts": drafts.run,
    "prompts": prompts.run,
    "long": long.run,
    "gaps": gaps.run,
    "shared": shared.run,
    "stored": stored.run,
    "short": short.run,
}
"""By name, in the order in which they run."""

MODELS: Mapping[str, str] = {
    "masks": "135m-152k", "drafts": drafts.MODEL, "long": long.MODEL, "short": short.MODEL,
}
"""The random models of suites that need a special one, by name."""

WITHOUT_FILE = frozenset({"http", "wire", "stored"})
"""Suites that need no model file."""
