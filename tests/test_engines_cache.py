"""A model whose next token depends on every cell, linked to sessions that it stores and finds again."""

import pytest
from attrs import define, field
from batching_for_tests import ACTIONS, Cell, Driver, FakeModel, answer, ask, finish, reference, text, usage
from hypothesis import given, settings
from hypothesis import strategies as st

from lllms_core.engines.batching import cache
from lllms_core.engines.batching import model as batching_model
from lllms_core.engines.batching.sequences import common_prefix
from lllms_core.engines.session_link import Session


class StatefulModel(FakeModel):
    """Its states are the tokens, disguised."""

    def __init__(self, **sizes):
        super().__init__(**sizes)
        self.damaged = False
        self.can_trim_imported = sizes.get("can_trim_imported", True)
        self.imported = {}

    def state_size(self, sequence):
        return len(self.line(sequence))

    def export_state(self, sequence):
        return bytes(255 - token for token in self.line(sequence))

    def trim(self, sequence, length):
        if not self.can_trim_imported:
            assert not 0 < length < self.imported.get(sequence, 0), "an imported sequence is cut"
        if not length:
            self.imported.pop(sequence, None)
        return super().trim(sequence, length)

    def copy(self, source, target, length):
        assert self.can_trim_imported or length >= self.imported.get(source, 0), "a part of an import is copied"
        super().copy(source, target, length)

    def import_state(self, sequence, state):
        assert not self.line(sequence), "a state is imported over another"
        assert len(self.cells) + len(state) <= self.kv_size, "more is imported than the cache holds"
        if self.damaged:
            return False
        self.imported[sequence] = len(state)
        self.cells += [Cell(255 - byte, position, {sequence}) for position, byte in enumerate(state)]
        return True


@define
class Link:
    """Keeps what is put, and answers at once or when told to."""

    model: StatefulModel
    min_tokens: int = 4
    max_size: int = 1000
    at_once: bool = True
    sessions: list[Session] = field(factory=list)
    asked: list[str] = field(factory=list)
    finds: int = 0

    def find(self, request_id, tokens, known, *, whole):
        self.finds += 1
        self.asked.append((request_id, list(tokens), known, whole))
        if self.at_once:
            self.answer()

    def put(self, session, *, whole):
        assert bytes(255 - byte for byte in session.state) == bytes(session.tokens), "a state of other tokens"
        self.sessions.append(session)

    def answer(self):
        for name, tokens, known, whole in self.asked:
            shared = [(common_prefix(one.tokens, tokens), number) for number, one in enumerate(self.sessions)]
            lengths = [len(one.tokens) for one in self.sessions]
            fit = [(n, at) for n, at in shared if n > known and (not whole or n == lengths[at])]
            self.model.found(name, self.sessions[max(fit)[1]] if fit else None)
        self.asked.clear()


def linked(**sizes):
    link_fields = {name: sizes.pop(name) for name in ("min_tokens", "max_size", "at_once") if name in sizes}
    model = StatefulModel(**sizes)
    link = Link(model, **link_fields)
    model.use_sessions(link)
    return model, link


class AskingDriver(Driver):
    """Runs actions over a link that answers late."""

    def play(self, action, first, second):
        super().play(action, first, second)
        if action == "step":
            self.model._cache.link.answer()


@settings(max_examples=300, deadline=None)
@given(
    ACTIONS, st.integers(1, 3), st.integers(0, 2), st.integers(64, 140), st.integers(1, 12),
    st.none() | st.integers(0, 30), st.sampled_from([(True, True), (True, False), (False, False)]), st.booleans(),
)
def test_sessions_change_no_answer(actions, slots, spare, kv_size, min_tokens, kept, cuts, at_once):
    """Whatever is stored, found and evicted, in any order: each answer is the same as alone."""
    model, link = linked(
        slots=slots, sequences=slots + spare, kv_size=kv_size, can_trim=cuts[0], can_trim_imported=cuts[1],
        min_tokens=min_tokens, at_once=at_once, kept_tokens=kept,
    )
    driver = AskingDriver(model)
    for action, first, second in actions:
        driver.play(action, first, second)
    for _ in range(1000):
        link.answer()
        if model.idle:
            break
        driver.take(model.step())
    driver.check()
    table = model._cache.table
    assert table.held == len(model.cells)
    assert all(model.line(i) == table.tokens(i) for i in range(slots + spare))


HELLO = "hello, this is a conversation of some length"


@pytest.mark.parametrize("can_trim", [True, False])
def test_conversation_leaves_the_memory_while_another_runs(can_trim):
    """An idle conversation is stored when another begins; its cells are freed, and its next turn gets it back."""
    model, link = linked(can_trim=can_trim, kept_tokens=0)
    first = answer(model, ask("1", HELLO, 5))
    model.open(ask("2", "something else", 5))
    model.step()
    assert [bytes(session.tokens).decode()[: len(HELLO)] for session in link.sessions] == [HELLO]
    assert len(model.cells) == len("something else")
    finish(model)
    onwards = answer(model, ask("3", HELLO + text(first) + "?", 5))
    assert usage(onwards).cached_tokens >= len(HELLO + text(first)) - 1
    assert text(onwards) == reference(HELLO + text(first) + "?", 5)


