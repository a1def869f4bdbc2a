"""The base for engines that evaluate many sequences in one forward pass: write token-level methods, get the rest.

The rest: continuous batching, chunked prompts, reuse of evaluated prefixes, admission to the KV cache, stop strings,
cancelling, usage.
"""

from collections.abc import Iterable, Mapping, Sequence
from time import perf_counter
from typing import cast

from lllms_core.chat import ChatTemplate
from lllms_core.engines.base import ContractBroken, Opening, Opens
from lllms_core.engines.batching.cache import Admission, SequenceCache, SequenceMemory
from lllms_core.engines.batching.leading import follows
from lllms_core.engines.batching.opening import count_prompt, open_runs, read_prompt
from lllms_core.engines.batching.plan import Pace, plan
from lllms_core.engines.batching.preload import preload_tokens
from lllms_core.engines.batching.run import Phase, Run
from lllms_core.engines.batching.sequences import common_prefix
from lllms_core.engines.batching.speculation import Speculation
from lllms_core.engines.batching.waiting import WaitingQueue
from lllms_core.engines.capabilities import Constrains
from lllms_core.engines.session_link import Resident, Session, SessionLink
from lllms_core.engines.tokens import Feed, Interrupted, KVCacheFull, TokenModel
from lllms_core.errors import ModelLoadFailed
from lllms_core.types import ChatRequest, Delta, Finish, Preload, Request, TextRequest

KEPT_BESIDE = 256
"""Idle cells of conversations that are not stored, or not to their end, that stay beside running requests if sessions
are stored: to evaluate them again would cost more than that decodes pass over them."""
LONGEST_STORE = 2.0
"""The most seconds spent on storing sessions before a model is closed."""
LINGER = 1.0
"""Seconds that a conversation stays beside running requests after its answer: programs reply at once, people do not."""


