"""The pages of the documentation in docs/, and the blocks of code in them."""

import re
from collections.abc import Iterator
from pathlib import Path

from attrs import frozen

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
FENCE = re.compile(r"^(?P<fence>`{3,})(?P<language>[^\n`]*)\n(?P<body>.*?)^(?P=fence)$", re.DOTALL | re.MULTILINE)
SPAN = re.compile(r"(?<!`)(`+)(?!`)(?P<text>[^`]+)\1(?!`)")


@frozen
class Block:
    """A block of code."""

    page: str
    line: int
    language: str
    caption: str
    """Whose file it is, if it is not for lllms; "" for our own."""
    messages: bool
    """Whether its lines are messages of lllms."""
    text: str
    output: str | None
    """What it prints: the block of text right after it."""

    def __str__(self) -> str:
        return f"{self.page}:{self.line}"


def sources() -> list[Path]:
    """Return the files of the code: of the core and of our plugins."""
    return [*(ROOT / "lllms_core").rglob("*.py"), *ROOT.glob("plugins/*/lllms_*/**/*.py")]


def pages() -> list[Path]:
    """Return the pages that are written by hand."""
    return sorted(DOCS.rglob("*.md"))


def blocks(*languages: str) -> list[Block]:
    """Return the blocks in these languages."""
    return [block for page in pages() for block in _blocks(page) if block.language in languages]


def spans(page: Path) -> Iterator[str]:
    """Yield the code in the lines of a page."""
    for match in SPAN.finditer(FENCE.sub("", page.read_text(encoding="utf-8"))):
        yield " ".join(match["text"].split())


def _blocks(page: Path) -> Iterator[Block]:
    text = page.read_text(encoding="utf-8")
    found = list(FENCE.finditer(text))
    for at, match in enumerate(found):
        after = found[at + 1] if at + 1 < len(found) else None
        printed = after is not None and after["language"] == "text" and not text[match.end() : after.start()].strip()
        language, options, body = match["language"], "", match["body"]
        if language.startswith("{code-block}"):
            language = language.removeprefix("{code-block}").strip()
            options, _, body = body.partition("\n\n") if body.startswith(":caption:") else ("", "", body)
            if body.startswith(":class: message\n"):
                options, _, body = body.partition("\n\n")
        yield Block(
            page.relative_to(DOCS).as_posix(), text.count("\n", 0, match.start()) + 1, language,
            options.removeprefix(":caption:").strip() if options.startswith(":caption:") else "",
            ":class: message" in options, body, after["body"] if after is not None and printed else None,
        )
