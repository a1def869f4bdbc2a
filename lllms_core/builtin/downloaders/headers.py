"""Read the headers by which web servers describe a file; pure."""

import re
from collections.abc import Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

from attrs import frozen


@frozen
class Extent:
    """The bytes of a file that a response holds, and the file's size."""

    start: int
    stop: int
    size: int


def read_extent(content_range: str) -> Extent | None:
    """Read a Content-Range of bytes; None if it is malformed or lacks the size of the file."""
    match = re.fullmatch(r"\s*bytes\s+(\d{1,18})-(\d{1,18})/(\d{1,18})\s*", content_range, re.IGNORECASE)
    if match is None:
        return None
    first, last, size = map(int, match.groups())
    return Extent(first, last + 1, size) if first <= last < size else None


def read_version(headers: Mapping[str, str]) -> str | None:
    """Return the ETag or date, which changes when the file does; None if the server sends neither."""
    return headers.get("ETag") or headers.get("Last-Modified")


def if_range(version: str | None) -> dict[str, str]:
    """Return the header that asks for a part only if the file still has this version, where HTTP allows it."""
    # A weak tag must not be sent; the tag of the response is compared in any case.
    return {} if version is None or version.startswith("W/") else {"If-Range": version}


def read_retry_after(value: str | None, now: datetime | None = None) -> float | None:
    """Return the seconds that a Retry-After asks for; None if it is missing or unreadable."""
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
    """Return the Content-Length; None if it is missing or unreadable."""
    value = headers.get("Content-Length", "")
    return int(value) if re.fullmatch(r"\d{1,18}", value) else None
