from batching_for_tests import answer, ask, reference, text
from hypothesis import given
from hypothesis import strategies as st
from test_engines_cache import linked

from lllms_core.engines.batching.sequences import common_prefix
from lllms_core.engines.batching.stored import MOST, SURELY, StoredPrefixes

SHARED = "system: be kind to everyone, and never say more than a few words at once. "


def a_model(**fields):
    return linked(slots=1, sequences=4, context_length=400, kv_size=1600, min_tokens=16, kept_tokens=1600, **fields)


def test_conversations_that_have_little_but_one_system_prompt_are_stored_once():
    """Of several that differ in less than is worth a session, the first is stored; one that has more is, too."""
    model, link = a_model()
    for name in "abc":
        answer(model, ask(name, SHARED + name * 8, 3))
    model.store_sessions()
    assert [common_prefix(one.tokens, [ord(c) for c in SHARED]) for one in link.sessions] == [len(SHARED)]
    answer(model, ask("d", SHARED + "d" * 16, 3))
    model.store_sessions()
    assert len(link.sessions) == 2


def test_a_conversation_that_was_not_stored_finds_the_shared_part():
    """Another instance evaluates what is its own, and restores the system prompt from the other's session."""
    model, link = a_model()
    for name in "ab":
        answer(model, ask(name, SHARED + name * 8, 3))
    model.store_sessions()
    other, there = a_model()
    there.sessions = link.sessions
    deltas = answer(other, ask("b", SHARED + "b" * 8 + "more", 3))
    assert text(deltas) == reference(SHARED + "b" * 8 + "more", 3)
    assert deltas[-1].finish.usage.cached_tokens >= len(SHARED)


def test_sessions_that_can_only_be_resumed_whole_are_all_stored():
    """There, a session of another conversation is worth nothing to this one."""
    model, link = a_model(can_trim_imported=False)
    for name in "ab":
        answer(model, ask(name, SHARED + name * 8, 3))
    model.store_sessions()
    assert len(link.sessions) == 2


def test_after_a_conversation_was_forgotten_the_next_is_stored():
    """A forgotten conversation may have been the stored one, so it counts no more."""
    model, link = a_model()
    for name in "ab":
        answer(model, ask(name, SHARED + name * 8, 3))
    model.store_sessions()
    [stored] = [one for one in model.residents() if list(one.tokens) == link.sessions[0].tokens]
    model.forget(stored.key)
    model.store_sessions()
    assert len(link.sessions) == 2


@given(st.lists(st.tuples(st.lists(st.integers(0, 2), max_size=6), st.floats(0, SURELY)), max_size=20),
       st.lists(st.integers(0, 2), max_size=6))
def test_the_shared_prefix_is_that_of_the_last_few_sessions_for_a_while(stored, tokens):
    """The longest prefix shared with one of the last sessions, of those stored within five minutes."""
    now = 0.0
    prefixes = StoredPrefixes(lambda: now)
    times = []
    for one, pause in stored:
        now += pause
        prefixes.add(one)
        times.append((now, one))
    expected = max((common_prefix(one, tokens) for at, one in times[-MOST:] if now - at <= SURELY), default=0)
    assert prefixes.shared(tokens) == expected
    prefixes.clear()
    assert prefixes.shared(tokens) == 0
