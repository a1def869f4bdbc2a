"""What every Python client is asked; `test_clients.py` runs the clients, each in an environment that has it."""

import json
import sys
import traceback
from collections.abc import Callable, Mapping
from pathlib import Path
from types import SimpleNamespace

ASKED = SimpleNamespace(**json.loads((Path(__file__).parent / "asked.json").read_text(encoding="utf-8")))
"""The questions, and the answers of tiny-chat, which are in the mock's script, too."""
KEY = "none"


def run(checks: Mapping[str, Callable[[str, str], object]]) -> None:
    """Run every check with every model, and print a line for each: the fault, or null."""
    url, *models = sys.argv[1:]
    for model in models:
        for name, check in checks.items():
            fault = None
            try:
                check(f"{url}/v1", model)
            except Exception:  # noqa: BLE001  # whatever a client raises is reported
                fault = traceback.format_exc()
            print(json.dumps({"model": model, "check": name, "fault": fault}), flush=True)


def equal(found: object, expected: object) -> None:
    """Fail with both values unless they are equal."""
    assert found == expected, f"{found!r} is not {expected!r}"


def contains(found: str, expected: str) -> None:
    """Fail with both texts unless one is in the other."""
    assert expected in found, f"{expected!r} is not in {found!r}"


def in_pieces(pieces: list[str], expected: str) -> None:
    """Fail unless the pieces are several, and together the text."""
    equal("".join(pieces), expected)
    assert sum(map(bool, pieces)) > 1, pieces
