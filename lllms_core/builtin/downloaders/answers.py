"""Reading what web servers say about a file; pure."""

import re
from collections.abc import Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

from attrs import frozen


@frozen
class Extent:
    """Which bytes of a file an answer holds, and how long the file is."""

    start: int
    stop: int
    size: int


def read_extent(content_range: str) -> Extent | None:
    """Read a Content-Range of bytes; None if it makes no sense, or does not tell the size of the file."""
    match = re.fullmatch(r"\s*bytes\s+(\d{1,18})-(\d{1,18})/(\d{1,18})\s*", content_range, re.IGNORECASE)
    if match is None:
        return None
    first, last, size = map(int, match.groups())
    return Extent(first, last + 1, size) if first <= last < size else None


def read_version(headers: Mapping[str, str]) -> str | None:
    """Return what changes when the file does; None if the server tells nothing of the kind."""
    return headers.get("ETag") or headers.get("Last-Modified")


def if_range(version: str | None) -> dict[str, str]:
    """Return the header that asks for a part only if the file is still this version, where that can be asked."""
    # A weak tag must not be sent; the tag of the answer is compared in any case.
    return {} if version is None or version.startswith("W/") else {"If-Range": version}


def read_retry_after(value: str | None, now: datetime | None = None) -> float | None:
    """Return the seconds that a Retry-After asks for; None if it says nothing that can be read."""
    if value is None:
        return None
    if re.fullmatch(r"\s*\d{1,9}\s*", value):
        return float(value)
    try:
        at = parsedate_to_datetime(value)
    except ValueError:
        return None
    at = at if at.tzinfo else at.replace(tzinfo=UTC)
    return max(0.0, (at - (now or datetime.now(UTC))).total_seconds())


def read_length(headers: Mapping[str, str]) -> int | None:
    """Return the Content-Length; None if there is none that can be read."""
    value = headers.get("Content-Length", "")
    return int(value) if re.fullmatch(r"\d{1,18}", value) else None
