"""The base for engines that evaluate many sequences in one forward pass: write token-level methods, get the rest.

The rest: continuous batching, chunked prompts, reuse of evaluated prefixes, admission to the KV cache, stop strings,
cancelling, usage.
"""

from collections import deque
from collections.abc import Iterable, Sequence
from concurrent.futures import FIRST_COMPLETED, wait
from time import perf_counter

from attrs import evolve

from lllms_core.chat import ChatTemplate
from lllms_core.engines.base import Opening, Opens
from lllms_core.engines.cache import SequenceCache
from lllms_core.engines.choices import Choices
from lllms_core.engines.opening import count_prompt, open_runs, read_prompt
from lllms_core.engines.plan import Pace, share_out
from lllms_core.engines.preload import preload_tokens
from lllms_core.engines.run import Run
from lllms_core.engines.sessions import Resident, Session, SessionLink
from lllms_core.engines.tokens import Feed, Interrupted, KVCacheFull, TokenModel
from lllms_core.errors import EngineFailed, ModelLoadFailed, RequestError
from lllms_core.types import Delta, Finish, FinishReason, Preload, PromptScores, Request

LONGEST_WAIT = 0.01
"""Seconds that a step waits for matchers when there is nothing else to do, before it looks for new requests."""

KEPT_BESIDE = 256
"""Idle cells that stay beside running requests where sessions are stored: a decode passes over them anyway, since
engines round up."""
LONGEST_STORE = 2.0
"""Seconds that are spent at most on storing sessions before a model is closed."""
LINGER = 1.0
"""Seconds that a conversation stays beside running requests after its answer: programs go on at once, people do not."""


