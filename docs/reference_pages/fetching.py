"""What a browser fetches to show the built pages."""

import re
from pathlib import Path


def fetched_elsewhere(site: Path) -> set[str]:
    """Return the addresses on other servers that a browser would fetch by itself to show the pages; links are none."""
    found: set[str] = set()
    for page in site.rglob("*.html"):
        for tag in re.findall(r"<(?:script|link|img|iframe|source)\b[^>]*>", page.read_text(encoding="utf-8")):
            found.update(re.findall(r'(?:src|href)="((?:https?:)?//[^"]*)"', tag))
    for style in site.rglob("*.css"):
        text = style.read_text(encoding="utf-8")
        found.update(re.findall(r"(?:url\(|@import )['\"]?((?:https?:)?//[^'\")\s]+)", text))
    return found
