"""Origins of web pages, as browsers send them; pure."""

import re
from urllib.parse import urlsplit

FORM = re.compile(r"[a-z][a-z0-9+.-]*://(\[[0-9a-f:.]+\]|[a-z0-9._~-]+)(:[1-9][0-9]{0,4})?")
DEFAULT_PORTS = {"http": 80, "https": 443}


def fault_of_origin(text: str) -> str | None:
    """Return why no page can have this origin, with the right form if it is clear; None if one can."""
    if text in {"*", "null"}:
        return None
    right = _right_form(text)
    if right == text:
        return None
    hint = 'write an origin like "https://app.example" or "http://localhost:5173"' if right is None else (
        f'write "{right}"'
    )
    return f"no page has the origin '{text}', since browsers send scheme, host and any unusual port only; {hint}"


def _right_form(text: str) -> str | None:
    """Return the origin that a text probably means; None if that is not clear."""
    text = text.strip()
    if text.lower().startswith("file:"):
        return "null"  # the origin of all pages in files
    try:
        parts = urlsplit(text if "://" in text else f"http://{text}")
        port, host = parts.port, parts.hostname or ""
        host = host.encode("idna").decode() if not host.isascii() else host
    except ValueError:  # UnicodeError is one, too
        return None
    usual = port is None or port == DEFAULT_PORTS.get(parts.scheme)
    origin = f"{parts.scheme}://{f'[{host}]' if ':' in host else host}{'' if usual else f':{port}'}"
    return origin if FORM.fullmatch(origin) else None
