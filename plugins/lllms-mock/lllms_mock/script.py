"""The effects of a script on an answer: its length, its pace, and its faults."""

import os
import signal
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain, cycle, islice
from math import inf
from time import monotonic

from lllms_core.engines.serial import Pause, Piece
from lllms_core.errors import EngineFailed, InvalidRequest
from lllms_core.types import TokenScore
from lllms_mock.options import Fault, LoadFault
from lllms_mock.splitting import as_bytes


def lengthen(first: Sequence[Piece], again: Sequence[Piece], tokens: int) -> Iterator[Piece]:
    """Yield exactly `tokens` tokens: `first`, then `again`, in a cycle."""
    return islice(chain(first, cycle(again)), tokens)


def pace(pieces: Iterable[Piece], first_token: float, tokens_per_second: float | None) -> Iterator[Piece]:
    """Yield the same pieces, each when it is due; the next one makes up for a delay."""
    due = monotonic() + first_token
    for piece in pieces:
        while (early := due - monotonic()) > 0:
            yield Pause(early)
        yield piece
        if tokens_per_second is not None:
            due += 1 / tokens_per_second


def score(pieces: Iterable[Piece], top: int) -> Iterator[Piece]:
    """Yield the same pieces with their log-probabilities: the mock has no alternatives, so each token is certain."""
    for piece in pieces:
        yield certain(piece, top) if isinstance(piece, str | bytes) else piece


def certain(piece: str | bytes, top: int) -> TokenScore:
    """Return the score of a token without alternatives."""
    token = as_bytes(piece)
    return TokenScore(token, 0.0, ((token, 0.0),) if top else ())


def break_off(pieces: Iterable[Piece], fault: Fault, after: int) -> Iterator[Piece]:
    """Yield the first `after` pieces, then the fault."""
    yield from islice(pieces, after)
    strike(fault)
    while True:
        yield Pause(inf)


def strike(fault: Fault | LoadFault) -> None:
    """Trigger a fault; returns only for a request that hangs."""
    if fault == "refuse":
        raise InvalidRequest("the mock's script refuses this request", code="mock_refused")
    if fault == "fail":
        raise EngineFailed("the mock's script makes this request fail")
    if fault == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    elif fault == "segfault":
        os.kill(os.getpid(), signal.SIGSEGV)
    elif fault != "hang":
        raise RuntimeError("the mock's script breaks this model")
