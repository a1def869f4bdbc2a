"""What all tests need, those of plugins too."""

import itertools
from pathlib import Path

import pytest

_numbers = itertools.count()


@pytest.fixture(autouse=True)
def nothing_learnt(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Each test starts with servers that have learnt nothing of models, and leaves no trace in the user's folders."""
    from lllms_core.pool import learnt

    file = tmp_path_factory.getbasetemp() / f"memory-{next(_numbers)}.json"
    monkeypatch.setattr(learnt, "FILE", str(file))
    return file
