"""The header in which an answer names what its client sent without effect."""

import re
from collections.abc import Mapping, Sequence

HEADER = "x-lllms-ignored"
"""Its value: names of parameters and paths of members (`stream_options.include_obfuscation`), in the client's order."""

MOST = 20
_NAME = re.compile(r"[A-Za-z0-9_.-]{1,64}")


def ignored_header(names: Sequence[str]) -> Mapping[str, str]:
    """Return the header for these names, no header for none; excess names, and invalid ones, are only counted."""
    if not names:
        return {}
    shown = [name for name in dict.fromkeys(names) if _NAME.fullmatch(name)][:MOST]
    others = len(set(names)) - len(shown)
    return {HEADER: ", ".join([*shown, *([f"{others} more"] if others else [])])}