class BatchingModel(TokenModel):
    """A model that evaluates several sequences at once.

    Call `super().__init__` with its sizes, and implement the methods of `TokenModel`. `sequences` may be
    larger than `slots`: the spare ones keep past conversations for as long as the KV cache has room.
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
        speculation: Speculation | None = None,
    ) -> None:
        """Prepare to run `slots` requests of up to `context_length` tokens in a KV cache of `kv_size` tokens.

        `kept_tokens` limits the tokens of past conversations that stay while requests run, since their cells slow every
        decode a little; None: with stored sessions 256 of those that do not come back whole, else as many as one
        request may hold. `batch_size` is the most tokens of one decode, `logit_rows` the most of them whose
        logits it can return (None: all), at least `slots`; `can_trim` is False for models whose sequences cannot be
        cut, `can_trim_imported` for those that can cut only what they evaluated themselves. With `speculation`, the
        model verifies drafts: `decode` returns all rows of a feed with `all_logits`, and a matcher writes
        `sample_forced`. Only sequences that can be cut have drafts, but grammars force tokens in all.
        """
        self.slots = slots
        self.context_length = min(context_length, kv_size)
        self.batch_size = batch_size
        self._logit_rows = batch_size if logit_rows is None else logit_rows
        self._kept_tokens = kept_tokens
        self.template = template
        self.tasks = frozenset({"chat", "text", "render"} if template else {"text"})
        self._cache = SequenceCache(
            # Without `Exports` it has no `state_key`, hence no sessions and nothing to export.
            cast(SequenceMemory, self), sequences or slots, kv_size,
            can_trim=can_trim, can_trim_imported=can_trim_imported,
        )
        self._pace = Pace()
        self._waiting = WaitingQueue()
        self._running: list[Run] = []
        self._speculation = speculation
        self._drafts = speculation if can_trim else None
        self._copies = can_trim
        """Whether a run can begin with a copy of what another one has evaluated."""
        self._tidy_at: float | None = None
        """When conversations that linger beside running requests are moved out, on the clock of `perf_counter`."""

    # -- the contract of Model ----------------------------------------------------------------------------------------

    @property
    def idle(self) -> bool:
        """Whether no request is open, other than those whose session lookup is pending."""
        return not self._running and self._waiting.asleep

    def prepare(self, request: Opens) -> Opening:
        """Render and tokenise the prompt, and refuse a request that can never fit."""
        if not isinstance(request, Request):
            return super().prepare(request)
        runs, constraint = open_runs(self, self.template, request)

        def take() -> None:
            if constraint is not None:
                for run in runs:
                    run.constrain(constraint, cast(Constrains, self).matcher)
            self._waiting.add(runs[:1])

        return take

    def open(self, request: Request) -> None:
        """Take a request that was not prepared."""
        self.prepare(request)()

    def preload(self, request_id: str, preload: Preload) -> None:
        """Evaluate the prefix; it stays in cells of its own, shared by all requests that begin with it."""
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
        [run], _ = open_runs(self, self.template, TextRequest(request_id, "", tuple(tokens), max_tokens=0))
        run.pin = True
        if self._cache.whole:
            run.phase = Phase.ROOM  # a session that cannot be cut cannot be copied from, either
        self._waiting.add([run])

    def step(self) -> Iterable[Delta]:
        """Admit the runs that have room, evaluate one batch, and choose a token for each run with logits."""
        refused = self._refuse()
        self._admit()
        running = [run for run in self._running if not run.stalled]
        fed = plan(running, self._pace, self.batch_size, self._logit_rows)
        if fed:
            if self._drafts is not None:
                fed = self._drafts.widen(fed, min(self.batch_size, self._logit_rows))
            return [*refused, *self._take(self._evaluate(fed))]
        if not refused:
            self._waiting.pause(self._running)
        return refused

    def cancel(self, request_id: str) -> Iterable[Delta]:
        """End a request; what it evaluated stays for the next turn."""
        waiting = self._waiting.drop(request_id)
        running = self._runs_of(request_id)
        if not running:
            return [Delta(request_id, finish=Finish("cancelled", run.choices.usage)) for run in waiting[:1]]
        running[0].choices.open = len(running)  # the others have not begun
        deltas = [run.end("cancelled") for run in running]
        self._free(running)
        return deltas

    def use_sessions(self, link: SessionLink) -> None:
        """Exchange sessions over this link from now on."""
        self._cache.link = link

    def found(self, request_id: str, session: Session | None) -> None:
        """Deliver the result of a session lookup."""
        self._waiting.found(request_id, session)

    def prompt_progress(self) -> Mapping[str, float]:
        """How much of the prompts that are being read has been read."""
        return {run.request.id: run.read for run in self._running if run.index == 0 and not run.generated}

    def residents(self) -> Sequence[Resident]:
        """The conversations in the KV cache, past and running."""
        return self._cache.residents(sized=self.state_key is not None)

    def forget(self, key: int) -> None:
        """Empty a sequence, now or once its request has ended."""
        self._cache.forget(key)

    def store_sessions(self) -> None:
        """Store the past conversations."""
        self._cache.store_idle(LONGEST_STORE)

    def close(self) -> None:
        """Free the samplers; the engine frees everything else."""
        for run in self._running:
            run.close()
        self._running.clear()
        self._waiting.clear()

    def to_prompt(self, request: ChatRequest) -> str:
        """The prompt of a chat, as the model's template writes it."""
        return "".join(segment.text for segment in read_prompt(self.template, request).segments)

    @property
    def thinks(self) -> bool | None:
        """Whether the chat template has a place for thoughts."""
        return self.template is not None and self.template.reasoning.form is not None

    def count_prompt(self, request: Request) -> int:
        """Return the number of tokens in the prompt, as `open` would count them."""
        return count_prompt(self, self.template, request)

    # -- how it works -------------------------------------------------------------------------------------------------

    def _refuse(self) -> list[Delta]:
        """End the requests with an impossible constraint."""
        deltas = []
        for run, error in self._waiting.refused():
            if not run.over:  # as with the first failing answer, if several fail
                self._drop(run.request.id)
                deltas.append(Delta(run.request.id, error=error))
        return deltas

    def _admit(self) -> None:
        """Assign sequences to the ready runs, in order, as long as they have room until their end."""
        before = len(self._running)
        for run in self._waiting.ready():
            if self._waiting.blocked or len(self._running) >= self.slots:
                break
            if self._waits(run):
                continue
            admission = self._place(run)
            if admission is None:
                self._waiting.blocked = True
                break
            self._waiting.remove(run)
            if run.index == 0:
                run.choices.reuse = admission.reuse
            run.admit(admission.sequence, admission.keep, self.sampler(run.request.sampling, run.tokens))
            run.forces = self._speculation is not None and (run.matcher is not None or run.calls is not None)
            if self._drafts is not None:
                self._drafts.admit(run)
            self._running.append(run)
        if len(self._running) > before or (self._tidy_at is not None and perf_counter() >= self._tidy_at):
            self._tidy()  # before the decode: cells are taken from the lowest up, and the highest used one counts

    def _waits(self, run: Run) -> bool:
        """Whether a run waits for its session, or for another one that reads what its own prompt begins with."""
        if self._copies and run.phase is not Phase.LOOKUP and follows(run, self._running, lambda: self._known(run)):
            return True
        return self._looks_up(run)

    def _known(self, run: Run) -> int:
        """How many leading tokens of its prompt are evaluated already, or in its session."""
        stored = 0 if run.session is None else common_prefix(run.session.tokens, run.tokens)
        return max(stored, self._cache.known(run.tokens))

    def _looks_up(self, run: Run) -> bool:
        """Whether a session lookup is pending for a run; start one if that may pay off."""
        link = self._cache.link
        if run.phase is not Phase.READY or run.alone or link is None:
            return run.phase is Phase.LOOKUP
        known = self._cache.known(run.tokens)
        if run.prompt_length - 1 - known < link.min_tokens:
            return False
        run.phase = Phase.LOOKUP
        link.find(run.request.id, run.tokens, known, whole=self._cache.whole)
        return self._looks_up(run)  # the answer may already be there

    def _place(self, run: Run) -> Admission | None:
        if run.alone:
            return self._cache.admit_alone(run.limit, hide=not run.request.cache_prompt)
        return self._cache.admit(run.tokens, run.limit, run.session, self._pace.prompt_token)

    def _tidy(self) -> None:
        """Move past conversations out of the way of the running requests."""
        self._tidy_at = None
        if not self._running:
            return
        if self._kept_tokens is not None:
            self._cache.move_out(self._kept_tokens)
        elif self._cache.link is None:
            self._cache.move_out(self.context_length)
        else:
            self._cache.move_stored_out(KEPT_BESIDE)

    def _evaluate(self, fed: Sequence[tuple[Run, Feed]]) -> Iterable[tuple[Run, Feed, int]]:
        """Decode; return each run with logits, and the row of the last ones. None if it was interrupted."""
        feeds = [feed for _, feed in fed]
        started = perf_counter()
        try:
            rows = self._decode(feeds)
        except Interrupted:
            for run, _ in fed:
                if not self._cache.rewind(run.sequence, run.evaluated):
                    run.restart()
            return ()
        seconds = perf_counter() - started
        self._pace.learn(feeds, seconds)
        if self._drafts is not None:
            self._drafts.learn(fed, seconds)
        for run, feed in fed:
            known = feed.tokens[: run.pending]  # without its draft
            self._cache.table.extend(run.sequence, known)
            run.evaluated += len(known)
        seen = [one for one in fed if one[1].logits]
        if rows is None or len(rows) != len(seen):
            returned = "None" if rows is None else f"{len(rows)} rows"
            raise ContractBroken(f"`decode` returned {returned}; it must return a row for each of {len(seen)} feeds")
        return [(run, feed, row) for (run, feed), row in zip(seen, rows, strict=True)]

    def _decode(self, feeds: Sequence[Feed]) -> Sequence[int]:
        try:
            return self.decode(feeds)
        except KVCacheFull:
            self._cache.move_out(0)
            return self.decode(feeds)

    def _take(self, evaluated: Iterable[tuple[Run, Feed, int]]) -> list[Delta]:
        """Choose the next tokens, and free the places of finished answers."""
        deltas = []
        for run, feed, row in evaluated:
            draft = len(feed.tokens) - (run.evaluated - feed.position)
            if run.over:  # another answer to its request has failed
                if draft:
                    self._cache.rewind(run.sequence, run.evaluated)
                continue
            if run.choices.held and not run.pending:
                self._waiting.add(run.choices.held)
                run.choices.held.clear()
            taken = run.take(self, feed, row)
            if draft:
                self._settle(run, feed, draft)
            if not taken:
                continue
            deltas += taken
            if taken[-1].error is not None:
                self._drop(run.request.id)
            elif run.over:
                self._free([run])
        return deltas

    def _settle(self, run: Run, feed: Feed, draft: int) -> None:
        """Keep the tokens of a draft that were right, and cut off the others."""
        assert self._drafts is not None  # noqa: S101  # it has drafted
        kept = run.evaluated - feed.position
        right = kept - (len(feed.tokens) - draft)
        self._cache.table.extend(run.sequence, feed.tokens[kept - right : kept])
        self._drafts.settle(run, draft, right)
        if right < draft and not self._cache.rewind(run.sequence, run.evaluated):
            run.guesses = None  # it would happen again
            if not run.over:
                run.restart()

    def _runs_of(self, request_id: str) -> list[Run]:
        return [run for run in self._running if run.request.id == request_id]

    def _drop(self, request_id: str) -> None:
        """Free the places of all answers to a request that ends here."""
        self._waiting.drop(request_id)
        self._free(self._runs_of(request_id))

    def _free(self, runs: Iterable[Run]) -> None:
        """Free the places of finished answers; their evaluated tokens stay."""
        for run in runs:
            self._running.remove(run)
            if run.pin:
                self._cache.pin(run.sequence)
            else:
                self._cache.release(run.sequence)
            if self._drafts is not None:
                self._drafts.leave(run)
            run.close()
            self._waiting.blocked = False
            self._tidy_at = perf_counter() + LINGER
