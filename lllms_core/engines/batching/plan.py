"""The contents of the next decode of a batching model; pure."""

from collections.abc import Sequence

from attrs import Factory, define

from lllms_core.engines.batching.run import Run
from lllms_core.engines.tokens import Feed

STALL = 0.9
"""While others generate, the prompts' share of a step may take this many times as long as their tokens: with some room
for error, nobody waits longer than two steps for a token."""
SHORT, SHORT_STALL = 1024, 2.0
"""What holds instead of `STALL` while no prompt has more tokens to read than `SHORT`: in small chunks they would take
twice as long, and others wait little for them in any case."""
PAUSE = 0.2
"""Seconds that the share of short prompts may take in any case: people read about five tokens a second, and the steps
of a small model are so short that each of them would hold only a token or two of each of eight prompts."""
TELLING = 16
"""A decode of fewer prompt tokens alone says little about one: most of it is what any decode takes."""
SMOOTHING = 0.3
_SMALLEST_TIME = 1e-9


@define
class Pace:
    """The speed of past decodes: exponential averages, in seconds; and how much of a prompt they held."""

    token_steps: dict[int, float] = Factory(dict)
    """A decode that only generates, by the number of its tokens."""
    prompt_token: float | None = None
    """One token of a prompt."""
    budget: int | None = None
    """The prompt tokens allowed in the last decode beside others; None if it had no prompts."""

    def learn(self, feeds: Sequence[Feed], seconds: float) -> None:
        """Learn from a decode of these feeds."""
        generating = tokens = 0
        for feed in feeds:
            if feed.all_logits:
                return  # these cost more, but are rare
            count = len(feed.tokens)
            tokens += count
            generating += feed.logits and count == 1
        self.observe(generating, tokens - generating, seconds)

    def observe(self, generating: int, prompt_tokens: int, seconds: float) -> None:
        """Learn from a decode; from a mixed one the cost of its prompts, once that of its other tokens is known."""
        step = self.token_step(generating)
        if generating and not prompt_tokens:
            self.token_steps[generating] = smooth(self.token_steps.get(generating), seconds)
            self.budget = None
        elif prompt_tokens >= TELLING and not generating:
            self.prompt_token = smooth(self.prompt_token, seconds / prompt_tokens)
        elif prompt_tokens and step is not None:
            self.prompt_token = smooth(self.prompt_token, max(seconds - step, 0.0) / prompt_tokens)

    def token_step(self, generating: int) -> float | None:
        """The seconds of a decode of this many generated tokens, or of the nearest number that is known."""
        if not generating or not self.token_steps:
            return None
        return self.token_steps[min(self.token_steps, key=lambda known: abs(known - generating))]

    def prompt_budget(self, generating: int, batch_size: int, longest: int) -> int:
        """How many prompt tokens the next decode may hold beside `generating` others, so as not to stall them.

        `longest` is the number of tokens to read of the longest prompt, those that have been read included.
        """
        room, step = batch_size - generating, self.token_step(generating)
        if step is None or self.prompt_token is None:
            return room
        share = STALL * step if longest > SHORT else max(SHORT_STALL * step, PAUSE)
        budget = max(1, int(share / max(self.prompt_token, _SMALLEST_TIME)))  # a prompt must get on
        if self.budget is not None:  # a step that was fast by chance must not make the next one far too long
            budget = min(budget, self.budget + self.budget // 4 + 1)
        self.budget = budget
        return min(room, budget)


def plan(runs: Sequence[Run], pace: Pace, batch_size: int, logit_rows: int) -> list[tuple[Run, Feed]]:
    """Decide what the next decode feeds to which run: a token to each generating run first, then prompts in chunks.

    A decode holds at most `batch_size` tokens, and returns the logits of at most `logit_rows` of them.
    """
    writing = [run for run in runs if run.writing]
    used = sum(run.pending for run in writing)
    if used > batch_size - len(runs) + len(writing):  # grammars have forced many tokens
        writing = [run for run in writing if run.pending == 1]
        used = len(writing)
    fed = [(run, run.feed(run.pending)) for run in writing]
    prompts = [run for run in runs if run.pending > 1 and run not in writing] if len(fed) < len(runs) else []
    if prompts:
        scored = sum(run.prompt_scores is not None for run in prompts)
        # A scored prompt has a row for each token, all other runs have one.
        rows = (logit_rows - len(runs) + scored) // max(1, scored)
        wanted = [run.pending if run.prompt_scores is None else min(run.pending, rows) for run in prompts]
        longest = max(run.prompt_length - run.cached for run in prompts)
        shares = share_out(pace.prompt_budget(used, batch_size, longest), wanted)
        fed += [(run, run.feed(share)) for run, share in zip(prompts, shares, strict=True) if share]
    return fed


def share_out(budget: int, wanted: Sequence[int]) -> list[int]:
    """Share `budget` tokens among prompts that want these numbers: evenly, and leftovers go to the others."""
    shares = [0] * len(wanted)
    order = sorted(range(len(wanted)), key=wanted.__getitem__)
    for rank, i in enumerate(order):
        shares[i] = min(wanted[i], budget // (len(order) - rank))
        budget -= shares[i]
    return shares


def smooth(average: float | None, value: float) -> float:
    """Take one more value into an exponential average; the first one is the average."""
    return value if average is None else average + SMOOTHING * (value - average)
