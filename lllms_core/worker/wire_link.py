"""A model's link to the sessions that its server keeps."""

from array import array
from collections.abc import Callable, Sequence
from hashlib import sha256
from typing import cast

from lllms_core.engines import Model, Remembers
from lllms_core.engines.batching.sequences import common_prefix
from lllms_core.engines.session_link import Session
from lllms_core.machine import file_identity
from lllms_core.worker.wire import (
    FindSession,
    FoundSession,
    FromWorker,
    HeldConversation,
    Load,
    PutSession,
    SessionTerms,
    Survey,
    Surveyed,
)


class WireLink:
    """Sends the model's lookups and sessions to the parent; the worker's loop delivers the answers."""

    def __init__(self, terms: SessionTerms, space: str, send: Callable[[FromWorker], None]) -> None:
        self.min_tokens = terms.min_tokens
        self.max_size = terms.max_size
        self._space = space
        self._send = send

    def find(self, request_id: str, tokens: Sequence[int], known: int, *, whole: bool) -> None:
        """Ask the parent for a session."""
        self._send(FindSession(request_id, self._space, array("i", tokens).tobytes(), known, whole))

    def put(self, session: Session, *, whole: bool) -> None:
        """Send a session to the parent."""
        self._send(PutSession(self._space, array("i", session.tokens).tobytes(), whole, session.state))


def session_space(load: Load, model: Model) -> str:
    """Return the name of the models that can load this model's sessions; equal names mean that sessions fit."""
    spec = load.spec
    file = "" if spec.file is None else file_identity(spec.file, spec.identities)
    return sha256("\0".join([load.engine.name, file, model.state_key or ""]).encode()).hexdigest()[:32]


def as_session(message: FoundSession) -> Session | None:
    """Return the session that was found, if any."""
    return Session(array("i", message.tokens).tolist(), message.state) if message.tokens else None


def survey(model: Model, question: Survey) -> Surveyed:
    """Return the conversations that a model holds, and forget those that the question names."""
    lines = [array("i", line).tolist() for line in question.forget]
    held = []
    for resident in model.residents():
        tokens = list(resident.tokens)
        if question.everything or any(common_prefix(line, tokens) == min(len(line), len(tokens)) for line in lines):
            cast(Remembers, model).forget(resident.key)
        held.append(HeldConversation(array("i", tokens).tobytes(), resident.used, resident.size))
    return Surveyed(question.number, tuple(held))
