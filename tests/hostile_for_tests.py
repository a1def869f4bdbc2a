"""Hostile inputs: what a client does, and which outcomes are right. `hostile_table_for_tests` lists them all."""

import json
from collections.abc import Callable, Container, Sequence

from attrs import frozen
from lines_for_tests import SECRET, Address, Answer, post

COMPAT = ("/infill", "/completion", "/completions", "/tokenize", "/detokenize", "/apply-template")
"""llama-server's routes."""
OLLAMA = ("/api/chat", "/api/generate", "/api/embed", "/api/embeddings", "/api/show", "/api/pull")

BOT, TINY, SLOW = "bot", "tiny", "slow"
"""A mock, the trained model in llama.cpp, and a slow mock; each in its own process."""
CHAT, TEXT, EMBED, RERANK = "/v1/chat/completions", "/v1/completions", "/v1/embeddings", "/v1/rerank"
MESSAGES, COUNT_TOKENS = "/v1/messages", "/v1/messages/count_tokens"
RESPOND, COUNT = "/v1/responses", "/v1/responses/input_tokens"
NATIVE = "/api/v1/chat"
TOKENIZE, DETOKENIZE, TEMPLATE = "/api/v1/tokenize", "/api/v1/detokenize", "/api/v1/apply-template"

REFUSED = range(400, 500)
"""Reported as the client's fault."""
TAKEN = frozenset({200, 400})
"""Unusual, but perhaps not wrong: carried out, or refused for its meaning."""
ANY = range(200, 500)
"""Anything but a server error."""
ECHO = 3000
"""Bytes that an error's body may have: 200 characters of the input, all of them escaped, and some words."""


SHAPES = (
    {"message", "type", "param", "code"}, {"type", "message"}, {"code", "message", "parameter", "retry_after"},
    {"message", "type", "code"},
)
"""The members of errors in OpenAI's shape, in Anthropic's, in our own and in llama.cpp's."""


@frozen
class Input:
    """One action of a hostile, broken or unlucky client."""

    name: str
    act: Callable[[Address], Sequence[Answer]]
    """Performs the action and returns the answers."""
    right: Container[int] = REFUSED
    """The right statuses."""
    may_end: bool = False
    """Whether the server may also close the connection, or keep it open, without an answer."""
    most: int = ECHO
    """The most bytes in an error's body."""
    heavy: bool = False
    """Whether the input costs a second or more of computing."""

    def judge(self, answers: Sequence[Answer]) -> None:
        """Raise `AssertionError` unless these answers are right."""
        assert answers or self.may_end, "the connection ended without an answer"
        for answer in answers:
            assert answer.status in self.right, (answer.status, answer.body[:300])
            if answer.status < 400:
                continue
            assert len(answer.body) <= self.most, f"an error of {len(answer.body)} bytes"
            assert b"Traceback" not in answer.body
            if answer.body and answer.headers.get("content-type") == "application/json":
                error = answer.json()["error"]
                assert isinstance(error, str) or set(error) in SHAPES


def body(path: str, model: str, **more: object) -> dict[str, object]:
    """A valid, short request."""
    said = [{"role": "user", "content": f"Hi! {SECRET}"}]
    fits: dict[str, dict[str, object]] = {
        CHAT: {"messages": said, "max_tokens": 1}, TEXT: {"prompt": f"Hi! {SECRET}", "max_tokens": 1},
        EMBED: {"input": SECRET}, RERANK: {"query": SECRET, "documents": ["a", "b"]}, TOKENIZE: {"text": SECRET},
        DETOKENIZE: {"tokens": [1, 2, 3]}, TEMPLATE: {"messages": said},
        "/api/chat": {"messages": said, "options": {"num_predict": 1}}, "/api/embed": {"input": SECRET},
        "/api/generate": {"prompt": f"Hi! {SECRET}", "options": {"num_predict": 1}}, "/api/show": {}, "/api/pull": {},
        "/api/embeddings": {"prompt": SECRET},
        "/infill": {"input_prefix": SECRET, "input_suffix": "", "n_predict": 1}, "/tokenize": {"content": SECRET},
        "/completion": {"prompt": f"Hi! {SECRET}", "n_predict": 1}, "/detokenize": {"tokens": [1, 2, 3]},
        "/completions": {"prompt": f"Hi! {SECRET}", "n_predict": 1}, "/apply-template": {"messages": said},
        MESSAGES: {"messages": said, "max_tokens": 1}, COUNT_TOKENS: {"messages": said},
        RESPOND: {"input": f"Hi! {SECRET}", "max_output_tokens": 1}, COUNT: {"input": SECRET},
        NATIVE: {"message": f"Hi! {SECRET}", "max_tokens": 1, "stream": False},
    }
    return {"model": model, **fits[path], **more}


POSTS = (CHAT, TEXT, EMBED, RERANK, TOKENIZE, DETOKENIZE, TEMPLATE, MESSAGES, COUNT_TOKENS, RESPOND, COUNT, NATIVE)
NAMED = ("/api/v1/models/{name}/load", "/api/v1/models/{name}/unload", "/api/v1/reload")
"""Posts whose body may be left out; some have the model's name in their path."""


def with_value(path: str, model: str, name: str, value: bytes) -> bytes:
    """The JSON of a request with one member added or replaced, whose value is written verbatim."""
    rest = json.dumps({key: one for key, one in body(path, model).items() if key != name}).encode()
    return b"%s,%s:%s}" % (rest[:-1], json.dumps(name).encode(), value)


def sends(path: str, data: bytes | Callable[[], bytes], *extra: str, **fields: object) -> Callable[
    [Address], list[Answer],
]:
    """An action that posts a body; a large one is made only when needed."""
    return lambda address: post(address, path, data if isinstance(data, bytes) else data(), *extra, **fields)


def each(path: str, bodies: Sequence[bytes]) -> Callable[[Address], list[Answer]]:
    """An action that posts one body after the other."""
    return lambda address: [answer for one in bodies for answer in post(address, path, one)]
