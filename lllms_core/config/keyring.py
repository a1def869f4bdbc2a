"""API keys: read from the configuration or a file, held as hashes only, and compared in constant time."""

import re
from collections.abc import Iterator, Mapping, Sequence
from hashlib import sha256
from hmac import compare_digest
from secrets import token_urlsafe
from typing import Annotated

from attrs import evolve, field, frozen

from lllms_core.values.structure import Range, structure
from lllms_core.values.violations import Keys, StructureError, Violation

HASHED = "sha256:"
NAME = re.compile(r"[A-Za-z][A-Za-z0-9_.@-]{0,63}")
NAME_IN_WORDS = "a name of at most 64 letters, digits and _ . @ -, which starts with a letter"
FORM = re.compile(r"[!-~]{1,512}")
FORM_IN_WORDS = "1 to 512 characters of ASCII without spaces, or sha256: and the 64 hexadecimal digits of its hash"


@frozen
class ApiKey:
    """A key and what it allows. The key itself is nowhere, its hash in no repr."""

    name: str
    """Unique; the log and the queue know the key by it."""
    digest: bytes = field(repr=False)
    """The SHA-256 of the key."""
    models: tuple[str, ...] | None = None
    """Names or aliases of the models that it may use, with `*` for any text; None: all."""
    requests_per_minute: int | None = None
    """Requests (POST) that it may send on average, as many at once; None: no limit."""
    concurrency: int | None = None
    """Requests (POST) that may be running or waiting at once; None: no limit."""


@frozen
class KeyTable:
    """A table of `server.api_keys` without its `key`, as `ApiKey` describes its fields."""

    name: str | None = None
    models: tuple[str, ...] | None = None
    requests_per_minute: Annotated[int, Range(1)] | None = None
    concurrency: Annotated[int, Range(1)] | None = None


KEYS_SCHEMA: Mapping[str, object] = {
    "type": "array",
    "items": {"anyOf": [
        {"type": "string"},
        {
            "type": "object", "required": ["key"], "additionalProperties": False,
            "properties": {
                "key": {"type": "string"}, "name": {"type": "string", "pattern": f"^{NAME.pattern}$"},
                "models": {"type": "array", "items": {"type": "string"}, "minItems": 1},
                "requests_per_minute": {"type": "integer", "minimum": 1},
                "concurrency": {"type": "integer", "minimum": 1},
            },
        },
    ]},
}
"""What `read_keys` reads, as a JSON schema."""


@frozen
class Keyring:
    """The keys of a server."""

    keys: tuple[ApiKey, ...] = ()

    def find(self, secret: str) -> ApiKey | None:
        """Return the key that a client has sent; the time depends neither on which one it is, nor on how much fits."""
        digest, found = digest_of(secret), None
        for key in self.keys:
            if compare_digest(key.digest, digest):
                found = key
        return found


def digest_of(secret: str) -> bytes:
    """Return the hash of a key."""
    return sha256(secret.encode(errors="surrogatepass")).digest()


def new_secret() -> str:
    """Return a new key, with 256 random bits."""
    return f"sk-{token_urlsafe(32)}"


def read_keys(value: object) -> tuple[ApiKey, ...]:
    """Read `server.api_keys`: strings ("KEY" or "NAME: KEY"), tables, or values. In place of a KEY may stand its hash.

    Raises `StructureError`, whose violations quote nothing that could be a key.
    """
    if not isinstance(value, list | tuple):
        raise StructureError([Violation((), "expected a list of keys")])
    violations: list[Violation] = []
    keys: list[ApiKey] = []
    for index, one in enumerate(value):
        try:
            keys.append(_read_key(one, f"key-{index + 1}"))
        except StructureError as error:
            violations += _below((index,), error)
    violations += repeated(keys)
    if violations:
        raise StructureError(violations)
    return tuple(keys)


def read_lines(text: str) -> tuple[ApiKey, ...]:
    """Read a file of keys: one a line, "KEY" or "NAME: KEY"; empty lines and those that start with # are left out.

    Raises `StructureError` with the numbers of the lines.
    """
    keys: list[ApiKey] = []
    violations: list[Violation] = []
    for number, line in enumerate(text.splitlines(), 1):
        if line.strip() and not line.lstrip().startswith("#"):
            try:
                keys.append(_read_text(line.strip(), f"line-{number}"))
            except StructureError as error:
                violations += [Violation((), f"line {number}: {one.text}") for one in error.violations]
    if violations:
        raise StructureError(violations)
    return tuple(keys)


def repeated(keys: Sequence[ApiKey]) -> Iterator[Violation]:
    """Yield a violation for each key that has the name or the secret of one before it."""
    names: set[str] = set()
    digests: dict[bytes, str] = {}
    for index, key in enumerate(keys):
        if key.name in names:
            yield Violation((index,), f"there is another key named '{key.name}'; each has a name of its own")
        elif key.digest in digests:
            yield Violation((index,), f"is the same key as '{digests[key.digest]}'")
        names.add(key.name)
        digests.setdefault(key.digest, key.name)


def _read_key(value: object, name: str) -> ApiKey:
    if isinstance(value, ApiKey):
        return value
    if isinstance(value, str):
        return _read_text(value, name)
    if not isinstance(value, Mapping):
        raise StructureError([Violation((), "expected a string or a table")])
    violations: list[Violation] = []
    digest, table = b"", KeyTable()
    try:
        digest = _read_digest(value.get("key"))
    except StructureError as error:
        violations += _below(("key",), error)
    try:
        table = structure({key: one for key, one in value.items() if key != "key"}, KeyTable)
    except StructureError as error:
        violations += error.violations
    if table.name is not None and NAME.fullmatch(table.name) is None:
        violations.append(Violation(("name",), f"expected {NAME_IN_WORDS}"))
    if table.models == ():
        violations.append(Violation(("models",), "is empty, so the key could use no model; leave it out for all"))
    if violations:
        raise StructureError(violations)
    return ApiKey(table.name or name, digest, table.models, table.requests_per_minute, table.concurrency)


def _read_text(text: str, name: str) -> ApiKey:
    """Read "KEY" or "NAME: KEY"."""
    before, colon, secret = text.partition(": ")
    if not colon:
        return ApiKey(name, _read_digest(text))
    if NAME.fullmatch(before) is None:
        raise StructureError([Violation((), f"expected {NAME_IN_WORDS}, before the colon")])
    return ApiKey(before, _read_digest(secret.strip()))


def _read_digest(value: object) -> bytes:
    if not isinstance(value, str):
        raise StructureError([Violation((), "missing; expected a string" if value is None else "expected a string")])
    if value.startswith(HASHED) and re.fullmatch(r"[0-9a-fA-F]{64}", value.removeprefix(HASHED)):
        return bytes.fromhex(value.removeprefix(HASHED))
    if value.startswith(HASHED) or FORM.fullmatch(value) is None:
        raise StructureError([Violation((), f"expected a key: {FORM_IN_WORDS}")])
    return digest_of(value)


def _below(path: Keys, error: StructureError) -> list[Violation]:
    return [evolve(one, path=(*path, *one.path)) for one in error.violations]
