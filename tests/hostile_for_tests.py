"""Hostile inputs: what a client does, and what is right to come back. `hostile_table_for_tests` has all of them."""

import json
from collections.abc import Callable, Container, Sequence

from attrs import frozen
from lines_for_tests import SECRET, Address, Answer, post

BOT, TINY, SLOW = "bot", "tiny", "slow"
"""A mock, the trained model in llama.cpp, and a mock that takes its time; each in a process of its own."""
CHAT, TEXT, EMBED, RERANK = "/v1/chat/completions", "/v1/completions", "/v1/embeddings", "/v1/rerank"
TOKENIZE, DETOKENIZE, TEMPLATE = "/api/v1/tokenize", "/api/v1/detokenize", "/api/v1/apply-template"

REFUSED = range(400, 500)
"""The client's fault, and said so."""
TAKEN = frozenset({200, 400})
"""Unusual, but perhaps not wrong: done, or refused for what it means."""
ANY = range(200, 500)
"""Anything but a fault of the server."""
ECHO = 3000
"""Bytes of an error's body at most: 200 characters of what was sent, all of them escaped, and some words."""


@frozen
class Input:
    """One thing that a hostile, broken or unlucky client does."""

    name: str
    act: Callable[[Address], Sequence[Answer]]
    """Does it, and returns the answers."""
    right: Container[int] = REFUSED
    """The statuses that are right."""
    may_end: bool = False
    """Whether the server may also end the connection, or let it be, without an answer."""
    most: int = ECHO
    """Bytes that an error's body may have."""
    heavy: bool = False
    """Whether it takes a second or more of somebody's time."""

    def judge(self, answers: Sequence[Answer]) -> None:
        """Raise `AssertionError` unless this is a right outcome."""
        assert answers or self.may_end, "the connection ended without an answer"
        for answer in answers:
            assert answer.status in self.right, (answer.status, answer.body[:300])
            if answer.status < 400:
                continue
            assert len(answer.body) <= self.most, f"an error of {len(answer.body)} bytes"
            assert b"Traceback" not in answer.body
            if answer.body and answer.headers.get("content-type") == "application/json":
                assert set(answer.json()["error"]) == {"message", "type", "param", "code"}


def body(path: str, model: str, **more: object) -> dict[str, object]:
    """A request that is all right, and short."""
    said = [{"role": "user", "content": f"Hi! {SECRET}"}]
    fits: dict[str, dict[str, object]] = {
        CHAT: {"messages": said, "max_tokens": 1}, TEXT: {"prompt": f"Hi! {SECRET}", "max_tokens": 1},
        EMBED: {"input": SECRET}, RERANK: {"query": SECRET, "documents": ["a", "b"]}, TOKENIZE: {"text": SECRET},
        DETOKENIZE: {"tokens": [1, 2, 3]}, TEMPLATE: {"messages": said},
    }
    return {"model": model, **fits[path], **more}


POSTS = (CHAT, TEXT, EMBED, RERANK, TOKENIZE, DETOKENIZE, TEMPLATE)


def with_value(path: str, model: str, name: str, value: bytes) -> bytes:
    """The JSON of a request with one member more, or another one, whose value is written as it is."""
    rest = json.dumps({key: one for key, one in body(path, model).items() if key != name}).encode()
    return b"%s,%s:%s}" % (rest[:-1], json.dumps(name).encode(), value)


def sends(path: str, data: bytes | Callable[[], bytes], *extra: str, **fields: object) -> Callable[
    [Address], list[Answer],
]:
    """What a client does that posts a body; a large one is made when it is needed."""
    return lambda address: post(address, path, data if isinstance(data, bytes) else data(), *extra, **fields)


def each(path: str, bodies: Sequence[bytes]) -> Callable[[Address], list[Answer]]:
    """What a client does that posts one body after the other."""
    return lambda address: [answer for one in bodies for answer in post(address, path, one)]