def test_last_conversation_stays():
    """While nothing else runs, a conversation stays in place, and its next turn looks up no session."""
    model, link = linked(kept_tokens=0)
    first = answer(model, ask("1", HELLO, 5))
    assert link.finds == 1
    assert link.sessions == []
    answer(model, ask("2", HELLO + text(first) + "?", 5))
    assert (link.finds, link.sessions) == (1, [])


def test_conversation_lingers_beside_others(monkeypatch):
    """A conversation that ends while others run lingers briefly, as many programs reply at once; then it is evicted."""
    model, link = linked(slots=2, kept_tokens=0)
    model.open(ask("1", "x" * 20, 30))
    model.open(ask("2", HELLO[:30], 1))
    model.step()
    while len(model._running) > 1:
        model.step()
    model.step()
    assert len(model._cache.table.idle_sequences()) == 1
    monkeypatch.setattr(batching_model, "perf_counter", lambda: 1e12)
    model.step()
    assert model._cache.table.idle_sequences() == []
    assert bytes(link.sessions[0].tokens).decode() == HELLO[:30]


def test_little_gain_is_not_stored():
    """If a session would save fewer than `min_tokens` tokens, it is neither stored nor looked up."""
    model, link = linked(min_tokens=10, kept_tokens=0)
    answer(model, ask("1", "short", 3))
    answer(model, ask("2", "other", 3))
    assert (link.finds, link.sessions) == (0, [])


def test_what_is_stored_is_not_stored_again():
    """A conversation that was restored and grew only a little is not stored a second time."""
    model, link = linked(kept_tokens=0)
    answer(model, ask("1", HELLO, 1))
    answer(model, ask("2", "something else", 1))
    assert len(link.sessions) == 1
    answer(model, ask("3", HELLO + "!", 1))
    answer(model, ask("4", "a third thing", 1))
    assert [bytes(session.tokens).decode()[:5] for session in link.sessions] == ["hello", "somet"]


def test_large_state_is_not_stored():
    """A state larger than the maximum is not even exported."""
    model, link = linked(max_size=20, kept_tokens=0)
    answer(model, ask("1", HELLO, 1))
    answer(model, ask("2", "something else", 1))
    assert link.sessions == []


def test_state_that_cannot_be_imported_is_a_miss():
    """A session that the model cannot import costs nothing but the evaluation."""
    model, _ = linked(kept_tokens=0)
    answer(model, ask("1", HELLO, 1))
    answer(model, ask("2", "something else", 1))
    model.damaged = True
    again = answer(model, ask("3", HELLO + "!", 5))
    assert usage(again).cached_tokens == 0
    assert text(again) == reference(HELLO + "!", 5)


def test_branch_uses_what_is_equal():
    """An edited turn reuses the part of a stored session before the edit."""
    model, _ = linked(kept_tokens=0)
    answer(model, ask("1", HELLO, 1))
    answer(model, ask("2", "something else", 1))
    edited = answer(model, ask("3", HELLO[:20] + "other", 5))
    assert usage(edited).cached_tokens == 20
    assert text(edited) == reference(HELLO[:20] + "other", 5)


def test_recurrent_model_goes_back_to_the_end_of_a_turn():
    """A model that cannot be cut stores the end of each turn, so that an edited turn resumes from the one before it."""
    model, _ = linked(can_trim=False)
    first = answer(model, ask("1", HELLO[:20], 5))
    said = HELLO[:20] + text(first)
    answer(model, ask("2", said + " and on it goes", 5))
    edited = answer(model, ask("3", said + " but not so", 5))
    assert usage(edited).cached_tokens >= len(said) - 1
    assert text(edited) == reference(said + " but not so", 5)


def test_uncached_request_uses_and_leaves_nothing():
    """A request with `cache_prompt` false shares nothing in either direction: resident, running or stored."""
    model, link = linked(slots=3, kept_tokens=100, kv_size=200)
    answer(model, ask("1", HELLO, 3))
    finds = link.finds
    model.open(ask("2", HELLO, 20, cache_prompt=False))
    model.step()
    alone = answer(model, ask("3", HELLO[:43] + "abc", 2))
    assert usage(alone).cached_tokens == 43  # from the first, not from the one that runs
    model.cancel("2")
    assert link.finds == finds
    secret = answer(model, ask("4", "a secret that nobody sees", 3, cache_prompt=False))
    assert usage(secret).cached_tokens == 0
    assert usage(answer(model, ask("5", "a secret that nobody sees", 3))).cached_tokens == 0
    model.store_sessions()
    left = {bytes(session.tokens).decode() for session in link.sessions}
    assert left  # by those that may leave something
    longest = max(len(one) for one in left if one.startswith("hello"))
    assert longest < len(HELLO) + 4  # with the first one's answer; the second's was longer
    assert sum("secret" in one for one in left) == 1  # the fifth's


