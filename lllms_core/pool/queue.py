"""The waiting requests, and the order in which they get slots; pure.

1. `high` goes before `normal`, and that before `low`.
2. Among these the client with the fewest running requests is next; then the one whose last turn is the longest ago.
3. A client's requests of one priority are served in the order of their arrival.
4. Every `OLDEST`-th turn belongs to the request that has waited longest, if it has waited for `max_wait` seconds: no
   priority starves another.

Only requests that a loaded instance can take have turns. `claims` says whose model is loaded next.
"""

import itertools
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from heapq import heapify, heappop, heappush
from math import inf

from attrs import define

from lllms_core.caller import Priority
from lllms_core.pool.state import Ticket

RANKS: Mapping[Priority, int] = {"high": 0, "normal": 1, "low": 2}
OLDEST = 8
"""One turn in this many is for the oldest request."""

Line = dict[str, Ticket]
"""The requests of one client for one model with one priority, by id, in the order of their arrival."""


@define(eq=False)
class _Client:
    waiting: int = 0
    running: int = 0
    turn: float = 0.0
    """The number of its last turn. A newcomer's lies just below that of the last turn of all: it goes before the client
    that was served last, and after those who have waited for longer."""


class Queue:
    """The requests of all clients, waiting and running."""

    def __init__(self, max_wait: float) -> None:
        self.waiting: dict[str, Ticket] = {}
        """By id, in the order of their arrival."""
        self.running: dict[str, Ticket] = {}
        self.touched: set[str] = set()
        """The models of which a waiting request has come or gone; who derives something from these removes them."""
        self._max_wait = max_wait
        self._lines: dict[str, dict[tuple[str, int], Line]] = {}
        """By model, then by client and rank; none is empty."""
        self._clients: dict[str, _Client] = {}
        """Those with requests."""
        self._limited: dict[str, Ticket] = {}
        """Those of `waiting` that brought a limit of their own."""
        self._patient: dict[str, Ticket] = {}
        """The others: the first of them reaches its limit first."""
        self._number = 0
        self._turn = 1

    # -- changes ------------------------------------------------------------------------------------------------------

    def add(self, ticket: Ticket) -> None:
        """Let a request wait."""
        self._number += 1
        ticket.number = self._number
        self.waiting[ticket.id] = ticket
        (self._patient if ticket.patience is None else self._limited)[ticket.id] = ticket
        self.touched.add(ticket.model)
        lines = self._lines.setdefault(ticket.model, {})
        lines.setdefault((ticket.client, ticket.rank), {})[ticket.id] = ticket
        self._clients.setdefault(ticket.client, _Client(turn=self._turn - 1.5)).waiting += 1

    def remove(self, ticket: Ticket) -> None:
        """Let a waiting request go."""
        del self.waiting[ticket.id]
        del (self._patient if ticket.patience is None else self._limited)[ticket.id]
        self.touched.add(ticket.model)
        lines, key = self._lines[ticket.model], (ticket.client, ticket.rank)
        del lines[key][ticket.id]
        if not lines[key]:
            del lines[key]
        if not lines:
            del self._lines[ticket.model]
        client = self._clients[ticket.client]
        client.waiting -= 1
        self._forget(ticket.client)

    def take(self, ticket: Ticket) -> None:
        """Let a waiting request run."""
        client = self._clients[ticket.client]
        client.running += 1
        client.turn = self._turn
        self._turn += 1
        self.running[ticket.id] = ticket
        self.remove(ticket)

    def end(self, ticket_id: str) -> Ticket:
        """Let a running request go, and return it."""
        ticket = self.running.pop(ticket_id)
        self._clients[ticket.client].running -= 1
        self._forget(ticket.client)
        return ticket

    def reconfigure(self, queue_timeout: float, max_wait: float) -> None:
        """Take new limits, which also hold for the requests that wait."""
        self._max_wait = max_wait
        for ticket in self.waiting.values():
            ticket.until = ticket.arrived + min(queue_timeout, inf if ticket.patience is None else ticket.patience)

    def put_back(self, ticket_id: str, now: float) -> None:
        """Let a running request wait once more, before those that arrived after it, and as long as a new one."""
        ticket = self.end(ticket_id)
        number, waits = ticket.number, ticket.until - ticket.arrived
        ticket.arrived, ticket.until, ticket.instance = now, now + waits, None
        ticket.requeued = ticket.admitted = True
        self.add(ticket)
        ticket.number = number
        lines, key = self._lines[ticket.model], (ticket.client, ticket.rank)
        lines[key] = dict(sorted(lines[key].items(), key=lambda one: one[1].number))

    def _forget(self, name: str) -> None:
        client = self._clients[name]
        if not client.waiting and not client.running:
            del self._clients[name]

    # -- questions ----------------------------------------------------------------------------------------------------

    @property
    def models(self) -> Collection[str]:
        """The models that requests wait for."""
        return self._lines.keys()

    def of(self, model: str) -> list[Ticket]:
        """Return the requests that wait for a model, in the order of their arrival."""
        return sorted((t for line in self._lines.get(model, {}).values() for t in line.values()), key=_number)

    def counts(self) -> Mapping[str, int]:
        """Return the number of requests that wait for each model."""
        return {model: sum(map(len, lines.values())) for model, lines in self._lines.items()}

    def count(self, model: str) -> int:
        """Return the number of requests that wait for a model."""
        return sum(map(len, self._lines.get(model, {}).values()))

    def aged(self, ticket: Ticket, now: float) -> bool:
        """Whether a request has waited for so long that its model is loaded at the cost of others."""
        return ticket.arrived + self._max_wait <= now

    def urgency(self, ticket: Ticket, now: float) -> tuple[int, int]:
        """Return how urgent it is to load the model of a request: the least is first.

        First come the requests that have aged (-1), then those of each rank, and among these the oldest.
        """
        return -1 if self.aged(ticket, now) else ticket.rank, ticket.number

    def claim(self, model: str, now: float) -> Ticket | None:
        """Return the most urgent request for a model; None if no request waits for it."""
        heads = (next(iter(line.values())) for line in self._lines.get(model, {}).values())
        return min(heads, key=lambda ticket: self.urgency(ticket, now), default=None)

    def claims(self, now: float, models: Iterable[str]) -> list[Ticket]:
        """Return the most urgent request for each of these models, in the order in which they should be loaded."""
        found = (claim for model in models if (claim := self.claim(model, now)) is not None)
        return sorted(found, key=lambda ticket: self.urgency(ticket, now))

    def next_limit(self) -> float | None:
        """Return when the first of the waiting requests has waited for too long."""
        first = itertools.islice(self._patient.values(), 1)
        return min((ticket.until for ticket in itertools.chain(first, self._limited.values())), default=None)

    def expired(self, now: float) -> list[Ticket]:
        """Return the requests that have waited for too long."""
        first = itertools.takewhile(lambda ticket: ticket.until <= now, self._patient.values())
        return [*first, *(ticket for ticket in self._limited.values() if ticket.until <= now)]

    def last_of_largest(self, client: str) -> Ticket | None:
        """Return the request that makes way for one of `client` in a full queue; None if nobody has more waiting.

        It is the newest of the client with the most. Those of a group that was admitted are spared.
        """
        most = max((one.waiting for one in self._clients.values()), default=0)
        if most <= self._clients[client].waiting:
            return None
        largest = {name for name, one in self._clients.items() if one.waiting == most}
        return next((t for t in reversed(self.waiting.values()) if t.client in largest and not t.admitted), None)

    # -- order --------------------------------------------------------------------------------------------------------

    def next(self, now: float, models: Iterable[str] | None = None) -> Ticket | None:
        """Return the request whose turn it is, of those for some models that requests wait for; None: for all."""
        clients = self._clients
        heads = [
            next(iter(line.values()))
            for model in (self._lines if models is None else models) for line in self._lines[model].values()
        ]
        if self._turn % OLDEST == 0 and heads and self.aged(oldest := min(heads, key=_number), now):
            return oldest

        def key(ticket: Ticket) -> tuple[int, int, float, int]:  # that of `_turns`, before anybody has had a turn
            client = clients[ticket.client]
            return ticket.rank, client.running, client.turn, ticket.number

        return min(heads, key=key, default=None)

    def order(self, now: float, takes: Callable[[str], bool]) -> Iterator[Ticket]:
        """Yield all waiting requests in the order in which they would get slots, as far as it is known now.

        First those for models that `takes` requests at present; then model by model, as they would be loaded.
        """
        yield from self._turns(now, filter(takes, self._lines))
        for claim in self.claims(now, (model for model in self._lines if not takes(model))):
            yield from self._turns(now, [claim.model])

    def _turns(self, now: float, models: Iterable[str]) -> Iterator[Ticket]:
        """Yield the requests for these models in the order of their turns, if each took its turn."""
        given: dict[str, int] = {}
        last: dict[str, float] = {}

        def key(ticket: Ticket) -> tuple[int, int, float, int]:
            name, client = ticket.client, self._clients[ticket.client]
            return ticket.rank, client.running + given.get(name, 0), last.get(name, client.turn), ticket.number

        lines = [iter(line.values()) for model in models for line in self._lines[model].values()]
        heap = [(key(ticket), index, ticket) for index, line in enumerate(lines) for ticket in [next(line)]]
        heapify(heap)
        turn = self._turn
        while heap:
            oldest = min(heap, key=lambda entry: entry[2].number) if turn % OLDEST == 0 else None
            if oldest is not None and self.aged(oldest[2], now):
                heap.remove(oldest)
                heapify(heap)
                _, index, ticket = oldest
            else:
                known, index, ticket = heappop(heap)
                if known != key(ticket):  # its client has had a turn meanwhile
                    heappush(heap, (key(ticket), index, ticket))
                    continue
            yield ticket
            given[ticket.client] = given.get(ticket.client, 0) + 1
            last[ticket.client] = turn
            turn += 1
            following = next(lines[index], None)
            if following is not None:
                heappush(heap, (key(following), index, following))


def _number(ticket: Ticket) -> int:
    return ticket.number
