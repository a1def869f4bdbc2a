"""The size of an instance whose sizes are automatic: the largest for which room can be made; pure."""

from collections.abc import Sequence

from lllms_core.pool.budget import Decision, Need, Never, Room, Seat, Wait, decide


def choose(wanted: Need, seats: Sequence[Seat], room: Room) -> tuple[Need, Decision]:
    """Decide about an instance that needs `wanted`, or one of its `smaller` needs; return also which of them.

    The whole need goes first, even if idle instances must be unloaded for it. A smaller one is taken rather than to
    wait for loading or busy instances, and rather than to give up. What only a wait can serve waits for the largest
    that can ever fit.
    """
    waits: list[tuple[Need, Decision]] = []
    for need in (wanted, *wanted.smaller):
        decision = decide(need, seats, room)
        match decision:
            case Never():
                continue
            case Wait(reason) if reason != "closing":
                waits.append((need, decision))
            case _:
                return need, decision
    return waits[0] if waits else (wanted.least, decide(wanted.least, seats, room))
