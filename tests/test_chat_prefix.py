from hypothesis import given
from hypothesis import strategies as st

from lllms_core.chat import prefix_keys, text_prefix_keys
from lllms_core.types import Message

texts = st.text(alphabet=st.characters(), max_size=12)
messages = st.builds(
    Message,
    role=st.sampled_from(["system", "developer", "user", "assistant"]),
    content=texts,
    name=st.none() | texts,
)
conversations = st.lists(messages, max_size=6)


def shared(one, other):
    count = 0
    while count < min(len(one), len(other)) and one[count] == other[count]:
        count += 1
    return count


@given(conversations, conversations, conversations)
def test_keys_are_equal_exactly_as_far_as_the_conversations_are(start, one, other):
    """Two conversations share as many keys as they share messages from the start."""
    one, other = start + one, start + other
    assert shared(one, other) == shared(prefix_keys(one), prefix_keys(other))
    assert len(one) == len(prefix_keys(one))


def test_no_text_can_forge_the_border_between_messages():
    """A message that spells out another one in JSON, or moves text between name and content, has different keys."""
    forged = Message("user", 'a","name":null,"role":"user"},{"content":"b')
    assert set(prefix_keys([forged])).isdisjoint(prefix_keys([Message("user", "a"), Message("user", "b")]))
    assert prefix_keys([Message("user", "ab", "c")]) != prefix_keys([Message("user", "a", "bc")])
    assert prefix_keys([Message("user", "a", None)]) != prefix_keys([Message("user", "a", "")])
    assert prefix_keys([Message("user", "\ud800")]) != prefix_keys([Message("user", "\\ud800")])


@given(st.text(max_size=30), st.text(max_size=30), st.text(max_size=30), st.integers(1, 5))
def test_texts_share_the_keys_of_their_whole_common_blocks(start, one, other, block):
    """A plain prompt has one key for each full block; keys are equal exactly as far as whole blocks are."""
    one, other = start + one, start + other
    keys = text_prefix_keys(one, block=block)
    assert len(one) // block == len(keys)
    common = min(shared(one, other) // block, len(one) // block)
    assert common == shared(keys, text_prefix_keys(other, block=block))


def test_keys_are_short_and_stable():
    """Keys are 16 bytes and equal in every process, so that a stored session is found again."""
    (key,) = prefix_keys([Message("user", "Hi!")])
    assert key.hex() == "506c01d6e2baa9f6ed4d045853edd0d3"
    assert len(text_prefix_keys("x" * 1000)) == 3
