import pytest

from lllms_core.chat import settle_results
from lllms_core.errors import InvalidRequest
from lllms_core.types import Message, ToolCall

ASK = Message("user", "?")
CALLS = Message("assistant", "", tool_calls=(ToolCall("a", "first", "{}"), ToolCall("b", "second", "{}")))
ONE, TWO = Message("tool", "1", tool_call_id="a"), Message("tool", "2", tool_call_id="b")


def test_results_come_in_the_order_of_their_calls() -> None:
    """Results may be sent in any order; they are sorted, and get the names of their tools."""
    settled = settle_results([ASK, CALLS, TWO, ONE, ASK, CALLS, ONE, TWO])
    assert [message.content for message in settled] == ["?", "", "1", "2", "?", "", "1", "2"]
    assert [message.name for message in settled[2:4]] == ["first", "second"]


@pytest.mark.parametrize(
    ("messages", "param", "says"),
    [
        ([ASK, ONE], "messages[1].role", "must be a response"),
        ([ASK, CALLS, ONE], "messages[1].tool_calls", "did not have response messages: b"),
        ([ASK, CALLS], "messages[1].tool_calls", "messages: a, b"),
        ([CALLS, ONE, TWO, ASK, ONE], "messages[4].role", "must be a response"),
        ([CALLS, ONE, Message("tool", "?", tool_call_id="c")], "messages[2].tool_call_id", "'c' not found"),
        ([CALLS, ONE, ONE], "messages[2].tool_call_id", "two results"),
        ([Message("assistant", "", tool_calls=CALLS.tool_calls * 2)], "messages[0].tool_calls", "several calls"),
    ],
)
def test_calls_and_results_that_do_not_match_are_refused(messages: list[Message], param: str, says: str) -> None:
    """Each result answers an earlier call, each call has one result, and the faulty message is named."""
    with pytest.raises(InvalidRequest, match=says) as caught:
        settle_results(messages)
    assert caught.value.param == param
