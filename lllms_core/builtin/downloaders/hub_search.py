"""Search the hub for models in GGUF files."""

import asyncio
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from urllib.parse import urlencode

import httpx

from lllms_core.builtin.downloaders.connections import open_client, told
from lllms_core.builtin.downloaders.quants import BITS, choose, quant_of
from lllms_core.builtin.downloaders.retry_policy import RetryPolicy
from lllms_core.downloads import SearchHit, shown
from lllms_core.errors import InvalidSource, SourceUnavailable

SECONDS = 6.0
"""For the whole search: somebody waits for it, and there is more to show than its results."""
MOST_BYTES = 8 * 2**20
"""Of an answer; it holds the chat template of each model."""
_FACTS = ("siblings", "gguf", "tags", "gated")


def search_hub(endpoint: str, words: str, most: int, headers: Mapping[str, str]) -> Sequence[SearchHit]:
    """Return the most downloaded models that fit these words; blocking. Raises `SourceUnavailable`."""
    asked = {"search": separate(words), "filter": "gguf", "sort": "downloads", "limit": most, "expand": _FACTS}
    return [*read_hits(asyncio.run(_get(f"{endpoint}/api/models?{urlencode(asked, doseq=True)}", headers)))][:most]


def separate(words: str) -> str:
    """Return words as the hub finds them, each anywhere in a name: `llama3.2:3b` as `llama 3.2 3b`, not as one word."""
    plain = re.sub(r":latest$|[:_/\s-]+", " ", words.strip())
    return re.sub(r"(?<=[^\W\d_]{2})(?=\d)", " ", plain).strip()


async def _get(url: str, headers: Mapping[str, str]) -> object:
    where = shown(url)
    data = bytearray()
    try:
        async with (
            asyncio.timeout(SECONDS),
            open_client(url, headers, RetryPolicy(connect=SECONDS, stall=SECONDS)) as client,
            client.stream("GET", url) as response,
        ):
            if response.status_code != 200:
                said = f"{response.status_code} {response.reason_phrase}"
                raise SourceUnavailable(f"{where}: the server answers {said}")
            async for piece in response.aiter_bytes():
                data += piece
                if len(data) > MOST_BYTES:
                    raise SourceUnavailable(f"{where}: the answer is longer than {MOST_BYTES} bytes")
        return json.loads(data)
    except (TimeoutError, httpx.TimeoutException) as error:
        raise SourceUnavailable(f"{where}: no answer within {SECONDS:g} s") from error
    except httpx.TransportError as error:
        raise SourceUnavailable(f"{where}: {told(error, url)}") from error
    except (httpx.InvalidURL, httpx.TooManyRedirects) as error:
        raise SourceUnavailable(f"could not follow {where}: {error}") from error
    except (ValueError, RecursionError) as error:
        raise SourceUnavailable(f"{where}: the answer is not JSON") from error


def read_hits(answer: object) -> Iterator[SearchHit]:
    """Yield the models of the hub's answer, whatever it holds; repositories without a model to choose are left out."""
    for entry in answer if isinstance(answer, list) else ():
        if isinstance(entry, dict) and isinstance(entry.get("id"), str):
            hit = _read(entry["id"], entry)
            if hit is not None:
                yield hit


def _read(repository: str, entry: Mapping[str, object]) -> SearchHit | None:
    siblings, tags, facts = entry.get("siblings"), entry.get("tags"), entry.get("gguf")
    names = [one.get("rfilename") for one in siblings if isinstance(one, dict)] if isinstance(siblings, list) else []
    try:
        chosen = choose([name for name in names if isinstance(name, str)], "", repository)
    except InvalidSource:
        return None
    quant = quant_of(chosen.files[0])
    facts = facts if isinstance(facts, dict) else {}
    parameters = _count(facts.get("total"))
    bits = BITS.get(quant)
    licences = [
        tag.removeprefix("license:") for tag in (tags if isinstance(tags, list) else ())
        if isinstance(tag, str) and tag.startswith("license:")
    ]
    return SearchHit(
        f"hf:{repository}{f':{quant}' if quant else ''}",
        int(parameters * bits / 8) if parameters and bits else None, parameters, _count(facts.get("context_length")),
        licences[0] if licences else "",
        "its terms must be accepted first" if entry.get("gated") else "",
    )


def _count(value: object) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) and value > 0 else None