def test_others_pass_who_waits_for_a_session():
    """While a session lookup is pending, the model is idle for that request and serves others."""
    model, link = linked(at_once=False)
    model.open(ask("1", HELLO, 3))
    model.step()
    assert model.idle
    model.open(ask("2", "hi", 3))
    assert text(finish(model)["2"]) == reference("hi", 3)
    link.answer()
    assert text(finish(model)["1"]) == reference(HELLO, 3)


def test_cancel_while_asking():
    """A request can be cancelled while its session is looked up; an answer that comes too late is ignored."""
    model, link = linked(at_once=False)
    model.open(ask("1", HELLO, 3))
    model.step()
    [cancelled] = model.cancel("1")
    assert cancelled.finish.reason == "cancelled"
    link.answer()
    assert model.idle


def test_beside_others_only_what_does_not_come_back_stays():
    """By default a conversation leaves the memory when another begins if it is stored to its end; a short one stays."""
    model, link = linked(slots=2, sequences=4, kv_size=200, min_tokens=len(HELLO))
    answer(model, ask("1", HELLO, 1))
    answer(model, ask("2", "short", 1))
    model.open(ask("3", "zoo", 5))
    model.step()
    assert [bytes(session.tokens).decode()[: len(HELLO)] for session in link.sessions] == [HELLO]
    past = [bytes(model._cache.table.tokens(one)).decode() for one in model._cache.table.idle_sequences()]
    assert [one[:5] for one in past] == ["short"]


def test_everything_idle_is_stored_at_the_end():
    """Before a model is closed, conversations that are worth it are stored, the latest first."""
    model, link = linked(sequences=4, kv_size=200, kept_tokens=100)
    answer(model, ask("1", HELLO, 1))
    answer(model, ask("2", "something else", 1))
    answer(model, ask("3", "zoo", 1))
    model.store_sessions()
    assert [bytes(session.tokens).decode() for session in link.sessions] == ["something else", HELLO]


def test_one_slow_load_is_not_held_against_all_others(monkeypatch):
    """After one very slow load, whatever the cause, sessions are soon loaded again."""
    model, _ = linked(kept_tokens=0)
    answer(model, ask("first", HELLO, 1))
    moments = iter([0.0, 1000.0])
    monkeypatch.setattr(cache, "thread_time", lambda: next(moments, 0.0))
    reused = []
    for turn in range(1000):
        answer(model, ask(f"other-{turn}", "something else", 1))
        reused.append(usage(answer(model, ask(f"again-{turn}", HELLO, 1))).cached_tokens)
        if reused.count(len(HELLO) - 1) == 2:
            break
    assert reused[0] == reused[-1] == len(HELLO) - 1
    assert 0 in reused  # some lookups were skipped because of it


def test_what_came_back_is_not_cut_where_it_cannot_be():
    """A session that can only be resumed whole is not cut in the KV cache either."""
    model, link = linked(kept_tokens=0, can_trim_imported=False)
    answer(model, ask("1", HELLO, 1))
    answer(model, ask("2", "something else", 1))
    [said] = [bytes(one.tokens).decode() for one in link.sessions if bytes(one.tokens).startswith(HELLO.encode())]
    onwards = answer(model, ask("3", said + " and more", 1))
    assert usage(onwards).cached_tokens == len(said)
    edited = answer(model, ask("4", HELLO[:20] + "other", 5))
    assert usage(edited).cached_tokens == 0
    assert text(edited) == reference(HELLO[:20] + "other", 5)


def test_another_branch_is_stored_too():
    """What is new after the prefix of a stored session is stored, whether the prefix was restored or copied."""
    model, link = linked(kept_tokens=100, kv_size=200, sequences=3)
    answer(model, ask("1", HELLO, 1))
    model.store_sessions()
    for number, branch in enumerate((HELLO[:20] + "another branch", HELLO[:30] + "a third branch")):
        answer(model, ask(f"branch-{number}", branch, 1))
        model.store_sessions()
    for number in range(3):  # so that none of them is in the KV cache
        model.forget(number)
    answer(model, ask("2", HELLO[:25] + "a branch of what came back", 1))
    model.store_sessions()
    ends = {bytes(session.tokens).decode()[-8:] for session in link.sessions}
    assert ends == {HELLO[-8:], "r branch", "d branch", "ame back"}


def test_session_that_was_cut_is_stored_again_if_it_grows():
    """A conversation that goes back to before its stored end and grows anew is stored again."""
    model, link = linked(kept_tokens=100, slots=1)
    answer(model, ask("1", HELLO, 1))
    model.store_sessions()
    answer(model, ask("2", HELLO[:10] + "0123456789" * 3, 1))
    model.store_sessions()
    assert len(link.sessions) == 2
