"""What all tests need, those of plugins too."""

import gc
import itertools
import logging
from collections.abc import Iterator
from pathlib import Path

import pytest
from httpx._config import DEFAULT_TIMEOUT_CONFIG
from hypothesis import HealthCheck, settings

# How fast a busy machine draws examples, and tries them, proves nothing.
settings.register_profile("lllms", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("lllms")

# httpx gives up after 5 seconds, which a busy machine may take to load a model. All of its functions share this object.
for _what in ("connect", "read", "write", "pool"):
    setattr(DEFAULT_TIMEOUT_CONFIG, _what, 60.0)

_numbers = itertools.count()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put files that take seconds first: with several processes, the quick ones then fill the gaps at the end."""
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: item.path not in slow)


def pytest_collection_finish() -> None:
    """Keep the collected tests out of each garbage collection: they stay, and a look at all of them takes long."""
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True)
def nothing_learnt(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Each test starts with servers that have learnt nothing of models, and leaves no trace in the user's folders."""
    from lllms_core.pool import learnt

    file = tmp_path_factory.getbasetemp() / f"memory-{next(_numbers)}.json"
    monkeypatch.setattr(learnt, "FILE", str(file))
    return file


@pytest.fixture(autouse=True)
def log_as_before() -> Iterator[None]:
    """Commands that run in this process configure its log; the next test finds it as it was."""
    root = logging.getLogger()
    handlers, level, levels = root.handlers, root.level, _levels()
    yield
    root.handlers = handlers
    root.setLevel(level)
    for name, now in _levels().items():
        if now != levels.get(name, logging.NOTSET):
            logging.getLogger(name).setLevel(levels.get(name, logging.NOTSET))


def _levels() -> dict[str, int]:
    """Return the levels of our own loggers."""
    loggers = logging.root.manager.loggerDict.items()
    return {name: one.level for name, one in loggers if isinstance(one, logging.Logger) and name.startswith("lllms")}