class BatchingModel(TokenModel):
    """A model that evaluates several sequences at once.

    Call `super().__init__` with its sizes, and implement the methods of `TokenModel`. `sequences` may be
    larger than `slots`: the spare ones keep past conversations for as long as the KV cache has room. A model that has a
    `state_key` implements `state_size`, `export_state` and `import_state`, too.
    """

    def __init__(
        self,
        *,
        slots: int,
        context_length: int,
        kv_size: int,
        sequences: int | None = None,
        kept_tokens: int | None = None,
        batch_size: int = 512,
        logit_rows: int | None = None,
        template: ChatTemplate | None = None,
        can_trim: bool = True,
        can_trim_imported: bool = True,
    ) -> None:
        """Prepare to run `slots` requests of up to `context_length` tokens in a KV cache of `kv_size` tokens.

        `kept_tokens` bounds what stays of past conversations while requests run, since the cells that it fills slow
        every decode a little; None: 256 where sessions are stored, so that the others can come back from there, else as
        many as one request may hold. `batch_size` is the most tokens of one decode, `logit_rows` the most of them whose
        logits it can return (None: all), at least `slots`; `can_trim` is False for models whose sequences cannot be
        cut, `can_trim_imported` for those that can cut only what they evaluated themselves.
        """
        self.slots = slots
        self.context_length = min(context_length, kv_size)
        self.batch_size = batch_size
        self._logit_rows = batch_size if logit_rows is None else logit_rows
        self._kept_tokens = kept_tokens
        self.template = template
        self.tasks = frozenset({"chat", "text", "render"} if template else {"text"})
        self._cache = SequenceCache(
            self, sequences or slots, kv_size, can_trim=can_trim, can_trim_imported=can_trim_imported,
        )
        self._pace = Pace()
        self._waiting: deque[Run] = deque()
        self._runs: dict[tuple[str, int], Run] = {}
        self._blocked = False
        """Whether the first who waits has no room, and nobody has left since."""
        self._tidy_at: float | None = None
        """When those who linger beside running requests are to leave, on the clock of `perf_counter`."""

    # -- the contract of Model ----------------------------------------------------------------------------------------

    @property
    def idle(self) -> bool:
        """Whether no request is open, other than those that wait to be told what was `found` for them."""
        return not self._runs and all(run.asking for run in self._waiting)

    def prepare(self, request: Opens) -> Opening:
        """Render and tokenise the prompt, and refuse what can never fit."""
        if not isinstance(request, Request):
            return super().prepare(request)
        runs, constraint = open_runs(self, self.template, request)

        def take() -> None:
            if constraint is not None:
                for run in runs:
                    run.matcher = self.matcher(constraint)
            self._waiting.append(runs[0])

        return take

    def open(self, request: Request) -> None:
        """Take a request that nobody has prepared."""
        self.prepare(request)()

    def preload(self, request_id: str, preload: Preload) -> None:
        """Evaluate what conversations begin with; it stays in cells of its own, shared by all that begin so."""
        tokens = preload_tokens(preload, self.template, self.tokenize)
        if len(tokens) >= self.context_length:
            raise ModelLoadFailed(
                f"the preload has {len(tokens)} tokens, and no request may hold more than {self.context_length}; "
                "shorten it, or raise options.context_length",
            )
        room = self._cache.table.capacity - self.context_length
        if len(tokens) > room:
            raise ModelLoadFailed(
                f"the preload has {len(tokens)} tokens, and beside a request of {self.context_length} the KV cache has "
                f"room for {room}; raise options.kv_size by {len(tokens) - room}, or lower options.context_length",
            )
        self.open(Request(request_id, "", prompt=tuple(tokens), max_tokens=0))
        run = self._waiting[-1]
        run.pin = True
        run.asked = self._cache.whole  # a session that cannot be cut cannot be copied from either

    def step(self) -> Iterable[Delta]:
        """Admit who has room, evaluate one batch, choose a token for everyone whose logits are there."""
        refused = self._refuse()
        self._admit()
        if self._tidy_at is not None and perf_counter() >= self._tidy_at:
            self._tidy()
        runs = self._plan()
        if not runs:
            matchers = [run.matcher for run in self._waiting if run.matcher is not None and not run.matcher.done()]
            if matchers and not refused:
                wait(matchers, LONGEST_WAIT, FIRST_COMPLETED)
            return refused
        feeds = [self._feed(run, count) for run, count in runs]
        started = perf_counter()
        try:
            rows = self._decode(feeds)
        except Interrupted:
            for run, _ in runs:
                self._rewind(run)
            return refused
        generating = sum(feed.logits and len(feed.tokens) == 1 for feed in feeds)
        if not any(feed.all_logits for feed in feeds):  # those cost more, and are rare
            tokens = sum(len(feed.tokens) for feed in feeds)
            self._pace.observe(generating, tokens - generating, perf_counter() - started)
        for (run, count), feed in zip(runs, feeds, strict=True):
            self._cache.table.extend(run.sequence, feed.tokens)
            run.evaluated += count
        seen = [(run, feed) for (run, _), feed in zip(runs, feeds, strict=True) if feed.logits]
        deltas = []
        for (run, feed), row in zip(seen, rows, strict=True):
            if run.key not in self._runs:
                continue  # one answer's failure ends the others to its request
            try:
                if feed.all_logits:
                    self._score_prompt(run, feed, row)
                if not run.pending:
                    deltas.append(self._next_token(run, row))
            except (RequestError, EngineFailed) as error:
                deltas.append(self._fail(run, error))
        return [*refused, *deltas]

    def cancel(self, request_id: str) -> Iterable[Delta]:
        """End a request; what it evaluated stays for the next turn."""
        running = [run for run in self._runs.values() if run.request.id == request_id]
        if not running:
            choices = self._drop(request_id)
            return [] if choices is None else [Delta(request_id, finish=Finish("cancelled", choices.usage))]
        self._drop_waiting(request_id)
        running[0].choices.open = len(running)  # the others are not even begun
        return [self._finish(run, "cancelled") for run in running]

    def use_sessions(self, link: SessionLink) -> None:
        """Exchange sessions over this link from now on."""
        self._cache.link = link

    def found(self, request_id: str, session: Session | None) -> None:
        """Go on with a request whose session was asked for."""
        for run in self._waiting:
            if run.request.id == request_id:
                run.session, run.asking = session, False

    def residents(self) -> Sequence[Resident]:
        """What the KV cache holds of past conversations, and of running ones."""
        return self._cache.residents(sized=self.state_key is not None)

    def forget(self, key: int) -> None:
        """Empty a sequence, now or when its request has ended."""
        self._cache.forget(key)

    def store_sessions(self) -> None:
        """Have what past requests left stored."""
        self._cache.store_idle(LONGEST_STORE)

    def close(self) -> None:
        """Free the samplers; what else the engine holds, it frees itself."""
        for run in self._runs.values():
            if run.sampler is not None:
                run.sampler.close()
        self._runs.clear()
        self._waiting.clear()

    def to_prompt(self, request: Request) -> str:
        """The prompt of a chat, as the model's template writes it."""
        return "".join(segment.text for segment in read_prompt(self.template, request).segments)

    @property
    def thinks(self) -> bool | None:
        """Whether the chat template has a place for thoughts."""
        return self.template is not None and self.template.reasoning.form is not None

    def count_prompt(self, request: Request) -> int:
        """How many tokens the prompt has, as `open` would count them."""
        return count_prompt(self, self.template, request)

    # -- how it works -------------------------------------------------------------------------------------------------

    def _refuse(self) -> list[Delta]:
        """End the requests whose constraint cannot be kept."""
        deltas = []
        for run in list(self._waiting):
            error = run.matcher.exception() if run.matcher is not None and run.matcher.done() else None
            if isinstance(error, RequestError | EngineFailed):
                self._drop(run.request.id)
                deltas.append(Delta(run.request.id, error=error))
        return deltas

    def _admit(self) -> None:
        """Give sequences to those who wait, first come first served, as long as there is room to their end.

        Those whose matcher is still being made, or whose session is sought, let others pass.
        """
        before = len(self._runs)
        for run in [one for one in self._waiting if one.matcher is None or one.matcher.done()]:
            if self._blocked or len(self._runs) >= self.slots:
                break
            if run.asking or self._ask(run):
                continue
            token_seconds = self._pace.prompt_token
            admission = (
                self._cache.admit_alone(run.limit, hide=not run.request.cache_prompt)
                if run.alone else self._cache.admit(run.tokens, run.limit, run.session, token_seconds)
            )
            if admission is None:
                self._blocked = True
                break
            self._waiting.remove(run)
            run.session = None
            run.sequence, run.evaluated, run.cached = admission.sequence, admission.keep, admission.keep
            run.sampler = self.sampler(run.request.sampling, run.tokens)
            if run.index == 0:
                run.choices.cached_tokens = run.cached
            self._runs[run.key] = run
        if len(self._runs) > before:
            self._tidy()  # before the first decode: cells are taken from the lowest on, and the highest one counts

    def _ask(self, run: Run) -> bool:
        """Ask for a stored session of this conversation if that may be worth it; whether an answer is to come."""
        link = self._cache.link
        if link is None or run.asked or run.alone:
            return False
        known = self._cache.known(run.tokens)
        if run.prompt_length - 1 - known < link.min_tokens:
            return False
        run.asked = run.asking = True
        link.find(run.request.id, run.tokens, known, whole=self._cache.whole)
        return run.asking

    def _tidy(self) -> None:
        """Move past conversations out of the way of those who run."""
        self._tidy_at = None
        kept = self._kept_tokens
        if kept is None:
            kept = self.context_length if self._cache.link is None else KEPT_BESIDE
        if self._runs:
            self._cache.move_out(kept)

    def _plan(self) -> list[tuple[Run, int]]:
        """Who is fed how many tokens in the next decode: first those who generate, then prompts in chunks."""
        generating = [run for run in self._runs.values() if run.pending == 1]
        prompts = [run for run in self._runs.values() if run.pending > 1]
        scored = sum(run.prompt_scores is not None for run in prompts)
        # A scored prompt has a row for each token, everybody else one.
        rows = (self._logit_rows - len(self._runs) + scored) // max(1, scored)
        wanted = [run.pending if run.prompt_scores is None else min(run.pending, rows) for run in prompts]
        shares = share_out(self._pace.prompt_budget(len(generating), self.batch_size), wanted)
        return [(run, 1) for run in generating] + [
            (run, share) for run, share in zip(prompts, shares, strict=True) if share
        ]

    def _feed(self, run: Run, count: int) -> Feed:
        end = run.evaluated + count
        scored = run.prompt_scores is not None
        tokens = run.tokens[run.evaluated : end]
        return Feed(run.sequence, run.evaluated, tokens, logits=scored or end == len(run.tokens), all_logits=scored)

    def _decode(self, feeds: Sequence[Feed]) -> Sequence[int]:
        try:
            return self.decode(feeds)
        except KVCacheFull:
            self._cache.move_out(0)
            return self.decode(feeds)

    def _rewind(self, run: Run) -> None:
        """Take a sequence back to before an interrupted decode, or to its beginning where it cannot be cut."""
        if not self._cache.rewind(run.sequence, run.evaluated):
            run.evaluated = run.cached = 0
            if run.prompt_scores:
                run.prompt_scores.clear()
            if run.index == 0:
                run.choices.cached_tokens = 0

    def _score_prompt(self, run: Run, feed: Feed, row: int) -> None:
        """Note how likely those tokens of a prompt were that come behind the ones of a feed."""
        assert run.prompt_scores is not None  # noqa: S101  # else not all logits are asked for
        first = row - len(feed.tokens) + 1
        for at, token in enumerate(run.tokens[feed.position + 1 : run.evaluated + 1]):
            score = self.score(first + at, token, run.request.top_logprobs or 0)
            run.prompt_scores.append(evolve(score, piece=self._shown(token)))

    def _shown(self, token: int) -> bytes:
        return self.piece(token) or self.control_text(token).encode()

    def _next_token(self, run: Run, row: int) -> Delta:
        """Choose a token, and tell of it; with an answer's first one, of the prompt if that is wanted."""
        scores = None
        if run.prompt_scores is not None:
            scores, run.prompt_scores = PromptScores(self._shown(run.tokens[0]), tuple(run.prompt_scores)), None
        try:
            delta = self._choose_token(run, row)
        except (RequestError, EngineFailed) as error:
            delta = self._fail(run, error)
        return delta if scores is None else evolve(delta, prompt_scores=scores)

    def _choose_token(self, run: Run, row: int) -> Delta:
        assert run.sampler is not None  # noqa: S101  # only admitted runs are fed
        if run.choices.held:
            self._waiting.extend(run.choices.held)
            run.choices.held.clear()
        if run.generated >= run.limit - run.prompt_length:
            return self._finish(run, "length")
        matcher = None if run.matcher is None else run.matcher.result()
        if matcher is None:
            token = run.sampler.sample(row)
        elif run.output.thinking:
            # Thoughts are free; a constraint is one of what comes behind them.
            token = matcher.sample_thought(run.sampler, row)
        else:
            token = matcher.sample(run.sampler, row, None if run.generated else run.opening)
        if self.is_end(token):
            return self._finish(run, "stop")
        run.tokens.append(token)
        piece = self.piece(token) or run.output.mark(self.control_text(token))
        if run.log is None:
            text = run.output.feed(piece)
        else:
            text = run.log.feed(evolve(self.score(row, token, run.request.top_logprobs or 0), piece=piece))
        if run.output.stopped or (matcher is not None and matcher.complete):
            return self._finish(run, "stop", text, 1)
        if len(run.tokens) >= run.limit:
            return self._finish(run, "length", text, 1)
        scores = () if run.log is None else run.log.take()
        thought, calls = run.output.take()
        admitted = run.choices.admitted() if run.choices.untold else None
        return Delta(
            run.request.id, text, 1, reasoning=thought, calls=calls, index=run.index, scores=scores, admitted=admitted,
        )

    def _finish(self, run: Run, reason: FinishReason, text: str = "", tokens: int = 0) -> Delta:
        self._leave(run)
        held, reason = run.output.end(reason)
        thought, calls = run.output.take()
        scores = () if run.log is None else run.log.rest()
        run.choices.reasoning_tokens += run.output.reasoning_tokens
        return run.choices.end(
            run.index, reason, run.generated, text=text + held, tokens=tokens, scores=scores, reasoning=thought,
            calls=calls, stop=run.output.stop,
        )

    def _fail(self, run: Run, error: RequestError | EngineFailed) -> Delta:
        """End all answers to a request for what is wrong with one of them."""
        self._drop(run.request.id)
        text, _ = run.output.end("cancelled")
        return Delta(run.request.id, text, error=error, index=run.index)

    def _drop(self, request_id: str) -> Choices[Run] | None:
        """Free the places of all answers to a request, which get no further; None if it is not open."""
        waiting = self._drop_waiting(request_id)
        running = [run for run in self._runs.values() if run.request.id == request_id]
        for run in running:
            self._leave(run)
            run.choices.completion_tokens += run.generated
            run.choices.reasoning_tokens += run.output.reasoning_tokens
        return next((run.choices for run in [*waiting, *running]), None)

    def _drop_waiting(self, request_id: str) -> list[Run]:
        waiting = [run for run in self._waiting if run.request.id == request_id]
        for run in waiting:
            self._waiting.remove(run)
            self._blocked = False
            for one in (run, *run.choices.held):
                if one.matcher is not None:
                    one.matcher.cancel()  # nobody waits for it any more
        return waiting

    def _leave(self, run: Run) -> None:
        """Free the place of an answer; what it evaluated stays."""
        del self._runs[run.key]
        if run.pin:
            self._cache.pin(run.sequence)
        else:
            self._cache.release(run.sequence)
        self._blocked = False
        self._tidy_at = perf_counter() + LINGER
        if run.sampler is not None:
            run.sampler.close()
