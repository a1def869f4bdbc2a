"""How long wrong keys wait; pure."""

from hypothesis import given
from hypothesis import strategies as st

from lllms_core.web import failed_keys
from lllms_core.web.failed_keys import ADDRESSES, FIRST, FORGIVEN, FREE, MOST, FailedKeys


def test_a_few_mistakes_cost_nothing_and_more_cost_ever_more() -> None:
    """The first failures are answered at once, further ones wait twice as long each time, up to the most."""
    failed = FailedKeys()
    waits = [failed.note("192.0.2.1", 0.0) for _ in range(FREE + 8)]
    assert waits[:FREE] == [0.0] * FREE
    assert waits[FREE:] == [min(MOST, FIRST * 2**step) for step in range(8)]
    assert failed.note("192.0.2.2", 0.0) == 0.0


def test_failures_are_forgotten() -> None:
    """An address that fails no more is soon treated as if it never had."""
    failed = FailedKeys()
    for _ in range(FREE + 3):
        failed.note("192.0.2.1", 0.0)
    assert failed.note("192.0.2.1", FORGIVEN * (FREE + 3)) == 0.0


def test_a_network_of_ipv6_is_one_address() -> None:
    """Nobody gets new tries by the 2**64 addresses that one subscriber has; IPv4 in IPv6 is the same address."""
    failed = FailedKeys()
    for number in range(FREE):
        failed.note(f"2001:db8::{number:x}", 0.0)
    assert failed.note("2001:db8::ffff%eth0", 0.0) > 0
    assert failed.note("2001:db8:0:1::1", 0.0) == 0.0
    for _ in range(FREE):
        failed.note("::ffff:192.0.2.1", 0.0)
    assert failed.note("192.0.2.1", 0.0) > 0


@given(st.lists(st.tuples(st.text(max_size=20) | st.ip_addresses().map(str), st.floats(-10, 10_000)), max_size=60))
def test_any_address_at_any_time(failures: list[tuple[str, float]]) -> None:
    """Whatever an address is called and however the clock runs, the wait is between nothing and the most."""
    failed = FailedKeys()
    for address, now in failures:
        assert 0 <= failed.note(address, now) <= MOST


def test_the_memory_is_bounded() -> None:
    """More addresses than are remembered make the oldest one forgotten, and no other."""
    failed = FailedKeys()
    for number in range(ADDRESSES + 10):
        failed.note(f"10.{number // 65536}.{number // 256 % 256}.{number % 256}", float(number) / 1e6)
    assert len(failed) == ADDRESSES
    assert failed_keys.ADDRESSES == ADDRESSES
